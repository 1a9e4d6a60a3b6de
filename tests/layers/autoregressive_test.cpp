// SPDX-License-Identifier: MIT

#include <cmath>
#include <rhei/core/inverted.hpp>
#include <rhei/layers/autoregressive.hpp>
#include <rhei/transformers/inverted_transformer.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

template <class L>
L perturbed(L layer, Rng& rng) {
  using S = typename L::Scalar;
  for_each_parameter(layer, [&](std::string_view, Batch<S> values) {
    for (Index i = 0; i < values.size(); ++i) values.data()[i] += S(0.3) * rng.normal<S>();
  });
  return layer;
}

Maf<double> example(Index dim, MadeOptions net, Index context = 0) {
  Rng rng(1);
  return perturbed(Maf<double>(dim, {.order = reversed_order(dim), .net = std::move(net), .context_dim = context}, rng),
                   rng);
}

Matrix<double> normal_rows(Index n, Index cols, std::uint64_t seed) {
  Rng rng(seed);
  Matrix<double> m(n, cols);
  rng.fill_normal(m);
  return m;
}

/// The raw outputs by the textbook: dense products with masked weights.
Matrix<double> textbook(const Made<double>& net, const Matrix<double>& x) {
  const auto& degrees = net.degrees();
  const auto degree = [&](std::size_t level, Index unit) -> Index {
    if (level == 0) return unit + 1;
    if (level == net.parameters().weight.size()) return unit / net.outputs_per_feature();
    return degrees[net.made_options().residual ? 0 : level - 1][static_cast<std::size_t>(unit)];
  };
  Matrix<double> h = x;
  std::vector<Matrix<double>> sums;
  for (std::size_t l = 0; l < net.parameters().weight.size(); ++l) {
    Matrix<double> weight = net.parameters().weight[l];
    for (Index i = 0; i < weight.rows(); ++i)
      for (Index j = 0; j < weight.cols(); ++j)
        if (degree(l, i) > degree(l + 1, j)) weight(i, j) = 0;
    Matrix<double> sum = (h * weight).rowwise() + net.parameters().bias[l];
    const bool residual = net.made_options().residual;
    if (residual && l > 0 && l % 2 == 0) sum += sums[l - 2];
    sums.push_back(sum);
    const bool linear = residual && l + 2 == net.parameters().weight.size();
    h = linear ? sum : Matrix<double>(sum.array().tanh());
  }
  return sums.back();
}

}  // namespace

TEMPLATE_TEST_CASE("masked autoregressive layers conform", "[layer]", RHEI_TEST_SCALARS) {
  using S = TestType;
  struct Case {
    std::string_view name;
    MadeOptions net;
    bool reversed;
    ConformanceOptions options = {};
  };
  const std::vector<Index> few{1, 7};
  constexpr double longer = 0x1p-12;  // of the differences, where all is smooth: it rounds less
  const Case cases[] = {
      {"plain", {{16, 9}, Activation::tanh}, true, {.contexts = {0, 3}, .step = longer}},
      {"residual", {{12, 12}, Activation::silu, true}, true, {.dims = {1, 2, 5}, .contexts = {0, 3}, .step = longer}},
      {"random degrees",
       {{16, 16, 16}, Activation::gelu, false, true},
       false,
       {.dims = {3, 8}, .batches = few, .step = longer}},
      {"more features than units",
       {{5, 4}, Activation::softplus},
       false,
       {.dims = {9, 21}, .batches = few, .step = longer}},
      {"no hidden layer", {{}}, true, {.dims = {1, 5}, .contexts = {0, 3}, .batches = few, .step = longer}},
      {"activated context",
       {{9, 7}, Activation::silu, false, false, true},
       false,
       {.dims = {1, 5}, .contexts = {0, 3}, .batches = few, .step = longer}},
      {"activated context, residual",
       {{8, 8}, Activation::tanh, true, false, true},
       true,
       {.dims = {5}, .contexts = {3}, .batches = few, .step = longer}},
  };
  for (const Case& c : cases) {
    ConformanceOptions options = c.options;
    const std::string name = "Maf, " + std::string(c.name);
    options.name = name;
    conforms(
        [c](Index dim, Index context, Rng& rng) {
          AutoregressiveOptions<Affine<S>> o{.net = c.net, .context_dim = context};
          if (c.reversed) o.order = reversed_order(dim);
          return Maf<S>(dim, o, rng);
        },
        options);
  }
}

