// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A neural spline flow (Durkan et al. 2019) for tables whose columns are numbers, shares, amounts and angles side by
/// side: each column has a domain. Angles are moved by circular splines and rotations (Rezende et al. 2020,
/// "Normalizing flows on tori and spheres", section 2.1), so that the density has no seam; nothing is ever sampled
/// outside its domain.

#include <algorithm>
#include <bit>
#include <iterator>
#include <numbers>
#include <rhei/core/flow.hpp>
#include <rhei/distributions/uniform_normal.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/circular_shift.hpp>
#include <rhei/layers/domains.hpp>
#include <rhei/layers/on_features.hpp>
#include <rhei/layers/spline_coupling.hpp>
#include <rhei/nn/periodic.hpp>
#include <utility>
#include <vector>

namespace rhei::models {

/// What `mixed_nsf` is made of.
struct MixedNsfOptions {
  int blocks = 3;                        ///< each moves both halves of the features; log2(dim) of them let any two meet
  std::vector<Index> hidden = {64, 64};  ///< widths of each net's hidden layers
  Activation activation = Activation::relu;  ///< of the hidden layers
  Index bins = 8;                            ///< of each spline
  double bound = 5;       ///< splines bend [-bound, bound] of what is no angle, in standard deviations of the data
  Index context_dim = 0;  ///< columns of the context
};

namespace detail {

/// What block i moves first: the features with a 1 in binary digit i of their number. Any two of `dim` features differ
/// in one of log2(dim) digits, so that one moves by the other's leave (Gao, Isaacson & Krause 2020, "i-flow", section
/// 3.2).
inline std::vector<Index> half_by_digit(Index dim, int i, Index digit) {
  const int digits = std::max(1, static_cast<int>(std::bit_width(static_cast<std::size_t>(dim - 1))));
  std::vector<Index> half;
  for (Index d = 0; d < dim; ++d)
    if (((d >> (i % digits)) & 1) == digit) half.push_back(d);
  return half;
}

/// A spline coupling whose net is periodic in those of `circles` that it reads.
template <Real S>
auto periodic_spline_coupling(Index dim, std::vector<Index> transformed, const std::vector<Index>& circles,
                              const SplineOptions& spline, const MixedNsfOptions& options, Rng& rng) {
  using Net = Periodic<Mlp<S>>;
  SplineCoupling<S, Net> layer(dim,
                               {.transformed = std::move(transformed),
                                .net = {.hidden = {}},  // is replaced
                                .context_dim = options.context_dim,
                                .transformer = RationalQuadratic<S>(spline)},
                               rng);
  const std::vector<Index>& kept = layer.kept();
  std::vector<Index> angles;
  for (std::size_t j = 0; j < kept.size(); ++j)
    if (std::ranges::binary_search(circles, kept[j])) angles.push_back(static_cast<Index>(j));
  layer.net() = Net(angles, layer.net().inputs(), options.context_dim, layer.net().outputs(),
                    {options.hidden, options.activation}, rng);
  return layer;
}

}  // namespace detail

/// A flow for rows that hold one value of each domain. The base is standard normal, and uniform on circles. Each block
/// has a spline coupling for those features of either half that are circles, one for those that are not, and a rotation
/// of all circles. Then come actnorm for what is no circle (which `fit` sets to standardise it) and the domains.
///
/// A value outside its domain has NaN for its density; `fit` refuses it.
/// \throws std::invalid_argument if there is no domain or no block, or for an option that a layer refuses.
template <Real S>
auto mixed_nsf(std::vector<Domain> domains, const MixedNsfOptions& options, Rng& rng) {
  Domains<S> data_side(std::move(domains));
  const Index dim = data_side.dim();
  std::vector<Index> circles, lines;
  for (Index d = 0; d < dim; ++d)
    (data_side.domains()[static_cast<std::size_t>(d)].is_circle() ? circles : lines).push_back(d);
  const SplineOptions circular{.bins = options.bins, .bound = std::numbers::pi, .tails = Tails::circular};
  const SplineOptions linear{.bins = options.bins, .bound = options.bound};

  const auto make_block = [&](int i) {
    std::vector<SplineCoupling<S, Periodic<Mlp<S>>>> couplings;
    for (const Index digit : {1, 0})
      for (const auto& [kind, spline] : {std::pair(&circles, &circular), std::pair(&lines, &linear)}) {
        std::vector<Index> moved;
        std::ranges::set_intersection(detail::half_by_digit(dim, i, digit), *kind, std::back_inserter(moved));
        if (moved.empty()) continue;
        couplings.push_back(detail::periodic_spline_coupling<S>(dim, std::move(moved), circles, *spline, options, rng));
      }
    return Chain{Repeat(std::move(couplings)),
                 OnFeatures<CircularShift<S>>(dim, circles, [](Index count) { return CircularShift<S>(count); })};
  };
  return Flow{UniformNormal<S>(dim, circles), Repeat(options.blocks, make_block),
              OnFeatures<ActNorm<S>>(dim, lines, [](Index count) { return ActNorm<S>(count); }), std::move(data_side)};
}

}  // namespace rhei::models
