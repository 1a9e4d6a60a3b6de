// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Matrices of normal numbers, and how far two matrices are apart.

#include <algorithm>
#include <rhei/core/random.hpp>

namespace rhei::testing {

template <Real S>
Matrix<S> random_matrix(Index rows, Index cols, Rng& rng) {
  Matrix<S> matrix(rows, cols);
  rng.fill_normal(matrix);
  return matrix;
}

/// `scale` times normal numbers, the same for each call.
template <Real S>
Matrix<S> normal_batch(Index rows, Index cols, S scale = 1) {
  Rng rng(17);
  return scale * random_matrix<S>(rows, cols, rng);
}

/// max|a - b| / max(1, max|b|).
inline double worst_error(const Matrix<double>& a, const Matrix<double>& b) {
  return (a - b).cwiseAbs().maxCoeff() / std::max(1.0, b.cwiseAbs().maxCoeff());
}

}  // namespace rhei::testing
