// SPDX-License-Identifier: MIT

/// \file
/// Autoregressive layers, with a MADE of 64-64. (Inverted<L> costs what L does, the other way round.)

#include <rhei/layers/autoregressive.hpp>
#include <rhei/transformers/rational_quadratic.hpp>

#include "layers/subjects.hpp"

namespace bench {

namespace {

template <class Layer>
rhei::AnyLayer<float> autoregressive(Index dim, rhei::Rng& rng) {
  return Layer(dim, {}, rng);
}

}  // namespace

std::vector<Subject> autoregressive_subjects() {
  return {
      {"maf", autoregressive<rhei::Maf<float>>},
      {"autoregressive_spline", autoregressive<rhei::Autoregressive<rhei::RationalQuadratic<float>>>},
  };
}

}  // namespace bench
