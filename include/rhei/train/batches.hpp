// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Where minibatches come from: a table that is shuffled every epoch, a callable that draws each, or, where the flow is
/// to draw, at most a callable that draws contexts.

#include <bit>
#include <cmath>
#include <rhei/core/random.hpp>
#include <rhei/train/objective.hpp>
#include <vector>

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
  Matrix<S> x;             ///< n x D
  Matrix<S> context = {};  ///< n x C, or empty
  Vector<S> weights = {};  ///< n, or empty for all 1
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

/// A number that changes with any bit of a table, to tell whether a run that goes on sees the data it began with
/// (FNV-1a over words; Fowler, Noll & Vo 1991).
class Checksum {
 public:
  template <class Derived>
  Checksum& add(const Eigen::DenseBase<Derived>& values) {
    add(static_cast<std::uint64_t>(values.rows()));
    for (Index j = 0; j < values.cols(); ++j)
      for (Index i = 0; i < values.rows(); ++i) add(std::bit_cast<std::uint64_t>(static_cast<double>(values(i, j))));
    return *this;
  }
  template <Real S>
  Checksum& add(const FitData<S>& data) {
    return add(data.x).add(data.context).add(data.weights);
  }
  [[nodiscard]] std::int64_t value() const { return static_cast<std::int64_t>(sum_ >> 1); }

 private:
  void add(std::uint64_t word) { sum_ = (sum_ ^ word ^ (word >> 32)) * 0x100000001b3; }

  std::uint64_t sum_ = 0xcbf29ce484222325;
};

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

  /// The order of the rows, which the next epoch shuffles on: a run that goes on needs it.
  [[nodiscard]] std::vector<std::int64_t>& order() { return order_; }
  [[nodiscard]] std::int64_t checksum() const { return Checksum().add(x_).add(context_).add(weights_).value(); }

  /// Batch number b of an epoch; the first one shuffles.
  BatchView<S> batch(Index b, Rng& rng) {
    if (b == 0) rng.shuffle(order_);
    const Index first = b * batch_size_;
    const Index n = std::min(batch_size_, x_.cols() - first);
    Batch<S> x = x_batch_.resize(n, x_.rows());
    Batch<S> context = context_batch_.resize(context_.cols() > 0 ? n : 0, context_.rows());
    Values<S> weights = weights_batch_.resize(weights_.size() > 0 ? n : 0);
    for (Index i = 0; i < n; ++i) {
      const auto row = static_cast<Index>(order_[static_cast<std::size_t>(first + i)]);
      x.row(i) = x_.col(row).transpose();
      if (context.rows() > 0) context.row(i) = context_.col(row).transpose();
      if (weights.size() > 0) weights[i] = weights_[row];
    }
    return {x, context, weights};
  }

 private:
  Matrix<S> x_, context_;  // D x n, C x n
  Vector<S> weights_;
  std::vector<std::int64_t> order_;
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

/// Requests for `batch_size` draws of the flow, for contexts that draw_context(n, rng) gives (n x C, or one row), or
/// for none where it is null.
template <Real S, class DrawContext>
class DrawRequests {
 public:
  DrawRequests(DrawContext draw_context, Index batch_size, Index context_dim)
      : draw_context_(std::move(draw_context)), batch_size_(batch_size), context_dim_(context_dim) {}

  [[nodiscard]] static Index batches_per_epoch() { return 100; }  // as of DrawnBatches

  DrawView<S> batch(Index, Rng& rng) {
    if constexpr (!std::same_as<DrawContext, std::nullptr_t>) context_ = draw_context_(batch_size_, rng);
    check_shape("fit_variational", "a drawn context", context_.rows(), context_.cols(),
                context_dim_ == 0 || context_.rows() == 1 ? -1 : batch_size_, context_dim_);
    check_finite("fit_variational", "a drawn context", context_);
    return {batch_size_, context_};
  }

 private:
  DrawContext draw_context_;
  Index batch_size_, context_dim_;
  Matrix<S> context_;
};

}  // namespace detail
}  // namespace rhei
