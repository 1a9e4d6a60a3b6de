// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Batch normalization as a flow layer (Dinh et al. 2016, "RealNVP", section 3.7 and appendix E; Papamakarios et al.
/// 2017, "MAF", section 3.4 and appendix B, equations 20-22).
///
///   inverse  z = (x - m) / s * exp(gamma) + beta     log|det| =  sum_d (gamma_d - log s_d)
///   forward  x = (z - beta) * exp(-gamma) * s + m    log|det| = -sum_d (gamma_d - log s_d)
///   s = sqrt(v + epsilon)
///
/// m and v are the mean and the (biased) variance of each feature:
///
/// - in training, `inverse` takes those of its batch, and its pullback goes through them;
/// - otherwise they are stored ones: running averages over the batches of training (RealNVP), which `update_state`
///   moves, or those of a whole data set (MAF), by `set_statistics`. `forward` always takes the stored ones, since the
///   statistics of a batch of latents say nothing of the data;
/// - with `call.repeat` either direction takes those that the cache holds, so that `forward` leads back exactly to the
///   batch that `inverse` was given in training.
///
/// In training the log-determinant is that of the map with m and v held fixed: what both papers maximize.

#include <algorithm>
#include <cmath>
#include <rhei/core/layer.hpp>
#include <stdexcept>

namespace rhei {
namespace detail {

/// Mean and biased variance of values.
struct Moments {
  double mean, variance;
};

/// Of n >= 1 values. They are counted from the first one, so that values that are all the same have no variance at all,
/// and short sums are added up in double, so that a mean over 10^6 floats keeps its digits.
template <Real S>
Moments moments_of(const S* values, Index n) {
  const auto mean_of = [&](auto&& term) {
    constexpr Index block = 256;
    double sum = 0;
    for (Index i = 0; i < n; i += block)
      sum += static_cast<double>(
          term(Eigen::Map<const Eigen::Array<S, Eigen::Dynamic, 1>>(values + i, std::min(block, n - i))).sum());
    return sum / static_cast<double>(n);
  };
  const S first = values[0];
  const double mean = static_cast<double>(first) + mean_of([&](const auto& part) { return part - first; });
  const S rounded = static_cast<S>(mean);
  return {mean, mean_of([&](const auto& part) { return (part - rounded).square(); })};
}

}  // namespace detail

/// How a BatchNorm layer averages.
struct BatchNormOptions {
  double momentum = 0.1;  ///< how far one batch moves the running averages towards its own, in (0, 1]
  double epsilon = 1e-5;  ///< what is added to every variance, > 0
};

/// Batch normalization of `dim` features.
template <Real S>
class BatchNorm {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "batch_norm";

  struct Parameters {
    RowVector<S> gamma;  ///< D, log of the standard deviation of the latent
    RowVector<S> beta;   ///< D, mean of the latent

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("gamma", self.gamma);
      f("beta", self.beta);
    }
  };
  using Gradient = Parameters;
  struct Cache {
    Buffer<S> mean, variance;    ///< 1 x D, of the batch that `inverse` saw in training; 1 x 0 with the stored ones
    bool through_batch = false;  ///< whether m and v were functions of the input
    RowVector<S> reciprocal;     ///< D, 1 / sqrt(v + epsilon), by `inverse`
    RowVector<S> scale;          ///< D, the factor of the direction applied
  };

  /// Until statistics are known, their place is taken by m = 0 and v = 1.
  /// \throws std::invalid_argument if dim < 1, or if an option is out of its range.
  explicit BatchNorm(Index dim, const BatchNormOptions& options = {}) : options_(options) {
    const auto& [momentum, epsilon] = options;
    detail::check_value("BatchNorm", "dim", dim, dim >= 1, "at least 1");
    detail::check_value("BatchNorm", "momentum", momentum, momentum > 0 && momentum <= 1, "more than 0 and at most 1");
    detail::check_value("BatchNorm", "epsilon", epsilon, static_cast<S>(epsilon) > 0 && std::isfinite(epsilon),
                        "more than 0 and finite");
    parameters_ = {RowVector<S>::Zero(dim), RowVector<S>::Zero(dim)};
    mean_ = RowVector<S>::Zero(dim);
    variance_ = RowVector<S>::Ones(dim);
  }