TEMPLATE_TEST_CASE("autoregressive layers of an inverted transformer conform", "[layer]", RHEI_TEST_SCALARS) {
  using S = TestType;
  conforms(
      [](Index dim, Index context, Rng& rng) {
        return Autoregressive<InvertedTransformer<Affine<S>>>(
            dim, {.order = reversed_order(dim), .net = {{12}, Activation::tanh}, .context_dim = context}, rng);
      },
      {.name = "Autoregressive, InvertedTransformer",
       .dims = {1, 5},
       .contexts = {0, 3},
       .batches = {1, 7},
       .step = 0x1p-12});
}

TEST_CASE("an inverted transformer moves features as the inverse does", "[autoregressive]") {
  Rng rng(1);
  const auto net = perturbed(Made<double>(4, 2, 0, {{8}, Activation::tanh}, rng), rng);
  const Affine<double> affine(ScaleMap::softsign(3));
  const Autoregressive<InvertedTransformer<Affine<double>>> layer(net, InvertedTransformer(affine), {2, 0, 3, 1});
  const Matrix<double> x = normal_rows(5, 4, 2);
  Matrix<double> in_order(5, 4), raw(5, 8), expected(5, 4);
  for (Index i = 0; i < 4; ++i) in_order.col(i) = x.col(layer.order()[static_cast<std::size_t>(i)]);
  Made<double>::Cache cache;
  net.forward(in_order, {}, raw, cache);
  for (Index i = 0; i < 4; ++i) {  // z = x e^s + t
    const Eigen::ArrayXd s = raw.col(2 * i + 1).array(), log_scale = s / (1 + (s / 3).abs());
    expected.col(layer.order()[static_cast<std::size_t>(i)]) =
        in_order.col(i).array() * log_scale.exp() + raw.col(2 * i).array();
  }
  CHECK((inverse_of(layer, x).out - expected).cwiseAbs().maxCoeff() < 1e-14);
  CHECK(decltype(layer)::from_options(layer.options()).options() == layer.options());
}

TEST_CASE("a MADE may be given its degrees", "[made]") {
  const std::vector<std::vector<std::int64_t>> degrees{{0, 2, 2}, {2}};
  CHECK(Made<float>(4, 2, 0, {.hidden = {3, 1}}, degrees).degrees() == degrees);
  const auto text = [](std::vector<std::vector<std::int64_t>> given) {
    return error_text<std::exception>([&] { (void)Made<float>(4, 2, 0, {.hidden = {3, 1}}, std::move(given)); });
  };
  CHECK(text({{0, 2, 2}}) == "Made: the number of lists of degrees is 1, expected 2");
  CHECK(text({{0, 2}, {2}}) == "Made: the number of degrees of a layer is 2, expected 3");
  CHECK(text({{0, 2, 1}, {2}}) == "Made: degree 2 is 1, expected ascending values from 0 to 3");
}

TEST_CASE("a MADE is the textbook's net with masked weights", "[made]") {
  for (const bool residual : {false, true})
    for (const Index dim : {1, 2, 5, 19}) {
      Rng rng(3);
      const auto net = perturbed(Made<double>(dim, 3, 0, {{16, 16}, Activation::tanh, residual}, rng), rng);
      const Matrix<double> x = normal_rows(11, dim, 4);
      Matrix<double> raw(11, 3 * dim);
      Made<double>::Cache cache;
      net.forward(x, {}, raw, cache);
      CHECK((raw - textbook(net, x)).cwiseAbs().maxCoeff() < 1e-13 * raw.cwiseAbs().maxCoeff());
      CHECK(cache.units == net.units());
    }
}

