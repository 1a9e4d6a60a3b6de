// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// One optimizer step: what `fit` and `fit_variational` repeat, for programs that want a loop of their own.

#include <functional>
#include <rhei/core/workers.hpp>
#include <rhei/train/adam.hpp>
#include <rhei/train/objective.hpp>

namespace rhei {

/// Trains a flow that it refers to: caches, gradients and moments of one run.
///
/// With t threads a minibatch is split into t runs of rows, each with a cache, a gradient and a generator of its own;
/// the gradients are then added in a fixed order: deterministic for a given count. Nothing is allocated after the first
/// step. Statistics of a batch (batch normalization) are those of the rows of a thread; the state that follows them
/// follows those of the first thread that had rows.
template <class Model, class Goal = MaximumLikelihood>
class Trainer {
 public:
  using S = typename Model::Scalar;
  /// What a step is given: BatchView for data, DrawView where the flow draws.
  using Batch = typename Goal::template Batch<S>;
  static_assert(Objective<Goal, Model>, "the objective cannot be evaluated for this model");

  /// What differentiate() found.
  struct Step {
    double loss = 0;           ///< of the objective, the mean over the rows, in nats
    double gradient_norm = 0;  ///< Euclidean, before clipping
    double round_trip = 0;     ///< with Keep::output: the largest error of a rebuilt batch; else 0
  };

  /// The flow must outlive the trainer and stay where it is. With Keep::output the backward pass rebuilds the input of
  /// each layer from its output: memory does not grow with depth, a step costs two more evaluations.
  explicit Trainer(Model& model, AdamOptions adam = {}, int threads = 1,
                   Keep keep = Keep::everything) requires std::default_initializable<Goal>
      : Trainer(model, Goal(), adam, threads, keep) {}

  /// The same for an objective other than maximum likelihood.
  template <std::same_as<Goal> O>
  explicit Trainer(Model& model, O objective, AdamOptions adam = {}, int threads = 1, Keep keep = Keep::everything)
      : model_(model),
        objective_(std::move(objective)),
        adam_(adam),
        keep_(keep),
        workers_(threads),
        parameters_(parameter_list<S>(model)) {
    if (keep == Keep::nothing)
      detail::throw_invalid("Trainer", "keep is Keep::nothing, expected Keep::everything or Keep::output");
    for (int i = 0; i < threads; ++i) parts_.push_back(Part(model.make_gradient()));
    for (Part& part : parts_) part.tensors = parameter_list<S>(part.gradient);
    adam_.start(parameters_);
  }

  /// The loss of a batch of at least one row and its gradient, which gradient() then shows. What draws (layers, or the
  /// objective) does so from generators that are split off rng.
  /// \throws std::invalid_argument for other shapes than the flow's, or where something draws and there is no rng.
  Step differentiate(const Batch& batch, Rng& rng) {
    Rng step = rng.split();  // so that rng moves on by as much whatever the number of threads
    for (Part& part : parts_) part.rng = step.split();
    return differentiate_parts(batch, true);
  }
  /// The same where nothing draws.
  Step differentiate(const Batch& batch) { return differentiate_parts(batch, false); }

  /// Moves the parameters against the gradient of the last differentiate(), shortened to clip_norm if it is longer
  /// (0: never), then the state of layers that have one which follows the batches.
  void update(const Step& step, double learning_rate, double clip_norm = 0) {
    const bool clip = clip_norm > 0 && step.gradient_norm > clip_norm;
    adam_.begin_step(parameters_);
    for_each_share([&](int, Index begin, Index end) {
      adam_.move(parameters_, parts_[0].tensors, begin, end, learning_rate,
                 clip ? clip_norm / step.gradient_norm : 1.0);
    });
    const auto seen =
        std::find_if(parts_.begin(), parts_.end(), [](const Part& part) { return part.share.rows() > 0; });
    if (seen != parts_.end()) model_.update_state(seen->work.cache);
  }

  /// differentiate() and update().
  Step step(const Batch& batch, Rng& rng, double learning_rate, double clip_norm = 0) {
    const Step result = differentiate(batch, rng);
    update(result, learning_rate, clip_norm);
    return result;
  }
  /// The same where nothing draws.
  Step step(const Batch& batch, double learning_rate, double clip_norm = 0) {
    const Step result = differentiate(batch);
    update(result, learning_rate, clip_norm);
    return result;
  }

  /// The first thing in the last differentiate() that was not finite, for messages; empty where the loss was finite.
  [[nodiscard]] std::string first_not_finite() {
    for (Part& part : parts_)
      if (part.share.rows() > 0)
        if (std::string found = objective_.first_not_finite(model_, part.call, part.share, part.work); !found.empty())
          return found;
    return {};
  }

