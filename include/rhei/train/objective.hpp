// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What a training step minimises.
///
/// An objective is the mean of a loss over the rows of a minibatch. Each thread evaluates it on its share of the rows:
///
///   differentiate(model, call, share, of, work, gradient)
///
/// returns sum_i loss_i / of.rows over the rows of the share, in nats, and **adds** its derivative to gradient. `call`
/// holds the share's context and a generator of this thread's own, `work` what is kept from step to step. One objective
/// serves all threads at once: what it evaluates (a target, a teacher) must allow that.
///
/// MaximumLikelihood learns from data. ReverseKl, Distillation, ImportanceWeighted and LogVariance learn from what the
/// flow itself draws; they have headers of their own.

#include <functional>
#include <rhei/core/flow.hpp>

namespace rhei {

/// A minibatch of data: x (n x D), context (n x C, 1 x C or empty) and weights (n, or empty for all 1).
template <Real S>
struct BatchView {
  ConstBatch<S> x;              ///< n x D
  ConstBatch<S> context = {};   ///< n x C, 1 x C or empty
  ConstValues<S> weights = {};  ///< n, or empty for all 1

  /// n.
  [[nodiscard]] Index rows() const { return x.rows(); }
};

/// A minibatch that the flow is to draw: n rows, for the context of each (n x C, 1 x C or empty).
template <Real S>
struct DrawView {
  Index n = 0;                 ///< rows to draw
  ConstBatch<S> context = {};  ///< n x C, 1 x C or empty

