// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The loop of `fit` and `fit_variational`, for any objective and any source of batches.

#include <chrono>
#include <optional>
#include <rhei/train/batches.hpp>
#include <rhei/train/fit_state.hpp>
#include <rhei/train/progress.hpp>
#include <rhei/train/trainer.hpp>

namespace rhei::detail {

inline void check_fit_options(std::string_view where, const FitOptions& o, bool has_validation) {
  check_value(where, "epochs", o.epochs, o.epochs >= 0, "at least 0");
  check_value(where, "steps", o.steps, o.steps >= 0, "at least 0");
  check_value(where, "seconds", o.seconds, o.seconds >= 0, "at least 0");
  if (o.epochs == 0 && o.steps == 0 && !(o.seconds > 0))
    throw_invalid(where, "epochs, steps and seconds are all 0, expected at least one end of the fit");
  check_value(where, "batch_size", o.batch_size, o.batch_size > 0, "at least 1");
  check_value(where, "learning_rate", o.learning_rate, o.learning_rate > 0 && std::isfinite(o.learning_rate),
              "more than 0");
  check_value(where, "clip_norm", o.clip_norm, o.clip_norm >= 0, "at least 0");
  check_value(where, "validation_fraction", o.validation_fraction,
              o.validation_fraction >= 0 && o.validation_fraction < 1, "0 <= validation_fraction < 1");
  check_value(where, "patience", o.patience, o.patience >= 0, "at least 0");
  check_value(where, "patience", o.patience, o.patience == 0 || has_validation, "0 where nothing is held out");
}

/// The mean of -w_i log p(x_i) / mean(w), evaluated without training mode.
template <class Model, Real S = typename Model::Scalar>
double mean_loss(const Model& flow, const FitData<S>& data, typename Model::Cache& cache, Vector<S>& log_p) {
  log_p.resize(data.x.rows());
  flow.log_prob(data.x, data.context, log_p, cache);
  const auto values = log_p.template cast<double>();
  if (data.weights.size() == 0) return -values.mean();
  const auto weights = data.weights.template cast<double>();
  return -values.dot(weights) / weights.sum();
}

/// One fit, from the first step, or from where another stood, to the parameters that remain.
template <class Model, class Goal, class Batches>
class Run {
 public:
  using S = typename Model::Scalar;

  /// `where` is what messages call the run.
  Run(std::string_view where, Model& flow, const Goal& objective, Batches& batches, const FitData<S>* validation,
      const FitOptions& options, Rng& rng)
      : where_(where),
        flow_(flow),
        batches_(batches),
        validation_(validation),
        options_(options),
        rng_(rng),
        trainer_(flow, objective, options.adam, options.threads,
                 options.rebuild_inputs ? Keep::output : Keep::everything),
        best_(flow),
        start_of_epoch_(flow) {}
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  FitReport operator()() {
    std::optional<FitState> state;
    if (options_.checkpoint || options_.resume) state.emplace(make_state());
    if (options_.resume) resume(*state);
    std::optional<Stop> stop = now_.epoch > 0 ? reason_to_stop() : std::nullopt;
    while (!stop) {
      learn_epoch();
      judge_epoch();
      stop = reason_to_stop();
      if (options_.checkpoint) write_checkpoint(*state);
      if (options_.callback && options_.callback(now_) && !stop) stop = Stop::callback;
      if (options_.progress) line_.show(now_);
    }
    if (options_.progress) line_.finish();
    report_.stop = *stop;
    report_.best_epoch = validation_ ? static_cast<Index>(best_epoch_) : now_.epoch;
    if (validation_) restore_best();
    return std::move(report_);
  }

 private:
  using Clock = std::chrono::steady_clock;

  // ---- the loop -----------------------------------------------------------------------------------------------------

