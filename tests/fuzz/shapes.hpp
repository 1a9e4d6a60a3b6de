// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Random shapes for the makers of the subjects.

#include <initializer_list>
#include <rhei/core/features.hpp>
#include <rhei/core/random.hpp>
#include <rhei/layers/coupling.hpp>
#include <vector>

namespace rhei::fuzz {

/// One of a list.
template <class T>
T pick(std::initializer_list<T> list, Rng& rng) {
  return list.begin()[rng.below(static_cast<Index>(list.size()))];
}

/// Small nets of every activation (a residual net wants equal widths).
inline NetOptions net(Rng& rng) {
  const Index width = 1 + rng.below(6);
  return {.hidden = std::vector<Index>(static_cast<std::size_t>(1 + rng.below(2)), width),
          .activation = static_cast<Activation>(rng.below(static_cast<Index>(activation_names.size())))};
}

/// At least one of the features, in any order.
inline std::vector<Index> some_features(Index dim, Rng& rng) {
  std::vector<Index> all = feature_range(0, dim);
  rng.shuffle(all);
  all.resize(static_cast<std::size_t>(1 + rng.below(dim)));
  return all;
}

inline ScaleMap scale_map(Rng& rng) {
  return pick({ScaleMap::tanh(2), ScaleMap::softsign(3), ScaleMap::sigmoid(0.1), ScaleMap::softplus(0.1)}, rng);
}

/// An affine coupling of any shape.
template <Real S, class N>
auto affine_coupling(Index dim, Index context, Rng& rng) {
  return AffineCoupling<S, N>(dim,
                              {.transformed = some_features(dim, rng),
                               .net = net(rng),
                               .context_dim = context,
                               .transformer = Affine<S>(scale_map(rng))},
                              rng);
}

}  // namespace rhei::fuzz
