// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Planar flows (Rezende & Mohamed 2015): a stack of planar layers, as variational inference uses them.

#include <rhei/core/flow.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/planar.hpp>

namespace rhei::models {

/// What `planar` is made of.
struct PlanarOptions {
  int layers = 32;  ///< each with 2 D + 1 parameters
};

/// Standard normal base, planar layers, actnorm, which `fit` sets to standardise the data; where a fit knows a density
/// and no data it scales and shifts what the planar layers make.
template <Real S>
auto planar(Index dim, const PlanarOptions& options, Rng& rng) {
  return Flow{StandardNormal<S>(dim), Repeat(options.layers, [&](int) { return Planar<S>(dim, rng); }),
              ActNorm<S>(dim)};
}

}  // namespace rhei::models
