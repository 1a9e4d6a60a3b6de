// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A dense invertible matrix by its LU factors (Kingma & Dhariwal 2018, "Glow", section 3.2, equation 11; Oliva et al.
/// 2018, "Transformation Autoregressive Networks", section 3.2.1).
///
///   inverse  z = W x + bias            log|det| =  sum_d log_diagonal_d
///   forward  x = W^-1 (z - bias)       log|det| = -sum_d log_diagonal_d
///   W = P L U
///
/// for one sample as a column; a batch holds samples as rows, so Z = X W^T + bias in every row. L is lower triangular
/// with ones on its diagonal, U upper triangular with sign_d * exp(log_diagonal_d) on its own, and P, which is fixed,
/// reorders as `Permutation` does: (P y)_d = y_{permutation[d]}. The signs are fixed, too: no path of training may
/// cross a singular matrix.
///
/// The direction of maximum likelihood, `inverse`, multiplies; `forward` substitutes. No matrix is ever inverted. Each
/// direction costs n * D^2 multiply-adds, its pullback twice that.

#include <cmath>
#include <limits>
#include <rhei/layers/detail/triangular.hpp>
#include <rhei/layers/permutation.hpp>

namespace rhei {

/// An invertible linear map of `dim` features and a bias.
template <Real S>
class LuLinear {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "lu_linear";

  struct Parameters {
    /// D x D: L below the diagonal, U above it. The diagonal is not read and its gradient is zero.
    Matrix<S> lu;
    RowVector<S> log_diagonal;  ///< D, log|U_dd|
    RowVector<S> bias;          ///< D

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("lu", self.lu);
      f("log_diagonal", self.log_diagonal);
      f("bias", self.bias);
    }
  };
  using Gradient = Parameters;
  struct Cache {
    RowVector<S> diagonal;  ///< D, U_dd after `inverse`, 1 / U_dd after `forward`
    Buffer<S> between;      ///< n x D, U x
    Buffer<S> work;         ///< n x D, what only one call needs
  };

  /// The identity.
  /// \throws std::invalid_argument if dim < 1.
  explicit LuLinear(Index dim) : LuLinear(detail::identity_permutation("LuLinear", dim)) {}
  /// A random permutation of the features: L and U are the identity.
  /// \throws std::invalid_argument if dim < 1.
  LuLinear(Index dim, Rng& rng) : LuLinear(Permutation<S>::random(dim, rng).indices()) {}

  /// The layer with W = `matrix` (D x D) and no bias, by elimination with partial pivoting in double.
  /// \throws std::invalid_argument if the matrix is not square, not finite, or singular to double precision.
  static LuLinear from_matrix(ConstBatch<S> matrix) {
    const Index dim = matrix.rows();
    detail::check_shape("LuLinear::from_matrix", "matrix", dim, matrix.cols(), dim, dim);
    LuLinear layer(dim);
    Matrix<double> a = matrix.template cast<double>();
    auto order = layer.permutation_;  // (L U).row(k) = matrix.row(order[k])
    for (Index k = 0; k < dim; ++k) {
      const Index rest = dim - k - 1;
      Index pivot = 0;
      const double size = a.col(k).tail(dim - k).cwiseAbs().maxCoeff(&pivot);
      const double rounding = static_cast<double>(dim) * std::numeric_limits<double>::epsilon() *
                              static_cast<double>(matrix.col(k).cwiseAbs().maxCoeff());
      detail::check_value("LuLinear::from_matrix", "the pivot of column " + std::to_string(k) + " of matrix", size,
                          a.col(k).allFinite() && size > rounding, "a finite one above rounding (is it singular?)");
      pivot += k;
      a.row(k).swap(a.row(pivot));
      std::swap(order[static_cast<std::size_t>(k)], order[static_cast<std::size_t>(pivot)]);
      a.col(k).tail(rest) /= a(k, k);
      for (Index j = k + 1; j < dim; ++j) a.col(j).tail(rest) -= a(k, j) * a.col(k).tail(rest);
      layer.signs_[static_cast<std::size_t>(k)] = a(k, k) < 0 ? -1 : 1;
      layer.parameters_.log_diagonal[k] = static_cast<S>(std::log(size));
    }
    for (std::size_t k = 0; k < order.size(); ++k)
      layer.permutation_[static_cast<std::size_t>(order[k])] = static_cast<std::int64_t>(k);
    layer.parameters_.lu = a.template cast<S>();
    layer.parameters_.lu.diagonal().setZero();
    return layer;
  }

  [[nodiscard]] Index dim() const { return parameters_.bias.size(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] static constexpr Traits traits() { return {.affine = true}; }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }
  /// P: (P y)_d = y_{permutation[d]}.
  [[nodiscard]] const std::vector<std::int64_t>& permutation() const { return permutation_; }
  /// The signs of the diagonal of U.
  [[nodiscard]] const std::vector<std::int64_t>& signs() const { return signs_; }

