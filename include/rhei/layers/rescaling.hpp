// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The rescaling on top of NICE (Dinh, Krueger & Bengio 2015, section 3.3): one trainable factor per feature, counted
/// from data to latent.
///
///   forward  x = z * exp(-log_scale)     log|det| = -sum_d log_scale_d
///   inverse  z = x * exp(log_scale)      log|det| =  sum_d log_scale_d
///
/// A feature whose log_scale grows spreads over the base density, so that exp(-log_scale) orders the features by their
/// importance, as the spectrum of a principal component analysis does.

#include <rhei/core/layer.hpp>

namespace rhei {

/// Rescaling of `dim` features; starts as the identity.
template <Real S>
class Rescaling {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "rescaling";

  struct Parameters {
    RowVector<S> log_scale;  ///< D, log of the factor from data to latent

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("log_scale", self.log_scale);
    }
  };
  using Gradient = Parameters;
  struct Cache {
    RowVector<S> scale;  ///< D, the factor of the direction applied
  };

  /// The identity.
  /// \throws std::invalid_argument if dim < 1.
  explicit Rescaling(Index dim) {
    detail::check_value("Rescaling", "dim", dim, dim >= 1, "at least 1");
    parameters_.log_scale = RowVector<S>::Zero(dim);
  }

  [[nodiscard]] Index dim() const { return parameters_.log_scale.size(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] static constexpr Traits traits() { return {.affine = true}; }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }

  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()); }
  static Rescaling from_options(const Options& options) { return Rescaling(options.get_size("dim", 1)); }

  /// x = z e^-log_scale: n D multiplications.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("Rescaling::forward", *this, call, z, x, log_det.size());
    cache.scale = (-parameters_.log_scale.array()).exp();
    scale_features(z, cache.scale, x);
    log_det.array() -= parameters_.log_scale.sum();
  }

  /// z = x e^log_scale: n D multiplications.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("Rescaling::inverse", *this, call, x, z, log_det.size());
    cache.scale = parameters_.log_scale.array().exp();
    scale_features(x, cache.scale, z);
    log_det.array() += parameters_.log_scale.sum();
  }

  /// d_z = e^-log_scale d_x, d_log_scale = -sum x d_x - sum d_log_det.
  void forward_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S> x, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>*, Gradient* gradient) const {
    if (d_z) scale_features(d_x, cache.scale, *d_z);
    if (gradient) gradient->log_scale.array() -= (d_x.array() * x.array()).colwise().sum() + d_log_det.sum();
  }

  /// d_x = e^log_scale d_z, d_log_scale = sum z d_z + sum d_log_det.
  void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>*, Gradient* gradient) const {
    if (d_x) scale_features(d_z, cache.scale, *d_x);
    if (gradient) gradient->log_scale.array() += (d_z.array() * z.array()).colwise().sum() + d_log_det.sum();
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] Rescaling<T> cast() const {
    return cast_to<Rescaling<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }

 private:
  static void scale_features(ConstBatch<S> in, const RowVector<S>& scale, Batch<S> out) {
    if (in.rows() == 1)  // one row is contiguous
      out.array() = in.array() * ConstBatch<S>(scale).array();
    else
      for (Index d = 0; d < in.cols(); ++d) out.col(d) = in.col(d) * scale[d];
  }

  Parameters parameters_;
};

}  // namespace rhei
