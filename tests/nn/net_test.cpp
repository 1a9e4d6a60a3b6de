// SPDX-License-Identifier: MIT

#include <algorithm>
#include <rhei/nn/mlp.hpp>
#include <rhei/nn/residual_mlp.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/allocation_counter.hpp"
#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"
#include "support/random_matrix.hpp"

using namespace rhei;
using namespace rhei::testing;

static_assert(Net<Mlp<float>> && Net<Mlp<double>> && Net<ResidualMlp<float>> && Net<ResidualMlp<double>>);

namespace {

/// A net whose parameters are drawn away from their initialisation.
template <class N>
N random_net(Index inputs, Index context, Index outputs, const NetOptions& options, Rng& rng) {
  N net(inputs, context, outputs, options, rng);
  for_each_parameter(net, [&](std::string_view, auto tensor) {
    rng.fill_normal(tensor);
    tensor *= typename N::Scalar(0.4);
  });
  return net;
}

double apply(Activation a, double x) {
  double y;
  activate(a, ConstBatch<double>(&x, 1, 1), Batch<double>(&y, 1, 1));
  return y;
}

/// The textbook evaluation of a net, which also keeps the smallest distance of a pre-activation from 0.
struct Reference {
  Matrix<double> output;
  double kink_distance = 1e30;

  Matrix<double> active(const Matrix<double>& sum, Activation a) {
    if (sum.size() > 0) kink_distance = std::min(kink_distance, sum.cwiseAbs().minCoeff());
    return sum.unaryExpr([a](double v) { return apply(a, v); });
  }
  static Matrix<double> affine(const Matrix<double>& x, const Matrix<double>& weight, const RowVector<double>& bias) {
    return x.lazyProduct(weight) + bias.replicate(x.rows(), 1);
  }
  static Matrix<double> spread(const Matrix<double>& context, Index rows) {
    return context.rows() == 1 && rows != 1 ? Matrix<double>(context.replicate(rows, 1)) : context;
  }

