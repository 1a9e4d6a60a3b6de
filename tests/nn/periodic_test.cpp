// SPDX-License-Identifier: MIT

/// \file
/// Periodic: the net it wraps, on features computed here; periodic bit for bit where the angles are.

#include <numbers>
#include <rhei/nn/mlp.hpp>
#include <rhei/nn/periodic.hpp>
#include <rhei/nn/residual_mlp.hpp>

#include "support/allocation_counter.hpp"
#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"
#include "support/finite_difference.hpp"
#include "support/random_matrix.hpp"

using namespace rhei;
using namespace rhei::testing;

static_assert(Net<Periodic<Mlp<float>>> && Net<Periodic<Mlp<double>>> && Net<Periodic<ResidualMlp<double>>>);

namespace {

/// Five inputs of which 1, 3 and 4 are angles; parameters away from the initial ones.
template <class P>
P some_net(Index context, Rng& rng, std::vector<Index> circles = {4, 1, 3}, Index inputs = 5) {
  P net(circles, inputs, context, 2, {.hidden = {6, 6}, .activation = Activation::tanh}, rng);
  for_each_parameter(net, [&](std::string_view, auto tensor) {
    rng.fill_normal(tensor);
    tensor *= typename P::Scalar(0.4);
  });
  return net;
}

}  // namespace

TEMPLATE_TEST_CASE("Periodic: its net on lines, cosines and sines", "[net][periodic]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(1);
  const auto net = some_net<Periodic<Mlp<S>>>(2, rng);
  CHECK(net.inputs() == 5);
  CHECK(net.net().inputs() == 8);
  CHECK(net.outputs() == 2);
  CHECK(net.context_dim() == 2);
  CHECK(net.circles() == std::vector<Index>{1, 3, 4});
  for (const Index n : {0, 1, 7, 40}) {
    const Matrix<S> input = random_matrix<S>(n, 5, rng), context = random_matrix<S>(n, 2, rng);
    Matrix<S> features(n, 8);
    for (Index i = 0; i < n; ++i)
      features.row(i) << input(i, 0), input(i, 2), std::cos(input(i, 1)), std::cos(input(i, 3)), std::cos(input(i, 4)),
          std::sin(input(i, 1)), std::sin(input(i, 3)), std::sin(input(i, 4));
    const double tolerance = 20 * double(std::numeric_limits<S>::epsilon());
    CHECK(relative_error(evaluate(net, input, context), evaluate(net.net(), features, context), 1) < tolerance);
    Matrix<S> turned = input;
    turned.col(3).array() += 2 * std::numbers::pi_v<S>;
    CHECK(relative_error(evaluate(net, turned, context), evaluate(net, input, context), 1) < tolerance);
  }
}

TEMPLATE_TEST_CASE("Periodic: gradients agree with finite differences", "[net][periodic]", Mlp<double>,
                   ResidualMlp<double>) {
  using P = Periodic<TestType>;
  struct Case {
    std::vector<Index> circles;
    Index inputs, n, context_rows, context;
  };
  std::uint64_t seed = 5;
  for (const Case& c : {Case{{4, 1, 3}, 5, 4, 4, 2}, Case{{0}, 1, 3, 1, 2}, Case{{}, 2, 3, 0, 0},
                        Case{{0, 1}, 2, 1, 0, 0}, Case{{}, 0, 3, 3, 1}}) {
    CAPTURE(c.inputs, c.circles.size(), c.context);
    Rng rng(++seed);
    P net = some_net<P>(c.context, rng, c.circles, c.inputs);
    Matrix<double> input = 2 * random_matrix<double>(c.n, c.inputs, rng);
    Matrix<double> context = random_matrix<double>(c.context_rows, c.context, rng);
    const Matrix<double> d_output = random_matrix<double>(c.n, 2, rng);
    typename P::Cache cache;
    evaluate(net, input, context, cache);
    Matrix<double> d_input = Matrix<double>::Constant(c.n, c.inputs, 3), d_context = context;
    d_context.setConstant(5);
    auto gradient = net.make_gradient();
    Batch<double> want_input(d_input), want_context(d_context);
    net.pullback(input, context, cache, d_output, &want_input, &want_context, &gradient);

    const auto loss = [&] { return evaluate(net, input, context).cwiseProduct(d_output).sum(); };
    const auto check = [&](Batch<double> values, const Matrix<double>& got) {
      Matrix<double> numeric(values.rows(), values.cols());
      for (Index e = 0; e < values.size(); ++e) numeric.data()[e] = differentiate(values.data()[e], loss);
      CHECK(relative_error(got, numeric) < 1e-8);
    };
    check(Batch<double>(input), d_input);                             // written
    check(Batch<double>(context), (d_context.array() - 5).matrix());  // added to
    const auto gradients = parameter_list<double>(gradient), parameters = parameter_list<double>(net);
    REQUIRE(gradients.size() == parameters.size());
    for (std::size_t k = 0; k < gradients.size(); ++k) {
      CHECK(gradients[k].name == parameters[k].name);
      check(parameters[k].values, gradients[k].values);
    }
    // what is declined changes nothing else
    auto alone = net.make_gradient();
    net.pullback(input, context, cache, d_output, nullptr, nullptr, &alone);
    const auto others = parameter_list<double>(alone);
    for (std::size_t k = 0; k < gradients.size(); ++k) CHECK(bool(others[k].values == gradients[k].values));
    Matrix<double> d_again(c.n, c.inputs);
    Batch<double> want_again(d_again);
    net.pullback(input, context, cache, d_output, &want_again, nullptr, nullptr);
    CHECK(bool(d_again == d_input));
  }
}

