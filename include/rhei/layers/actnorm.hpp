// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Activation normalization (Kingma & Dhariwal 2018, "Glow", section 3.1): a scale and a shift per feature, set from
/// data once and trained from there.
///
///   forward  x = z * exp(log_scale) + shift        log|det| =  sum_d log_scale_d
///   inverse  z = (x - shift) * exp(-log_scale)     log|det| = -sum_d log_scale_d
///
/// The log-determinant does not depend on the sample; both directions cost n * D multiply-adds. As the last layer of a
/// flow it standardises the data, so that densities stay in the data's own units.

#include <cmath>
#include <rhei/core/layer.hpp>

namespace rhei {

/// ActNorm over `dim` features; the identity until `initialize` has seen data.
template <Real S>
class ActNorm {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "actnorm";

  struct Parameters {
    RowVector<S> log_scale;  ///< D, log standard deviation of the data
    RowVector<S> shift;      ///< D, mean of the data

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("log_scale", self.log_scale);
      f("shift", self.shift);
    }
  };
  using Gradient = Parameters;
  struct Cache {};

  explicit ActNorm(Index dim) : parameters_{RowVector<S>::Zero(dim), RowVector<S>::Zero(dim)} {}

  [[nodiscard]] Index dim() const { return parameters_.shift.size(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] static constexpr Traits traits() { return {}; }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }
  [[nodiscard]] bool initialized() const { return initialized_ != 0; }

  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()); }
  static ActNorm from_options(const Options& options) { return ActNorm(options.get_size("dim", 1)); }

  /// Sets shift and log_scale to the mean and log standard deviation of each column of x (n x D), unless that has been
  /// done before. A column that does not vary (or a batch of one row) keeps its scale. Needs at least one row.
  void initialize(const Call<S>&, ConstBatch<S> x) {
    if (initialized()) return;
    detail::check_shape("ActNorm::initialize", "x", x.rows(), x.cols(), -1, dim());
    detail::check_value("ActNorm::initialize", "the number of rows", x.rows(), x.rows() > 0, "at least 1");
    for (Index d = 0; d < dim(); ++d) {  // in double: a mean over 10^6 floats keeps 24 bits only then
      const auto column = x.col(d).template cast<double>();
      const double mean = column.mean();
      const double variance = (column.array() - mean).square().mean();
      parameters_.shift[d] = static_cast<S>(mean);
      parameters_.log_scale[d] = variance > 0 ? static_cast<S>(0.5 * std::log(variance)) : S(0);
    }
    initialized_ = 1;
  }

  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache&) const {
    detail::check_evaluation("ActNorm::forward", *this, call, z, x, log_det.size());
    const auto& [log_scale, shift] = parameters_;
    for (Index d = 0; d < dim(); ++d) x.col(d).array() = z.col(d).array() * std::exp(log_scale[d]) + shift[d];
    log_det.array() += log_scale.sum();
  }

  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache&) const {
    detail::check_evaluation("ActNorm::inverse", *this, call, x, z, log_det.size());
    const auto& [log_scale, shift] = parameters_;
    for (Index d = 0; d < dim(); ++d) z.col(d).array() = (x.col(d).array() - shift[d]) * std::exp(-log_scale[d]);
    log_det.array() -= log_scale.sum();
  }

  void forward_pullback(const Call<S>&, ConstBatch<S> z, ConstBatch<S>, Cache&, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>*, Gradient* gradient) const {
    for (Index d = 0; d < dim(); ++d) {
      const S scale = std::exp(parameters_.log_scale[d]);
      if (d_z) d_z->col(d) = scale * d_x.col(d);
      if (gradient) {
        gradient->log_scale[d] += scale * d_x.col(d).dot(z.col(d)) + d_log_det.sum();
        gradient->shift[d] += d_x.col(d).sum();
      }
    }
  }

  void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S> z, Cache&, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>*, Gradient* gradient) const {
    for (Index d = 0; d < dim(); ++d) {
      const S scale = std::exp(-parameters_.log_scale[d]);
      if (d_x) d_x->col(d) = scale * d_z.col(d);
      if (gradient) {
        gradient->log_scale[d] -= d_z.col(d).dot(z.col(d)) + d_log_det.sum();
        gradient->shift[d] -= scale * d_z.col(d).sum();
      }
    }
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] ActNorm<T> cast() const {
    return cast_to<ActNorm<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("initialized", self.initialized_);
  }

 private:
  Parameters parameters_;
  std::int64_t initialized_ = 0;
};

}  // namespace rhei