  /// n.
  [[nodiscard]] Index rows() const { return n; }
};

/// The step that a share of a minibatch belongs to.
struct StepInfo {
  Index rows = 0;         ///< of the whole minibatch
  std::int64_t step = 0;  ///< optimizer steps taken before
};

/// \concept Objective
/// What Trainer can minimise for a model; see the file comment. `Batch<S>` is what a step is given, `Workspace<Model>`
/// the memory of a thread, whose `cache` is the model's. `first_not_finite` names, after a loss that is not finite, the
/// first part of the last evaluation that was not; empty if all are finite.
// clang-format off
template <class O, class Model>
concept Objective = std::copyable<O> &&
    requires(const O& objective, const Model& model, const Call<typename Model::Scalar>& call,
             const typename O::template Batch<typename Model::Scalar>& share, const StepInfo& of,
             typename O::template Workspace<Model>& work, typename Model::Gradient& gradient) {
      { O::type } -> std::convertible_to<std::string_view>;
      { objective.differentiate(model, call, share, of, work, gradient) } -> std::same_as<double>;
      { objective.first_not_finite(model, call, share, work) } -> std::same_as<std::string>;
      { work.cache } -> std::same_as<typename Model::Cache&>;
    };
// clang-format on

namespace detail {

/// The memory in which a share of a minibatch is compact.
template <Real S>
struct ShareBuffers {
  Buffer<S> x, context;
};

template <Real S>
ConstBatch<S> compact_rows(const ConstBatch<S>& all, Index first, Index n, Buffer<S>& buffer) {
  if (n == all.rows()) return all;
  Batch<S> copy = buffer.resize(n, all.cols());
  copy = all.middleRows(first, n);
  return copy;
}

/// A context of one row is for all rows, and so whole in every share.
template <Real S>
ConstBatch<S> share_of_context(const ConstBatch<S>& all, Index first, Index n, Buffer<S>& buffer) {
  return all.rows() <= 1 ? all : compact_rows(all, first, n, buffer);
}

/// Rows [first, first + n) of a minibatch.
template <Real S>
BatchView<S> share_of(const BatchView<S>& all, Index first, Index n, ShareBuffers<S>& own) {
  const bool weighted = all.weights.size() > 0;
  return {compact_rows(all.x, first, n, own.x), share_of_context(all.context, first, n, own.context),
          weighted ? ConstValues<S>(all.weights.data() + first, n) : ConstValues<S>()};
}
template <Real S>
DrawView<S> share_of(const DrawView<S>& all, Index first, Index n, ShareBuffers<S>& own) {
  return {n, share_of_context(all.context, first, n, own.context)};
}

/// Checks the shapes of a minibatch where the evaluation of a share would not see them.
template <Real S>
void check_batch(const BatchView<S>& batch) {
  if (batch.context.rows() > 1)
    check_shape("Trainer", "context", batch.context.rows(), batch.context.cols(), batch.rows(), -1);
  if (batch.weights.size() > 0) check_shape("Trainer", "weights", batch.weights.size(), 1, batch.rows(), 1);
}
template <Real S>
void check_batch(const DrawView<S>& batch) {
  if (batch.context.rows() > 1)
    check_shape("Trainer", "context", batch.context.rows(), batch.context.cols(), batch.rows(), -1);
}

/// What the cache of a layer says of rows whose iterative solve failed, as the end of a sentence; empty where it says
/// nothing.
template <class Cache>
std::string solver_failures(const Cache& cache) {
  if constexpr (requires { cache.solve.failures; })
    return solver_failures(cache.solve);
  else if constexpr (requires {
                       cache.failures;
                       cache.worst_residual;
                     })
    if (cache.failures > 0)
      return ", where " + std::to_string(cache.failures) +
             " solutions did not converge, the worst with a residual of " + std::to_string(cache.worst_residual);
  return {};
}

/// The direction in which a flow is searched for what is not finite.
enum class Sweep { data_to_latent, latent_to_data };

/// The first layer, in the order of the sweep, whose output for `in` is not finite; empty if all are.
template <class Model, Real S = typename Model::Scalar>
std::string first_layer_not_finite(const Model& flow, const Call<S>& call, ConstBatch<S> in, Sweep sweep) {
  struct Named {
    std::string name;
    std::function<std::string(Matrix<S>&)> apply;  // empty if the output is finite, else what is known of the reason
  };
  Rng rng(0);  // the draws of the evaluation that failed are gone; others will do as well
  std::vector<Named> layers;
  flow.visit_layers(
      [&](std::string_view name, const auto& layer) {
        const std::string text = std::string(name) + " (" + layer.options().type() + ")";
        layers.push_back({text, [&, text](Matrix<S>& batch) -> std::string {
                            typename std::remove_cvref_t<decltype(layer)>::Cache cache;
                            Call<S> own = call_for(call, layer.context_dim());
                            own.keep = Keep::nothing;
                            own.rng = &rng;
                            Matrix<S> out(batch.rows(), batch.cols());
                            Vector<S> log_det = Vector<S>::Zero(batch.rows());
                            if (sweep == Sweep::data_to_latent)
                              layer.inverse(own, batch, out, log_det, cache);
                            else
                              layer.forward(own, batch, out, log_det, cache);
                            batch = out;
                            return out.allFinite() && log_det.allFinite() ? "" : text + solver_failures(cache);
                          }});
      },
      "");
  if (sweep == Sweep::data_to_latent) std::reverse(layers.begin(), layers.end());
  Matrix<S> batch = in;
  for (const Named& layer : layers)
    if (std::string found = layer.apply(batch); !found.empty()) return found;
  return {};
}

}  // namespace detail

/// Minus the log-likelihood of data, weighted: loss_i = -w_i log p(x_i).
struct MaximumLikelihood {
  static constexpr std::string_view type = "maximum_likelihood";
  template <Real S>
  using Batch = BatchView<S>;
  template <class Model>
  struct Workspace {
    typename Model::Cache cache;                    ///< of the model
    Buffer<typename Model::Scalar> log_p, d_log_p;  ///< n
  };

  /// The share's part of the mean of -w log p, in nats: one log_prob and its pullback.
  template <class Model, Real S = typename Model::Scalar>
  double differentiate(const Model& model, const Call<S>& call, const BatchView<S>& share, const StepInfo& of,
                       Workspace<Model>& work, typename Model::Gradient& gradient) const {
    Values<S> log_p = work.log_p.resize(share.rows());
    Values<S> d_log_p = work.d_log_p.resize(share.rows());
    log_p.setZero();
    model.log_prob(call, share.x, log_p, work.cache);
    const S scale = S(-1) / static_cast<S>(of.rows);
    if (share.weights.size() > 0)
      d_log_p = scale * share.weights;
    else
      d_log_p.setConstant(scale);
    const double loss = log_p.template cast<double>().dot(d_log_p.template cast<double>());
    model.log_prob_pullback(call, share.x, work.cache, d_log_p, nullptr, nullptr, &gradient);
    return loss;
  }

  template <class Model, Real S = typename Model::Scalar>
  std::string first_not_finite(const Model& model, const Call<S>& call, const BatchView<S>& share,
                               const Workspace<Model>& work) const {
    if (work.log_p.values().allFinite()) return {};
    const std::string layer = detail::first_layer_not_finite(model, call, share.x, detail::Sweep::data_to_latent);
    return layer.empty() ? "the base density" : layer;
  }
};

}  // namespace rhei
