// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// `fit_variational`: a flow learns from its own draws and from what a density says of them. It needs no data:
/// \code
///   rhei::fit_variational(flow, rhei::ReverseKl(target), {.steps = 5000, .batch_size = 512}, rng);
///   rhei::fit_variational(student, rhei::Distillation(teacher), {.seconds = 60}, rng);
/// \endcode

#include <rhei/train/distillation.hpp>
#include <rhei/train/importance.hpp>
#include <rhei/train/log_variance.hpp>
#include <rhei/train/reverse_kl.hpp>
#include <rhei/train/run.hpp>

namespace rhei {

/// Fits a flow's draws by an objective that learns from them: ReverseKl, Distillation,
/// ImportanceWeighted or LogVariance.
///
/// options.batch_size rows are drawn at every step, an epoch is 100 steps, and the last parameters remain. Nothing is
/// held out: validation_fraction and patience must be 0. A conditional flow needs draw_context(n, rng), which gives n
/// contexts (n x C) or one for all draws of a step (amortised inference: one flow for all contexts). Layers with a
/// data-dependent initialisation stay as they are: call flow.initialize() with rows from near the target for it.
/// \throws std::invalid_argument for options that make no sense; std::runtime_error when the loss is no longer finite,
///         naming epoch, batch and what was not finite first: the flow then has the best parameters so far.
template <class Model, class Goal, class DrawContext = std::nullptr_t, Real S = typename Model::Scalar>
FitReport fit_variational(Model& flow, const Goal& objective, const FitOptions& options, Rng& rng,
                          DrawContext draw_context = {}) {
  static_assert(std::same_as<typename Goal::template Batch<S>, DrawView<S>>,
                "fit_variational takes an objective that learns from the flow's own draws; for data there is fit");
  detail::check_fit_options("fit_variational", options, false);
  detail::check_value("fit_variational", "validation_fraction", options.validation_fraction,
                      options.validation_fraction == 0, "0: there are no rows to hold out");
  detail::DrawRequests<S, DrawContext> batches(std::move(draw_context), options.batch_size, flow.context_dim());
  return detail::run_fit("fit_variational", flow, objective, batches, static_cast<const FitData<S>*>(nullptr), options,
                         rng);
}

}  // namespace rhei