  [[nodiscard]] Index dim() const { return mean_.size(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  /// In training every row depends on all others; elsewhere none does.
  [[nodiscard]] static constexpr Traits traits() { return {.rows_independent = false, .affine = true}; }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }
  /// The stored statistics (D each): what evaluations outside of training use.
  [[nodiscard]] const RowVector<S>& running_mean() const { return mean_; }
  /// Biased, without epsilon.
  [[nodiscard]] const RowVector<S>& running_variance() const { return variance_; }
  /// How many batches or data sets the stored statistics come from.
  [[nodiscard]] std::int64_t batches_seen() const { return batches_seen_; }

  [[nodiscard]] Options options() const {
    return Options(type).set("dim", dim()).set("momentum", options_.momentum).set("epsilon", options_.epsilon);
  }
  static BatchNorm from_options(const Options& options) {
    return BatchNorm(options.get_size("dim", 1),
                     {.momentum = options.get_number("momentum"), .epsilon = options.get_number("epsilon")});
  }
  /// \throws std::runtime_error if a variance that was read is negative or NaN, or the number of batches negative.
  void check_state() const {
    for (Index d = 0; d < dim(); ++d)
      if (!(variance_[d] >= 0))
        throw std::runtime_error("BatchNorm: running_variance[" + std::to_string(d) + "] is " +
                                 std::to_string(variance_[d]) + ", expected at least 0");
    if (batches_seen_ < 0)
      throw std::runtime_error("BatchNorm: batches_seen is " + std::to_string(batches_seen_) + ", expected at least 0");
  }

  /// With the stored statistics, or with those of the cache where call.repeat is set.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("BatchNorm::forward", *this, call, z, x, log_det.size());
    if (!call.repeat) forget(cache);
    const auto [mean, variance] = statistics(cache);
    const auto& [gamma, beta] = parameters_;
    cache.scale = (variance.array() + epsilon()).sqrt() * (-gamma.array()).exp();
    if (z.rows() == 1)  // one row is contiguous
      x.array() = (z.array() - ConstBatch<S>(beta).array()) * ConstBatch<S>(cache.scale).array() + mean.array();
    else
      for (Index d = 0; d < dim(); ++d) x.col(d).array() = (z.col(d).array() - beta[d]) * cache.scale[d] + mean(0, d);
    log_det.array() -= log_det_of(variance);
  }

