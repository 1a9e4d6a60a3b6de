// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A mixture of K normals with diagonal covariances, all of it trainable. With w = softmax(logits) and
/// u_kd = (z_d - means_kd) e^-log_scales_kd, the joint density of component and point and the density are
///
///   log j_k(z) = log w_k + sum_d -u_kd^2 / 2 - log_scales_kd - log(2 pi) / 2
///   log p(z)   = m + log sum_k e^(log j_k - m),   m = max_k log j_k
///
/// and every derivative is an average over the responsibilities r_k = j_k / p (Bishop 2006, "Pattern recognition and
/// machine learning", section 9.2.2; d means and log_scales are its equations 9.16 and 9.19 before they are solved):
///
///   d/dlogits_k = r_k - w_k,                     d/dz_d = -sum_k r_k u_kd e^-log_scales_kd
///   d/dmeans_kd = r_k u_kd e^-log_scales_kd,     d/dlog_scales_kd = r_k (u_kd^2 - 1)

#include <algorithm>
#include <cmath>
#include <limits>
#include <rhei/core/distribution.hpp>

namespace rhei {

/// A mixture of diagonal normals over `dim` features.
///
/// The choice of a component is not a differentiable function of the weights, so there is no `sample_pullback`.
template <Real S>
class GaussianMixture {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "gaussian_mixture";

  struct Parameters {
    RowVector<S> logits;   ///< K, the log-weights up to a constant
    Matrix<S> means;       ///< K x D
    Matrix<S> log_scales;  ///< K x D, log standard deviations

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("logits", self.logits);
      f("means", self.means);
      f("log_scales", self.log_scales);
    }
  };
  using Gradient = Parameters;
  struct Cache {
    Buffer<S> responsibility;  ///< n x K
    Buffer<S> precision;       ///< K x D, e^-log_scales
    Buffer<S> scratch;         ///< n x 2 in log_prob and its pullback, K x 2 in sample
    Buffer<Index> component;   ///< n, of the last sample
  };

  /// Equal weights, unit scales and means drawn from the standard normal.
  /// \throws std::invalid_argument if dim or components is less than 1.
  GaussianMixture(Index dim, Index components, Rng& rng) : GaussianMixture(dim, components) {
    rng.fill_normal(parameters_.means);
  }

