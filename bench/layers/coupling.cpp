// SPDX-License-Identifier: MIT

/// \file
/// Couplings of every other feature, with an MLP of 64-64.

#include <rhei/layers/coupling.hpp>
#include <rhei/layers/spline_coupling.hpp>

#include "layers/subjects.hpp"

namespace bench {

namespace {

template <class Layer>
rhei::AnyLayer<float> coupling(Index dim, rhei::Rng& rng) {
  return Layer(dim, {.transformed = rhei::odd_features(dim)}, rng);
}

}  // namespace

std::vector<Subject> coupling_subjects() {
  return {
      {"additive_coupling", coupling<rhei::AdditiveCoupling<float>>, true},
      {"affine_coupling", coupling<rhei::AffineCoupling<float>>},
      {"spline_coupling", coupling<rhei::SplineCoupling<float>>},
  };
}

}  // namespace bench
