// SPDX-License-Identifier: MIT

/// \file
/// Masked autoregressive layers.

#include <rhei/core/inverted.hpp>
#include <rhei/layers/autoregressive.hpp>
#include <rhei/transformers/rational_quadratic.hpp>

#include "fuzz/shapes.hpp"
#include "fuzz/subjects.hpp"

namespace rhei::fuzz {

namespace {

template <class T>
Autoregressive<T> autoregressive(Index dim, Index context, const T& transformer, Rng& rng) {
  const NetOptions shape = net(rng);
  AutoregressiveOptions<T> options{.net = {.hidden = shape.hidden,
                                           .activation = shape.activation,
                                           .residual = rng.below(2) == 0,
                                           .random_degrees = rng.below(2) == 0},
                                   .context_dim = context,
                                   .transformer = transformer};
  if (rng.below(2) == 0) options.order = reversed_order(dim);
  return Autoregressive<T>(dim, options, rng);
}

template <Real S>
Maf<S> maf(Index dim, Index context, Rng& rng) {
  return autoregressive(dim, context, Affine<S>(scale_map(rng)), rng);
}

template <Real S>
auto spline_autoregressive(Index dim, Index context, Rng& rng) {
  return autoregressive(dim, context, RationalQuadratic<S>(), rng);
}

}  // namespace

template <Real S>
std::vector<Subject<S>> autoregressive_subjects() {
  return {
      {"maf", made_by(maf<S>)},
      {"spline_autoregressive", made_by(spline_autoregressive<S>), nullptr, SplineOptions{}.bound},
      {"iaf", made_by([](Index dim, Index context, Rng& rng) { return Inverted{maf<S>(dim, context, rng)}; })},
  };
}
template std::vector<Subject<float>> autoregressive_subjects();
template std::vector<Subject<double>> autoregressive_subjects();

}  // namespace rhei::fuzz
