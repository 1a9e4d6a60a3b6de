// SPDX-License-Identifier: MIT

/// \file
/// Maps of each feature on its own.

#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/batch_norm.hpp>
#include <rhei/layers/circular_shift.hpp>
#include <rhei/layers/domains.hpp>
#include <rhei/layers/elementwise_affine.hpp>
#include <rhei/layers/marginal_gaussianization.hpp>
#include <rhei/layers/on_features.hpp>
#include <rhei/layers/rescaling.hpp>

#include "layers/subjects.hpp"

namespace bench {

std::vector<Subject> elementwise_subjects() {
  using namespace rhei;
  return {
      {"actnorm", [](Index dim, Rng&) { return ActNorm<float>(dim); }, true},
      {"elementwise_affine", [](Index dim, Rng&) { return ElementwiseAffine<float>(dim); }, true},
      {"rescaling", [](Index dim, Rng&) { return Rescaling<float>(dim); }, true},
      {"batch_norm", [](Index dim, Rng&) { return BatchNorm<float>(dim); }, true},
      {"on_features",
       [](Index dim, Rng&) {
         return OnFeatures<ActNorm<float>>(dim, odd_features(dim), [](Index n) { return ActNorm<float>(n); });
       },
       true},
      {"circular_shift", [](Index dim, Rng&) { return CircularShift<float>(dim); }, true},
      {"domains",
       [](Index dim, Rng&) {
         return Domains<float>(std::vector<Domain>(static_cast<std::size_t>(dim), Domain::interval(-3, 3)));
       }},
      {"marginal_gaussianization", [](Index dim, Rng&) { return MarginalGaussianization<float>(dim, 20); }},
  };
}

}  // namespace bench
