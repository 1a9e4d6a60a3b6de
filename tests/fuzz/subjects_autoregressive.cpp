// SPDX-License-Identifier: MIT

/// \file
/// Masked autoregressive layers.

#include <rhei/core/inverted.hpp>
#include <rhei/layers/autoregressive.hpp>

#include "fuzz/shapes.hpp"
#include "fuzz/subjects.hpp"

namespace rhei::fuzz {

namespace {

template <Real S>
Maf<S> maf(Index dim, Index context, Rng& rng) {
  const NetOptions shape = net(rng);
  AutoregressiveOptions<Affine<S>> options{.net = {.hidden = shape.hidden,
                                                   .activation = shape.activation,
                                                   .residual = rng.below(2) == 0,
                                                   .random_degrees = rng.below(2) == 0},
                                           .context_dim = context,
                                           .transformer = Affine<S>(scale_map(rng))};
  if (rng.below(2) == 0) options.order = reversed_order(dim);
  return Maf<S>(dim, options, rng);
}

}  // namespace

template <Real S>
std::vector<Subject<S>> autoregressive_subjects() {
  return {
      {"maf", made_by(maf<S>)},
      {"iaf", made_by([](Index dim, Index context, Rng& rng) { return Inverted{maf<S>(dim, context, rng)}; })},
  };
}
template std::vector<Subject<float>> autoregressive_subjects();
template std::vector<Subject<double>> autoregressive_subjects();

}  // namespace rhei::fuzz
