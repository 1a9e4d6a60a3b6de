// SPDX-License-Identifier: MIT

/// \file
/// Affine couplings: what they keep, where they start, what they refuse. Additive ones and those with a residual net
/// have files of their own, so that each is quick to compile.

#include <rhei/layers/coupling.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

template <class L>
L make(Index dim, std::vector<Index> transformed, NetOptions net, Index context, Rng& rng) {
  return L(dim, {.transformed = std::move(transformed), .net = std::move(net), .context_dim = context}, rng);
}

/// Away from the identity.
template <class L>
L perturbed(L layer, std::uint64_t seed) {
  using S = typename L::Scalar;
  Rng rng(seed);
  for_each_parameter(layer, [&](std::string_view, Batch<S> values) {
    for (Index i = 0; i < values.size(); ++i) values.data()[i] += S(0.3) * rng.normal<S>();
  });
  return layer;
}

template <Real S>
Matrix<S> normal_rows(Index n, Index cols, std::uint64_t seed) {
  Rng rng(seed);
  Matrix<S> m(n, cols);
  rng.fill_normal(m);
  return m;
}

/// The smallest |pre-activation| of each row: how far the ReLUs of a coupling's net are from their kink.
template <class L>
struct KinkDistance {
  using S = typename L::Scalar;

  Vector<S> operator()(const L& layer, Direction, const Call<S>& call, ConstBatch<S> in) const {
    const auto& [weight, bias, context_weight] = layer.net().parameters();
    Matrix<S> h(in.rows(), layer.net().inputs());
    for (std::size_t j = 0; j < layer.kept().size(); ++j) h.col(static_cast<Index>(j)) = in.col(layer.kept()[j]);
    Vector<S> distance = Vector<S>::Constant(in.rows(), 1);
    for (std::size_t l = 0; l + 1 < weight.size(); ++l) {
      Matrix<S> sum = h.lazyProduct(weight[l]);
      for (Index i = 0; i < sum.rows(); ++i) {
        sum.row(i) += bias[l];
        if (l == 0 && call.context.cols() > 0)
          sum.row(i) += call.context.row(call.context.rows() == 1 ? 0 : i).lazyProduct(context_weight);
        distance[i] = std::min(distance[i], sum.row(i).cwiseAbs().minCoeff());
      }
      h = sum.cwiseMax(S(0));
    }
    return distance;
  }
};

/// The text of what is thrown by making such a coupling.
std::string refusal(Index dim, std::vector<Index> transformed, Index context = 0) {
  return error_text<std::invalid_argument>([&] {
    Rng rng(1);
    (void)make<AffineCoupling<float>>(dim, transformed, {{4}}, context, rng);
  });
}

}  // namespace

TEMPLATE_TEST_CASE("affine couplings conform", "[layer]", RHEI_TEST_SCALARS) {
  using L = AffineCoupling<TestType>;
  struct Case {
    std::string_view name;
    std::vector<Index> (*transformed)(Index dim);
    ScaleMap scale_map;
    Activation activation;
    ConformanceOptions options = {};
  };
  const auto upper_half = [](Index dim) { return feature_range(dim / 2, dim - dim / 2); };
  const auto all_but_the_ends = [](Index dim) { return feature_range(1, dim - 2); };
  const auto all = [](Index dim) { return feature_range(0, dim); };
  const auto scattered = [](Index dim) { return alternating_features(dim, 1); };
  // batches of 256 would only repeat the first case
  const std::vector<Index> few{1, 7};
  // of the differences, where all is smooth (which softsign is not at zero): it rounds less
  constexpr double longer = 0x1p-12;
  const Case cases[] = {
      {"upper half, tanh", upper_half, ScaleMap::tanh(2), Activation::gelu, {.contexts = {0, 3}, .step = longer}},
      {"the middle, softsign",
       all_but_the_ends,
       ScaleMap::softsign(3),
       Activation::tanh,
       {.dims = {3, 8}, .batches = few}},
      {"everything, sigmoid",
       all,
       ScaleMap::sigmoid(1e-3),
       Activation::silu,
       {.dims = {3}, .contexts = {0, 3}, .batches = few, .step = longer}},
      {"scattered, softplus",
       scattered,
       ScaleMap::softplus(1e-3),
       Activation::softplus,
       {.dims = {8}, .batches = few, .step = longer}},
      // an unbounded exponential of a net overflows where its input is large
      {"scattered, exponential",
       scattered,
       ScaleMap::exponential(),
       Activation::silu,
       {.dims = {3}, .batches = few, .largest_input = 10, .step = longer}},
  };
  for (const Case& c : cases) {
    ConformanceOptions options = c.options;
    const std::string name = "AffineCoupling, " + std::string(c.name);
    options.name = name;
    conforms(
        [c](Index dim, Index context, Rng& rng) {
          return L(dim,
                   {.transformed = c.transformed(dim),
                    .net = {{8, 8}, c.activation},
                    .context_dim = context,
                    .transformer = Affine<TestType>(c.scale_map)},
                   rng);
        },
        options);
  }
}

