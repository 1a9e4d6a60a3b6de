// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The affine map y = x W + b, with an optional second input: what the dense nets are made of.
///
/// A weight is stored inputs x outputs in column-major order: the memory of PyTorch's [outputs, inputs].

#include <cmath>
#include <rhei/core/random.hpp>
#include <rhei/nn/product.hpp>
#include <string_view>

namespace rhei {

/// The parameters of one affine map, and, in the same shape, their gradient.
template <Real S>
struct Dense {
  Matrix<S> weight;   ///< inputs x outputs
  RowVector<S> bias;  ///< outputs

  Dense() = default;
  /// All zero.
  Dense(Index inputs, Index outputs) : weight(Matrix<S>::Zero(inputs, outputs)), bias(RowVector<S>::Zero(outputs)) {}

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    f("weight", self.weight);
    f("bias", self.bias);
  }
};

namespace detail {

/// Uniform draws on (-bound, bound).
template <class Derived>
void draw_uniform(const Eigen::MatrixBase<Derived>& values, double bound, Rng& rng) {
  using S = typename Derived::Scalar;
  auto& m = values.const_cast_derived();
  rng.fill_uniform(m);
  m.array() = (m.array() * S(2) - S(1)) * static_cast<S>(bound);
}

/// The bound of PyTorch's default initialisation of a linear map (weights and bias) with that many inputs.
inline double initial_bound(Index inputs) { return inputs > 0 ? 1 / std::sqrt(static_cast<double>(inputs)) : 0; }

/// What a buffer holds, to read only.
template <Real S>
ConstBatch<S> read(const Buffer<S>& buffer) {
  return buffer.view();
}

/// Every row of y = row.
template <Real S>
void fill_rows(Batch<S> y, const S* row) {
  const Index rows = y.rows();
  if (rows == 1)  // column by column would be one scalar at a time
    y = ConstBatch<S>(row, 1, y.cols());
  else if (rows < 8)  // and here an expression for two to seven
    for (S *to = y.data(), *end = to + y.size(); to < end; to += rows, ++row)
      for (Index i = 0; i < rows; ++i) to[i] = *row;
  else
    for (Index j = 0; j < y.cols(); ++j) y.col(j).setConstant(row[j]);
}

/// row += the sum of the rows of d.
template <Real S>
void add_row_sums(std::type_identity_t<ConstBatch<S>> d, Batch<S> row) {
  if (d.rows() == 1)
    row += d;
  else
    for (Index j = 0; j < d.cols(); ++j) row(0, j) += d.col(j).sum();
}

/// y = bias + context * weight + x W, the part of the context computed once where it is one row for all of y.
/// `row` is scratch.
template <Real S>
void affine(std::type_identity_t<ConstBatch<S>> x, const Matrix<S>& weight, const RowVector<S>& bias, Batch<S> y,
            std::type_identity_t<ConstBatch<S>> context, const Matrix<S>& context_weight, Buffer<S>& row) {
  if (context.cols() > 0 && context.rows() == 1) {
    auto shared = row.resize(1, bias.size());
    shared = bias;
    add_product(shared, context, context_weight);
    fill_rows(y, shared.data());
  } else {
    fill_rows(y, bias.data());
    if (context.cols() > 0) add_product(y, context, context_weight);
  }
  add_product(y, x, weight);
}

/// y = x W + bias.
template <Real S>
void affine(std::type_identity_t<ConstBatch<S>> x, const Matrix<S>& weight, const RowVector<S>& bias, Batch<S> y) {
  fill_rows(y, bias.data());
  add_product(y, x, weight);
}

/// Adds the gradients of y = x W + bias, given d = dL/dy.
template <Real S>
void add_affine_gradient(std::type_identity_t<ConstBatch<S>> x, ConstBatch<S> d, Matrix<S>& d_weight,
                         RowVector<S>& d_bias) {
  add_transposed_product(d_weight, x, d);
  add_row_sums(d, Batch<S>(d_bias));
}

/// What y = context * weight (with d = dL/dy) sends back to the context and its weight: adds to each that is not null.
/// Where the context is one row for all rows of d, d is summed first. `row` is scratch.
template <Real S>
void add_context_gradient(std::type_identity_t<ConstBatch<S>> context, const Matrix<S>& weight, ConstBatch<S> d,
                          Batch<S>* d_context, Matrix<S>* d_weight, Buffer<S>& row) {
  if (context.cols() == 0 || (!d_context && !d_weight)) return;
  if (context.rows() == 1 && d.rows() != 1) {
    auto sum = row.resize(1, d.cols());
    sum.setZero();
    add_row_sums(d, sum);
    return add_context_gradient(context, weight, ConstBatch<S>(sum), d_context, d_weight, row);
  }
  if (d_weight) add_transposed_product(*d_weight, context, d);
  if (d_context) add_product_transposed(*d_context, d, weight);
}

}  // namespace detail
}  // namespace rhei
