// SPDX-License-Identifier: MIT

/// \file
/// Maps that are affine in the data.

#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/batch_norm.hpp>
#include <rhei/layers/dense_linear.hpp>
#include <rhei/layers/elementwise_affine.hpp>
#include <rhei/layers/householder.hpp>
#include <rhei/layers/lu_linear.hpp>
#include <rhei/layers/permutation.hpp>
#include <rhei/layers/rescaling.hpp>
#include <rhei/layers/rotation.hpp>

#include "fuzz/subjects.hpp"

namespace rhei::fuzz {

namespace {

/// With statistics of its own.
template <Real S>
BatchNorm<S> batch_norm(Index dim, Index, Rng& rng) {
  Matrix<S> x(5, dim);
  rng.fill_normal(x);
  BatchNorm<S> layer(dim);
  layer.set_statistics(x);
  return layer;
}

}  // namespace

template <Real S>
std::vector<Subject<S>> affine_subjects() {
  return {
      {"actnorm", made_by([](Index dim, Index, Rng&) { return ActNorm<S>(dim); })},
      {"batch_norm", made_by(batch_norm<S>)},
      {"dense_linear", made_by([](Index dim, Index, Rng& rng) { return DenseLinear<S>(dim, rng); })},
      {"elementwise_affine", made_by([](Index dim, Index, Rng&) { return ElementwiseAffine<S>(dim); })},
      {"householder", made_by([](Index dim, Index, Rng& rng) { return Householder<S>(dim, 1 + rng.below(8), rng); })},
      {"lu_linear", made_by([](Index dim, Index, Rng& rng) { return LuLinear<S>(dim, rng); })},
      {"permutation", made_by([](Index dim, Index, Rng& rng) { return Permutation<S>::random(dim, rng); })},
      {"rescaling", made_by([](Index dim, Index, Rng&) { return Rescaling<S>(dim); })},
      {"rotation", made_by([](Index dim, Index, Rng& rng) { return Rotation<S>::random(dim, rng); })},
  };
}
template std::vector<Subject<float>> affine_subjects();
template std::vector<Subject<double>> affine_subjects();

}  // namespace rhei::fuzz