TEMPLATE_TEST_CASE("affine couplings with ReLU conform away from its kinks", "[layer]", RHEI_TEST_SCALARS) {
  using L = AffineCoupling<TestType>;
  conforms(
      [](Index dim, Index context, Rng& rng) {
        return make<L>(dim, alternating_features(dim, 0), {{8, 8}, Activation::relu}, context, rng);
      },
      {.name = "AffineCoupling, ReLU", .dims = {2, 3}, .contexts = {0, 3}}, KinkDistance<L>());
}

TEMPLATE_TEST_CASE("a fresh coupling is the identity, bit for bit", "[coupling]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(1);
  const Matrix<S> in = normal_rows<S>(7, 5, 2), context = normal_rows<S>(7, 2, 3);
  const auto check = [&](const auto& layer) {
    typename std::decay_t<decltype(layer)>::Cache cache;
    for (const bool forward : {true, false}) {
      Matrix<S> out(7, 5);
      Vector<S> log_det = Vector<S>::Zero(7);
      const Call<S> call{.context = context};
      if (forward)
        layer.forward(call, in, out, log_det, cache);
      else
        layer.inverse(call, in, out, log_det, cache);
      CHECK(bool(out == in));
      CHECK(log_det.isZero(0));
    }
  };
  check(make<AffineCoupling<S>>(5, {1, 3}, {{8}}, 2, rng));
}

TEST_CASE("the Jacobian of a coupling is block triangular", "[coupling]") {
  using L = AffineCoupling<double>;
  Rng rng(1);
  const Index dim = 5;
  const L layer = perturbed(make<L>(dim, {0, 3}, {{8}, Activation::tanh}, 0, rng), 4);
  Matrix<double> in = normal_rows<double>(7, dim, 5);
  const std::vector<Index> kept{1, 2, 4}, moved{0, 3};
  CHECK(layer.kept() == kept);
  CHECK(layer.transformed() == moved);
  for (const bool forward : {true, false}) {
    const auto evaluate = [&] { return forward ? forward_of(layer, in) : inverse_of(layer, in); };
    const auto result = evaluate();
    for (const Index d : kept) CHECK(bool(result.out.col(d) == in.col(d)));  // bit for bit
    for (Index i = 0; i < in.rows(); ++i) {
      Matrix<double> jacobian(dim, dim);
      for (Index j = 0; j < dim; ++j)
        jacobian.col(j) =
            differentiate(in(i, j), [&]() -> Vector<double> { return evaluate().out.row(i).transpose(); });
      double log_det = 0;
      for (const Index d : moved) {
        log_det += std::log(jacobian(d, d));
        for (Index other = 0; other < dim; ++other)
          if (other != d) CHECK(jacobian(other, d) == 0);  // a moved feature influences itself alone
        for (const Index k : kept) CHECK(jacobian(d, k) != 0);
      }
      CHECK(result.log_det[i] == Approx(log_det).margin(1e-8));
    }
  }
}

TEST_CASE("couplings refuse features that are none", "[coupling]") {
  CHECK(refusal(3, {0, 3}) == "Coupling: a feature of transformed is 3, expected 0 to 2");
  CHECK(refusal(3, {-1}) == "Coupling: a feature of transformed is -1, expected 0 to 2");
  CHECK(refusal(3, {1, 1}) == "Coupling: transformed names feature 1 twice");
  CHECK(refusal(3, {}) == "Coupling: transformed is empty, expected at least one feature");
  CHECK(refusal(0, {0}) == "Coupling: dim is 0, expected at least 1");
  CHECK(refusal(-7, {0}) == "Coupling: dim is -7, expected at least 1");
  CHECK(refusal(3, {0}, -2) == "Mlp: the number of context columns is -2, expected 0 or more");
}