  void learn_epoch() {
    double loss = 0;
    double rows = 0;
    now_.gradient_norm = 0;
    now_.round_trip = 0;
    if (!validation_) copy_values(flow_, start_of_epoch_);
    for (Index b = 0; b < batches_.batches_per_epoch(); ++b) {
      const auto batch = batches_.batch(b, rng_);
      now_.learning_rate = options_.learning_rate * schedule_factor(options_.schedule, fraction_done(b));
      const auto step = trainer_.differentiate(batch, rng_);
      if (!std::isfinite(step.loss) || !std::isfinite(step.gradient_norm)) fail(step.loss, step.gradient_norm, b);
      trainer_.update(step, now_.learning_rate, options_.clip_norm);
      ++now_.step;
      loss += step.loss * static_cast<double>(batch.rows());
      rows += static_cast<double>(batch.rows());
      now_.gradient_norm = std::max(now_.gradient_norm, step.gradient_norm);
      now_.round_trip = std::max(now_.round_trip, step.round_trip);
      if (out_of_steps() || out_of_time()) break;
    }
    ++now_.epoch;
    now_.train_loss = loss / rows;
  }

  /// A validation loss judges the parameters at the end of an epoch; without one, an epoch's own loss comes closest to
  /// judging those that it started from.
  void judge_epoch() {
    if (validation_) now_.validation_loss = mean_loss(flow_, *validation_, cache_, log_p_);
    now_.seconds = seconds();
    now_.fraction = fraction_done(0);
    report_.history.push_back(now_);
    const double judged = validation_ ? now_.validation_loss : now_.train_loss;
    if (!(judged < best_loss_(0, 0))) return;
    best_loss_(0, 0) = judged;
    best_epoch_ = now_.epoch;
    if (validation_)
      copy_values(flow_, best_);
    else
      copy_values(start_of_epoch_, best_);
  }

  [[noreturn]] void fail(double loss, double gradient_norm, Index batch) {
    std::string place = trainer_.first_not_finite();
    if (place.empty()) place = "the gradient";
    restore_best();
    throw std::runtime_error(std::string(where_) + ": the loss is " + std::to_string(loss) +
                             " and its gradient's norm " + std::to_string(gradient_norm) + " in epoch " +
                             std::to_string(now_.epoch) + ", batch " + std::to_string(batch) +
                             " (counted from 0); first not finite: " + place +
                             ". The best parameters so far are restored; try a smaller learning rate");
  }

  void restore_best() {
    copy_values(best_, flow_);
    rhei::check_state(flow_);  // which may also derive something from the state
  }

  // ---- when it ends -------------------------------------------------------------------------------------------------

  [[nodiscard]] double seconds() const {
    return seconds_before_ + std::chrono::duration<double>(Clock::now() - start_).count();
  }
  [[nodiscard]] bool out_of_steps() const { return options_.steps > 0 && now_.step >= options_.steps; }
  [[nodiscard]] bool out_of_time() const { return options_.seconds > 0 && seconds() >= options_.seconds; }
  [[nodiscard]] std::optional<Stop> reason_to_stop() const {
    if (out_of_steps()) return Stop::steps;
    if (out_of_time()) return Stop::seconds;
    if (options_.epochs > 0 && now_.epoch >= options_.epochs) return Stop::epochs;
    if (options_.patience > 0 && now_.epoch - best_epoch_ >= options_.patience) return Stop::patience;
    return std::nullopt;
  }
  [[nodiscard]] double fraction_done(Index batch) const {
    const double epochs = static_cast<double>(now_.epoch) +
                          static_cast<double>(batch) / static_cast<double>(batches_.batches_per_epoch());
    const auto part = [](double done, double all) { return all > 0 ? done / all : 0; };
    return std::min(1.0, std::max({part(epochs, static_cast<double>(options_.epochs)),
                                   part(static_cast<double>(now_.step), static_cast<double>(options_.steps)),
                                   part(seconds(), options_.seconds)}));
  }

  // ---- checkpoints --------------------------------------------------------------------------------------------------