  Reference(const Mlp<double>& net, const Matrix<double>& input, const Matrix<double>& context) {
    const auto& p = net.parameters();
    Matrix<double> h = affine(input, p.weight[0], p.bias[0]);
    if (context.cols() > 0) h += spread(context, input.rows()).lazyProduct(p.context_weight);
    for (std::size_t l = 1; l < p.weight.size(); ++l)
      h = affine(active(h, net.net_options().activation), p.weight[l], p.bias[l]);
    output = h;
  }
  Reference(const ResidualMlp<double>& net, const Matrix<double>& input, const Matrix<double>& context) {
    const auto& p = net.parameters();
    const Activation a = net.net_options().activation;
    Matrix<double> h = affine(input, p.initial.weight, p.initial.bias);
    if (context.cols() > 0) h += spread(context, input.rows()).lazyProduct(p.context_weight);
    for (const auto& block : p.blocks) {
      const Matrix<double> sum = affine(active(h, a), block.first.weight, block.first.bias);
      Matrix<double> branch = affine(active(sum, a), block.second.weight, block.second.bias);
      if (context.cols() > 0)
        branch.array() *=
            (1 + (-affine(spread(context, input.rows()), block.gate.weight, block.gate.bias).array()).exp()).inverse();
      h += branch;
    }
    output = affine(h, p.final.weight, p.final.bias);
  }
};

/// max|a - b| / max(max|b|, 1e-3).
template <class A, class B>
double error(const A& a, const B& b) {
  if (a.size() == 0) return 0;
  return (a - b).cwiseAbs().maxCoeff() / std::max(b.cwiseAbs().maxCoeff(), 1e-3);
}

/// Six-point central differences of loss() in every element of `values`, step 1e-5.
template <class Values, class Loss>
Matrix<double> numeric_gradient(Values& values, Loss loss) {
  constexpr double h = 1e-5;
  Matrix<double> d(values.rows(), values.cols());
  for (Index j = 0; j < values.cols(); ++j)
    for (Index i = 0; i < values.rows(); ++i) {
      const double x = values(i, j);
      const auto at = [&](double step) {
        values(i, j) = x + step * h;
        return loss();
      };
      d(i, j) = (45 * (at(1) - at(-1)) - 9 * (at(2) - at(-2)) + (at(3) - at(-3))) / (60 * h);
      values(i, j) = x;
    }
  return d;
}

/// One evaluation and pullback, with outputs that start from given values.
template <class N>
struct Pulled {
  Matrix<double> d_input, d_context;
  typename N::Gradient gradient;
};

template <class N>
void check_gradients(Index n, Index context_rows, Index inputs, Index context_columns, const NetOptions& options,
                     std::uint64_t seed) {
  Rng rng(seed);
  N net = random_net<N>(inputs, context_columns, 2, options, rng);
  Matrix<double> input, context;
  do {  // away from kinks by more than ten steps
    input = random_matrix<double>(n, inputs, rng);
    context = random_matrix<double>(context_rows, context_columns, rng);
  } while (Reference(net, input, context).kink_distance < 2e-4);
  const Matrix<double> d_output = random_matrix<double>(n, 2, rng);
  typename N::Cache cache;
  CHECK(error(evaluate(net, input, context, cache), Reference(net, input, context).output) < 1e-13);

  const auto pull = [&](bool want_input, bool want_context, bool want_gradient) {
    Pulled<N> p{Matrix<double>::Constant(n, inputs, 3), Matrix<double>::Constant(context_rows, context_columns, 5),
                net.make_gradient()};
    for_each_parameter(p.gradient, [](std::string_view, auto tensor) { tensor.setConstant(7); });
    Batch<double> d_input(p.d_input), d_context(p.d_context);
    net.pullback(input, context, cache, d_output, want_input ? &d_input : nullptr, want_context ? &d_context : nullptr,
                 want_gradient ? &p.gradient : nullptr);
    return p;
  };
  const Pulled<N> all = pull(true, true, true);

  typename N::Cache other;
  const auto loss = [&] { return evaluate(net, input, context, other).cwiseProduct(d_output).sum(); };
  CHECK(error(all.d_input, numeric_gradient(input, loss)) < 1e-8);                             // written
  CHECK(error((all.d_context.array() - 5).matrix(), numeric_gradient(context, loss)) < 1e-8);  // added to
  const auto gradients = parameter_list<double>(const_cast<typename N::Gradient&>(all.gradient));
  std::size_t next = 0;
  for_each_parameter(net, [&](std::string_view name, Batch<double> tensor) {
    CAPTURE(std::string(name));
    REQUIRE(next < gradients.size());
    CHECK(gradients[next].name == name);
    CHECK(error((gradients[next].values.array() - 7).matrix(), numeric_gradient(tensor, loss)) < 1e-8);
    ++next;
  });
  CHECK(next == gradients.size());

  // what is declined stays as it was and changes nothing else; a cache serves several pullbacks
  for (int wanted = 0; wanted < 8; ++wanted) {
    const bool in = wanted & 1, con = wanted & 2, par = wanted & 4;
    CAPTURE(in, con, par);
    const Pulled<N> some = pull(in, con, par);
    CHECK(some.d_input == (in ? all.d_input : Matrix<double>::Constant(n, inputs, 3).eval()));
    CHECK(some.d_context == (con ? all.d_context : Matrix<double>::Constant(context_rows, context_columns, 5).eval()));
    std::size_t k = 0;
    for_each_parameter(some.gradient, [&](std::string_view, ConstBatch<double> tensor) {
      const Batch<double> expected = gradients[k++].values;
      CHECK((par ? tensor == expected : (tensor.array() == 7).all()));
    });
  }
}

template <class N>
std::string names(const N& net) {
  std::string all;
  for_each_parameter(net, [&](std::string_view name, const auto&) { all += std::string(name) + " "; });
  return all;
}

}  // namespace

TEMPLATE_TEST_CASE("nets: gradients agree with finite differences", "[net]", Mlp<double>, ResidualMlp<double>) {
  std::uint64_t seed = 100;
  const auto check = [&](Index n, Index context_rows, Index inputs, Index columns, const NetOptions& options) {
    INFO(to_string(options.activation) << ", n " << n << ", inputs " << inputs << ", context " << context_rows << " x "
                                       << columns);
    check_gradients<TestType>(n, context_rows, inputs, columns, options, ++seed);
  };
  for (std::size_t a = 0; a < activation_names.size(); ++a)
    check(3, 3, 2, 2, {.hidden = {4, 4}, .activation = static_cast<Activation>(a)});
  for (const Activation a : {Activation::relu, Activation::silu}) {
    check(7, 1, 3, 2, {.hidden = {5, 5, 5}, .activation = a});  // one row of context for all
    check(1, 1, 3, 2, {.hidden = {5}, .activation = a});
    check(7, 0, 3, 0, {.hidden = {5}, .activation = a});
    check(7, 7, 0, 2, {.hidden = {5}, .activation = a});  // nothing but context
    check(5, 1, 0, 2, {.hidden = {5}, .activation = a});
    check(5, 0, 0, 0, {.hidden = {5}, .activation = a});  // a constant
  }
}