TEST_CASE("couplings are rebuilt from their options", "[coupling]") {
  using L = AffineCoupling<double>;
  Rng rng(1);
  const L layer = perturbed(make<L>(5, {3, 0}, {{8, 4}, Activation::gelu}, 2, rng), 2);
  CHECK(layer.options().type() == "coupling");
  L rebuilt = L::from_options(layer.options());
  CHECK(rebuilt.options() == layer.options());
  CHECK(rebuilt.transformed() == layer.transformed());
  CHECK(rebuilt.context_dim() == 2);
  copy_values(layer, rebuilt);

  const Matrix<double> in = normal_rows<double>(7, 5, 3), context = normal_rows<double>(1, 2, 4);
  const auto evaluate = [](const auto& l, const auto& x, const auto& c) {
    using S = typename std::decay_t<decltype(l)>::Scalar;
    typename std::decay_t<decltype(l)>::Cache cache;
    Evaluation<S> result{Matrix<S>(x.rows(), x.cols()), Vector<S>::Zero(x.rows())};
    l.forward({.context = c}, x, result.out, result.log_det, cache);
    return result;
  };
  const auto want = evaluate(layer, in, context), got = evaluate(rebuilt, in, context);
  CHECK(bool(got.out == want.out));
  CHECK(bool(got.log_det == want.log_det));

  const auto narrow = layer.cast<float>();
  CHECK(narrow.options() == layer.options());
  const auto rounded = evaluate(narrow, Matrix<float>(in.cast<float>()), Matrix<float>(context.cast<float>()));
  CHECK(relative_error(rounded.out, want.out) < 1e-5);
  CHECK(relative_error(rounded.log_det, want.log_det) < 1e-5);
}

TEST_CASE("couplings refuse a description that does not fit together", "[coupling]") {
  Rng rng(1);
  using L = AffineCoupling<float>;
  const Options good = make<L>(5, {3, 0}, {{8}}, 0, rng).options();
  const auto with = [&](Index dim, Options::Integers transformed, const Options& net) {
    return Options("coupling")
        .set("dim", dim)
        .set("transformed", std::move(transformed))
        .set("transformer", good.get<Options>("transformer"))
        .set("net", net);
  };
  const auto text = [](const Options& options) {
    return error_text<std::exception>([&] { (void)L::from_options(options); });
  };
  const Options net = good.get<Options>("net");
  CHECK(text(with(5, {0, 3}, net)).empty());
  CHECK(text(with(4, {0, 3}, net)) == "Coupling: the net's number of inputs is 3, expected 2");
  CHECK(text(with(4, {0}, net)) == "Coupling: the net's number of outputs is 4, expected 2");
  CHECK(text(with(5, {0, 5}, net)) == "Coupling: a feature of transformed is 5, expected 0 to 4");
  CHECK(text(with(5, {}, net)) == "Coupling: transformed is empty, expected at least one feature");
  CHECK(text(with(0, {0, 3}, net)).find("'dim' is 0") != std::string::npos);
  CHECK(text(Options("coupling")).find("'dim' is missing") != std::string::npos);
  Options shift = Options("coupling");
  shift.set("dim", Index(5)).set("transformed", Options::Integers{0, 3}).set("transformer", Options("shift"));
  CHECK(text(shift.set("net", net)).find("'scale_map' is missing") != std::string::npos);
}

// max(x, 0) of some libraries turns NaN into 0: then nothing but x_A itself would tell.
TEST_CASE("NaN in a kept feature shows in its row, whatever the net makes of it", "[coupling]") {
  Rng rng(1);
  const auto layer = perturbed(make<AffineCoupling<float>>(3, {1}, {{8}, Activation::relu}, 0, rng), 2);
  Matrix<float> in = normal_rows<float>(9, 3, 3);
  const auto clean = forward_of(layer, in);
  in(4, 2) = std::numeric_limits<float>::quiet_NaN();
  auto dirty = forward_of(layer, in);
  CHECK(std::isnan(dirty.out(4, 2)));
  CHECK(std::isnan(dirty.out(4, 1)));
  CHECK(std::isnan(dirty.log_det[4]));
  dirty.out.row(4) = clean.out.row(4);
  dirty.log_det[4] = clean.log_det[4];
  CHECK(bool(dirty.out == clean.out));
  CHECK(bool(dirty.log_det == clean.log_det));
}

TEST_CASE("a coupling's pullback refuses a cache that no evaluation of this batch filled", "[coupling]") {
  Rng rng(1);
  using L = AffineCoupling<float>;
  const L layer = make<L>(4, {0, 2}, {{8}}, 0, rng);
  const Matrix<float> in = normal_rows<float>(7, 4, 3);
  Matrix<float> d_in(7, 4);
  const Vector<float> d_log_det = Vector<float>::Ones(7);
  Batch<float> d_in_view(d_in);
  L::Cache cache;
  const auto text = [&] {
    return error_text<std::invalid_argument>(
        [&] { layer.inverse_pullback({}, in, in, cache, in, d_log_det, &d_in_view, nullptr, nullptr); });
  };
  CHECK(text() == "Coupling::inverse_pullback: what the cache holds is 0 x 0 (rows x columns), expected 7 x 4");
  Matrix<float> out(3, 4);
  Vector<float> log_det = Vector<float>::Zero(3);
  layer.inverse({}, Matrix<float>(in.topRows(3)), out, log_det, cache);
  CHECK(text() == "Coupling::inverse_pullback: what the cache holds is 3 x 4 (rows x columns), expected 7 x 4");
}
