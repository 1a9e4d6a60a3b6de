// SPDX-License-Identifier: MIT

/// \file
/// Couplings.

#include <rhei/layers/coupling.hpp>
#include <rhei/layers/spline_coupling.hpp>
#include <rhei/nn/residual_mlp.hpp>

#include "fuzz/shapes.hpp"
#include "fuzz/subjects.hpp"

namespace rhei::fuzz {

namespace {

template <Real S, class N>
auto additive_coupling(Index dim, Index context, Rng& rng) {
  return AdditiveCoupling<S, N>(dim, {.transformed = some_features(dim, rng), .net = net(rng), .context_dim = context},
                                rng);
}

template <Real S>
auto spline_coupling(Index dim, Index context, Rng& rng) {
  return SplineCoupling<S>(dim, {.transformed = some_features(dim, rng), .net = net(rng), .context_dim = context}, rng);
}

}  // namespace

template <Real S>
std::vector<Subject<S>> coupling_subjects() {
  return {
      {"additive_coupling", made_by(additive_coupling<S, Mlp<S>>)},
      {"additive_coupling_residual", made_by(additive_coupling<S, ResidualMlp<S>>)},
      {"affine_coupling", made_by(affine_coupling<S, Mlp<S>>)},
      {"affine_coupling_residual", made_by(affine_coupling<S, ResidualMlp<S>>)},
      {"spline_coupling", made_by(spline_coupling<S>), nullptr, SplineOptions{}.bound},
  };
}
template std::vector<Subject<float>> coupling_subjects();
template std::vector<Subject<double>> coupling_subjects();

}  // namespace rhei::fuzz