TEST_CASE("a MADE takes a batch as it takes its rows one by one, and sweeps to the same", "[made]") {
  // rows together are products of blocks, which do ReLU on their way; a row alone is products of a matrix and a vector
  const Activation activation = GENERATE(Activation::relu, Activation::silu);
  const bool residual = GENERATE(false, true);
  const Index dim = GENERATE(1, 5, 19), width = GENERATE(16, 150), context_rows = GENERATE(0, 1, 40);
  CAPTURE(to_string(activation), residual, dim, width, context_rows);
  constexpr Index rows = 40;
  const Index context_dim = context_rows > 0 ? 2 : 0;
  Rng rng(6);
  const auto net = perturbed(Made<double>(dim, 2, context_dim, {{width, width}, activation, residual}, rng), rng);
  const Matrix<double> x = normal_rows(rows, dim, 7), d = normal_rows(rows, 2 * dim, 8);
  const Matrix<double> context = normal_rows(context_rows, context_dim, 9);
  const auto close = [](const auto& a, const auto& b) {
    return (a - b).norm() <= 1e-12 * (b.norm() + std::numeric_limits<double>::min());
  };

  Made<double>::Cache cache, own;
  Matrix<double> out(rows, 2 * dim), d_x(rows, dim), d_context = Matrix<double>::Zero(context_rows, context_dim);
  auto gradient = net.make_gradient(), sum = net.make_gradient();
  Batch<double> want_x(d_x), want_context(d_context);
  net.forward(x, context, out, cache);
  net.pullback(x, context, cache, d, &want_x, &want_context, &gradient);

  Matrix<double> d_context_sum = Matrix<double>::Zero(context_rows, context_dim);
  for (Index i = 0; i < rows; ++i) {
    const Index at = context_rows == rows ? i : 0, c_rows = std::min<Index>(context_rows, 1);
    const Matrix<double> row = x.row(i), c = context.middleRows(at, c_rows), d_row = d.row(i);
    Matrix<double> row_out(1, 2 * dim), d_row_x(1, dim), d_c = Matrix<double>::Zero(c_rows, context_dim);
    Batch<double> want_row_x(d_row_x), want_c(d_c);
    net.forward(row, c, row_out, own);
    net.pullback(row, c, own, d_row, &want_row_x, &want_c, &sum);
    CHECK(close(out.row(i), row_out));
    CHECK(close(d_x.row(i), d_row_x));
    d_context_sum.middleRows(at, c_rows) += d_c;
  }
  CHECK(close(d_context, d_context_sum));
  const auto got = parameter_list<double>(gradient), expected = parameter_list<double>(sum);
  for (std::size_t k = 0; k < got.size(); ++k) {
    CAPTURE(got[k].name);
    CHECK(close(got[k].values, expected[k].values));
  }

  Matrix<double> made = Matrix<double>::Constant(rows, dim, std::nan("")), swept(rows, 2 * dim);
  net.sweep(Batch<double>(made), context, Batch<double>(swept), own, [&](Index i) { made.col(i) = x.col(i); });
  CHECK(close(swept, out));
  Matrix<double> d_made = Matrix<double>::Zero(rows, dim), d_swept(rows, 2 * dim);
  auto swept_gradient = net.make_gradient();
  net.sweep_pullback(made, context, own, Batch<double>(d_made), Batch<double>(d_swept), nullptr, &swept_gradient,
                     [&](Index i) { d_swept.middleCols(2 * i, 2) = d.middleCols(2 * i, 2); });
  const auto by_sweep = parameter_list<double>(swept_gradient);
  for (std::size_t k = 0; k < got.size(); ++k) CHECK(close(by_sweep[k].values, got[k].values));
}

TEST_CASE("sampling evaluates each unit of a MADE exactly once", "[made]") {
  for (const Index rows : {1, 40})
    for (const bool residual : {false, true}) {
      const Maf<double> layer = example(9, {{32, 32}, Activation::relu, residual});
      Matrix<double> z = normal_rows(rows, 9, 2), x(rows, 9);
      Vector<double> log_det = Vector<double>::Zero(rows);
      Maf<double>::Cache cache;
      layer.forward({}, z, x, log_det, cache);
      CHECK(cache.net.units == layer.net().units());
      CHECK(layer.net().units() == (residual ? 32 * 5 : 32 * 2));
    }
}

TEST_CASE("each feature depends on those before it in the order, and on all of them", "[autoregressive]") {
  const Index dim = 7;
  for (const bool residual : {false, true}) {
    const Maf<double> layer = example(dim, {{24, 24}, Activation::tanh, residual});
    Matrix<double> x = normal_rows(3, dim, 5);
    const auto before = inverse_of(layer, x);
    for (Index moved = 0; moved < dim; ++moved) {
      Matrix<double> other = x;
      other.col(moved).array() += 0.5;
      const auto after = inverse_of(layer, other);
      for (Index i = 0; i < dim; ++i)  // the order is reversed
        CHECK(bool((after.out.col(i).array() != before.out.col(i).array()).all()) == (i <= moved));
    }
  }
}

