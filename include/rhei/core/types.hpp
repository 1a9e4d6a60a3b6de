// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Scalars, batches and the views that layers exchange.
///
/// A **batch** holds n samples of D features as an n x D column-major matrix: the n values of one feature lie next to
/// each other, a range of features is one contiguous block, and elementwise work vectorizes over the samples.

#if !defined(__cpp_exceptions)
#error "rhei reports errors by exceptions: compile without -fno-exceptions"
#endif
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "rhei tells NaN and infinity from numbers: compile without -ffast-math, -Ofast and -ffinite-math-only"
#endif

#include <concepts>
#include <Eigen/Core>

static_assert(EIGEN_VERSION_AT_LEAST(3, 4, 0), "rhei needs Eigen 3.4 or newer");

namespace rhei {

using Eigen::Index;

/// The scalars rhei is tested with.
template <class S>
concept Real = std::same_as<S, float> || std::same_as<S, double>;

/// Samples as rows, features as columns; column-major, as Eigen's matrices are.
template <class S>
using Matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>;
/// One value per sample.
template <class S>
using Vector = Eigen::Matrix<S, Eigen::Dynamic, 1>;
/// One value per feature.
template <class S>
using RowVector = Eigen::Matrix<S, 1, Eigen::Dynamic>;

/// A read-only compact batch owned by someone else: rows() samples x cols() features, outer stride rows().
///
/// Layers take this and not an `Eigen::Ref`, because a compact batch can be read in other shapes (all its n * D values
/// as one vector, a range of features as a batch of its own), which a block of a larger batch cannot.
template <class S>
class ConstBatch : public Eigen::Map<const Matrix<S>> {
 public:
  using Base = Eigen::Map<const Matrix<S>>;
  /// No samples, no features: what an absent context is.
  ConstBatch() : Base(nullptr, 0, 0) {}
  /// rows x cols values at `data`, one feature after the other.
  ConstBatch(const S* data, Index rows, Index cols) : Base(data, rows, cols) {}
  /// All of a matrix, of one sample, of one feature.
  ConstBatch(const Matrix<S>& m) : Base(m.data(), m.rows(), m.cols()) {}
  ConstBatch(const RowVector<S>& m) : Base(m.data(), 1, m.cols()) {}
  ConstBatch(const Vector<S>& m) : Base(m.data(), m.rows(), 1) {}
  /// Features [first, first + count) of every sample.
  [[nodiscard]] ConstBatch features(Index first, Index count) const {
    return {this->data() + first * this->rows(), this->rows(), count};
  }
  /// The same memory in another shape of the same size.
  [[nodiscard]] ConstBatch reshaped_as(Index rows, Index cols) const { return {this->data(), rows, cols}; }
};

/// A writable compact batch owned by someone else; see ConstBatch. Assignment copies values, as with any Eigen::Map.
template <class S>
class Batch : public Eigen::Map<Matrix<S>> {
 public:
  using Base = Eigen::Map<Matrix<S>>;
  using Base::operator=;
  /// No samples, no features.
  Batch() : Base(nullptr, 0, 0) {}
  /// rows x cols values at `data`, one feature after the other.
  Batch(S* data, Index rows, Index cols) : Base(data, rows, cols) {}
  /// All of a matrix, of one sample, of one feature.
  Batch(Matrix<S>& m) : Base(m.data(), m.rows(), m.cols()) {}
  Batch(RowVector<S>& m) : Base(m.data(), 1, m.cols()) {}
  Batch(Vector<S>& m) : Base(m.data(), m.rows(), 1) {}
  /// The same memory.
  Batch(const Batch&) = default;
  /// Copies the values of a batch of the same shape.
  Batch& operator=(const Batch& other) {
    Base::operator=(other);
    return *this;
  }
  /// The same memory, to read.
  operator ConstBatch<S>() const { return {this->data(), this->rows(), this->cols()}; }
  /// Features [first, first + count) of every sample.
  [[nodiscard]] Batch features(Index first, Index count) const {
    return {const_cast<S*>(this->data()) + first * this->rows(), this->rows(), count};
  }
  /// The same memory in another shape of the same size.
  [[nodiscard]] Batch reshaped_as(Index rows, Index cols) const { return {const_cast<S*>(this->data()), rows, cols}; }
};

/// One read-only value per sample (log-determinants, log-densities, weights).
template <class S>
class ConstValues : public Eigen::Map<const Vector<S>> {
 public:
  using Base = Eigen::Map<const Vector<S>>;
  /// No samples.
  ConstValues() : Base(nullptr, 0) {}
  /// n values at `data`.
  ConstValues(const S* data, Index n) : Base(data, n) {}
  /// All of a vector.
  ConstValues(const Vector<S>& v) : Base(v.data(), v.size()) {}
};

/// One writable value per sample.
template <class S>
class Values : public Eigen::Map<Vector<S>> {
 public:
  using Base = Eigen::Map<Vector<S>>;
  using Base::operator=;
  /// No samples.
  Values() : Base(nullptr, 0) {}
  /// n values at `data`.
  Values(S* data, Index n) : Base(data, n) {}
  /// All of a vector.
  Values(Vector<S>& v) : Base(v.data(), v.size()) {}
  /// The same memory.
  Values(const Values&) = default;
  /// Copies as many values.
  Values& operator=(const Values& other) {
    Base::operator=(other);
    return *this;
  }
  /// The same memory, to read.
  operator ConstValues<S>() const { return {this->data(), this->size()}; }
};

/// Memory for a batch that grows on demand and is then reused: the reason why a steady state allocates nothing.
template <class S>
class Buffer {
 public:
  /// A compact rows x cols view; its contents are unspecified after a change of shape.
  Batch<S> resize(Index rows, Index cols) {
    if (storage_.size() < rows * cols) storage_.resize(rows * cols);
    rows_ = rows;
    cols_ = cols;
    return view();
  }
  /// The same for one value per sample.
  Values<S> resize(Index n) {
    resize(n, 1);
    return values();
  }
  /// The view that the last resize() returned.
  [[nodiscard]] Batch<S> view() { return {storage_.data(), rows_, cols_}; }
  [[nodiscard]] ConstBatch<S> view() const { return {storage_.data(), rows_, cols_}; }
  /// The same as one long vector (for one value per sample).
  [[nodiscard]] Values<S> values() { return {storage_.data(), rows_ * cols_}; }
  [[nodiscard]] ConstValues<S> values() const { return {storage_.data(), rows_ * cols_}; }

 private:
  Vector<S> storage_;
  Index rows_ = 0;
  Index cols_ = 0;
};

}  // namespace rhei
