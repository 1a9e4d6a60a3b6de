// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// `fit`: maximum likelihood from a table or from a callable, from data-dependent initialisation to the best
/// parameters.

#include <rhei/train/run.hpp>

namespace rhei {
namespace detail {

inline std::vector<Index> all_rows(Index n) {
  std::vector<Index> rows(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i) rows[static_cast<std::size_t>(i)] = i;
  return rows;
}

}  // namespace detail

/// Fits a flow to a table by maximum likelihood, judged by a validation set: its best epoch is what remains.
///
/// Layers with a data-dependent initialisation that has not been made get it first. All randomness (order of rows,
/// layers that draw) comes from rng: the same seed, build and thread count give the same parameters bit for bit, unless
/// `seconds` ends the run; so does a run that was interrupted and resumed (options.checkpoint, options.resume), called
/// with the same arguments, the generator as it was at first.
/// \throws std::invalid_argument for options or data that make no sense, naming a NaN's row and column;
///         std::runtime_error when the loss is no longer finite, naming epoch, batch and the first layer whose output
///         is not: the flow then has the best parameters so far.
template <class Model, Real S = typename Model::Scalar>
FitReport fit(Model& flow, const FitData<S>& train, const FitData<S>& validation, const FitOptions& options, Rng& rng) {
  detail::check_fit_options("fit", options, true);
  detail::check_fit_data("fit", "train", train, flow.dim(), flow.context_dim());
  detail::check_fit_data("fit", "validation", validation, flow.dim(), flow.context_dim());
  flow.initialize(train.x, train.context);
  detail::TableBatches<S> batches(train, detail::all_rows(train.x.rows()), options.batch_size);
  return detail::run_fit("fit", flow, MaximumLikelihood{}, batches, &validation, options, rng);
}

/// The same with options.validation_fraction of the rows, chosen at random, held out for validation (none if 0).
template <class Model, Real S = typename Model::Scalar>
FitReport fit(Model& flow, const FitData<S>& train, const FitOptions& options, Rng& rng) {
  detail::check_fit_data("fit", "x", train, flow.dim(), flow.context_dim());
  const Index n = train.x.rows();
  const auto held_out = static_cast<Index>(std::lround(options.validation_fraction * static_cast<double>(n)));
  detail::check_fit_options("fit", options, held_out > 0);
  detail::check_value("fit", "validation_fraction", options.validation_fraction,
                      held_out < n && (held_out > 0 || !(options.validation_fraction > 0)),
                      "a fraction that leaves rows on both sides of " + std::to_string(n));
  std::vector<Index> rows = detail::all_rows(n);
  if (held_out == 0) {
    flow.initialize(train.x, train.context);
    detail::TableBatches<S> batches(train, std::move(rows), options.batch_size);
    return detail::run_fit("fit", flow, MaximumLikelihood{}, batches, static_cast<const FitData<S>*>(nullptr), options,
                           rng);
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
  detail::check_fit_options("fit", options, validation != nullptr);
  detail::check_value("fit", "validation_fraction", options.validation_fraction, options.validation_fraction == 0,
                      "0 where batches are drawn: pass a validation set");
  if (validation) detail::check_fit_data("fit", "validation", *validation, flow.dim(), flow.context_dim());
  detail::DrawnBatches<S, std::remove_reference_t<Draw>> first(draw, std::max<Index>(options.batch_size, 4096),
                                                               flow.dim(), flow.context_dim());
  const BatchView<S> seen = first.batch(0, rng);
  flow.initialize(seen.x, seen.context);
  detail::DrawnBatches<S, std::remove_reference_t<Draw>> batches(draw, options.batch_size, flow.dim(),
                                                                 flow.context_dim());
  return detail::run_fit("fit", flow, MaximumLikelihood{}, batches, validation, options, rng);
}

}  // namespace rhei