TEMPLATE_TEST_CASE("Periodic: a steady state allocates nothing", "[net][periodic][allocation]", RHEI_TEST_SCALARS) {
  using S = TestType;
  if (!testing::counts_allocations()) return;
  Rng rng(9);
  const auto net = some_net<Periodic<Mlp<S>>>(2, rng);
  typename Periodic<Mlp<S>>::Cache cache;
  auto gradient = net.make_gradient();
  const auto step = [&](Index n) {
    const Matrix<S> input = random_matrix<S>(n, 5, rng), context = random_matrix<S>(n, 2, rng);
    Matrix<S> output(n, 2), d_input(n, 5), d_context = Matrix<S>::Zero(n, 2);
    return testing::allocations_in([&] {
      Batch<S> want_input(d_input), want_context(d_context);
      net.forward(input, context, output, cache);
      net.pullback(input, context, cache, output, &want_input, &want_context, &gradient);
    });
  };
  CHECK(step(40) + step(1) > 0);  // the cache grows, also by what one row of context needs
  for (const Index n : {40, 33, 1, 0}) CHECK(step(n) == 0);
}

TEST_CASE("Periodic: a row with NaN leaves the others as they are, bit for bit", "[net][periodic]") {
  Rng rng(8);
  const auto net = some_net<Periodic<Mlp<double>>>(0, rng);
  Matrix<double> input = random_matrix<double>(33, 5, rng);
  const Matrix<double> clean = evaluate(net, input, Matrix<double>());
  for (const Index j : {1, 2}) {
    Matrix<double> dirty = input;
    dirty(20, j) = std::numeric_limits<double>::quiet_NaN();
    const Matrix<double> hit = evaluate(net, dirty, Matrix<double>());
    CHECK(hit.row(20).array().isNaN().all());
    CHECK(bool(hit.topRows(20) == clean.topRows(20)));
    CHECK(bool(hit.bottomRows(12) == clean.bottomRows(12)));
  }
}

TEST_CASE("Periodic: descriptions", "[net][periodic]") {
  Rng rng(12);
  using P = Periodic<Mlp<double>>;
  const P net = some_net<P>(2, rng);
  P again = P::from_options(net.options());
  CHECK(again.options() == net.options());
  CHECK(again.inputs() == 5);
  copy_values(net, again);
  const Matrix<double> input = random_matrix<double>(4, 5, rng), context = random_matrix<double>(1, 2, rng);
  CHECK(bool(evaluate(again, input, context) == evaluate(net, input, context)));
  const auto narrow = net.cast<float>();
  CHECK(narrow.options() == net.options());
  CHECK(relative_error(evaluate(narrow, Matrix<float>(input.cast<float>()), Matrix<float>(context.cast<float>())),
                       evaluate(net, input, context)) < 1e-4);

  const auto said = [&](Options::Integers circles, const Options& inner) {
    return error_text<std::exception>(
        [&] { (void)P::from_options(Options("periodic").set("circles", std::move(circles)).set("net", inner)); });
  };
  const Options inner = net.options().get<Options>("net");
  CHECK(said({1, 3, 4}, inner).empty());
  CHECK(said({1, 3, 5}, inner) == "Periodic: a feature of circles is 5, expected 0 to 4");
  CHECK(said({1, 1}, inner) == "Periodic: circles names feature 1 twice");
  CHECK(said({0, 1, 2, 3, 4, 5, 6, 7}, inner) == "Periodic: dim is 0, expected at least 1");
  CHECK(said({-1}, inner).find("'circles' is -1") != std::string::npos);
  CHECK(said({1}, Options("residual_mlp")) == "Periodic: the net is 'residual_mlp', expected 'mlp'");
}

TEST_CASE("Periodic: bad arguments are refused by name", "[net][periodic]") {
  Rng rng(13);
  using P = Periodic<Mlp<double>>;
  const auto build = [&](std::vector<Index> circles, Index inputs, Index outputs) {
    return error_text<std::invalid_argument>([&] { P(circles, inputs, 0, outputs, {.hidden = {4}}, rng); });
  };
  CHECK(build({0}, 1, 1).empty());
  CHECK(build({1}, 1, 1) == "Periodic: a feature of circles is 1, expected 0 to 0");
  CHECK(build({}, -1, 1).find("inputs is -1") != std::string::npos);
  CHECK(build({}, 1, 0).find("outputs is 0") != std::string::npos);

  const P net = some_net<P>(0, rng);
  typename P::Cache cache;
  Matrix<double> input = Matrix<double>::Zero(4, 5), output(4, 2), wrong = Matrix<double>::Zero(4, 8);
  const auto text = [](auto f) { return error_text<std::invalid_argument>(f); };
  CHECK(text([&] { net.forward(wrong, {}, output, cache); }) ==
        "Periodic::forward: the input is 4 x 8 (rows x columns), expected any x 5");
  CHECK(text([&] { net.forward(input, wrong, output, cache); }).find("context is 4 x 8") != std::string::npos);
  CHECK(text([&] { net.pullback(input, {}, cache, output, nullptr, nullptr, nullptr); }).find("cache") !=
        std::string::npos);
  net.forward(input, {}, output, cache);
  Batch<double> bad(wrong);
  CHECK(text([&] { net.pullback(input, {}, cache, output, &bad, nullptr, nullptr); }).find("d_input") !=
        std::string::npos);
}
