// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// MADE MoG (Papamakarios et al. 2017, section 4): a product of one-dimensional mixtures of normals, where a MADE reads
/// the features before i (and the context) and gives the weights, means and scales of the mixture for feature i:
///
///   p(z_i | z_<i) = sum_k w_k N(z_i; mu_k, e^{2 s_k})        w = softmax(logits), all of them made(z_<i, context)
///
/// With u_k = (z_i - mu_k) e^-s_k and the responsibilities r_k = w_k N_k / p:
///
///   dlog p/dlogits_k = r_k - w_k,       dlog p/dmu_k = r_k u_k e^-s_k,
///   dlog p/ds_k = r_k (u_k^2 - 1),      dlog p/dz_i = -sum_k r_k u_k e^-s_k  (and what comes back through the net)
///
/// Log-scales pass a soft clamp at +-7: a mixture component that collapses on one point would else end a training.

#include <cmath>
#include <limits>
#include <rhei/core/distribution.hpp>
#include <rhei/nn/made.hpp>
#include <rhei/transformers/scale_map.hpp>

namespace rhei {

/// What a MADE mixture is made of.
struct MadeMixtureOptions {
  Index components = 10;  ///< normals of each feature, K
  MadeOptions net = {};   ///< hidden layers of the conditioner
  Index context_dim = 0;  ///< columns of the context
};

/// An autoregressive mixture of normals over `dim` features in their order. Draws take one sweep of the net; the choice
/// of a component is not a differentiable function of the weights, so there is no `sample_pullback`.
template <Real S>
class MadeMixture {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "made_mixture";

  struct Gradient {
    typename Made<S>::Gradient net;  ///< of the conditioner

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("net", self.net);
    }
  };
  /// What a MADE gives for feature i is logits, means, raw log-scales: K columns of each.
  struct Cache {
    typename Made<S>::Cache net;  ///< of the conditioner
    Buffer<S> raw;                ///< n x (3 K D)
    Buffer<S> weight;             ///< n x (K D), w
    Buffer<S> share;              ///< n x (K D), r
    Buffer<S> distance;           ///< n x (K D), u
    Buffer<S> log_scale;          ///< n x (K D), s
    Buffer<S> scratch;            ///< n x 2
    Buffer<S> d_raw, d_in;        ///< scratch of the pullback
  };

  /// Means spread evenly over -2 ... 2 at first, with scales that let them overlap.
  /// \throws std::invalid_argument if a size is not possible.
  MadeMixture(Index dim, const MadeMixtureOptions& options, Rng& rng)
      : MadeMixture(Made<S>(dim, 3 * checked(options.components), options.context_dim, options.net, rng)) {
    const Index k = components();
    for (Index i = 0; i < dim; ++i) {
      auto bias = net_.parameters().bias.back().segment(3 * k * i, 3 * k);
      if (k > 1) bias.segment(k, k) = RowVector<S>::LinSpaced(k, S(-2), S(2));
      bias.tail(k).setConstant(k > 1 ? static_cast<S>(std::log(4.0 / static_cast<double>(k))) : S(0));
    }
  }

  [[nodiscard]] Index dim() const { return net_.features(); }
  [[nodiscard]] Index context_dim() const { return net_.context_dim(); }
  /// K.
  [[nodiscard]] Index components() const { return net_.outputs_per_feature() / 3; }
  [[nodiscard]] Gradient make_gradient() const { return {net_.make_gradient()}; }
  [[nodiscard]] Made<S>& net() { return net_; }
  [[nodiscard]] const Made<S>& net() const { return net_; }

  [[nodiscard]] Options options() const { return Options(type).set("net", net_.options()); }
  static MadeMixture from_options(const Options& options) {
    return MadeMixture(Made<S>::from_options(options.get<Options>("net")));
  }
  void check_state() { net_.check_state(); }

  void log_prob(const Call<S>& call, ConstBatch<S> z, Values<S> log_p, Cache& cache) const {
    detail::check_log_prob("MadeMixture::log_prob", *this, call, z, log_p.size());
    const Index n = z.rows(), k = components();
    Batch<S> raw = cache.raw.resize(n, net_.outputs());
    net_.forward(z, call.context, raw, cache.net);
    for (Buffer<S>* buffer : {&cache.weight, &cache.share, &cache.distance, &cache.log_scale})
      buffer->resize(n, k * dim());
    Batch<S> scratch = cache.scratch.resize(n, 2);
    auto largest = scratch.col(0).array(), total = scratch.col(1).array();
    // To weights of sum 1; leaves the largest and the sum of e^(log - largest). What is nothing beside 1 becomes 0:
    // left subnormal, it would make all that follows slow.
    constexpr S tiny = std::numeric_limits<S>::min() * S(1e8);
    const auto exponentiate = [&](Batch<S> logs) {
      largest = logs.rowwise().maxCoeff().array();
      total.setZero();  // the bound below is for rows where all are -infinity, and so is the result
      for (Index j = 0; j < k; ++j) {
        logs.col(j).array() = (logs.col(j).array() - largest.max(std::numeric_limits<S>::lowest())).exp();
        total += logs.col(j).array();
      }
      for (Index j = 0; j < k; ++j) logs.col(j).array() = (logs.col(j).array() - tiny).max(S(0)) / total;
    };
    for (Index i = 0; i < dim(); ++i) {
      const Batch<S> parameters = raw.features(3 * k * i, 3 * k);
      Batch<S> weight = cache.weight.view().features(k * i, k), share = cache.share.view().features(k * i, k);
      Batch<S> distance = cache.distance.view().features(k * i, k), log_scale = log_scales(cache, i);
      log_scale_map().apply(flat(ConstBatch<S>(parameters.features(2 * k, k))), flat(log_scale));
      weight = parameters.features(0, k);
      for (Index j = 0; j < k; ++j) {
        auto u = distance.col(j).array();
        u = (z.col(i).array() - parameters.col(k + j).array()) * (-log_scale.col(j).array()).exp();
        share.col(j).array() = weight.col(j).array() - S(0.5) * u.square() - log_scale.col(j).array();
      }
      exponentiate(weight);
      log_p.array() -= largest + total.log() + S(detail::half_log_two_pi);
      exponentiate(share);
      log_p.array() += largest + total.log();
    }
  }

