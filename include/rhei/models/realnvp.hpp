// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// RealNVP for vectors (Dinh et al. 2016): affine couplings on alternating features.

#include <rhei/core/flow.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/coupling.hpp>

namespace rhei::models {

/// What `realnvp` is made of.
struct RealNvpOptions {
  int layers = 32;                       ///< couplings, on even and odd features in turn: deep and narrow beats wide
  std::vector<Index> hidden = {24, 24};  ///< widths of each net's hidden layers
  Activation activation = Activation::relu;  ///< of the hidden layers
  ScaleMap scale_map = ScaleMap::tanh(2);    ///< how the scales are bounded
  Index context_dim = 0;                     ///< columns of the context
};

/// Standard normal base, couplings, actnorm (which `fit` sets to standardise the data).
template <Real S>
auto realnvp(Index dim, const RealNvpOptions& options, Rng& rng) {
  return Flow{StandardNormal<S>(dim),
              Repeat(options.layers,
                     [&](int i) {
                       return AffineCoupling<S>(dim,
                                                {.transformed = alternating_features(dim, i),
                                                 .net = {options.hidden, options.activation},
                                                 .context_dim = options.context_dim,
                                                 .transformer = Affine<S>(options.scale_map)},
                                                rng);
                     }),
              ActNorm<S>(dim)};
}

}  // namespace rhei::models