  /// The flow's parameters, as a list.
  [[nodiscard]] const std::vector<ParameterView<S>>& parameters() const { return parameters_; }
  /// Of the last differentiate(), in the same order, before clipping.
  [[nodiscard]] const std::vector<ParameterView<S>>& gradient() const { return parts_[0].tensors; }
  /// The moments and the number of steps.
  [[nodiscard]] Adam<S>& optimizer() { return adam_; }
  /// What is minimised.
  [[nodiscard]] const Goal& objective() const { return objective_; }

 private:
  struct Part {
    explicit Part(typename Model::Gradient g) : gradient(std::move(g)) {}
    Part(Part&&) = default;  // never copied: the vector of a Repeat<AnyLayer>'s gradients claims that it could be
    typename Goal::template Workspace<Model> work;
    typename Model::Gradient gradient;
    std::vector<ParameterView<S>> tensors;
    detail::ShareBuffers<S> buffers;
    Rng rng{0};
    Call<S> call;  ///< of the last step, as share is
    Batch share;
    double loss = 0;
    double squares = 0;  ///< of the share of the gradient that its worker summed
  };

  Step differentiate_parts(const Batch& batch, bool draws) {
    const Index n = batch.rows();
    detail::check_value("Trainer", "the number of rows", n, n > 0, "at least 1");
    detail::check_batch(batch);
    const StepInfo of{n, adam_.steps()};
    const auto work = [&](int i) {
      Part& part = parts_[static_cast<std::size_t>(i)];
      const Index first = workers_.first(i, n);
      std::construct_at(&part.share, detail::share_of(batch, first, workers_.first(i + 1, n) - first, part.buffers));
      std::construct_at(
          &part.call,
          Call<S>{.context = part.share.context, .training = true, .keep = keep_, .rng = draws ? &part.rng : nullptr});
      for (auto& tensor : part.tensors) tensor.values.setZero();
      part.squares = 0;
      part.loss = part.share.rows() == 0
                      ? 0
                      : objective_.differentiate(model_, part.call, part.share, of, part.work, part.gradient);
    };
    workers_.run(std::ref(work));  // by reference: a copy of the captures would be allocated
    for_each_share(
        [&](int i, Index begin, Index end) { sum_gradients(parts_[static_cast<std::size_t>(i)], begin, end); });
    Step result;
    double squares = 0;
    for (const Part& part : parts_) {
      squares += part.squares;
      result.loss += part.loss;
      if (keep_ == Keep::output && part.share.rows() > 0)
        result.round_trip = std::max(result.round_trip, part.work.cache.round_trip);
    }
    result.gradient_norm = std::sqrt(squares);
    return result;
  }

  /// Calls f(i, begin, end) for shares of all parameters, each on a worker of its own where they are many enough to be
  /// worth waking it.
  template <class F>
  void for_each_share(F&& f) {
    constexpr Index worth_waking = 32768;
    Index total = 0;
    for (const auto& tensor : parameters_) total += tensor.values.size();
    if (total < worth_waking) return f(0, Index(0), total);
    const auto work = [&](int i) { f(i, workers_.first(i, total), workers_.first(i + 1, total)); };
    workers_.run(std::ref(work));
  }

  /// Sums a share of all parts' gradients into the first one, and its squares into `part`: in double only where they
  /// overflow a float, which a few outliers may do, and clipping then still helps.
  void sum_gradients(Part& part, Index begin, Index end) {
    detail::for_each_run(parameters_, begin, end, [&](std::size_t t, Index first, Index last, Index) {
      Values<S> sum(parts_[0].tensors[t].values.data() + first, last - first);
      for (std::size_t i = 1; i < parts_.size(); ++i)
        sum += ConstValues<S>(parts_[i].tensors[t].values.data() + first, last - first);
      const S own = sum.squaredNorm();
      part.squares += std::isfinite(own) ? static_cast<double>(own) : sum.template cast<double>().squaredNorm();
    });
  }

  Model& model_;
  Goal objective_;
  Adam<S> adam_;
  Keep keep_;
  Workers workers_;
  std::vector<ParameterView<S>> parameters_;
  std::vector<Part> parts_;
};
template <class Model, class Goal>
requires(!std::same_as<Goal, AdamOptions>) Trainer(Model&, Goal, AdamOptions = {}, int = 1, Keep = Keep::everything)
->Trainer<Model, Goal>;

}  // namespace rhei
