// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A fixed affine map that is given in both directions, so that each of them is one product:
///
///   forward  x = z A + shift         log|det| =  log_det
///   inverse  z = (x - shift) A^-1    log|det| = -log_det
///
/// with samples as rows. It is what runs of affine layers become when a flow is made ready to be used
/// (optimize_for_inference.hpp). Each direction costs n * D^2 multiply-adds.

#include <cmath>
#include <rhei/core/layer.hpp>
#include <rhei/nn/dense.hpp>
#include <stdexcept>

namespace rhei {

/// An affine map of D features without parameters.
template <Real S>
class AffineMap {
 public:
  using Scalar = S;
  using Gradient = NoParameters;
  struct Cache {
    Buffer<S> shifted;  ///< n x D, x - shift
  };
  static constexpr std::string_view type = "affine_map";

  /// The map of any layer whose traits say that it is affine, to the rounding of that layer's own arithmetic: its shift
  /// is where it sends zero, its matrices are its Jacobians. The numbers may be NaN or useless where the layer is
  /// singular or nearly so; see amplification().
  /// \throws std::invalid_argument if the layer is not affine.
  template <Layer L>
  static AffineMap from_layer(const L& layer) {
    const Index dim = layer.dim();
    if (!layer.traits().affine || layer.context_dim() > 0)
      detail::throw_invalid("AffineMap::from_layer", "the layer is not affine, or needs a context");
    AffineMap map(dim);
    const Call<S> call;
    typename L::Cache cache;
    const Matrix<S> ones = Matrix<S>::Identity(dim, dim);
    const Vector<S> no_d_log_det = Vector<S>::Zero(dim);
    Matrix<S> z = Matrix<S>::Zero(dim, dim), x(dim, dim), jacobian(dim, dim);
    Vector<S> log_det = Vector<S>::Zero(dim);
    Batch<S> wanted(jacobian);
    layer.forward(call, z, x, log_det, cache);
    layer.forward_pullback(call, z, x, cache, ones, no_d_log_det, &wanted, nullptr, nullptr);
    map.matrix_ = jacobian.transpose();
    map.shift_ = x.row(0);
    map.log_det_[0] = log_det[0];
    layer.inverse(call, x, z, log_det, cache);
    layer.inverse_pullback(call, x, z, cache, ones, no_d_log_det, &wanted, nullptr, nullptr);
    map.inverse_matrix_ = jacobian.transpose();
    return map;
  }

  [[nodiscard]] Index dim() const { return matrix_.rows(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] static constexpr Traits traits() { return {.affine = true}; }
  [[nodiscard]] Gradient make_gradient() const { return {}; }
  /// A, D x D.
  [[nodiscard]] const Matrix<S>& matrix() const { return matrix_; }

  /// By how much the rounding of either direction can grow on its way: the largest row sum of |A| |A^-1| and of
  /// |A^-1| |A| (Skeel 1979, J. ACM 26:494). Unlike the condition number it does not see the units of the features.
  [[nodiscard]] double amplification() const {
    const Matrix<S> a = matrix_.cwiseAbs(), b = inverse_matrix_.cwiseAbs();
    Matrix<S> product(dim(), dim());
    set_product(product, a, b);
    const S to_latent = product.rowwise().sum().template maxCoeff<Eigen::PropagateNaN>();
    set_product(product, b, a);
    return static_cast<double>(to_latent + product.rowwise().sum().template maxCoeff<Eigen::PropagateNaN>()) / 2;
  }

  /// All numbers are state: a reader fills them in after this.
  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()); }
  static AffineMap from_options(const Options& options) {
    const Index dim = options.get_size("dim", 1);
    options.check_tensors({{dim, dim}, {dim, dim}});
    return AffineMap(dim);
  }
  /// \throws std::runtime_error unless the matrices that were read undo each other, about to the precision of float,
  /// and the other numbers are finite.
  void check_state() const {
    Matrix<S> defect = -Matrix<S>::Identity(dim(), dim());
    add_product(defect, matrix_, inverse_matrix_);
    const double worst = static_cast<double>(defect.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    if (!(worst < 1e-3))
      throw std::runtime_error("AffineMap: the largest entry of |matrix inverse_matrix - 1| is " +
                               std::to_string(worst) + ", expected less than 0.001");
    if (!shift_.allFinite() || !log_det_.allFinite())
      throw std::runtime_error("AffineMap: shift or log_det is not finite");
  }

  /// One product: x = z A + shift.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache&) const {
    detail::check_evaluation("AffineMap::forward", *this, call, z, x, log_det.size());
    detail::affine(z, matrix_, shift_, x);
    log_det.array() += log_det_[0];
  }
  /// One product: z = (x - shift) A^-1.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("AffineMap::inverse", *this, call, x, z, log_det.size());
    Batch<S> shifted = cache.shifted.resize(x.rows(), dim());
    if (x.rows() == 1)  // one row is contiguous
      shifted = x - ConstBatch<S>(shift_);
    else
      for (Index d = 0; d < dim(); ++d) shifted.col(d).array() = x.col(d).array() - shift_[d];
    set_product(z, shifted, inverse_matrix_);
    log_det.array() -= log_det_[0];
  }
  /// d_z = d_x A^T.
  void forward_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S>, Cache&, ConstBatch<S> d_x, ConstValues<S>,
                        Batch<S>* d_z, Batch<S>*, Gradient*) const {
    if (d_z) set_product_transposed(*d_z, d_x, matrix_);
  }
  /// d_x = d_z A^-T.
  void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S>, Cache&, ConstBatch<S> d_z, ConstValues<S>,
                        Batch<S>* d_x, Batch<S>*, Gradient*) const {
    if (d_x) set_product_transposed(*d_x, d_z, inverse_matrix_);
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] AffineMap<T> cast() const {
    return cast_to<AffineMap<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self&, F&&) {}
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("matrix", self.matrix_);
    f("inverse_matrix", self.inverse_matrix_);
    f("shift", self.shift_);
    f("log_det", self.log_det_);
  }

 private:
  /// The identity.
  explicit AffineMap(Index dim)
      : matrix_(Matrix<S>::Identity(dim, dim)),
        inverse_matrix_(matrix_),
        shift_(RowVector<S>::Zero(dim)),
        log_det_(RowVector<S>::Zero(1)) {}

  Matrix<S> matrix_, inverse_matrix_;
  RowVector<S> shift_, log_det_;
};

}  // namespace rhei
