// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// One optimizer step of maximum likelihood: what `fit` repeats, for programs that want a loop of their own.

#include <cmath>
#include <functional>
#include <rhei/core/flow.hpp>
#include <rhei/core/workers.hpp>
#include <rhei/train/adam.hpp>

namespace rhei {

/// A minibatch seen by a step: x (n x D), context (n x C, 1 x C or empty) and weights (n, or empty for all 1).
template <Real S>
struct BatchView {
  ConstBatch<S> x;
  ConstBatch<S> context = {};
  ConstValues<S> weights = {};
};

/// Trains a flow that it refers to: caches, gradients and moments of one run.
///
/// With t threads a minibatch is split into t runs of rows, each with a cache and a gradient of its own, which are then
/// added in a fixed order: deterministic for a given count. Nothing is allocated after the first step.
template <class Model>
class Trainer {
 public:
  using S = typename Model::Scalar;

  struct Step {
    double loss = 0;           ///< sum_i -w_i log p(x_i) / n, in nats
    double gradient_norm = 0;  ///< Euclidean, before clipping
  };

  /// The flow must outlive the trainer and stay where it is.
  explicit Trainer(Model& model, AdamOptions adam = {}, int threads = 1)
      : model_(model), adam_(adam), workers_(threads), parameters_(parameter_list<S>(model)) {
    for (int i = 0; i < threads; ++i) parts_.push_back(Part(model.make_gradient()));
    for (Part& part : parts_) part.tensors = parameter_list<S>(part.gradient);
  }

  /// The loss of a batch of at least one row and its gradient, which gradient() then shows.
  /// \throws std::invalid_argument for other shapes than the flow's.
  Step differentiate(const BatchView<S>& batch) {
    const Index n = batch.x.rows();
    detail::check_value("Trainer", "the number of rows", n, n > 0, "at least 1");
    const auto work = [&](int i) {
      const Index first = workers_.first(i, n);
      differentiate_rows(batch, first, workers_.first(i + 1, n) - first, parts_[static_cast<std::size_t>(i)]);
    };
    if (workers_.count() == 1)
      work(0);
    else
      workers_.run(std::ref(work));  // by reference: a copy of the captures would be allocated
    Step result;
    for (std::size_t i = 1; i < parts_.size(); ++i)
      for (std::size_t t = 0; t < parameters_.size(); ++t) parts_[0].tensors[t].values += parts_[i].tensors[t].values;
    for (const Part& part : parts_) result.loss += part.loss;
    result.gradient_norm = norm_of_gradient();
    return result;
  }

  /// Moves the parameters against the gradient of the last differentiate(), shortened to clip_norm if it is longer
  /// (0: never).
  void update(const Step& step, double learning_rate, double clip_norm = 0) {
    const bool clip = clip_norm > 0 && step.gradient_norm > clip_norm;
    adam_.step(parameters_, parts_[0].tensors, learning_rate, clip ? clip_norm / step.gradient_norm : 1.0);
  }

  /// Both.
  Step step(const BatchView<S>& batch, double learning_rate, double clip_norm = 0) {
    const Step result = differentiate(batch);
    update(result, learning_rate, clip_norm);
    return result;
  }

  [[nodiscard]] const std::vector<ParameterView<S>>& parameters() const { return parameters_; }
  [[nodiscard]] const std::vector<ParameterView<S>>& gradient() const { return parts_[0].tensors; }
  [[nodiscard]] Adam<S>& optimizer() { return adam_; }

 private:
  /// In double only where the squares overflow a float: a few outliers may do that, and clipping then still helps.
  [[nodiscard]] double norm_of_gradient() const {
    double squares = 0;
    for (const auto& tensor : parts_[0].tensors) {
      const S own = tensor.values.squaredNorm();
      squares += std::isfinite(own) ? static_cast<double>(own) : tensor.values.template cast<double>().squaredNorm();
    }
    return std::sqrt(squares);
  }

  struct Part {
    explicit Part(typename Model::Gradient g) : gradient(std::move(g)) {}
    typename Model::Cache cache;
    typename Model::Gradient gradient;
    std::vector<ParameterView<S>> tensors;
    Buffer<S> x, context, log_p, d_log_p;
    double loss = 0;
  };

  void differentiate_rows(const BatchView<S>& batch, Index first, Index n, Part& part) {
    for (auto& tensor : part.tensors) tensor.values.setZero();
    part.loss = 0;
    if (n == 0) return;
    const ConstBatch<S> x = rows_of(batch.x, first, n, part.x);
    const bool shared = batch.context.rows() <= 1;
    const Call<S> call{.context = shared ? batch.context : rows_of(batch.context, first, n, part.context),
                       .training = true};
    Values<S> log_p = part.log_p.resize(n);
    Values<S> d_log_p = part.d_log_p.resize(n);
    log_p.setZero();
    model_.log_prob(call, x, log_p, part.cache);
    const S scale = S(-1) / static_cast<S>(batch.x.rows());
    if (batch.weights.size() > 0)
      d_log_p = scale * batch.weights.segment(first, n);
    else
      d_log_p.setConstant(scale);
    part.loss = log_p.template cast<double>().dot(d_log_p.template cast<double>());
    model_.log_prob_pullback(call, x, part.cache, d_log_p, nullptr, nullptr, &part.gradient);
  }

  static ConstBatch<S> rows_of(const ConstBatch<S>& all, Index first, Index n, Buffer<S>& buffer) {
    if (n == all.rows()) return all;
    Batch<S> copy = buffer.resize(n, all.cols());
    copy = all.middleRows(first, n);
    return copy;
  }

  Model& model_;
  Adam<S> adam_;
  Workers workers_;
  std::vector<ParameterView<S>> parameters_;
  std::vector<Part> parts_;
};

}  // namespace rhei
