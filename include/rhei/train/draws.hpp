// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The draws of a flow q and their derivatives: what the objectives share that learn from them.
///
///   z ~ base, x = forward(z), log q(x) = log base(z) - log|det dx/dz|
///
/// A draw is a differentiable function of all parameters: those of the layers through `forward`, those of the base
/// through its reparameterised sample (Kingma & Welling 2014, section 2.4).

#include <memory>
#include <rhei/train/log_density.hpp>
#include <rhei/train/objective.hpp>

namespace rhei::detail {

/// The memory of a thread for draws of a flow and a target's opinion of them.
template <class Model, class Target>
struct DrawsWorkspace {
  using S = typename Model::Scalar;
  typename Model::Cache cache;        ///< of the flow at the draws; its `transform` is that of `forward`
  typename Model::Base::Cache drawn;  ///< of the base's sample
  typename Model::Cache at_x;         ///< of log q as a function of x alone
  typename TargetCache<Target>::type target;
  Buffer<S> z, x;                    ///< n x D
  Buffer<S> log_q, log_p;            ///< n
  Buffer<S> score_q, score_p;        ///< n x D, d log q(x) / dx with fixed parameters, d log p~(x) / dx
  Buffer<S> d_log, ones, log_again;  ///< n
  Buffer<S> d_x, d_z, d_z_base;      ///< n x D
  Buffer<S> context;                 ///< where rows are drawn several times
  Buffer<S> rebuilt;                 ///< n x D, z with Keep::output
  Replay<S> replay;
};

template <class Model, class Target>
class Draws {
 public:
  using S = typename Model::Scalar;
  using Workspace = DrawsWorkspace<Model, Target>;
  using Base = typename Model::Base;
  static_assert(Reparameterized<Base>, "the base has no differentiable sample (sample_pullback)");

  Draws(const Model& model, const Call<S>& call, Workspace& work) : model_(model), call_(call), work_(work) {}

  /// Draws n rows: fills z, x, log_q, log_p and score_p.
  void draw(const Target& target, Index n) {
    Batch<S> z = work_.z.resize(n, model_.dim()), x = work_.x.resize(n, model_.dim());
    Values<S> log_q = work_.log_q.resize(n);
    model_.base().sample(base_call(), z, work_.drawn);
    log_q.setZero();
    model_.transform().forward(transform_call(), z, x, log_q, work_.cache.transform);
    log_q = -log_q;
    model_.base().log_prob(base_call(), z, log_q, work_.cache.base);
    evaluate<S>(target, x, call_.context, work_.log_p.resize(n), work_.score_p.resize(n, model_.dim()), work_.target);
  }

  /// Fills score_q: d log q(x) / dx at the draws, as if x did not depend on the parameters.
  void score() {
    if (!model_.transform().traits().rows_independent)
      throw_invalid("the path-gradient estimator",
                    "a layer's rows depend on each other, so that the score of a draw is not defined: "
                    "use Estimator::total");
    const Index n = work_.x.view().rows();
    Values<S> ones = work_.ones.resize(n), log_q = work_.log_again.resize(n);
    Batch<S> score = work_.score_q.resize(n, model_.dim());
    ones.setOnes();
    log_q.setZero();
    model_.log_prob(call_, work_.x.view(), log_q, work_.at_x);
    model_.log_prob_pullback(call_, work_.x.view(), work_.at_x, ones, &score, nullptr, nullptr);
  }

  /// Adds to gradient what dL/dx = d_x and dL/dlog q(x) = d_log_q (the same for all rows; q as it depends on the draw
  /// and on the parameters) make of it.
  void pull_back(ConstBatch<S> d_x, S d_log_q, typename Model::Gradient& gradient) {
    const Index n = d_x.rows();
    Values<S> d_log = work_.d_log.resize(n);
    Batch<S> d_z = work_.d_z.resize(n, model_.dim());
    d_log.setConstant(-d_log_q);
    // where the base has nothing to learn, nothing reads the derivative by its draws
    Batch<S>* const wanted = kLearnedBase ? &d_z : nullptr;
    const ConstBatch<S> z = work_.z.view(), x = work_.x.view();
    if (call_.keep == Keep::output) {
      Batch<S> rebuilt = work_.rebuilt.resize(n, model_.dim());
      replay_forward_pullback(model_.transform(), transform_call(), rebuilt, x, work_.cache.transform, d_x,
                              ConstValues<S>(d_log), wanted, static_cast<Batch<S>*>(nullptr), &gradient.transform,
                              work_.replay);
      work_.cache.round_trip = round_trip_error<S>(rebuilt, z);
    } else {
      model_.transform().forward_pullback(transform_call(), z, x, work_.cache.transform, d_x, d_log, wanted, nullptr,
                                          &gradient.transform);
    }
    if constexpr (kLearnedBase) {
      if (d_log_q != 0) {
        Batch<S> d_z_base = work_.d_z_base.resize(n, model_.dim());
        d_log.setConstant(d_log_q);
        model_.base().log_prob_pullback(base_call(), z, work_.cache.base, d_log, &d_z_base, nullptr, &gradient.base);
        d_z += d_z_base;
      }
      model_.base().sample_pullback(base_call(), z, work_.drawn, d_z, nullptr, &gradient.base);
    }
  }

 private:
  static constexpr bool kLearnedBase = !std::same_as<typename Base::Gradient, NoParameters>;

  [[nodiscard]] Call<S> base_call() const { return call_for(call_, model_.base().context_dim()); }
  [[nodiscard]] Call<S> transform_call() const { return call_for(call_, model_.transform().context_dim()); }

  const Model& model_;
  const Call<S>& call_;
  Workspace& work_;
};

/// The first part of the last evaluation that was not finite; see Objective.
template <class Model, class Target, Real S = typename Model::Scalar>
std::string first_draw_not_finite(const Model& model, const Call<S>& call, const DrawsWorkspace<Model, Target>& work) {
  if (!work.x.values().allFinite() || !work.log_q.values().allFinite()) {
    if (!work.z.values().allFinite()) return "a draw of the base";
    const std::string layer = first_layer_not_finite(model, call, work.z.view(), Sweep::latent_to_data);
    return layer.empty() ? "the base density" : layer;
  }
  if (!work.log_p.values().allFinite()) return "the log-density of the target";
  if (!work.score_p.values().allFinite()) return "the gradient of the target";
  if (!work.score_q.values().allFinite()) return "the gradient of the flow's log-density at its draws";
  return {};
}

}  // namespace rhei::detail
