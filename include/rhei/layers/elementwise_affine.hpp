// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A trainable scale and shift per feature.
///
///   forward  x = z * exp(log_scale) + shift        log|det| =  sum_d log_scale_d
///   inverse  z = (x - shift) * exp(-log_scale)     log|det| = -sum_d log_scale_d
///
/// The log-determinant does not depend on the sample; both directions cost n * D multiply-adds. (The elementwise affine
/// flow of Papamakarios et al. 2021, JMLR 22:57, section 3.1, with free parameters.)

#include <rhei/core/layer.hpp>

namespace rhei {
namespace detail {

/// The arithmetic of ElementwiseAffine and ActNorm. `Self` is the layer: it gives the names that errors carry.
template <class Self, Real S>
class FeatureAffine {
 public:
  using Scalar = S;

  struct Parameters {
    RowVector<S> log_scale;  ///< D, log of the factor from latent to data
    RowVector<S> shift;      ///< D, the data point of latent 0

    template <class P, class F>
    static void each_parameter(P& parameters, F&& f) {
      f("log_scale", parameters.log_scale);
      f("shift", parameters.shift);
    }
  };
  using Gradient = Parameters;
  struct Cache {
    RowVector<S> scale;  ///< D, the factor of the direction applied
  };

  [[nodiscard]] Index dim() const { return parameters_.shift.size(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] static constexpr Traits traits() { return {.affine = true}; }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }
  [[nodiscard]] Options options() const { return Options(Self::type).set("dim", dim()); }

  /// x = z e^log_scale + shift: n D multiply-adds.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    check_evaluation(Self::forward_name, self(), call, z, x, log_det.size());
    const auto& [log_scale, shift] = parameters_;
    cache.scale = log_scale.array().exp();
    if (z.rows() == 1)  // one row is contiguous
      x.array() = z.array() * ConstBatch<S>(cache.scale).array() + ConstBatch<S>(shift).array();
    else
      for (Index d = 0; d < dim(); ++d) x.col(d).array() = z.col(d).array() * cache.scale[d] + shift[d];
    log_det.array() += log_scale.sum();
  }

  /// z = (x - shift) e^-log_scale: n D multiply-adds.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    check_evaluation(Self::inverse_name, self(), call, x, z, log_det.size());
    const auto& [log_scale, shift] = parameters_;
    cache.scale = (-log_scale.array()).exp();
    if (x.rows() == 1)
      z.array() = (x.array() - ConstBatch<S>(shift).array()) * ConstBatch<S>(cache.scale).array();
    else
      for (Index d = 0; d < dim(); ++d) z.col(d).array() = (x.col(d).array() - shift[d]) * cache.scale[d];
    log_det.array() -= log_scale.sum();
  }

  /// d_z = e^log_scale d_x, d_log_scale = sum (x - shift) d_x + sum d_log_det, d_shift = sum d_x.
  void forward_pullback(const Call<S>&, ConstBatch<S> z, ConstBatch<S>, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>*, Gradient* gradient) const {
    const S d_sum = d_log_det.sum();
    for (Index d = 0; d < dim(); ++d) {
      if (d_z) d_z->col(d) = cache.scale[d] * d_x.col(d);
      if (gradient) {
        gradient->log_scale[d] += cache.scale[d] * d_x.col(d).dot(z.col(d)) + d_sum;
        gradient->shift[d] += d_x.col(d).sum();
      }
    }
  }

  /// d_x = e^-log_scale d_z, d_log_scale = -sum z d_z - sum d_log_det, d_shift = -sum d_x.
  void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>*, Gradient* gradient) const {
    const S d_sum = d_log_det.sum();
    for (Index d = 0; d < dim(); ++d) {
      if (d_x) d_x->col(d) = cache.scale[d] * d_z.col(d);
      if (gradient) {
        gradient->log_scale[d] -= d_z.col(d).dot(z.col(d)) + d_sum;
        gradient->shift[d] -= cache.scale[d] * d_z.col(d).sum();
      }
    }
  }

  template <class L, class F>
  static void each_parameter(L& layer, F&& f) {
    Parameters::each_parameter(layer.parameters_, f);
  }

 protected:
  explicit FeatureAffine(Index dim) {
    check_value(Self::type, "dim", dim, dim >= 1, "at least 1");
    parameters_ = {RowVector<S>::Zero(dim), RowVector<S>::Zero(dim)};
  }

  Parameters parameters_;

 private:
  [[nodiscard]] const Self& self() const { return static_cast<const Self&>(*this); }
};

}  // namespace detail

/// Scale and shift of `dim` features; starts as the identity.
template <Real S>
class ElementwiseAffine : public detail::FeatureAffine<ElementwiseAffine<S>, S> {
 public:
  static constexpr std::string_view type = "elementwise_affine";
  static constexpr std::string_view forward_name = "ElementwiseAffine::forward";
  static constexpr std::string_view inverse_name = "ElementwiseAffine::inverse";

  /// The identity.
  /// \throws std::invalid_argument if dim < 1.
  explicit ElementwiseAffine(Index dim) : detail::FeatureAffine<ElementwiseAffine, S>(dim) {}

  static ElementwiseAffine from_options(const Options& options) {
    return ElementwiseAffine(options.get_size("dim", 1));
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] ElementwiseAffine<T> cast() const {
    return cast_to<ElementwiseAffine<T>>(*this);
  }
};

}  // namespace rhei
