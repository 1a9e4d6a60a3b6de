// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Learning from an unnormalised density: the Kullback-Leibler divergence of the flow q from the target p = p~ / Z,
///
///   KL(q || p) - log Z = E_q[log q(x) - log p~(x)]                    (Rezende & Mohamed 2015, equation 15)
///
/// whose gradient, with x = forward(z; theta), is estimated from draws in one of two ways:
///
///   total  d/dtheta [log q(x) - beta log p~(x)]
///   path   (d log q(x)/dx - beta d log p~(x)/dx) dx/dtheta            (Roeder et al. 2017, equations 6 to 8)
///
/// The path estimator leaves out the explicit dependence of log q on theta, whose expectation is zero. It is exactly
/// zero where q = p, so that a fit can end without noise; it costs one inverse and its pullback more (Vaitl et al.
/// 2022, "Gradients should stay on path"). beta weighs the target, for annealing.

#include <rhei/train/draws.hpp>

namespace rhei {

/// How the gradient of an expectation over a flow's own draws is estimated; both estimators have the same mean.
enum class Estimator {
  total,  ///< all of the derivative of the integrand
  path    ///< without the part whose mean is zero; see the file comment
};

/// The weight of the target's log-density over a run: min(1, start + per_step * t) at step t. Constant 1 unless set;
/// Rezende & Mohamed 2015 (section 6.1) use {.start = 0.01, .per_step = 1e-4}.
struct Annealing {
  double start = 1;     ///< at step 0
  double per_step = 0;  ///< added at each step

  /// The weight at a step, at most 1.
  [[nodiscard]] double at(std::int64_t step) const {
    return std::min(1.0, start + per_step * static_cast<double>(step));
  }
};

/// KL(q || p) - log Z of a flow q, whose base must be Reparameterized. The loss is that of beta = 1, whatever the
/// gradient's beta, so that it means the same throughout: it never falls below -log Z in expectation.
template <class Target>
class ReverseKl {
 public:
  static constexpr std::string_view type = "reverse_kl";
  template <Real S>
  using Batch = DrawView<S>;
  template <class Model>
  using Workspace = detail::DrawsWorkspace<Model, Target>;

  /// target: see LogDensity.
  explicit ReverseKl(Target target, Estimator estimator = Estimator::total, Annealing annealing = {})
      : target_(std::move(target)), estimator_(estimator), annealing_(annealing) {}

  /// The share's part of the mean of log q - log p~, in nats; one draw and its pullback, with Estimator::path an
  /// inverse and its pullback more.
  template <class Model, Real S = typename Model::Scalar>
  double differentiate(const Model& model, const Call<S>& call, const DrawView<S>& share, const StepInfo& of,
                       Workspace<Model>& work, typename Model::Gradient& gradient) const {
    static_assert(LogDensity<Target, S>, "the target cannot be called as LogDensity says");
    detail::Draws<Model, Target> draws(model, call, work);
    draws.draw(target_, share.n);
    const S scale = S(1) / static_cast<S>(of.rows);
    const S beta = static_cast<S>(annealing_.at(of.step));
    rhei::Batch<S> d_x = work.d_x.resize(share.n, model.dim());
    if (estimator_ == Estimator::path) {
      draws.score();
      d_x = scale * (work.score_q.view() - beta * work.score_p.view());
      draws.pull_back(d_x, 0, gradient);
    } else {
      d_x = -scale * beta * work.score_p.view();
      draws.pull_back(d_x, scale, gradient);
    }
    return (work.log_q.values().template cast<double>() - work.log_p.values().template cast<double>()).sum() /
           static_cast<double>(of.rows);
  }

  template <class Model, Real S = typename Model::Scalar>
  std::string first_not_finite(const Model& model, const Call<S>& call, const DrawView<S>&,
                               const Workspace<Model>& work) const {
    return detail::first_draw_not_finite(model, call, work);
  }

 private:
  Target target_;
  Estimator estimator_;
  Annealing annealing_;
};

}  // namespace rhei
