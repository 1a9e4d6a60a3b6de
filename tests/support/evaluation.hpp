// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// One evaluation of a layer without context, as a test wants it: the output and the log-determinants by value.

#include <rhei/core/layer.hpp>
#include <string>

namespace rhei::testing {

/// What one evaluation gives.
template <Real S>
struct Evaluation {
  Matrix<S> out;
  Vector<S> log_det;
};

template <Layer L, class S = typename L::Scalar>
Evaluation<S> forward_of(const L& layer, const Matrix<S>& z) {
  Evaluation<S> result{Matrix<S>(z.rows(), z.cols()), Vector<S>::Zero(z.rows())};
  typename L::Cache cache;
  layer.forward({}, z, result.out, result.log_det, cache);
  return result;
}

template <Layer L, class S = typename L::Scalar>
Evaluation<S> inverse_of(const L& layer, const Matrix<S>& x) {
  Evaluation<S> result{Matrix<S>(x.rows(), x.cols()), Vector<S>::Zero(x.rows())};
  typename L::Cache cache;
  layer.inverse({}, x, result.out, result.log_det, cache);
  return result;
}

/// The text of the exception of type E that `f` throws; empty where it throws none.
template <class E, class F>
std::string error_text(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return {};
}

}  // namespace rhei::testing
