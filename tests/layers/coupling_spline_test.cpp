// SPDX-License-Identifier: MIT

/// \file
/// Spline couplings, with each kind of tails.

#include <cmath>
#include <limits>
#include <rhei/layers/spline_coupling.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// How far the nearest moved feature of each row is from a knot of its spline, where the second derivative jumps.
template <class L>
struct KnotDistance {
  using S = typename L::Scalar;

  Vector<S> operator()(const L& layer, Direction direction, const Call<S>& call, ConstBatch<S> in) const {
    const Index n = in.rows(), moved = static_cast<Index>(layer.transformed().size());
    const auto columns = [&](const std::vector<Index>& features) {
      Matrix<S> gathered(n, static_cast<Index>(features.size()));
      for (Index j = 0; j < gathered.cols(); ++j) gathered.col(j) = in.col(features[static_cast<std::size_t>(j)]);
      return gathered;
    };
    const SplineOptions& options = layer.transformer().spline_options();
    const Matrix<S> kept = columns(layer.kept()), at = columns(layer.transformed());
    Matrix<S> raw(n, layer.net().outputs());
    typename Mlp<S>::Cache cache;
    layer.net().forward(kept, call.context, raw, cache);

    const bool by_z = direction == Direction::forward;
    const double bound = options.bound, least = by_z ? options.min_width : options.min_height;
    const double free = 1 - static_cast<double>(options.bins) * least;
    Vector<S> distance = Vector<S>::Constant(n, std::numeric_limits<S>::infinity());
    for (Index j = 0; j < moved; ++j)
      for (Index i = 0; i < n; ++i) {
        const auto weight = [&](Index k) {  // parameter-major, one column for each feature
          return std::exp(static_cast<double>(raw(i, ((by_z ? 0 : options.bins) + k) * moved + j)));
        };
        double total = 0, knot = -bound;
        for (Index k = 0; k < options.bins; ++k) total += weight(k);
        for (Index k = 0; k <= options.bins; ++k) {
          distance[i] = std::min(distance[i], static_cast<S>(std::abs(static_cast<double>(at(i, j)) - knot)));
          if (k < options.bins) knot += 2 * bound * (least + free * weight(k) / total);
        }
      }
    return distance;
  }
};

}  // namespace

TEMPLATE_TEST_CASE("spline couplings conform", "[layer]", RHEI_TEST_SCALARS) {
  using S = TestType;
  using L = SplineCoupling<S>;
  struct Case {
    std::string_view name;
    SplineOptions spline;
    Activation activation;
    ConformanceOptions options = {};
  };
  const double pi = 3.14159265358979323846;
  const auto within = [](double bound) {
    return [bound](Direction, double value) { return 0.99 * bound * std::tanh(value / 2); };
  };
  const std::vector<Index> few{1, 7};  // batches of 256 would only repeat the first case
  // of the differences: it rounds less; and forty times its reach to either side from the knots
  constexpr double longer = 0x1p-12, margin = 0.03;
  const Case cases[] = {
      {"linear tails",
       {.bound = 3},
       Activation::gelu,
       {.dims = {2, 5}, .contexts = {0, 3}, .kink_margin = margin, .step = longer}},
      {"circular",
       {.bins = 5, .bound = pi, .tails = Tails::circular},
       Activation::tanh,
       {.dims = {3}, .contexts = {0, 3}, .batches = few, .domain = within(pi), .kink_margin = margin, .step = longer}},
      {"an interval",
       {.bins = 4, .bound = 1, .tails = Tails::none},
       Activation::tanh,
       {.dims = {1, 3}, .batches = few, .domain = within(1), .kink_margin = margin, .step = longer}},
  };
  for (const Case& c : cases) {
    ConformanceOptions options = c.options;
    const std::string name = "SplineCoupling, " + std::string(c.name);
    options.name = name;
    conforms(
        [c](Index dim, Index context, Rng& rng) {
          return L(dim,
                   {.transformed = alternating_features(dim, 0),
                    .net = {{8, 8}, c.activation},
                    .context_dim = context,
                    .transformer = RationalQuadratic<S>(c.spline)},
                   rng);
        },
        options, KnotDistance<L>());
  }
}

TEMPLATE_TEST_CASE("a fresh spline coupling is the identity, bit for bit", "[coupling]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(1);
  const SplineCoupling<S> layer(5, {.transformed = {1, 3}}, rng);
  Matrix<S> in(64, 5);
  rng.fill_normal(in);
  in *= S(3);  // some are in the tails
  for (const auto& result : {forward_of(layer, in), inverse_of(layer, in)}) {
    CHECK(bool(result.out == in));
    CHECK(result.log_det.isZero(0));
  }
}

TEST_CASE("a feature in the tails of a spline coupling leaves its row's other features to their splines",
          "[coupling]") {
  Rng rng(1);
  SplineCoupling<double> layer(3, {.transformed = {0, 2}, .net = {{8}, Activation::tanh}}, rng);
  for_each_parameter(layer, [&](std::string_view, Batch<double> values) {
    for (double& value : values.reshaped()) value += rng.normal<double>();
  });
  Matrix<double> in = Matrix<double>::Constant(2, 3, 0.4);
  in(1, 2) = 100;
  for (const auto& result : {forward_of(layer, in), inverse_of(layer, in)}) {
    CHECK(result.out(1, 0) == result.out(0, 0));
    CHECK(std::abs(result.out(1, 0) - 0.4) > 1e-3);
    CHECK(result.out(1, 2) == 100);
    CHECK(std::abs(result.log_det[1]) > 1e-3);
  }
}

TEST_CASE("spline couplings are rebuilt from their options", "[coupling]") {
  Rng rng(1);
  using L = SplineCoupling<double>;
  const RationalQuadratic<double> spline({.bins = 6, .bound = 2, .min_slope = 0.01, .tails = Tails::none});
  const L layer(4, {.transformed = {0, 3}, .net = {{8, 4}, Activation::gelu}, .transformer = spline}, rng);
  CHECK(layer.net().outputs() == 2 * 19);
  const L rebuilt = L::from_options(layer.options());
  CHECK(rebuilt.options() == layer.options());
  CHECK(rebuilt.transformer().spline_options() == spline.spline_options());
  CHECK(layer.cast<float>().options() == layer.options());
}
