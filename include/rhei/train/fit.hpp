// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// `fit`: maximum likelihood from a table or from a callable, from data-dependent initialisation to the best
/// parameters.

#include <chrono>
#include <optional>
#include <rhei/train/batches.hpp>
#include <rhei/train/fit_options.hpp>
#include <rhei/train/progress.hpp>

namespace rhei {
namespace detail {

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

/// The first layer, from the data side, whose output for a batch is not finite; "the base density" if all are.
template <class Model, Real S = typename Model::Scalar>
std::string first_not_finite(const Model& flow, const BatchView<S>& batch) {
  struct Named {
    std::string name;
    std::function<bool(Matrix<S>&)> apply;  // true if the output is finite
  };
  std::vector<Named> layers;
  flow.visit_layers(
      [&](std::string_view name, const auto& layer) {
        layers.push_back({std::string(name) + " (" + layer.options().type() + ")", [&](Matrix<S>& x) {
                            typename std::remove_cvref_t<decltype(layer)>::Cache cache;
                            const Call<S> call{.context = batch.context, .training = true};
                            Matrix<S> z(x.rows(), x.cols());
                            Vector<S> log_det = Vector<S>::Zero(x.rows());
                            layer.inverse(call_for(call, layer.context_dim()), x, z, log_det, cache);
                            x = z;
                            return z.allFinite() && log_det.allFinite();
                          }});
      },
      "");
  Matrix<S> x = batch.x;
  for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer)
    if (!layer->apply(x)) return layer->name;
  return "the base density";
}

/// The loop of `fit`, for any source of batches.
template <class Model, class Batches, Real S = typename Model::Scalar>
FitReport run_fit(Model& flow, Batches& batches, const FitData<S>* validation, const FitOptions& options, Rng& rng) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };

  Trainer<Model> trainer(flow, options.adam, options.threads);
  // The best parameters so far, at first those of the start. A validation loss judges the parameters at the end of an
  // epoch; without one, an epoch's own loss comes closest to judging those that it started from.
  using Snapshot = std::vector<Matrix<S>>;
  const auto remember = [&](Snapshot& snapshot) {
    snapshot.resize(trainer.parameters().size());
    for (std::size_t i = 0; i < snapshot.size(); ++i) snapshot[i] = trainer.parameters()[i].values;
  };
  const auto restore = [&](const Snapshot& snapshot) {
    for (std::size_t i = 0; i < snapshot.size(); ++i) Batch<S>(trainer.parameters()[i].values) = snapshot[i];
  };
  Snapshot best, start_of_epoch;
  remember(best);
  double best_loss = std::numeric_limits<double>::infinity();

  FitReport report;
  FitProgress now;
  typename Model::Cache cache;
  Vector<S> log_p;
  ProgressLine line;
  const Index per_epoch = batches.batches_per_epoch();
  const auto fraction_done = [&](Index batch) {
    const double epochs = static_cast<double>(now.epoch) + static_cast<double>(batch) / static_cast<double>(per_epoch);
    const auto part = [](double done, double all) { return all > 0 ? done / all : 0; };
    return std::min(1.0, std::max({part(epochs, static_cast<double>(options.epochs)),
                                   part(static_cast<double>(now.step), static_cast<double>(options.steps)),
                                   part(seconds(), options.seconds)}));
  };

  for (std::optional<Stop> stop; !stop;) {
    double loss = 0;
    double rows = 0;
    now.gradient_norm = 0;
    if (!validation) remember(start_of_epoch);
    for (Index b = 0; b < per_epoch && !stop; ++b) {
      const BatchView<S> batch = batches.batch(b, rng);
      now.learning_rate = options.learning_rate * schedule_factor(options.schedule, fraction_done(b));
      const auto step = trainer.differentiate(batch);
      if (!std::isfinite(step.loss) || !std::isfinite(step.gradient_norm)) {
        const std::string place = std::isfinite(step.loss) ? "the gradient" : first_not_finite(flow, batch);
        restore(best);
        throw std::runtime_error("fit: the loss is " + std::to_string(step.loss) + " and its gradient's norm " +
                                 std::to_string(step.gradient_norm) + " in epoch " + std::to_string(now.epoch) +
                                 ", batch " + std::to_string(b) + " (counted from 0); first not finite: " + place +
                                 ". The best parameters so far are restored; try a smaller learning rate");
      }
      trainer.update(step, now.learning_rate, options.clip_norm);
      ++now.step;
      loss += step.loss * static_cast<double>(batch.x.rows());
      rows += static_cast<double>(batch.x.rows());
      now.gradient_norm = std::max(now.gradient_norm, step.gradient_norm);
      if (now.step == options.steps) stop = Stop::steps;
      if (options.seconds > 0 && seconds() >= options.seconds) stop = Stop::seconds;
    }
    ++now.epoch;
    now.train_loss = loss / rows;
    if (validation) now.validation_loss = mean_loss(flow, *validation, cache, log_p);
    now.seconds = seconds();
    now.fraction = stop ? 1 : fraction_done(0);
    report.history.push_back(now);
    const double judged = validation ? now.validation_loss : now.train_loss;
    if (judged < best_loss) {
      best_loss = judged;
      report.best_epoch = now.epoch;
      if (validation)
        remember(best);
      else
        std::swap(best, start_of_epoch);
    }
    if (!stop && now.epoch == options.epochs) stop = Stop::epochs;
    if (!stop && options.patience > 0 && now.epoch - report.best_epoch >= options.patience) stop = Stop::patience;
    if (options.callback && options.callback(now) && !stop) stop = Stop::callback;
    if (options.progress) line.show(now);
    report.stop = stop.value_or(Stop::epochs);
  }
  if (options.progress) line.finish();
  if (validation)
    restore(best);
  else
    report.best_epoch = now.epoch;
  return report;
}