  [[nodiscard]] Index dim() const { return parameters_.means.cols(); }
  /// K.
  [[nodiscard]] Index components() const { return parameters_.means.rows(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }

  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()).set("components", components()); }
  static GaussianMixture from_options(const Options& options) {
    const Index dim = options.get_size("dim", 1), components = options.get_size("components", 1);
    options.check_tensor(components, dim);
    return GaussianMixture(dim, components);
  }

  void log_prob(const Call<S>& call, ConstBatch<S> z, Values<S> log_p, Cache& cache) const {
    detail::check_log_prob("GaussianMixture::log_prob", *this, call, z, log_p.size());
    const auto& [logits, means, log_scales] = parameters_;
    Batch<S> precision = cache.precision.resize(components(), dim());
    precision.array() = (-log_scales.array()).exp();
    Batch<S> joint = cache.responsibility.resize(z.rows(), components());
    Batch<S> scratch = cache.scratch.resize(z.rows(), 2);
    auto largest = scratch.col(0).array(), total = scratch.col(1).array();

    const S log_normalizer = log_total_weight() + static_cast<S>(dim()) * S(detail::half_log_two_pi);
    largest.setConstant(-std::numeric_limits<S>::infinity());
    for (Index k = 0; k < components(); ++k) {
      auto joint_k = joint.col(k).array();
      joint_k.setConstant(logits[k] - log_scales.row(k).sum() - log_normalizer);
      for (Index d = 0; d < dim(); ++d)
        joint_k -= S(0.5) * ((z.col(d).array() - means(k, d)) * precision(k, d)).square();
      largest = largest.max(joint_k);
    }
    total.setZero();
    for (Index k = 0; k < components(); ++k) {  // the bound is for rows where all are -infinity, and so is the result
      joint.col(k).array() = (joint.col(k).array() - largest.max(std::numeric_limits<S>::lowest())).exp();
      total += joint.col(k).array();
    }
    log_p.array() += largest + total.log();
    // Now the responsibilities. What is nothing beside 1 becomes 0: left subnormal, it made the pullback ten times
    // slower.
    constexpr S tiny = std::numeric_limits<S>::min() * S(1e8);
    for (Index k = 0; k < components(); ++k) joint.col(k).array() = (joint.col(k).array() - tiny).max(S(0)) / total;
  }

  void log_prob_pullback(const Call<S>&, ConstBatch<S> z, Cache& cache, ConstValues<S> d_log_p, Batch<S>* d_z,
                         Batch<S>*, Gradient* gradient) const {
    const std::string_view where = "GaussianMixture::log_prob_pullback";
    detail::check_log_prob_pullback(where, *this, z, d_log_p.size(), d_z);
    const Batch<S> responsibility = cache.responsibility.view(), precision = cache.precision.view();
    detail::check_shape(where, "what the cache remembers", responsibility.rows(), responsibility.cols(), z.rows(),
                        components());
    const auto& [logits, means, log_scales] = parameters_;
    Batch<S> scratch = cache.scratch.resize(z.rows(), 2);
    auto weight = scratch.col(0).array(), pull = scratch.col(1).array();

    const S log_normalizer = log_total_weight();
    if (d_z) d_z->setZero();
    for (Index k = 0; k < components(); ++k) {
      weight = d_log_p.array() * responsibility.col(k).array();
      const S mass = weight.sum();
      if (gradient) gradient->logits[k] += mass - std::exp(logits[k] - log_normalizer) * d_log_p.sum();
      for (Index d = 0; d < dim(); ++d) {
        const auto u = (z.col(d).array() - means(k, d)) * precision(k, d);
        pull = weight * u;
        if (d_z) d_z->col(d).array() -= precision(k, d) * pull;
        if (gradient) {
          gradient->means(k, d) += precision(k, d) * pull.sum();
          gradient->log_scales(k, d) += (pull * u).sum() - mass;
        }
      }
    }
  }

  void sample(const Call<S>& call, Batch<S> z, Cache& cache) const {
    Rng& rng = detail::check_sample("GaussianMixture::sample", *this, call, z);
    const auto& [logits, means, log_scales] = parameters_;
    const Index last = components() - 1;
    Batch<S> scratch = cache.scratch.resize(components(), 2);
    auto cumulative = scratch.col(0), scale = scratch.col(1);
    cumulative.array() = (logits.transpose().array() - logits.maxCoeff()).exp();
    for (Index k = 1; k <= last; ++k) cumulative[k] += cumulative[k - 1];

    cache.component.resize(z.rows(), 1);
    Values<Index> component = cache.component.values();
    for (Index& k : component) {
      const double u = rng.uniform<double>() * static_cast<double>(cumulative[last]);
      k = std::upper_bound(cumulative.data(), cumulative.data() + last, u) - cumulative.data();
    }
    rng.fill_normal(z);
    for (Index d = 0; d < dim(); ++d) {
      scale.array() = log_scales.col(d).array().exp();
      for (Index i = 0; i < z.rows(); ++i) z(i, d) = means(component[i], d) + scale[component[i]] * z(i, d);
    }
  }

  /// The same distribution in another scalar.
  template <Real T>
  [[nodiscard]] GaussianMixture<T> cast() const {
    return cast_to<GaussianMixture<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }

 private:
  /// Equal standard normals.
  GaussianMixture(Index dim, Index components) {
    detail::check_value("GaussianMixture", "dim", dim, dim >= 1, "at least 1");
    detail::check_value("GaussianMixture", "components", components, components >= 1, "at least 1");
    parameters_ = {RowVector<S>::Zero(components), Matrix<S>::Zero(components, dim), Matrix<S>::Zero(components, dim)};
  }

  /// log sum_k e^logits_k.
  [[nodiscard]] S log_total_weight() const {
    const S largest = parameters_.logits.maxCoeff();
    return largest + std::log((parameters_.logits.array() - largest).exp().sum());
  }

  Parameters parameters_;
};

}  // namespace rhei
