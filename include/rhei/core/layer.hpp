// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What an invertible layer is.
///
/// A layer maps latent z to data x (`forward`) and back (`inverse`) and knows log|det| of the direction applied. It is
/// a value, immutable while it is evaluated: what an evaluation remembers for its pullback lives in a `Cache`, and
/// gradients live in a `Gradient`, both owned by the caller. So one layer serves many threads.
///
/// Conventions for every layer (z, x: n x D; log_det, d_log_det: n; call.context: n x C, 1 x C or empty):
///
/// - `forward(call, z, x, log_det, cache)` writes x and **adds** log|det dx/dz| to log_det;
///   `inverse(call, x, z, log_det, cache)` writes z and **adds** log|det dz/dx|. Outputs must not overlap inputs.
/// - `forward_pullback(call, z, x, cache, d_x, d_log_det, d_z, d_context, gradient)` is shown the batch that forward
/// was
///   given and the one it produced, with the cache of that evaluation and the loss's derivatives d_x = dL/dx and
///   d_log_det = dL/dlog_det. It writes d_z and **adds** to d_context (summed into one row where the context is one
///   row) and to gradient. Each of the last three may be null: then it is not computed. `inverse_pullback` mirrors it.
///   A cache serves any number of pullbacks of the evaluation that filled it.
/// - `initialize(call, x)`: data-dependent initialisation from a batch on the data side, where a layer has any; does
///   nothing when it has been done (or loaded) before.
/// - `options()` with `type`: from which a file's reader builds the layer again.

#include <concepts>
#include <rhei/core/call.hpp>
#include <rhei/core/options.hpp>
#include <rhei/core/parameters.hpp>
#include <rhei/core/types.hpp>

namespace rhei {

/// \concept Layer
/// An invertible map with log-determinant and pullbacks in both directions; see the file comment for the contract.
// clang-format off
template <class L>
concept Layer = std::copyable<L> && Real<typename L::Scalar> &&
    std::default_initializable<typename L::Cache> && std::movable<typename L::Gradient> &&
    requires(const L& layer, const Call<typename L::Scalar>& call, ConstBatch<typename L::Scalar> in,
             Batch<typename L::Scalar> out, Values<typename L::Scalar> log_det,
             ConstValues<typename L::Scalar> d_log_det, typename L::Cache& cache,
             Batch<typename L::Scalar>* wanted, typename L::Gradient* gradient) {
      { layer.dim() } -> std::same_as<Index>;
      { layer.context_dim() } -> std::same_as<Index>;
      { layer.traits() } -> std::same_as<Traits>;
      { layer.options() } -> std::same_as<Options>;
      { layer.make_gradient() } -> std::same_as<typename L::Gradient>;
      layer.forward(call, in, out, log_det, cache);
      layer.inverse(call, in, out, log_det, cache);
      layer.forward_pullback(call, in, in, cache, in, d_log_det, wanted, wanted, gradient);
      layer.inverse_pullback(call, in, in, cache, in, d_log_det, wanted, wanted, gradient);
    };
// clang-format on

/// Data-dependent initialisation of one layer from a batch x (n x D) on its data side, if it has any.
template <Layer L>
void initialize(L& layer, const Call<typename L::Scalar>& call, ConstBatch<typename L::Scalar> x) {
  if constexpr (requires { layer.initialize(call, x); }) layer.initialize(call, x);
}

/// Lets a layer check and derive what follows from parameters and state that were written from outside (by a reader).
/// \throws std::runtime_error if the state is not a legal one (a permutation that is none, say).
template <class L>
void check_state(L& layer) {
  if constexpr (requires { layer.check_state(); }) layer.check_state();
}

/// Calls `f(name, L)` for a layer, or, where it is composed of others, for each of those in the order of `forward`.
template <class L, class F>
void for_each_layer(L& layer, F&& f, std::string_view name = {}) {
  if constexpr (requires { layer.visit_layers(f, name); })
    layer.visit_layers(f, name);
  else
    f(name, layer);
}

namespace detail {

/// The checks that start every evaluation: D columns, matching rows, a context of the right shape.
template <Layer L>
void check_evaluation(std::string_view where, const L& layer, const Call<typename L::Scalar>& call,
                      const ConstBatch<typename L::Scalar>& in, const ConstBatch<typename L::Scalar>& out,
                      Index log_det_size) {
  check_shape(where, "the input", in.rows(), in.cols(), -1, layer.dim());
  check_shape(where, "the output", out.rows(), out.cols(), in.rows(), in.cols());
  check_shape(where, "log_det", log_det_size, 1, in.rows(), 1);
  check_context(where, call.context, in.rows(), layer.context_dim());
}

}  // namespace detail
}  // namespace rhei