  /// Permutation and signs are state: a reader fills them in after this.
  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()); }
  static LuLinear from_options(const Options& options) {
    const Index dim = options.get_size("dim", 1);
    options.check_tensor(dim, dim);
    return LuLinear(dim);
  }
  /// \throws std::runtime_error unless the permutation that was read is one and all signs are 1 or -1.
  void check_state() const {
    const std::string defect = detail::permutation_defect(permutation_);
    if (!defect.empty()) throw std::runtime_error("LuLinear: permutation: " + defect);
    for (const std::int64_t sign : signs_)
      if (sign != 1 && sign != -1)
        throw std::runtime_error("LuLinear: a sign is " + std::to_string(sign) + ", expected 1 or -1");
  }

  /// Two substitutions: n D^2 multiply-adds.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("LuLinear::forward", *this, call, z, x, log_det.size());
    const auto& [lu, log_diagonal, bias] = parameters_;
    set_diagonal(cache, S(-1));
    Batch<S> y = cache.between.resize(z.rows(), dim());
    if (z.rows() == 1)
      x = ConstBatch<S>(bias) - z;
    else
      for (Index d = 0; d < dim(); ++d) x.col(d).array() = bias[d] - z.col(d).array();
    detail::scatter_features<S>(x, permutation_, y);
    detail::solve_triangle<upper, true>(y, lu, no_diagonal);
    x = -y;
    detail::solve_triangle<lower, true>(x, lu, diagonal(cache));
    log_det.array() -= log_diagonal.sum();
  }

  /// Two triangular products: n D^2 multiply-adds.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("LuLinear::inverse", *this, call, x, z, log_det.size());
    const auto& [lu, log_diagonal, bias] = parameters_;
    set_diagonal(cache, S(1));
    Batch<S> y = cache.between.resize(x.rows(), dim());
    y = x;
    detail::multiply_triangle<lower, true>(y, lu, diagonal(cache));
    Batch<S> w = cache.work.resize(x.rows(), dim());
    w = y;
    detail::multiply_triangle<upper, true>(w, lu, no_diagonal);
    detail::gather_features<S>(w, permutation_, z);
    if (z.rows() == 1)
      z += ConstBatch<S>(bias);
    else
      for (Index d = 0; d < dim(); ++d) z.col(d).array() += bias[d];
    log_det.array() += log_diagonal.sum();
  }

  /// x = U^-1 y, y = L^-1 w, w = P^T (z - bias). So d_y = U^-T d_x, d_w = L^-T d_y, and since d(A^-1) = -A^-1 dA A^-1,
  /// each factor's gradient is -(d_in)(out)^T.
  void forward_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S> x, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>*, Gradient* gradient) const {
    const Matrix<S>& lu = parameters_.lu;
    Batch<S> minus_d = cache.work.resize(d_x.rows(), dim());  // of y, then of w
    minus_d = d_x;
    detail::solve_triangle<upper, false>(minus_d, lu, diagonal(cache));
    if (gradient) {
      detail::add_triangle_gradient<upper, S>(minus_d, x, gradient->lu, 0, dim());
      const S d_sum = d_log_det.sum();
      for (Index d = 0; d < dim(); ++d)
        gradient->log_diagonal[d] += minus_d.col(d).dot(x.col(d)) / cache.diagonal[d] - d_sum;
    }
    minus_d = -minus_d;
    detail::solve_triangle<lower, false>(minus_d, lu, no_diagonal);
    if (gradient) {
      detail::add_triangle_gradient<lower, S>(minus_d, cache.between.view(), gradient->lu, 0, dim());
      for (Index d = 0; d < dim(); ++d)
        gradient->bias[d] += minus_d.col(permutation_[static_cast<std::size_t>(d)]).sum();
    }
    if (!d_z) return;
    detail::gather_features<S>(minus_d, permutation_, *d_z);
    *d_z = -*d_z;
  }

  /// y = U x, w = L y, z = P w + bias. So d_w = P^T d_z, d_y = L^T d_w, d_x = U^T d_y, and each factor's gradient is
  /// (d_out)(in)^T.
  void inverse_pullback(const Call<S>&, ConstBatch<S> x, ConstBatch<S>, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>*, Gradient* gradient) const {
    const Matrix<S>& lu = parameters_.lu;
    Batch<S> d_out = cache.work.resize(d_z.rows(), dim());  // of w, then of y
    detail::scatter_features(d_z, permutation_, d_out);
    if (gradient) {
      for (Index d = 0; d < dim(); ++d) gradient->bias[d] += d_z.col(d).sum();
      detail::add_triangle_gradient<lower, S>(d_out, cache.between.view(), gradient->lu, 0, dim());
    }
    detail::multiply_triangle<lower, false>(d_out, lu, no_diagonal);
    if (gradient) {
      detail::add_triangle_gradient<upper, S>(d_out, x, gradient->lu, 0, dim());
      const S d_sum = d_log_det.sum();
      for (Index d = 0; d < dim(); ++d)
        gradient->log_diagonal[d] += d_out.col(d).dot(x.col(d)) * cache.diagonal[d] + d_sum;
    }
    if (!d_x) return;
    *d_x = d_out;
    detail::multiply_triangle<upper, false>(*d_x, lu, diagonal(cache));
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] LuLinear<T> cast() const {
    return cast_to<LuLinear<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("permutation", self.permutation_);
    f("signs", self.signs_);
  }

 private:
  static constexpr auto lower = detail::Triangle::lower, upper = detail::Triangle::upper;
  static constexpr const S* no_diagonal = nullptr;

  explicit LuLinear(std::vector<std::int64_t> permutation)
      : permutation_(std::move(permutation)), signs_(permutation_.size(), 1) {
    const auto dim = static_cast<Index>(permutation_.size());
    parameters_ = {Matrix<S>::Zero(dim, dim), RowVector<S>::Zero(dim), RowVector<S>::Zero(dim)};
  }

  static const S* diagonal(const Cache& cache) { return cache.diagonal.data(); }

  /// cache.diagonal = sign * exp(power * log_diagonal)
  void set_diagonal(Cache& cache, S power) const {
    cache.diagonal = (power * parameters_.log_diagonal.array()).exp();
    for (Index d = 0; d < dim(); ++d)
      if (signs_[static_cast<std::size_t>(d)] < 0) cache.diagonal[d] = -cache.diagonal[d];
  }

  Parameters parameters_;
  std::vector<std::int64_t> permutation_, signs_;
};

}  // namespace rhei
