// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// One evaluation of a layer without context, or of a net, as a test wants it: by value.

#include <rhei/core/layer.hpp>
#include <type_traits>

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

/// The outputs of a net.
template <class N, class S = typename N::Scalar>
Matrix<S> evaluate(const N& net, const std::type_identity_t<Matrix<S>>& input,
                   const std::type_identity_t<Matrix<S>>& context, typename N::Cache& cache) {
  Matrix<S> output(input.rows(), net.outputs());
  net.forward(input, context, output, cache);
  return output;
}
template <class N, class S = typename N::Scalar>
Matrix<S> evaluate(const N& net, const std::type_identity_t<Matrix<S>>& input,
                   const std::type_identity_t<Matrix<S>>& context) {
  typename N::Cache cache;
  return evaluate(net, input, context, cache);
}

}  // namespace rhei::testing