  /// With the statistics of the batch in training, with the stored ones elsewhere.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("BatchNorm::inverse", *this, call, x, z, log_det.size());
    if (!call.repeat) call.training&& x.rows() > 0 ? take_statistics(x, cache) : forget(cache);
    cache.through_batch = call.training && cache.mean.view().cols() > 0;
    const auto [mean, variance] = statistics(cache);
    const auto& [gamma, beta] = parameters_;
    cache.reciprocal = (variance.array() + epsilon()).sqrt().inverse();
    cache.scale = cache.reciprocal.array() * gamma.array().exp();
    if (x.rows() == 1)
      z.array() = (x.array() - mean.array()) * ConstBatch<S>(cache.scale).array() + ConstBatch<S>(beta).array();
    else
      for (Index d = 0; d < dim(); ++d) z.col(d).array() = (x.col(d).array() - mean(0, d)) * cache.scale[d] + beta[d];
    log_det.array() += log_det_of(variance);
  }

  /// d_z = d_x exp(-gamma) sqrt(v + epsilon): m and v are constants here.
  void forward_pullback(const Call<S>&, ConstBatch<S> z, ConstBatch<S>, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>*, Gradient* gradient) const {
    const S d_sum = d_log_det.sum();
    for (Index d = 0; d < dim(); ++d) {
      const S scale = cache.scale[d];
      if (d_z) d_z->col(d) = scale * d_x.col(d);
      if (gradient) {
        gradient->gamma[d] -= scale * (d_x.col(d).array() * (z.col(d).array() - parameters_.beta[d])).sum() + d_sum;
        gradient->beta[d] -= scale * d_x.col(d).sum();
      }
    }
  }

  /// With r = 1 / sqrt(v + epsilon), xh = (x - m) r and n rows, m and v functions of x:
  /// d_x = r exp(gamma) (d_z - mean(d_z) - xh mean(d_z xh)) - r xh sum(d_log_det) / n.
  void inverse_pullback(const Call<S>&, ConstBatch<S> x, ConstBatch<S>, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>*, Gradient* gradient) const {
    const ConstBatch<S> mean = statistics(cache).mean;
    const S d_sum = d_log_det.sum();
    for (Index d = 0; d < dim(); ++d) {
      const S scale = cache.scale[d], reciprocal = cache.reciprocal[d];
      const auto centred = x.col(d).array() - mean(0, d);
      const S d_shift = d_z.col(d).sum();
      const S d_scale = (d_z.col(d).array() * centred).sum();  // of z = centred * scale + beta
      if (gradient) {
        gradient->gamma[d] += scale * d_scale + d_sum;
        gradient->beta[d] += d_shift;
      }
      if (!d_x) continue;
      if (cache.through_batch) {
        const S n = static_cast<S>(x.rows());
        const S slope = reciprocal * reciprocal * (scale * d_scale + d_sum) / n;
        d_x->col(d).array() = scale * (d_z.col(d).array() - d_shift / n) - slope * centred;
      } else {
        d_x->col(d) = scale * d_z.col(d);
      }
    }
  }

  /// Starts from the statistics of x (n x D), unless some are known already.
  /// \throws std::invalid_argument as set_statistics() does.
  void initialize(const Call<S>&, ConstBatch<S> x) {
    if (batches_seen_ == 0) set_statistics(x);
  }

  /// Replaces the stored statistics by those of x (n x D): of the whole data that reaches this layer, as the paper on
  /// MAF evaluates.
  /// \throws std::invalid_argument if x has no rows, not D columns, or a column whose variance is not finite; then
  /// nothing is changed.
  void set_statistics(ConstBatch<S> x) {
    detail::check_shape("BatchNorm::set_statistics", "x", x.rows(), x.cols(), -1, dim());
    detail::check_value("BatchNorm::set_statistics", "the number of rows", x.rows(), x.rows() > 0, "at least 1");
    RowVector<S> mean(dim()), variance(dim());
    for (Index d = 0; d < dim(); ++d) {
      const auto moments = detail::moments_of(x.col(d).data(), x.rows());
      mean[d] = static_cast<S>(moments.mean);
      variance[d] = static_cast<S>(moments.variance);
      detail::check_value("BatchNorm::set_statistics", "the variance of column " + std::to_string(d) + " of x",
                          variance[d], std::isfinite(variance[d]), "a finite value");
    }
    mean_.swap(mean);
    variance_.swap(variance);
    batches_seen_ = std::max<std::int64_t>(batches_seen_, 1);
  }

  /// After an optimizer's step: moves the running averages towards the statistics of the batch whose evaluation in
  /// training filled `cache`; the first batch of all replaces them. Does nothing after another kind of evaluation.
  void update_state(const Cache& cache) {
    const ConstBatch<S> mean = cache.mean.view(), variance = cache.variance.view();
    if (mean.cols() != dim()) return;
    const S by = batches_seen_ == 0 ? S(1) : static_cast<S>(options_.momentum);
    mean_ += by * (mean - mean_);
    variance_ += by * (variance - variance_);
    ++batches_seen_;
  }

  /// Calls f(Buffer<S>&) for what a cache must keep so that the evaluation can be repeated.
  template <class F>
  static void each_memory(Cache& cache, F&& f) {
    f(cache.mean);
    f(cache.variance);
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] BatchNorm<T> cast() const {
    return cast_to<BatchNorm<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("running_mean", self.mean_);
    f("running_variance", self.variance_);
    f("batches_seen", self.batches_seen_);
  }

 private:
  struct Statistics {
    ConstBatch<S> mean, variance;  ///< 1 x D
  };

  [[nodiscard]] S epsilon() const { return static_cast<S>(options_.epsilon); }

  static void forget(Cache& cache) {
    cache.mean.resize(1, 0);
    cache.variance.resize(1, 0);
  }

  void take_statistics(ConstBatch<S> x, Cache& cache) const {
    Batch<S> mean = cache.mean.resize(1, dim()), variance = cache.variance.resize(1, dim());
    for (Index d = 0; d < dim(); ++d) {
      const auto moments = detail::moments_of(x.col(d).data(), x.rows());
      mean(0, d) = static_cast<S>(moments.mean);
      variance(0, d) = static_cast<S>(moments.variance);
    }
  }

  /// What an evaluation uses: the statistics in its cache, or, where that has none, the stored ones.
  [[nodiscard]] Statistics statistics(const Cache& cache) const {
    if (cache.mean.view().cols() == dim()) return {cache.mean.view(), cache.variance.view()};
    return {ConstBatch<S>(mean_), ConstBatch<S>(variance_)};
  }

  /// log|det dz/dx|, summed from logarithms: a product of 200 standard deviations would underflow.
  [[nodiscard]] S log_det_of(ConstBatch<S> variance) const {
    return parameters_.gamma.sum() - S(0.5) * (variance.array() + epsilon()).log().sum();
  }

  BatchNormOptions options_;
  Parameters parameters_;
  RowVector<S> mean_, variance_;
  std::int64_t batches_seen_ = 0;
};

}  // namespace rhei
