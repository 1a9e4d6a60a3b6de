// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A dense invertible matrix, trained as it is (Kingma & Dhariwal 2018, "Glow", section 3.2, equation 9, for vectors;
/// Hoogeboom et al. 2019, "Emerging Convolutions").
///
///   inverse  z = W x + bias            log|det| =  log|det W|
///   forward  x = W^-1 (z - bias)       log|det| = -log|det W|
///
/// for one sample as a column; a batch holds samples as rows, so Z = X W^T + bias in every row. Each evaluation factors
/// W = P L U once (D^3 / 3 multiply-adds, partial pivoting): the determinant is the product of the pivots, and forward
/// substitutes; the gradient of log|det W|, which is W^-T, takes another D^3.
///
/// LuLinear is the same map with the factors as parameters, and has neither cost: prefer it where n is not much larger
/// than D, for single samples above all, and wherever training must not come near a singular matrix. A dense W moves
/// freely between all orders of its features, and one step of training changes each entry by what its gradient says.

#include <cmath>
#include <limits>
#include <numeric>
#include <rhei/layers/detail/triangular.hpp>
#include <rhei/layers/permutation.hpp>
#include <rhei/layers/rotation.hpp>

namespace rhei {
namespace detail {

/// The factors of a square matrix, P W = L U with ones on the diagonal of L, in memory that is reused. The columns are
/// halved (Toledo 1997, SIAM J. Matrix Anal. Appl. 18:1065), so that most of the work is products of matrices.
template <Real S>
class LuFactors {
 public:
  /// A singular matrix, as one that holds a NaN, gives NaN for all that follows from it.
  void compute(const Matrix<S>& matrix) {
    const Index dim = matrix.rows();
    lu_ = matrix;
    pivots_.resize(static_cast<std::size_t>(dim));
    factor(0, dim);
    order_.resize(static_cast<std::size_t>(dim));
    std::iota(order_.begin(), order_.end(), 0);
    reciprocal_.resize(dim);
    log_abs_det_ = 0;
    for (Index k = 0; k < dim; ++k) {
      const auto at = static_cast<std::size_t>(k);
      std::swap(order_[at], order_[static_cast<std::size_t>(pivots_[at])]);
      lu_.col(k).tail(dim - k - 1) *= S(-1);
      const S pivot = lu_(k, k) == S(0) ? std::numeric_limits<S>::quiet_NaN() : lu_(k, k);
      reciprocal_[k] = 1 / pivot;
      log_abs_det_ += std::log(std::abs(pivot));
    }
  }

  [[nodiscard]] S log_abs_det() const { return log_abs_det_; }

  /// out = in W^-T: W^-1 times each row.
  void solve(ConstBatch<S> in, Batch<S> out) const {
    gather_features(in, order_, out);
    solve_gathered(out);
  }
  /// out = in W^-1: W^-T times each row. `work` is of the same shape; nothing overlaps.
  void solve_transposed(ConstBatch<S> in, Batch<S> work, Batch<S> out) const {
    work = in;
    solve_triangle<Triangle::upper, false>(work, lu_, reciprocal_.data());
    solve_triangle<Triangle::lower, false>(work, lu_, ones);
    scatter_features<S>(work, order_, out);
  }
  /// out = W^-T.
  void inverse_transposed(Batch<S> out) const {
    out.setZero();
    for (Index k = 0; k < out.cols(); ++k) out(order_[static_cast<std::size_t>(k)], k) = 1;
    solve_gathered(out);
  }

 private:
  static constexpr const S* ones = nullptr;
  static constexpr Index leaf = 8;

  /// Each solution changes the sign.
  void solve_gathered(Batch<S> out) const {
    solve_triangle<Triangle::upper, true>(out, lu_, ones);
    solve_triangle<Triangle::lower, true>(out, lu_, reciprocal_.data());
  }

  /// Columns [first, first + count) from row `first` down. L is kept negated meanwhile, so that updates are additions.
  void factor(Index first, Index count) {
    if (count > leaf) {
      const Index half = (count + 2 * leaf - 1) / (2 * leaf) * leaf;
      const Index middle = first + half, rest = count - half, below = lu_.rows() - middle;
      factor(first, half);
      swap_rows(first, half, middle, rest);
      substitute(first, half, middle, rest);
      rhei::add_product(lu_.block(middle, middle, below, rest), lu_.block(middle, first, below, half),
                        lu_.block(first, middle, half, rest));
      factor(middle, rest);
      swap_rows(middle, rest, first, half);
      return;
    }
    for (Index k = first; k < first + count; ++k) {
      Index pivot = 0;
      lu_.col(k).tail(lu_.rows() - k).cwiseAbs().maxCoeff(&pivot);
      pivots_[static_cast<std::size_t>(k)] = k + pivot;
      swap_rows(k, 1, first, count);
      const Index rest = lu_.rows() - k - 1;
      lu_.col(k).tail(rest) *= S(-1) / lu_(k, k);
      for (Index j = k + 1; j < first + count; ++j) lu_.col(j).tail(rest) += lu_(k, j) * lu_.col(k).tail(rest);
    }
  }

  /// Exchanges rows in columns [col, col + cols) as the pivots of columns [first, first + count) say.
  void swap_rows(Index first, Index count, Index col, Index cols) {
    for (Index j = col; j < col + cols; ++j)
      for (Index k = first; k < first + count; ++k) std::swap(lu_(k, j), lu_(pivots_[static_cast<std::size_t>(k)], j));
  }

