// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The normal base with a trainable mean and standard deviation per feature. With u_d = (z_d - mean_d) e^-log_scale_d:
///
///   log p(z) = sum_d -u_d^2 / 2 - log_scale_d - log(2 pi) / 2
///   d/dz_d = -u_d e^-log_scale_d,   d/dmean_d = u_d e^-log_scale_d,   d/dlog_scale_d = u_d^2 - 1
///
/// A draw is z = mean + e^log_scale * noise, which is differentiated with the noise held fixed (Kingma & Welling 2014,
/// "Auto-encoding variational Bayes", section 2.4).

#include <cmath>
#include <rhei/core/distribution.hpp>

namespace rhei {

/// Independent normal features; the standard normal until it has been trained.
template <Real S>
class DiagonalNormal {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "diagonal_normal";

  struct Parameters {
    RowVector<S> mean;       ///< D
    RowVector<S> log_scale;  ///< D, log standard deviation

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("mean", self.mean);
      f("log_scale", self.log_scale);
    }
  };
  using Gradient = Parameters;
  struct Cache {
    Buffer<S> noise;  ///< n x D, of the last sample
  };

  /// Mean 0 and standard deviation 1.
  /// \throws std::invalid_argument if dim < 1.
  explicit DiagonalNormal(Index dim) {
    detail::check_value("DiagonalNormal", "dim", dim, dim >= 1, "at least 1");
    parameters_ = {RowVector<S>::Zero(dim), RowVector<S>::Zero(dim)};
  }

  [[nodiscard]] Index dim() const { return parameters_.mean.size(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }

  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()); }
  static DiagonalNormal from_options(const Options& options) { return DiagonalNormal(options.get_size("dim", 1)); }

  void log_prob(const Call<S>& call, ConstBatch<S> z, Values<S> log_p, Cache&) const {
    detail::check_log_prob("DiagonalNormal::log_prob", *this, call, z, log_p.size());
    const auto& [mean, log_scale] = parameters_;
    for (Index d = 0; d < dim(); ++d) {
      const S precision = std::exp(-log_scale[d]);
      log_p.array() -=
          S(0.5) * ((z.col(d).array() - mean[d]) * precision).square() + (log_scale[d] + S(detail::half_log_two_pi));
    }
  }

  void log_prob_pullback(const Call<S>&, ConstBatch<S> z, Cache&, ConstValues<S> d_log_p, Batch<S>* d_z, Batch<S>*,
                         Gradient* gradient) const {
    detail::check_log_prob_pullback("DiagonalNormal::log_prob_pullback", *this, z, d_log_p.size(), d_z);
    const auto& [mean, log_scale] = parameters_;
    for (Index d = 0; d < dim(); ++d) {
      const S precision = std::exp(-log_scale[d]);
      const auto u = (z.col(d).array() - mean[d]) * precision;
      if (d_z) d_z->col(d).array() = -precision * d_log_p.array() * u;
      if (gradient) {
        gradient->mean[d] += precision * (d_log_p.array() * u).sum();
        gradient->log_scale[d] += (d_log_p.array() * (u.square() - S(1))).sum();
      }
    }
  }

  void sample(const Call<S>& call, Batch<S> z, Cache& cache) const {
    Rng& rng = detail::check_sample("DiagonalNormal::sample", *this, call, z);
    Batch<S> noise = cache.noise.resize(z.rows(), z.cols());
    rng.fill_normal(noise);
    const auto& [mean, log_scale] = parameters_;
    for (Index d = 0; d < dim(); ++d) z.col(d).array() = noise.col(d).array() * std::exp(log_scale[d]) + mean[d];
  }

  void sample_pullback(const Call<S>&, ConstBatch<S>, Cache& cache, ConstBatch<S> d_z, Batch<S>*,
                       Gradient* gradient) const {
    const Batch<S> noise = cache.noise.view();
    detail::check_shape("DiagonalNormal::sample_pullback", "d_z", d_z.rows(), d_z.cols(), noise.rows(), noise.cols());
    if (!gradient) return;
    for (Index d = 0; d < dim(); ++d) {
      gradient->mean[d] += d_z.col(d).sum();
      gradient->log_scale[d] += std::exp(parameters_.log_scale[d]) * d_z.col(d).dot(noise.col(d));
    }
  }

  /// The same distribution in another scalar.
  template <Real T>
  [[nodiscard]] DiagonalNormal<T> cast() const {
    return cast_to<DiagonalNormal<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }

 private:
  Parameters parameters_;
};

}  // namespace rhei