  void log_prob_pullback(const Call<S>& call, ConstBatch<S> z, Cache& cache, ConstValues<S> d_log_p, Batch<S>* d_z,
                         Batch<S>* d_context, Gradient* gradient) const {
    const std::string_view where = "MadeMixture::log_prob_pullback";
    detail::check_log_prob_pullback(where, *this, z, d_log_p.size(), d_z);
    detail::check_shape(where, "what the cache remembers", cache.raw.view().rows(), cache.raw.view().cols(), z.rows(),
                        net_.outputs());
    const Index n = z.rows(), k = components();
    Batch<S> d_raw = cache.d_raw.resize(n, net_.outputs()), d_in = cache.d_in.resize(n, dim());
    for (Index i = 0; i < dim(); ++i) {
      const Batch<S> weight = cache.weight.view().features(k * i, k), share = cache.share.view().features(k * i, k);
      const Batch<S> distance = cache.distance.view().features(k * i, k), log_scale = log_scales(cache, i);
      Batch<S> d = d_raw.features(3 * k * i, 3 * k), d_log_scale = d.features(2 * k, k);
      d_in.col(i).setZero();
      for (Index j = 0; j < k; ++j) {
        const auto r = share.col(j).array(), u = distance.col(j).array();
        d.col(j).array() = d_log_p.array() * (r - weight.col(j).array());
        d.col(k + j).array() = d_log_p.array() * r * u * (-log_scale.col(j).array()).exp();
        d_log_scale.col(j).array() = d_log_p.array() * r * (u.square() - S(1));
        d_in.col(i) -= d.col(k + j);
      }
      const Batch<S> raw_scale = cache.raw.view().features(3 * k * i + 2 * k, k);
      log_scale_map().pull_back(flat(ConstBatch<S>(raw_scale)), flat(d_log_scale));
    }
    net_.pullback(z, call.context, cache.net, d_raw, d_z, d_context, gradient ? &gradient->net : nullptr);
    if (d_z) *d_z += d_in;
  }

  void sample(const Call<S>& call, Batch<S> z, Cache& cache) const {
    Rng& rng = detail::check_sample("MadeMixture::sample", *this, call, z);
    const Index k = components();
    Batch<S> raw = cache.raw.resize(z.rows(), net_.outputs());
    Batch<S> log_scale = cache.log_scale.resize(z.rows(), k);
    net_.sweep(z, call.context, raw, cache.net, [&](Index i) {
      Batch<S> parameters = raw.features(3 * k * i, 3 * k);
      log_scale_map().apply(flat(ConstBatch<S>(parameters.features(2 * k, k))), flat(log_scale));
      for (Index row = 0; row < z.rows(); ++row) {
        const auto logits = parameters.row(row).head(k);
        const S largest = logits.maxCoeff();
        S left = rng.template uniform<S>() * (logits.array() - largest).exp().sum();
        Index j = 0;
        for (; j + 1 < k; ++j) {
          left -= std::exp(logits[j] - largest);
          if (left < 0) break;
        }
        z(row, i) = parameters(row, k + j) + std::exp(log_scale(row, j)) * rng.template normal<S>();
      }
    });
  }

  template <Real T>
  [[nodiscard]] MadeMixture<T> cast() const {
    return cast_to<MadeMixture<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    f("net", self.net_);
  }
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("net", self.net_);
  }

 private:
  explicit MadeMixture(Made<S> net) : net_(std::move(net)) {
    const Index outputs = net_.outputs_per_feature();
    detail::check_value("MadeMixture", "the net's number of outputs per feature", outputs, outputs % 3 == 0,
                        "a multiple of 3");
  }
  static Index checked(Index components) {
    detail::check_value("MadeMixture", "components", components, components >= 1, "at least 1");
    return components;
  }
  static ScaleMap log_scale_map() { return ScaleMap::softsign(7); }
  static Values<S> flat(Batch<S> batch) { return {batch.data(), batch.size()}; }
  static ConstValues<S> flat(ConstBatch<S> batch) { return {batch.data(), batch.size()}; }
  Batch<S> log_scales(Cache& cache, Index i) const {
    return cache.log_scale.view().features(components() * i, components());
  }

  Made<S> net_;
};

}  // namespace rhei