TEST_CASE("Mlp: gradients with no and unequal hidden layers", "[net][mlp]") {
  check_gradients<Mlp<double>>(4, 1, 3, 2, {.hidden = {}}, 1);
  check_gradients<Mlp<double>>(4, 4, 3, 2, {.hidden = {}}, 2);
  check_gradients<Mlp<double>>(4, 4, 3, 2, {.hidden = {3, 9, 2}, .activation = Activation::tanh}, 3);
}

TEMPLATE_TEST_CASE("nets: batches of any size, in both scalars", "[net]", Mlp<double>, ResidualMlp<double>) {
  Rng rng(7);
  const NetOptions options{.hidden = {20, 20}, .activation = Activation::silu};
  const auto net = random_net<TestType>(3, 2, 5, options, rng);
  const auto net_f = net.template cast<float>();
  typename TestType::Cache cache, one;
  typename decltype(net_f)::Cache cache_f;
  for (const Index n : {256, 0, 1, 3, 7, 1000}) {
    CAPTURE(n);
    const Matrix<double> input = random_matrix<double>(n, 3, rng), d_output = random_matrix<double>(n, 5, rng);
    for (const Index context_rows : {Index(1), n}) {
      const Matrix<double> context = random_matrix<double>(context_rows, 2, rng);
      const Matrix<double> output = evaluate(net, input, context, cache);
      CHECK(error(output, Reference(net, input, context).output) < 1e-12);
      Matrix<double> d_input(n, 3), d_context = Matrix<double>::Zero(context_rows, 2);
      auto gradient = net.make_gradient();
      Batch<double> want_input(d_input), want_context(d_context);
      net.pullback(input, context, cache, d_output, &want_input, &want_context, &gradient);

      auto sum = net.make_gradient();
      Matrix<double> context_sum = Matrix<double>::Zero(context_rows, 2);
      const Index part = n <= 7 ? 1 : 7;  // row by row, or a few at a time
      for (Index i = 0; i < n; i += part) {
        const Index rows = std::min(part, n - i), c_rows = context_rows == 1 ? 1 : rows;
        const Index c_first = context_rows == 1 ? 0 : i;
        const Matrix<double> x = input.middleRows(i, rows), c = context.middleRows(c_first, c_rows);
        CHECK(error(evaluate(net, x, c, one), output.middleRows(i, rows)) < 1e-12);
        Matrix<double> d_x(rows, 3), d_c = Matrix<double>::Zero(c_rows, 2), d = d_output.middleRows(i, rows);
        Batch<double> want_x(d_x), want_c(d_c);
        net.pullback(x, c, one, d, &want_x, &want_c, &sum);
        CHECK(error(d_x, d_input.middleRows(i, rows)) < 1e-12);
        context_sum.middleRows(c_first, c_rows) += d_c;
      }
      CHECK(error(context_sum, d_context) < 1e-10);
      const auto expected = parameter_list<double>(sum), got = parameter_list<double>(gradient);
      for (std::size_t k = 0; k < got.size(); ++k) CHECK(error(got[k].values, expected[k].values) < 1e-10);

      const Matrix<float> input_f = input.cast<float>(), context_f = context.cast<float>();
      CHECK(error(evaluate(net_f, input_f, context_f, cache_f).template cast<double>(), output) < 1e-4);
      Matrix<float> d_input_f(n, 3), d_context_f = Matrix<float>::Zero(context_rows, 2);
      const Matrix<float> d_output_f = d_output.cast<float>();
      auto gradient_f = net_f.make_gradient();
      Batch<float> want_input_f(d_input_f), want_context_f(d_context_f);
      net_f.pullback(input_f, context_f, cache_f, d_output_f, &want_input_f, &want_context_f, &gradient_f);
      CHECK(error(d_input_f.cast<double>(), d_input) < 1e-4);
      CHECK(error(d_context_f.cast<double>(), d_context) < 1e-4);
      const auto got_f = parameter_list<float>(gradient_f);
      for (std::size_t k = 0; k < got.size(); ++k)
        CHECK(error(got_f[k].values.template cast<double>(), got[k].values) < 1e-4);
    }
  }
}

