// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// NICE (Dinh et al. 2014): additive couplings between a rescaling and, here, a standardisation of the data.

#include <rhei/core/flow.hpp>
#include <rhei/distributions/logistic.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/coupling.hpp>
#include <rhei/layers/rescaling.hpp>

namespace rhei::models {

/// What `nice` is made of.
struct NiceOptions {
  int layers = 8;                            ///< couplings, on even and odd features in turn (the paper has 4)
  std::vector<Index> hidden = {64, 64};      ///< widths of each net's hidden layers
  Activation activation = Activation::relu;  ///< of the hidden layers
  Index context_dim = 0;                     ///< columns of the context
};

/// Logistic base, rescaling, couplings, actnorm (which `fit` sets to standardise the data).
template <Real S>
auto nice(Index dim, const NiceOptions& options, Rng& rng) {
  return Flow{Logistic<S>(dim), Rescaling<S>(dim),
              Repeat(options.layers,
                     [&](int i) {
                       return AdditiveCoupling<S>(dim,
                                                  {.transformed = alternating_features(dim, i),
                                                   .net = {options.hidden, options.activation},
                                                   .context_dim = options.context_dim},
                                                  rng);
                     }),
              ActNorm<S>(dim)};
}

}  // namespace rhei::models