inline void check_fit_options(const FitOptions& o, bool has_validation) {
  const std::string_view where = "fit";
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

inline std::vector<Index> all_rows(Index n) {
  std::vector<Index> rows(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i) rows[static_cast<std::size_t>(i)] = i;
  return rows;
}

}  // namespace detail

/// Fits a flow to a table by maximum likelihood, judged by a validation set: its best epoch is what remains.
///
/// Layers with a data-dependent initialisation that has not been made get it first. All randomness (order of rows)
/// comes from rng: the same seed, build and thread count give the same parameters bit for bit, unless `seconds` ends
/// the run.
/// \throws std::invalid_argument for options or data that make no sense, naming a NaN's row and column;
///         std::runtime_error when the loss is no longer finite, naming epoch, batch and the first layer whose output
///         is not: the flow then has the best parameters so far.
template <class Model, Real S = typename Model::Scalar>
FitReport fit(Model& flow, const FitData<S>& train, const FitData<S>& validation, const FitOptions& options, Rng& rng) {
  detail::check_fit_options(options, true);
  detail::check_fit_data("fit", "train", train, flow.dim(), flow.context_dim());
  detail::check_fit_data("fit", "validation", validation, flow.dim(), flow.context_dim());
  flow.initialize(train.x, train.context);
  detail::TableBatches<S> batches(train, detail::all_rows(train.x.rows()), options.batch_size);
  return detail::run_fit(flow, batches, &validation, options, rng);
}

/// The same with options.validation_fraction of the rows, chosen at random, held out for validation (none if 0).
template <class Model, Real S = typename Model::Scalar>
FitReport fit(Model& flow, const FitData<S>& train, const FitOptions& options, Rng& rng) {
  detail::check_fit_data("fit", "x", train, flow.dim(), flow.context_dim());
  const Index n = train.x.rows();
  const auto held_out = static_cast<Index>(std::lround(options.validation_fraction * static_cast<double>(n)));
  detail::check_fit_options(options, held_out > 0);
  detail::check_value("fit", "validation_fraction", options.validation_fraction,
                      held_out < n && (held_out > 0 || !(options.validation_fraction > 0)),
                      "a fraction that leaves rows on both sides of " + std::to_string(n));
  std::vector<Index> rows = detail::all_rows(n);
  if (held_out == 0) {
    flow.initialize(train.x, train.context);
    detail::TableBatches<S> batches(train, std::move(rows), options.batch_size);
    return detail::run_fit(flow, batches, static_cast<const FitData<S>*>(nullptr), options, rng);
  }
  rng.shuffle(rows);
  const auto take = [&](Index first, Index count) {
    Minibatch<S> part{Matrix<S>(count, train.x.cols()),
                      Matrix<S>(train.context.cols() > 0 ? count : 0, train.context.cols()),
                      Vector<S>(train.weights.size() > 0 ? count : 0)};
    for (Index i = 0; i < count; ++i) {
      const Index row = rows[static_cast<std::size_t>(first + i)];
      part.x.row(i) = train.x.row(row);
      if (part.context.rows() > 0) part.context.row(i) = train.context.row(row);
      if (part.weights.size() > 0) part.weights[i] = train.weights[row];
    }
    return part;
  };
  const Minibatch<S> validation = take(0, held_out);
  const Minibatch<S> rest = take(held_out, n - held_out);
  return fit(flow, FitData<S>{rest.x, rest.context, rest.weights},
             FitData<S>{validation.x, validation.context, validation.weights}, options, rng);
}

/// The same for a plain matrix, n x D.
template <class Model, Real S = typename Model::Scalar>
FitReport fit(Model& flow, const Matrix<S>& x, const FitOptions& options, Rng& rng) {
  return fit(flow, FitData<S>{.x = x}, options, rng);
}

/// Fits a flow to what `draw(n, rng)` gives: a Matrix<S> of n rows, or a Minibatch<S> with context or weights. An epoch
/// is then 100 batches. With a validation set the best epoch is restored, else the last parameters remain.
template <class Model, BatchSource Draw, Real S = typename Model::Scalar>
FitReport fit(Model& flow, Draw&& draw, const FitOptions& options, Rng& rng, const FitData<S>* validation = nullptr) {
  detail::check_fit_options(options, validation != nullptr);
  detail::check_value("fit", "validation_fraction", options.validation_fraction, options.validation_fraction == 0,
                      "0 where batches are drawn: pass a validation set");
  if (validation) detail::check_fit_data("fit", "validation", *validation, flow.dim(), flow.context_dim());
  detail::DrawnBatches<S, std::remove_reference_t<Draw>> first(draw, std::max<Index>(options.batch_size, 4096),
                                                               flow.dim(), flow.context_dim());
  const BatchView<S> seen = first.batch(0, rng);
  flow.initialize(seen.x, seen.context);
  detail::DrawnBatches<S, std::remove_reference_t<Draw>> batches(draw, options.batch_size, flow.dim(),
                                                                 flow.context_dim());
  return detail::run_fit(flow, batches, validation, options, rng);
}

}  // namespace rhei
