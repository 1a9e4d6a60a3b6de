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
  begin_product(writable_panel(y), Start<S>{row});
}

/// row += the sum of the rows of d.
template <Real S>
void add_row_sums(std::type_identity_t<ConstBatch<S>> d, Batch<S> row) {
  if (d.rows() == 1)
    row += d;
  else
    for (Index j = 0; j < d.cols(); ++j) row(0, j) += d.col(j).sum();
}

/// y = finish(bias + context * weight + x W), the part of the context computed once where it is one row for all of y.
/// `row` is scratch.
template <Real S>
void affine(std::type_identity_t<ConstBatch<S>> x, const Matrix<S>& weight, const RowVector<S>& bias, Batch<S> y,
            std::type_identity_t<ConstBatch<S>> context, const Matrix<S>& context_weight, Buffer<S>& row,
            Finish<S> finish = {}) {
  Start<S> start{bias.data()};
  if (context.cols() > 0 && context.rows() == 1) {
    auto shared = row.resize(1, bias.size());
    shared = bias;
    add_product(shared, context, context_weight);
    start.values = shared.data();
  } else if (context.cols() > 0) {
    multiply<false, false>(writable_panel(y), panel(context), panel(context_weight), start);
    start = {};
  }
  multiply<false, false>(writable_panel(y), panel(x), panel(weight), start, finish);
}

/// y = finish(x W + bias).
template <Real S>
void affine(std::type_identity_t<ConstBatch<S>> x, const Matrix<S>& weight, const RowVector<S>& bias, Batch<S> y,
            Finish<S> finish = {}) {
  multiply<false, false>(writable_panel(y), panel(x), panel(weight), Start<S>{bias.data()}, finish);
}

/// What a product with the derivative by y = relu(x) ends with, to become that by x.
template <Real S>
Finish<S> relu_pullback(ConstBatch<S> y) {
  return {.relu_output = y.data(), .stride = panel(y).stride};
}

/// d_x = finish(d W^T).
template <Real S>
void affine_pullback(Batch<S> d_x, std::type_identity_t<ConstBatch<S>> d, const Matrix<S>& weight, Finish<S> finish) {
  multiply<false, true>(writable_panel(d_x), panel(d), panel(weight), Start<S>::zero(), finish);
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