TEMPLATE_TEST_CASE("nets: a row with NaN leaves the others as they are, bit for bit", "[net]", Mlp<double>,
                   ResidualMlp<double>) {
  Rng rng(8);
  for (const Activation a : {Activation::relu, Activation::gelu}) {
    const auto net = random_net<TestType>(3, 0, 5, {.hidden = {20, 20}, .activation = a}, rng);
    typename TestType::Cache cache;
    Matrix<double> input = random_matrix<double>(67, 3, rng);
    const Matrix<double> clean = evaluate(net, input, {}, cache);
    input(30, 1) = std::numeric_limits<double>::quiet_NaN();
    const Matrix<double> hit = evaluate(net, input, {}, cache);
    CHECK(hit.row(30).array().isNaN().all());
    CHECK(hit.topRows(30) == clean.topRows(30));
    CHECK(hit.bottomRows(36) == clean.bottomRows(36));
  }
}

TEMPLATE_TEST_CASE("nets: a steady state allocates nothing", "[net][allocation]", Mlp<float>, Mlp<double>,
                   ResidualMlp<float>, ResidualMlp<double>) {
  using S = typename TestType::Scalar;
  if (!testing::counts_allocations()) return;
  for (const Activation a : {Activation::relu, Activation::silu}) {
    Rng rng(9);
    const auto net = random_net<TestType>(3, 2, 600, {.hidden = {520, 520}, .activation = a}, rng);
    typename TestType::Cache cache;
    auto gradient = net.make_gradient();
    const auto step = [&](Index n, Index context_rows) {
      const Matrix<S> input = random_matrix<S>(n, 3, rng), context = random_matrix<S>(context_rows, 2, rng);
      Matrix<S> output(n, 600), d_input(n, 3), d_context = Matrix<S>::Zero(context_rows, 2);
      return testing::allocations_in([&] {
        Batch<S> want_input(d_input), want_context(d_context);
        net.forward(input, context, output, cache);
        net.pullback(input, context, cache, output, &want_input, &want_context, &gradient);
      });
    };
    CHECK(step(40, 40) + step(40, 1) > 0);  // the cache grows
    for (const Index n : {40, 33, 8, 2, 1, 0}) {
      CAPTURE(n);
      CHECK(step(n, n) == 0);
      CHECK(step(n, 1) == 0);
    }
  }
}

TEMPLATE_TEST_CASE("nets: a new net gives zero, and trains from there", "[net]", Mlp<float>, ResidualMlp<float>) {
  Rng rng(10);
  const TestType net(3, 2, 4, {}, rng);
  typename TestType::Cache cache;
  const Matrix<float> input = random_matrix<float>(9, 3, rng), context = random_matrix<float>(9, 2, rng);
  CHECK(evaluate(net, input, context, cache).isZero(0));
  auto gradient = net.make_gradient();
  const Matrix<float> ones = Matrix<float>::Ones(9, 4);
  net.pullback(input, context, cache, ones, nullptr, nullptr, &gradient);
  bool moves = false;
  for_each_parameter(gradient, [&](std::string_view, auto tensor) { moves = moves || !tensor.isZero(0); });
  CHECK(moves);
  Rng same(10);
  const TestType again(3, 2, 4, {}, same);
  const auto& p = net.parameters();
  const auto& q = again.parameters();
  CHECK(p.context_weight == q.context_weight);
  CHECK(p.context_weight.cwiseAbs().maxCoeff() <= 1 / std::sqrt(5.0f));
  CHECK(p.context_weight.cwiseAbs().maxCoeff() > 0.9f / std::sqrt(5.0f));
}

TEST_CASE("nets: parameter names", "[net]") {
  Rng rng(11);
  CHECK(names(Mlp<float>(3, 2, 4, {}, rng)) == "weight.0 weight.1 weight.2 bias.0 bias.1 bias.2 context_weight ");
  CHECK(names(Mlp<float>(3, 0, 4, {.hidden = {}}, rng)) == "weight.0 bias.0 ");
  CHECK(names(ResidualMlp<float>(3, 2, 4, {.hidden = {8}}, rng)) ==
        "initial.weight initial.bias context_weight blocks.0.first.weight blocks.0.first.bias blocks.0.second.weight "
        "blocks.0.second.bias blocks.0.gate.weight blocks.0.gate.bias final.weight final.bias ");
  CHECK(names(ResidualMlp<float>(3, 0, 4, {.hidden = {8}}, rng)) ==
        "initial.weight initial.bias blocks.0.first.weight blocks.0.first.bias blocks.0.second.weight "
        "blocks.0.second.bias final.weight final.bias ");
}

