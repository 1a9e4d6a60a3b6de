// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Masked and inverse autoregressive flows (Papamakarios et al. 2017; Kingma et al. 2016): affine autoregressive layers
/// whose order turns round from one to the next.

#include <rhei/core/flow.hpp>
#include <rhei/core/inverted.hpp>
#include <rhei/distributions/made_mixture.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/autoregressive.hpp>

namespace rhei::models {

/// What `maf` is made of.
struct MafOptions {
  int layers = 5;                              ///< MADEs
  MadeOptions net = MadeOptions();             ///< hidden layers of each MADE (at -O3 g++ 12 warns of {}, wrongly)
  ScaleMap scale_map = ScaleMap::softsign(4);  ///< how the scales are bounded
  Index context_dim = 0;                       ///< columns of the context
};

namespace detail {

/// The i-th of layers whose order turns round each time.
template <class T>
Autoregressive<T> turning(Index dim, int i, const MadeOptions& net, Index context_dim, T transformer, Rng& rng) {
  AutoregressiveOptions<T> options{.net = net, .context_dim = context_dim, .transformer = std::move(transformer)};
  if (i % 2 == 1) options.order = reversed_order(dim);
  return Autoregressive<T>(dim, std::move(options), rng);
}

template <Real S>
auto maf_layers(Index dim, const MafOptions& options, Rng& rng) {
  return Repeat(options.layers, [&](int i) {
    return turning(dim, i, options.net, options.context_dim, Affine<S>(options.scale_map), rng);
  });
}

}  // namespace detail

/// Standard normal base, autoregressive layers, actnorm (which `fit` sets to standardise the data).
template <Real S>
auto maf(Index dim, const MafOptions& options, Rng& rng) {
  return Flow{StandardNormal<S>(dim), detail::maf_layers<S>(dim, options, rng), ActNorm<S>(dim)};
}

/// What `maf_mog` is made of.
struct MafMogOptions {
  MafOptions maf = MafOptions();  ///< its layers, and the net of its base
  Index components = 10;          ///< of the base, for each feature
};

/// The same on a base that is itself a MADE, of mixtures of normals (MAF MoG), with nets of the same shape.
template <Real S>
auto maf_mog(Index dim, const MafMogOptions& options, Rng& rng) {
  const MafOptions& maf = options.maf;
  MadeMixture<S> base(dim, {.components = options.components, .net = maf.net, .context_dim = maf.context_dim}, rng);
  return Flow{std::move(base), detail::maf_layers<S>(dim, maf, rng), ActNorm<S>(dim)};
}

/// The same layers the other way round: each reads the latent side (IAF). Samples take one pass of each net, and so do
/// densities; a fit by either direction costs the same.
template <Real S>
auto iaf(Index dim, const MafOptions& options, Rng& rng) {
  auto layers = Repeat(options.layers, [&](int i) {
    return Inverted(detail::turning(dim, i, options.net, options.context_dim, Affine<S>(options.scale_map), rng));
  });
  return Flow{StandardNormal<S>(dim), std::move(layers), ActNorm<S>(dim)};
}

}  // namespace rhei::models