  FitState make_state() {
    FitState state{
        flow_.options(), std::string(Goal::type), {{"batch_size", options_.batch_size}}, {}, report_.history};
    const auto add_as = [&](std::string_view prefix) {
      return [&state, prefix](std::string_view name, auto values) {
        state.fields.push_back({join_names(prefix, name), values});
      };
    };
    for_each_parameter(flow_, add_as("flow"));
    for_each_state(flow_, add_as("flow"));
    for_each_parameter(best_, add_as("best"));
    for_each_state(best_, add_as("best"));
    for_each_state(trainer_.optimizer(), add_as("adam"));
    for_each_state(generator_, add_as("generator"));
    for_each_state(best_epoch_, add_as("best_epoch"));
    for_each_state(best_loss_, add_as("best_loss"));
    if constexpr (requires { batches_.order(); }) {
      for_each_state(batches_.order(), add_as("order_of_rows"));
      state.settings.push_back({"the number of rows", static_cast<std::int64_t>(batches_.order().size())});
      state.settings.push_back({"the checksum of the training rows", batches_.checksum()});
    }
    state.settings.push_back(
        {"the checksum of the validation rows", validation_ ? Checksum().add(*validation_).value() : 0});
    return state;
  }

  void write_checkpoint(const FitState& state) {
    for (std::size_t i = 0; i < generator_.size(); ++i) generator_[i] = std::bit_cast<std::int64_t>(rng_.state()[i]);
    options_.checkpoint(state);
  }

  void resume(FitState& state) {
    const Model before = flow_;
    try {
      options_.resume(state);
      if (!report_.history.empty()) go_on();
    } catch (...) {
      copy_values(before, flow_);
      throw;
    }
  }

  /// Takes over what `resume` has filled in, none of which is believed.
  void go_on() {
    const auto expect = [&](bool ok, const std::string& what) {
      if (!ok) throw std::runtime_error(std::string(where_) + ": the state to resume from is damaged: " + what);
    };
    const FitProgress& last = report_.history.back();
    expect(last.epoch == static_cast<Index>(report_.history.size()), "its last epoch is not the number of epochs");
    expect(last.step == trainer_.optimizer().steps(), "its steps are not those of the optimizer");
    expect(last.seconds >= 0 && std::isfinite(last.seconds), "its time is no number of seconds");
    expect(best_epoch_ >= 0 && best_epoch_ <= last.epoch, "its best epoch has not been");
    Rng::State words;
    for (std::size_t i = 0; i < words.size(); ++i) words[i] = std::bit_cast<std::uint64_t>(generator_[i]);
    expect(words != Rng::State{}, "its generator is all zero");
    if constexpr (requires { batches_.order(); }) {
      std::vector<bool> met(batches_.order().size(), false);
      for (const std::int64_t row : batches_.order()) {
        expect(row >= 0 && std::cmp_less(row, met.size()) && !met[static_cast<std::size_t>(row)],
               "its order of rows is not a permutation");
        met[static_cast<std::size_t>(row)] = true;
      }
    }
    rhei::check_state(flow_);
    rhei::check_state(best_);
    rng_ = Rng(words);
    now_ = last;
    seconds_before_ = last.seconds;
  }

  std::string_view where_;
  Model& flow_;
  Batches& batches_;
  const FitData<S>* validation_;
  const FitOptions& options_;
  Rng& rng_;
  Trainer<Model, Goal> trainer_;
  Model best_, start_of_epoch_;  // their parameters and state
  Matrix<double> best_loss_ = Matrix<double>::Constant(1, 1, std::numeric_limits<double>::infinity());
  std::int64_t best_epoch_ = 0;
  std::vector<std::int64_t> generator_ = std::vector<std::int64_t>(4, 0);

  FitReport report_;
  FitProgress now_;
  typename Model::Cache cache_;
  Vector<S> log_p_;
  ProgressLine line_;
  const Clock::time_point start_ = Clock::now();
  double seconds_before_ = 0;  // of the runs that this one goes on from
};

template <class Model, class Goal, class Batches, Real S = typename Model::Scalar>
FitReport run_fit(std::string_view where, Model& flow, const Goal& objective, Batches& batches,
                  const FitData<S>* validation, const FitOptions& options, Rng& rng) {
  return Run<Model, Goal, Batches>(where, flow, objective, batches, validation, options, rng)();
}

}  // namespace rhei::detail
