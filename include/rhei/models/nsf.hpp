// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Neural spline flows (Durkan et al. 2019): rational-quadratic splines in couplings (RQ-NSF (C)) and in autoregressive
/// layers (RQ-NSF (AR)).

#include <rhei/layers/spline_coupling.hpp>
#include <rhei/models/maf.hpp>

namespace rhei::models {

/// What `nsf` is made of.
struct NsfOptions {
  int layers = 4;                            ///< couplings, on even and odd features in turn
  std::vector<Index> hidden = {64, 64};      ///< widths of each net's hidden layers
  Activation activation = Activation::relu;  ///< of the hidden layers
  SplineOptions spline = {};                 ///< of each feature
  Index context_dim = 0;                     ///< columns of the context
};

/// Standard normal base, spline couplings on even and odd features in turn, actnorm (which `fit` sets to standardise
/// the data).
template <Real S>
auto nsf(Index dim, const NsfOptions& options, Rng& rng) {
  return Flow{StandardNormal<S>(dim),
              Repeat(options.layers,
                     [&](int i) {
                       return SplineCoupling<S>(dim,
                                                {.transformed = alternating_features(dim, i),
                                                 .net = {options.hidden, options.activation},
                                                 .context_dim = options.context_dim,
                                                 .transformer = RationalQuadratic<S>(options.spline)},
                                                rng);
                     }),
              ActNorm<S>(dim)};
}

/// What `nsf_ar` is made of.
struct NsfArOptions {
  int layers = 3;                   ///< autoregressive layers
  MadeOptions net = MadeOptions();  ///< hidden layers of each MADE
  SplineOptions spline = {};        ///< of each feature
  Index context_dim = 0;            ///< columns of the context
};

/// Standard normal base, autoregressive splines whose order turns round from one to the next, actnorm.
template <Real S>
auto nsf_ar(Index dim, const NsfArOptions& options, Rng& rng) {
  return Flow{StandardNormal<S>(dim),
              Repeat(options.layers,
                     [&](int i) {
                       return detail::turning(dim, i, options.net, options.context_dim,
                                              RationalQuadratic<S>(options.spline), rng);
                     }),
              ActNorm<S>(dim)};
}

}  // namespace rhei::models
