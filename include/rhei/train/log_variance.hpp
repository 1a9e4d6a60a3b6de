// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Learning from an unnormalised density p~ without its gradient: how much the log-ratio to the flow q varies,
///
///   1/2 Var_{x ~ r}[f],  f = log q(x) - log p~(x)                      (Nüsken & Richter 2021)
///
/// which is 0 just where q = p. The draws x are held fixed, so that the gradient is E_r[(f - E_r f) dlog q(x)/dtheta];
/// with draws of q itself its mean is that of the reverse divergence, with little noise near the optimum (Richter et
/// al. 2020, "VarGrad"). Two things tell it from ReverseKl:
///
/// - Separate modes of the target are held in proportion: a mode with too much mass has too large an f all over. The
///   path gradient sees only how f changes within a mode, and lets the proportion drift.
/// - The draws may be wider than q's, x = forward(width z), each weighted by base(width z) / (base(z) / width^D). The
///   mean stays; but where q has one draw in ten thousand, and may be wrong by thousands of nats, there are many now,
///   each of a small weight.

#include <rhei/train/draws.hpp>

namespace rhei {

/// Half the variance of log q - log p~ over draws of a flow q whose layers treat rows by themselves. The loss that a
/// step reports is that of ReverseKl, KL(q || p) - log Z, of whose gradient this one's is an estimate.
///
/// The variance is that of the draws of each thread; with n of them the gradient is on average 1 - 1/n of ReverseKl's.
/// It needs what q misses to be drawn, so begin from a flow that has every mode (by maximum likelihood, or with a width
/// that reaches them).
template <class Target>
class LogVariance {
 public:
  static constexpr std::string_view type = "log_variance";
  template <Real S>
  using Batch = DrawView<S>;
  template <class Model>
  struct Workspace : detail::DrawsWorkspace<Model, Target> {
    Buffer<typename Model::Scalar> weights;  ///< n
  };

  /// target: see LogDensity; its gradient is not read. width: of the draws, in units of the base's own, which with a
  /// width above 1 must have a density everywhere; 1.5 covers tails well in few dimensions, while in D dimensions the
  /// weights' effective number falls as (2 / width^2 - 1 / width^4)^(D/2).
  /// \throws std::invalid_argument if width < 1 or is not finite.
  explicit LogVariance(Target target, double width = 1) : target_(std::move(target)), width_(width) {
    detail::check_value("LogVariance", "width", width, width >= 1 && std::isfinite(width), "at least 1");
  }

  /// The share's part of the mean of log q - log p~, in nats; one draw, one log_prob and its pullback.
  /// \throws std::invalid_argument if the rows of a batch depend on each other in a layer.
  template <class Model, Real S = typename Model::Scalar>
  double differentiate(const Model& model, const Call<S>& call, const DrawView<S>& share, const StepInfo& of,
                       Workspace<Model>& work, typename Model::Gradient& gradient) const {
    static_assert(LogDensity<Target, S>, "the target cannot be called as LogDensity says");
    if (!model.transform().traits().rows_independent)
      detail::throw_invalid("LogVariance",
                            "a layer's rows depend on each other, so that the density of a draw is not defined: "
                            "use ReverseKl with Estimator::total");
    const Index n = share.n;
    draw(model, call, n, work);
    rhei::Batch<S> x = work.x.view();
    Values<S> log_q = work.log_q.values(), log_p = work.log_p.resize(n), f = work.log_again.resize(n);
    const ConstValues<S> weights = work.weights.values();
    detail::evaluate<S>(target_, x, call.context, log_p, work.score_p.resize(n, model.dim()), work.target);
    log_q.setZero();
    model.log_prob(call, x, log_q, work.cache);
    f = log_q - log_p;

    const double sum = weights.template cast<double>().dot(f.template cast<double>());
    const S mean = static_cast<S>(sum / weights.template cast<double>().sum());
    Values<S> d_log_q = work.d_log.resize(n);
    d_log_q.array() = weights.array() * (f.array() - mean) / static_cast<S>(of.rows);
    model.log_prob_pullback(call, x, work.cache, d_log_q, nullptr, nullptr, &gradient);
    return sum / static_cast<double>(of.rows);
  }

  template <class Model, Real S = typename Model::Scalar>
  std::string first_not_finite(const Model& model, const Call<S>& call, const DrawView<S>&,
                               const Workspace<Model>& work) const {
    return detail::first_draw_not_finite(model, call, work);
  }

 private:
  /// Fills z, x and weights.
  template <class Model, Real S = typename Model::Scalar>
  void draw(const Model& model, const Call<S>& call, Index n, Workspace<Model>& work) const {
    const Call<S> base_call = detail::call_for(call, model.base().context_dim());
    rhei::Batch<S> z = work.z.resize(n, model.dim()), x = work.x.resize(n, model.dim());
    Values<S> weights = work.weights.resize(n), unread = work.log_q.resize(n);
    model.base().sample(base_call, z, work.drawn);
    if (width_ == 1) {
      weights.setOnes();
    } else {
      weights.setZero();
      model.base().log_prob(base_call, z, weights, work.cache.base);
      weights.array() = static_cast<S>(static_cast<double>(model.dim()) * std::log(width_)) - weights.array();
      z *= static_cast<S>(width_);
      model.base().log_prob(base_call, z, weights, work.cache.base);
      weights.array() = weights.array().exp();
    }
    Call<S> transform_call = detail::call_for(call, model.transform().context_dim());
    transform_call.keep = Keep::nothing;  // what is differentiated is the density at x
    unread.setZero();
    model.transform().forward(transform_call, z, x, unread, work.cache.transform);
  }

  Target target_;
  double width_;
};

}  // namespace rhei
