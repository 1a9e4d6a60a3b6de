// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Glow for vectors (Kingma & Dhariwal 2018): steps of affine coupling, invertible linear map and actnorm.

#include <rhei/core/flow.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/coupling.hpp>
#include <rhei/layers/lu_linear.hpp>

namespace rhei::models {

/// What `glow` is made of.
struct GlowOptions {
  int layers = 16;                           ///< steps
  std::vector<Index> hidden = {32, 32};      ///< widths of each net's hidden layers
  Activation activation = Activation::relu;  ///< of the hidden layers
  ScaleMap scale_map = ScaleMap::tanh(2);    ///< how the scales are bounded
  Index context_dim = 0;                     ///< columns of the context
};

/// Standard normal base, then steps, each from latent to data a coupling of the upper half of the features, a linear
/// map (at first a random permutation) and an actnorm, whose last standardises the data.
template <Real S>
auto glow(Index dim, const GlowOptions& options, Rng& rng) {
  return Flow{StandardNormal<S>(dim), Repeat(options.layers, [&](int) {
                return Chain{AffineCoupling<S>(dim,
                                               {.transformed = feature_range(dim / 2, dim - dim / 2),
                                                .net = {options.hidden, options.activation},
                                                .context_dim = options.context_dim,
                                                .transformer = Affine<S>(options.scale_map)},
                                               rng),
                             LuLinear<S>(dim, rng), ActNorm<S>(dim)};
              })};
}

}  // namespace rhei::models
