// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Importance weights w = p~(x) / q(x) of a flow's draws, x ~ q: a tighter bound to learn from, and how good a flow is
/// as a proposal.
///
///   log Z >= L_k = E[log (1/k) sum_{j=1..k} w_j]                       (Burda et al. 2016, equation 8)
///
/// With k = 1 minus the bound is the loss of ReverseKl. Its gradient is the doubly reparameterised one (Tucker et al.
/// 2019, equation 8), whose signal-to-noise ratio does not fall as k grows: with the normalised weights v_j = w_j /
/// sum,
///
///   dL_k/dtheta = E[sum_j v_j^2 (d log p~(x_j)/dx_j - d log q(x_j)/dx_j) dx_j/dtheta]

#include <rhei/train/draws.hpp>

namespace rhei {

/// Minus the bound L_k of log Z. A row of a minibatch is one bound: k draws for its context.
template <class Target>
class ImportanceWeighted {
 public:
  static constexpr std::string_view type = "importance_weighted";
  template <Real S>
  using Batch = DrawView<S>;
  template <class Model>
  struct Workspace : detail::DrawsWorkspace<Model, Target> {
    Buffer<typename Model::Scalar> weights;        ///< n x k
    Buffer<typename Model::Scalar> largest, sums;  ///< n
  };

  /// target: see LogDensity. \throws std::invalid_argument if k < 1.
  ImportanceWeighted(Target target, Index k) : target_(std::move(target)), k_(k) {
    detail::check_value("ImportanceWeighted", "k", k, k >= 1, "at least 1");
  }

  /// The share's part of minus the mean bound, in nats; k draws and one pullback of them for each row.
  template <class Model, Real S = typename Model::Scalar>
  double differentiate(const Model& model, const Call<S>& call, const DrawView<S>& share, const StepInfo& of,
                       Workspace<Model>& work, typename Model::Gradient& gradient) const {
    static_assert(LogDensity<Target, S>, "the target cannot be called as LogDensity says");
    const Index n = share.n;
    const Call<S> own = repeated(call, work);
    detail::Draws<Model, Target> draws(model, own, work);
    draws.draw(target_, n * k_);
    draws.score();

    // draw j of bound i is row i + n * j: as a matrix, the k weights of a bound are a row
    rhei::Batch<S> w = work.weights.resize(n, k_);
    Values<S> all_w(w.data(), n * k_);
    all_w = work.log_p.values() - work.log_q.values();
    Values<S> largest = work.largest.resize(n), sums = work.sums.resize(n);
    largest = w.col(0);
    for (Index j = 1; j < k_; ++j) largest = largest.cwiseMax(w.col(j));
    sums.setZero();
    for (Index j = 0; j < k_; ++j) {
      w.col(j).array() = (w.col(j) - largest).array().exp();
      sums += w.col(j);
    }
    for (Index j = 0; j < k_; ++j) w.col(j).array() /= sums.array();

    const S scale = S(1) / static_cast<S>(of.rows);
    rhei::Batch<S> d_x = work.d_x.resize(n * k_, model.dim());
    for (Index d = 0; d < model.dim(); ++d)
      d_x.col(d).array() =
          scale * all_w.array().square() * (work.score_q.view().col(d) - work.score_p.view().col(d)).array();
    draws.pull_back(d_x, 0, gradient);
    const double bounds = (largest.template cast<double>().array() + sums.template cast<double>().array().log()).sum() -
                          static_cast<double>(n) * std::log(static_cast<double>(k_));
    return -bounds / static_cast<double>(of.rows);
  }

  template <class Model, Real S = typename Model::Scalar>
  std::string first_not_finite(const Model& model, const Call<S>& call, const DrawView<S>&,
                               Workspace<Model>& work) const {
    const Call<S> own = repeated(call, work);
    return detail::first_draw_not_finite(model, own, work);
  }

 private:
  /// The call for k draws of each row.
  template <class Work, Real S>
  Call<S> repeated(const Call<S>& call, Work& work) const {
    Call<S> own = call;
    if (const Index n = call.context.rows(); n > 1) {
      rhei::Batch<S> context = work.context.resize(n * k_, call.context.cols());
      for (Index j = 0; j < k_; ++j) context.middleRows(j * n, n) = call.context;
      std::construct_at(&own.context, ConstBatch<S>(context));
    }
    return own;
  }

  Target target_;
  Index k_;
};

/// What n draws of a flow say of it as an importance-sampling proposal for a target.
struct ImportanceReport {
  double log_z = 0;  ///< log (1/n) sum w, an estimate of the target's log-normaliser
  double log_z_standard_error =
      0;  ///< of log_z, to first order in 1/n: sqrt((n / effective_sample_size - 1) / (n - 1))
  double effective_sample_size = 0;  ///< (sum w)^2 / sum w^2, between 1 and n (Kong 1992)
  double bound = 0;                  ///< mean log w, a lower bound of log Z: log_z - bound estimates KL(q || p)
};

/// Draws n rows from a flow and weighs them by an unnormalised density (see LogDensity).
///
/// The figures see only where the flow draws: a mode of the target that it misses altogether lowers none of them.
/// \throws std::invalid_argument if n < 2 or the context has the wrong shape.
template <class Model, class Target, Real S = typename Model::Scalar>
ImportanceReport importance_report(const Model& flow, const Target& target, Index n, Rng& rng,
                                   typename Model::In context = Matrix<S>()) {
  static_assert(LogDensity<Target, S>, "the target cannot be called as LogDensity says");
  detail::check_value("importance_report", "n", n, n >= 2, "at least 2");
  const auto drawn = flow.sample_and_log_prob(n, rng, context);
  const Matrix<S> own_context = context;
  Vector<S> log_p(n);
  Matrix<S> d_x(n, flow.dim());
  typename detail::TargetCache<Target>::type cache;
  detail::evaluate<S>(target, drawn.x, own_context, log_p, d_x, cache);
  const Vector<double> log_w = log_p.template cast<double>() - drawn.log_prob.template cast<double>();
  const double largest = log_w.maxCoeff(), count = static_cast<double>(n);
  const Vector<double> w = (log_w.array() - largest).exp();
  ImportanceReport report;
  report.log_z = largest + std::log(w.mean());
  report.effective_sample_size = w.sum() * w.sum() / w.squaredNorm();
  report.log_z_standard_error = std::sqrt(std::max(0.0, count / report.effective_sample_size - 1) / (count - 1));
  report.bound = log_w.mean();
  return report;
}

}  // namespace rhei
