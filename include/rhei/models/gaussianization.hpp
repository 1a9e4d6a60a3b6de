// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Gaussianization flows (Meng et al. 2020, "Gaussianization Flows"): from the data on, each layer takes every feature
/// to a normal one by its own distribution function, and then rotates. Both are trained.

#include <rhei/core/flow.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/householder.hpp>
#include <rhei/layers/marginal_gaussianization.hpp>

namespace rhei::models {

/// What `gaussianization` is made of.
struct GaussianizationOptions {
  int layers = 5;       ///< marginal maps, each with a rotation of dim reflections behind it
  Index kernels = 100;  ///< of each marginal map and feature
};

/// Standard normal base, rotations and marginal Gaussianizations, actnorm. `fit` starts by placing the kernels on the
/// data as the layers before them leave it, which matters: that alone is a usable density.
/// \throws std::invalid_argument if dim, layers or kernels is less than 1.
template <Real S>
auto gaussianization(Index dim, const GaussianizationOptions& options, Rng& rng) {
  return Flow{StandardNormal<S>(dim),
              Repeat(options.layers,
                     [&](int) {
                       return Chain{Householder<S>(dim, rng), MarginalGaussianization<S>(dim, options.kernels)};
                     }),
              ActNorm<S>(dim)};
}

}  // namespace rhei::models