TEST_CASE("the context reaches the first feature and D = 1", "[autoregressive]") {
  for (const Index dim : {1, 4}) {
    const Maf<double> layer = example(dim, {{8, 8}, Activation::tanh}, 2);
    const Matrix<double> x = normal_rows(5, dim, 5);
    const auto evaluate = [&](const Matrix<double>& context) {
      Matrix<double> z(5, dim);
      Vector<double> log_det = Vector<double>::Zero(5);
      Maf<double>::Cache cache;
      layer.inverse({.context = context}, x, z, log_det, cache);
      return z;
    };
    const Matrix<double> context = normal_rows(1, 2, 6);
    const Matrix<double> one = evaluate(context), many = evaluate(context.replicate(5, 1));
    CHECK((one - many).cwiseAbs().maxCoeff() < 1e-14);
    const Matrix<double> other = evaluate(normal_rows(5, 2, 7));
    for (Index i = 0; i < dim; ++i) CHECK(bool((other.col(i).array() != one.col(i).array()).all()));
  }
}

TEST_CASE("weights that do not count are ignored and have no gradient", "[made]") {
  Rng rng(1);
  auto net = perturbed(Made<double>(6, 2, 0, {{12, 12}, Activation::tanh}, rng), rng);
  const Matrix<double> x = normal_rows(9, 6, 2);
  Matrix<double> raw(9, 12);
  Made<double>::Cache cache;
  net.forward(x, {}, raw, cache);
  auto gradient = net.make_gradient();
  net.pullback(x, {}, cache, normal_rows(9, 12, 3), nullptr, nullptr, &gradient);
  Index ignored = 0;
  for (std::size_t l = 0; l < 3; ++l) {
    auto& weight = net.parameters().weight[l];
    for (Index i = 0; i < weight.size(); ++i)
      if (gradient.weight[l].data()[i] == 0) {
        weight.data()[i] = std::numeric_limits<double>::quiet_NaN();
        ++ignored;
      }
  }
  // inputs: 6 x 12, of which degree 6 sees nothing; hidden degrees 1 1 1 2 2 3 3 3 4 4 5 5
  CHECK(ignored > 80);
  Matrix<double> again(9, 12);
  net.forward(x, {}, again, cache);
  CHECK(bool(again == raw));
}

TEST_CASE("a fresh autoregressive layer is the identity", "[autoregressive]") {
  Rng rng(1);
  for (const bool residual : {false, true}) {
    const Maf<float> layer(5, {.net = {{16, 16}, Activation::relu, residual}}, rng);
    const Matrix<float> x = normal_rows(20, 5, 2).cast<float>();
    for (const auto& result : {forward_of(layer, x), inverse_of(layer, x)}) {
      CHECK(bool(result.out == x));
      CHECK(result.log_det.isZero(0));
    }
  }
}

TEST_CASE("autoregressive layers refuse what does not fit together", "[autoregressive]") {
  Rng rng(1);
  const auto text = [&](Index dim, AutoregressiveOptions<Affine<float>> options) {
    return error_text<std::invalid_argument>([&] { (void)Maf<float>(dim, options, rng); });
  };
  CHECK(text(0, {}) == "Made: the number of features is 0, expected 1 or more");
  CHECK(text(3, {.order = {0, 1}}) == "Autoregressive: the size of order is 2, expected 3");
  CHECK(text(3, {.order = {0, 1, 1}}) ==
        "Autoregressive: order: indices[2] is 1 and indices[1] is 1, expected each index once");
  CHECK(text(3, {.net = {{8, 0}}}) == "Made: a hidden width is 0, expected 1 or more");
  CHECK(text(3, {.net = {{}, Activation::relu, true}}) ==
        "Made: the number of residual blocks is 0, expected at least 1");
  CHECK(text(3, {.net = {{8, 9}, Activation::relu, true}}) ==
        "Made: a hidden width is 9, expected 8, the same for all residual blocks");
  CHECK(text(3, {.context_dim = -1}) == "Made: the number of context columns is -1, expected 0 or more");
  Maf<float> layer(3, {.net = {{4}}}, rng);
  for_each_state(layer, [](std::string_view name, std::span<std::int64_t> values) {
    if (name == "net.degrees.0") values[1] = 3;
  });
  CHECK(error_text<std::runtime_error>([&] { layer.check_state(); }) ==
        "Made: degree 1 is 3, expected ascending values from 0 to 2");
}
