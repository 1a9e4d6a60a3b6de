// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A fixed rotation of the features: a random one, or one that the caller has found, by a principal component analysis
/// say. It is not trained; Householder is the rotation that is.
///
///   inverse  z = Q x        forward  x = Q^T z        log|det| = 0        Q Q^T = 1
///
/// for one sample as a column; a batch holds samples as rows, so Z = X Q^T. The rows of Q are the directions in data
/// space that become the features of the latent. Each direction costs n * D^2 multiply-adds.

#include <cmath>
#include <limits>
#include <rhei/core/layer.hpp>
#include <rhei/nn/product.hpp>
#include <stdexcept>

namespace rhei {
namespace detail {

/// A D x D orthogonal matrix from the uniform (Haar) distribution: the factor Q of normal columns for which R has a
/// positive diagonal (Mezzadri 2007, "How to generate random matrices from the classical compact groups", section 4),
/// by Gram and Schmidt, twice for each column, in double. Its determinant is 1 or -1, each as likely.
inline Matrix<double> random_orthogonal(Index dim, Rng& rng) {
  Matrix<double> q(dim, dim);
  rng.fill_normal(q);
  Vector<double> along(dim);
  for (Index k = 0; k < dim; ++k) {
    for (int pass = 0; pass < 2 && k > 0; ++pass) {
      along.head(k).noalias() = q.leftCols(k).transpose() * q.col(k);
      q.col(k).noalias() -= q.leftCols(k) * along.head(k);
    }
    q.col(k).normalize();
  }
  return q;
}

/// The largest entry of |Q Q^T - 1|, NaN where an entry is.
template <Real S>
double orthogonality_defect(const Matrix<S>& q) {
  const Matrix<double> exact = q.template cast<double>();
  Matrix<double> product(q.rows(), q.rows());
  set_product_transposed(product, exact, exact);
  product.diagonal().array() -= 1;
  return product.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
}

}  // namespace detail

/// A fixed orthogonal map of D features.
template <Real S>
class Rotation {
 public:
  using Scalar = S;
  using Gradient = NoParameters;
  struct Cache {};
  static constexpr std::string_view type = "rotation";

  /// Drawn uniformly from all rotations and reflections.
  /// \throws std::invalid_argument if dim < 1.
  static Rotation random(Index dim, Rng& rng) {
    detail::check_value("Rotation::random", "dim", dim, dim >= 1, "at least 1");
    return Rotation(detail::random_orthogonal(dim, rng).cast<S>());
  }
  /// The layer with Q = `matrix` (D x D).
  /// \throws std::invalid_argument if the matrix is not square, or not orthogonal to the precision of S.
  static Rotation from_matrix(ConstBatch<S> matrix) {
    const Index dim = matrix.rows();
    detail::check_shape("Rotation::from_matrix", "matrix", dim, matrix.cols(), dim, dim);
    detail::check_value("Rotation::from_matrix", "the number of rows of matrix", dim, dim >= 1, "at least 1");
    Rotation layer{Matrix<S>(matrix)};
    const double defect = detail::orthogonality_defect(layer.matrix_);
    detail::check_value("Rotation::from_matrix", "the largest entry of |Q Q^T - 1|", defect, defect <= rounding<S>(dim),
                        "that of an orthogonal matrix, at most " + std::to_string(rounding<S>(dim)));
    return layer;
  }

  [[nodiscard]] Index dim() const { return matrix_.rows(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] static constexpr Traits traits() { return {.affine = true}; }
  [[nodiscard]] Gradient make_gradient() const { return {}; }
  /// Q, D x D.
  [[nodiscard]] const Matrix<S>& matrix() const { return matrix_; }

  /// The matrix itself is state: a reader fills it in after this.
  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()); }
  static Rotation from_options(const Options& options) {
    const Index dim = options.get_size("dim", 1);
    options.check_tensor(dim, dim);
    return Rotation(Matrix<S>::Identity(dim, dim));
  }
  /// \throws std::runtime_error unless the matrix that was read is orthogonal, to the precision of float: it may have
  /// been one of floats before.
  void check_state() const {
    const double defect = detail::orthogonality_defect(matrix_);
    if (!(defect <= rounding<float>(dim())))
      throw std::runtime_error("Rotation: the largest entry of |Q Q^T - 1| is " + std::to_string(defect) +
                               ", expected that of an orthogonal matrix, at most " +
                               std::to_string(rounding<float>(dim())));
  }

  /// X = Z Q: n D^2 multiply-adds; log|det| = 0.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache&) const {
    detail::check_evaluation("Rotation::forward", *this, call, z, x, log_det.size());
    set_product(x, z, matrix_);
  }
  /// Z = X Q^T: n D^2 multiply-adds; log|det| = 0.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache&) const {
    detail::check_evaluation("Rotation::inverse", *this, call, x, z, log_det.size());
    set_product_transposed(z, x, matrix_);
  }
  /// d_Z = d_X Q^T.
  void forward_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S>, Cache&, ConstBatch<S> d_x, ConstValues<S>,
                        Batch<S>* d_z, Batch<S>*, Gradient*) const {
    if (d_z) set_product_transposed(*d_z, d_x, matrix_);
  }
  /// d_X = d_Z Q.
  void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S>, Cache&, ConstBatch<S> d_z, ConstValues<S>,
                        Batch<S>* d_x, Batch<S>*, Gradient*) const {
    if (d_x) set_product(*d_x, d_z, matrix_);
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] Rotation<T> cast() const {
    return cast_to<Rotation<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self&, F&&) {}
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("matrix", self.matrix_);
  }

 private:
  explicit Rotation(Matrix<S> matrix) : matrix_(std::move(matrix)) {}

  /// How far Q Q^T may be from 1 where Q was computed in T.
  template <Real T>
  static double rounding(Index dim) {
    return 16 * std::sqrt(static_cast<double>(dim)) * static_cast<double>(std::numeric_limits<T>::epsilon());
  }

  Matrix<S> matrix_;
};

}  // namespace rhei