TEMPLATE_TEST_CASE("nets: descriptions", "[net]", Mlp<float>, ResidualMlp<float>) {
  Rng rng(12);
  const TestType net(3, 2, 4, {.hidden = {6, 6}, .activation = Activation::elu}, rng);
  const Options options = net.options();
  CHECK(options.type() == TestType::type);
  const TestType again = TestType::from_options(options);
  CHECK(again.options() == options);
  CHECK(names(again) == names(net));
  CHECK(count_parameters(again) == count_parameters(net));

  const auto altered = [&](std::string_view name, Options::Value value) {
    Options copy(TestType::type);
    for (const auto& [key, old] : options.entries())
      if (key != "type") copy.set(key, key == name ? value : old);
    copy.limit_sizes(1000);
    return error_text<std::exception>([&] { (void)TestType::from_options(copy); });
  };
  CHECK(altered("outputs", std::int64_t{4}).empty());
  CHECK(contains(altered("outputs", std::int64_t{0}), "'outputs' is 0"));
  CHECK(contains(altered("inputs", std::int64_t{-1}), "'inputs' is -1"));
  CHECK(contains(altered("inputs", std::int64_t{900}), "larger than the file"));
  CHECK(contains(altered("context", std::int64_t{900}), "larger than the file"));
  CHECK(contains(altered("hidden", Options::Integers{900, 900}), "larger than the file"));
  CHECK(contains(altered("hidden", Options::Integers{6, 0}), "'hidden' is 0"));
  CHECK(contains(altered("activation", std::string("step")), "'step'"));
}

TEMPLATE_TEST_CASE("nets: bad arguments are refused by name", "[net]", Mlp<double>, ResidualMlp<double>) {
  Rng rng(13);
  const auto build = [&](Index inputs, Index context, Index outputs, std::vector<Index> hidden) {
    return error_text<std::exception>([&] { TestType(inputs, context, outputs, {.hidden = hidden}, rng); });
  };
  CHECK(contains(build(-1, 0, 1, {4}), "inputs is -1"));
  CHECK(contains(build(1, -1, 1, {4}), "context columns is -1"));
  CHECK(contains(build(1, 0, 0, {4}), "outputs is 0"));
  CHECK(contains(build(1, 0, 1, {4, 0}), "hidden width is 0"));

  const TestType net(3, 2, 4, {.hidden = {6}}, rng);
  typename TestType::Cache cache;
  Matrix<double> input(5, 3), context(5, 2), output(5, 4), wrong(5, 1), short_(4, 3);
  input.setZero(), context.setZero();
  const auto forward = [&](Matrix<double>& x, Matrix<double>& c, Matrix<double>& y) {
    return error_text<std::exception>([&] { net.forward(x, c, y, cache); });
  };
  CHECK(forward(input, context, output).empty());
  CHECK(contains(forward(wrong, context, output), "the input is 5 x 1"));
  CHECK(contains(forward(input, wrong, output), "context is 5 x 1"));
  CHECK(contains(forward(input, short_, output), "context is 4 x 3"));
  CHECK(contains(forward(input, context, wrong), "the output is 5 x 1"));
  Batch<double> bad(wrong);
  CHECK(contains(
      error_text<std::exception>([&] { net.pullback(input, context, cache, wrong, nullptr, nullptr, nullptr); }),
      "5 x 1"));
  CHECK(
      contains(error_text<std::exception>([&] { net.pullback(input, context, cache, output, &bad, nullptr, nullptr); }),
               "d_input"));
  CHECK(
      contains(error_text<std::exception>([&] { net.pullback(input, context, cache, output, nullptr, &bad, nullptr); }),
               "d_context"));
  typename TestType::Cache empty;
  CHECK(contains(
      error_text<std::exception>([&] { net.pullback(input, context, empty, output, nullptr, nullptr, nullptr); }),
      "cache"));
}

TEST_CASE("ResidualMlp: all widths must be equal", "[net][residual_mlp]") {
  Rng rng(14);
  CHECK(contains(error_text<std::exception>([&] {
                   ResidualMlp<float>(1, 0, 1, {.hidden = {8, 9}}, rng);
                 }),
                 "hidden width is 9"));
  CHECK(contains(error_text<std::exception>([&] { ResidualMlp<float>(1, 0, 1, {.hidden = {}}, rng); }),
                 "hidden widths is 0"));
}
