// SPDX-License-Identifier: MIT

/// \file
/// Maps of all features together whose Jacobian is constant.

#include <rhei/layers/dense_linear.hpp>
#include <rhei/layers/householder.hpp>
#include <rhei/layers/lu_linear.hpp>
#include <rhei/layers/permutation.hpp>
#include <rhei/layers/rotation.hpp>

#include "layers/subjects.hpp"

namespace bench {

std::vector<Subject> affine_subjects() {
  using namespace rhei;
  return {
      {"permutation", [](Index dim, Rng& rng) { return Permutation<float>::random(dim, rng); }, true},
      {"rotation", [](Index dim, Rng& rng) { return Rotation<float>::random(dim, rng); }, true},
      {"householder", [](Index dim, Rng& rng) { return Householder<float>(dim, rng); }, true},
      {"lu_linear", [](Index dim, Rng& rng) { return LuLinear<float>(dim, rng); }, true},
      {"dense_linear", [](Index dim, Rng& rng) { return DenseLinear<float>(dim, rng); }, true},
  };
}

}  // namespace bench
