// SPDX-License-Identifier: MIT

/// \file
/// Compositions: fixed, run-time, inverted, with and without context among their parts.

#include <rhei/core/chain.hpp>
#include <rhei/core/inverted.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/lu_linear.hpp>
#include <rhei/layers/permutation.hpp>

#include "fuzz/shapes.hpp"
#include "fuzz/subjects.hpp"

namespace rhei::fuzz {

namespace {

template <Real S>
auto fixed_chain(Index dim, Index context, Rng& rng) {
  auto coupling = affine_coupling<S, Mlp<S>>(dim, context, rng);
  return Chain{ActNorm<S>(dim), std::move(coupling), Inverted{LuLinear<S>(dim, rng)}};
}
template <Real S>
Made<S> run_time_chain(Index dim, Index context, double by, Rng& rng) {
  const std::array parts{
      std::function(made_by([](Index d, Index, Rng& r) { return Permutation<S>::random(d, r); })),
      std::function(made_by([](Index d, Index, Rng& r) { return LuLinear<S>(d, r); })),
      std::function(made_by([](Index d, Index, Rng&) { return Inverted{ActNorm<S>(d)}; })),
      std::function(made_by(affine_coupling<S, Mlp<S>>)),
  };
  std::vector<AnyLayer<S>> layers;
  std::vector<AnyLayer<double>> wide;
  for (Index i = rng.below(3); i >= 0; --i) {
    Made<S> part = parts[static_cast<std::size_t>(rng.below(parts.size()))](dim, context, by, rng);
    layers.push_back(std::move(part.layer));
    wide.push_back(std::move(part.wide));
  }
  return {Inverted{Repeat<AnyLayer<S>>(std::move(layers))}, Inverted{Repeat<AnyLayer<double>>(std::move(wide))}};
}

}  // namespace

template <Real S>
std::vector<Subject<S>> chain_subjects() {
  return {
      {"chain", made_by(fixed_chain<S>)},
      {"run_time_chain", run_time_chain<S>},
  };
}
template std::vector<Subject<float>> chain_subjects();
template std::vector<Subject<double>> chain_subjects();

}  // namespace rhei::fuzz