  /// Rows [first, first + count) of columns [col, col + cols), times the inverse of L's block on the diagonal there.
  void substitute(Index first, Index count, Index col, Index cols) {
    if (count > leaf) {
      const Index half = (count + 2 * leaf - 1) / (2 * leaf) * leaf, middle = first + half, rest = count - half;
      substitute(first, half, col, cols);
      rhei::add_product(lu_.block(middle, col, rest, cols), lu_.block(middle, first, rest, half),
                        lu_.block(first, col, half, cols));
      substitute(middle, rest, col, cols);
      return;
    }
    for (Index j = col; j < col + cols; ++j)
      for (Index k = first; k < first + count; ++k)
        for (Index i = k + 1; i < first + count; ++i) lu_(i, j) += lu_(i, k) * lu_(k, j);
  }

  Matrix<S> lu_;
  RowVector<S> reciprocal_;  // of the pivots
  std::vector<Index> pivots_;
  std::vector<std::int64_t> order_;  // row k of P W is row order_[k] of W
  S log_abs_det_ = 0;
};

}  // namespace detail

/// An invertible linear map of `dim` features and a bias, with one parameter for each entry of its matrix. Where the
/// matrix is singular the log-determinants are NaN, and so is what forward gives.
template <Real S>
class DenseLinear {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "dense_linear";

  struct Parameters {
    Matrix<S> matrix;   ///< D x D, W. (Not "weight": a decay to zero would lead to a singular one.)
    RowVector<S> bias;  ///< D

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("matrix", self.matrix);
      f("bias", self.bias);
    }
  };
  using Gradient = Parameters;
  struct Cache {
    detail::LuFactors<S> factors;  ///< of W
    Buffer<S> d_shifted;           ///< n x D, W^-T times the derivative of forward's output
    Buffer<S> work;                ///< n x D, or D x D, what only one call needs
  };

  /// The identity.
  /// \throws std::invalid_argument if dim < 1.
  explicit DenseLinear(Index dim) {
    detail::check_value("DenseLinear", "dim", dim, dim >= 1, "at least 1");
    parameters_ = {Matrix<S>::Identity(dim, dim), RowVector<S>::Zero(dim)};
  }
  /// A random rotation, as in Glow; see Rotation::random().
  /// \throws std::invalid_argument if dim < 1.
  DenseLinear(Index dim, Rng& rng) : DenseLinear(dim) {
    parameters_.matrix = detail::random_orthogonal(dim, rng).template cast<S>();
  }

  [[nodiscard]] Index dim() const { return parameters_.bias.size(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] static constexpr Traits traits() { return {.affine = true}; }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }

  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()); }
  static DenseLinear from_options(const Options& options) {
    const Index dim = options.get_size("dim", 1);
    options.check_tensor(dim, dim);
    return DenseLinear(dim);
  }

  /// x = W^-1 (z - bias): D^3 / 3 + n D^2 multiply-adds.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("DenseLinear::forward", *this, call, z, x, log_det.size());
    const auto& [matrix, bias] = parameters_;
    cache.factors.compute(matrix);
    Batch<S> shifted = cache.work.resize(z.rows(), dim());
    if (z.rows() == 1)  // one row is contiguous
      shifted = z - ConstBatch<S>(bias);
    else
      for (Index d = 0; d < dim(); ++d) shifted.col(d).array() = z.col(d).array() - bias[d];
    cache.factors.solve(shifted, x);
    log_det.array() -= cache.factors.log_abs_det();
  }

  /// z = W x + bias: D^3 / 3 + n D^2 multiply-adds.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("DenseLinear::inverse", *this, call, x, z, log_det.size());
    const auto& [matrix, bias] = parameters_;
    cache.factors.compute(matrix);
    set_product_transposed(z, x, matrix);
    if (x.rows() == 1)
      z += ConstBatch<S>(bias);
    else
      for (Index d = 0; d < dim(); ++d) z.col(d).array() += bias[d];
    log_det.array() += cache.factors.log_abs_det();
  }

  /// x = W^-1 (z - bias), and d(W^-1) = -W^-1 dW W^-1: with d_z = W^-T d_x, d_W = -d_z x^T - sum(d_log_det) W^-T.
  void forward_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S> x, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>*, Gradient* gradient) const {
    if (!d_z && !gradient) return;
    Batch<S> work = cache.work.resize(d_x.rows(), dim());
    Batch<S> d_in = d_z ? *d_z : cache.d_shifted.resize(d_x.rows(), dim());
    cache.factors.solve_transposed(d_x, work, d_in);
    if (!gradient) return;
    work = -d_in;
    add_transposed_product(gradient->matrix, work, x);
    for (Index d = 0; d < dim(); ++d) gradient->bias[d] += work.col(d).sum();
    add_log_det_gradient(-d_log_det.sum(), cache, *gradient);
  }

  /// z = W x + bias: d_x = W^T d_z, d_W = d_z x^T + sum(d_log_det) W^-T.
  void inverse_pullback(const Call<S>&, ConstBatch<S> x, ConstBatch<S>, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>*, Gradient* gradient) const {
    if (d_x) set_product(*d_x, d_z, parameters_.matrix);
    if (!gradient) return;
    add_transposed_product(gradient->matrix, d_z, x);
    for (Index d = 0; d < dim(); ++d) gradient->bias[d] += d_z.col(d).sum();
    add_log_det_gradient(d_log_det.sum(), cache, *gradient);
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] DenseLinear<T> cast() const {
    return cast_to<DenseLinear<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }

 private:
  void add_log_det_gradient(S d_log_det, Cache& cache, Gradient& gradient) const {
    Batch<S> inverse = cache.work.resize(dim(), dim());
    cache.factors.inverse_transposed(inverse);
    gradient.matrix += d_log_det * inverse;
  }

  Parameters parameters_;
};

}  // namespace rhei
