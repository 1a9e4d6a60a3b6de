// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Where `fit` takes its minibatches from: a table that is shuffled every epoch, or a callable that draws each.

#include <cmath>
#include <rhei/core/random.hpp>
#include <rhei/train/trainer.hpp>

namespace rhei {

/// Rows to learn from. Context and weights may be left out.
template <Real S>
struct FitData {
  Eigen::Ref<const Matrix<S>> x;                      ///< n x D
  Eigen::Ref<const Matrix<S>> context = Matrix<S>();  ///< n x C, or nothing
  Eigen::Ref<const Vector<S>> weights = Vector<S>();  ///< n, at least 0, or nothing for all 1
};

/// A minibatch that a callable has drawn. Context and weights may be left empty.
template <Real S>
struct Minibatch {
  Matrix<S> x;
  Matrix<S> context = {};
  Vector<S> weights = {};
};

/// \concept BatchSource
/// A callable draw(n, rng) that gives n rows: a Matrix<S>, or a Minibatch<S>. (A matrix can be called with anything.)
template <class Draw>
concept BatchSource =
    !detail::DenseTensor<std::remove_cvref_t<Draw>> && std::invocable<std::remove_reference_t<Draw>&, Index, Rng&>;

namespace detail {

/// \throws std::invalid_argument naming the first row and column of a value that is not finite.
template <class Derived>
void check_finite(std::string_view where, std::string_view argument, const Eigen::DenseBase<Derived>& values) {
  for (Index j = 0; j < values.cols(); ++j)
    if (!values.col(j).allFinite())
      for (Index i = 0; i < values.rows(); ++i)
        if (!std::isfinite(values(i, j)))
          throw_invalid(where, std::string(argument) + " is " + std::to_string(values(i, j)) + " at row " +
                                   std::to_string(i) + ", column " + std::to_string(j) +
                                   " (counted from 0), expected finite values");
}

template <Real S>
void check_fit_data(std::string_view where, std::string_view what, const FitData<S>& data, Index dim,
                    Index context_dim) {
  const std::string prefix(what);
  const Index n = data.x.rows();
  check_value(where, prefix + "'s number of rows", n, n > 0, "at least 1");
  check_shape(where, prefix, n, data.x.cols(), -1, dim);
  check_shape(where, prefix + "'s context", data.context.rows(), data.context.cols(), context_dim > 0 ? n : -1,
              context_dim);
  check_finite(where, prefix, data.x);
  check_finite(where, prefix + "'s context", data.context);
  if (data.weights.size() == 0) return;
  check_shape(where, prefix + "'s weights", data.weights.size(), 1, n, 1);
  check_finite(where, prefix + "'s weights", data.weights);
  for (Index i = 0; i < n; ++i)
    check_value(where, prefix + "'s weight of row " + std::to_string(i), data.weights[i], data.weights[i] >= 0,
                "at least 0");
  check_value(where, "the sum of " + prefix + "'s weights", data.weights.sum(), data.weights.sum() > 0, "more than 0");
}

/// A table in random order, a new one every epoch. Keeps a copy with the values of a row side by side, from which
/// scattered rows are read quickly.
template <Real S>
class TableBatches {
 public:
  /// Of `data` the given rows only. Weights are scaled to a mean of 1.
  TableBatches(const FitData<S>& data, std::vector<Index> rows, Index batch_size)
      : x_(data.x.cols(), static_cast<Index>(rows.size())),
        context_(data.context.cols(), data.context.cols() > 0 ? x_.cols() : 0),
        weights_(data.weights.size() > 0 ? x_.cols() : 0),
        order_(rows.size()),
        batch_size_(std::min(batch_size, x_.cols())) {
    for (Index i = 0; i < x_.cols(); ++i) {
      const Index row = rows[static_cast<std::size_t>(i)];
      x_.col(i) = data.x.row(row).transpose();
      if (context_.cols() > 0) context_.col(i) = data.context.row(row).transpose();
      if (weights_.size() > 0) weights_[i] = data.weights[row];
      order_[static_cast<std::size_t>(i)] = i;
    }
    if (weights_.size() > 0) weights_ *= static_cast<S>(weights_.size()) / weights_.sum();
  }

  [[nodiscard]] Index batches_per_epoch() const { return (x_.cols() + batch_size_ - 1) / batch_size_; }

  /// Batch number b of an epoch; the first one shuffles.
  BatchView<S> batch(Index b, Rng& rng) {
    if (b == 0) rng.shuffle(order_);
    const Index first = b * batch_size_;
    const Index n = std::min(batch_size_, x_.cols() - first);
    Batch<S> x = x_batch_.resize(n, x_.rows());
    Batch<S> context = context_batch_.resize(context_.cols() > 0 ? n : 0, context_.rows());
    Values<S> weights = weights_batch_.resize(weights_.size() > 0 ? n : 0);
    for (Index i = 0; i < n; ++i) {
      const Index row = order_[static_cast<std::size_t>(first + i)];
      x.row(i) = x_.col(row).transpose();
      if (context.rows() > 0) context.row(i) = context_.col(row).transpose();
      if (weights.size() > 0) weights[i] = weights_[row];
    }
    return {x, context, weights};
  }

 private:
  Matrix<S> x_, context_;  // D x n, C x n
  Vector<S> weights_;
  std::vector<Index> order_;
  Index batch_size_;
  Buffer<S> x_batch_, context_batch_, weights_batch_;
};

/// Batches that a callable draws: draw(n, rng) gives a Matrix<S> of n rows, or a Minibatch<S>.
template <Real S, class Draw>
class DrawnBatches {
 public:
  /// Draws have no end; this many make what progress and callbacks call an epoch.
  static constexpr Index kBatchesPerEpoch = 100;

  DrawnBatches(Draw& draw, Index batch_size, Index dim, Index context_dim)
      : draw_(draw), batch_size_(batch_size), dim_(dim), context_dim_(context_dim) {}

  [[nodiscard]] static Index batches_per_epoch() { return kBatchesPerEpoch; }

  BatchView<S> batch(Index, Rng& rng) {
    if constexpr (std::is_convertible_v<std::invoke_result_t<Draw&, Index, Rng&>, Minibatch<S>>)
      drawn_ = draw_(batch_size_, rng);
    else
      drawn_.x = draw_(batch_size_, rng);
    check_fit_data("fit", "a drawn batch", FitData<S>{drawn_.x, drawn_.context, drawn_.weights}, dim_, context_dim_);
    if (drawn_.weights.size() > 0) drawn_.weights *= static_cast<S>(drawn_.weights.size()) / drawn_.weights.sum();
    return {drawn_.x, drawn_.context, drawn_.weights};
  }

 private:
  Draw& draw_;
  Index batch_size_, dim_, context_dim_;
  Minibatch<S> drawn_;
};

}  // namespace detail
}  // namespace rhei
