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
/// - `options()` with `type`: from which a file's reader builds the layer again.
///
/// and where there is something to do:
///
/// - `initialize(call, x)`: data-dependent initialisation from a batch on the data side; does nothing when it has been
///   done (or loaded) before.
/// - `update_state(cache)`: lets state follow the batch of the evaluation that filled the cache (running averages).
/// - `each_memory(cache, f)` (static): f(Buffer<S>&) for what a cache holds and nothing can compute again, batch
///   statistics and draws. A call with `repeat` evaluates with them instead of making new ones, whatever else the cache
///   has been used for.
/// - `check_state()`: see below.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <limits>
#include <rhei/core/call.hpp>
#include <rhei/core/options.hpp>
#include <rhei/core/parameters.hpp>
#include <rhei/core/types.hpp>
#include <stdexcept>
#include <string>
#include <utility>

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

/// The named call after an optimizer step by which a layer's state follows the batches. `cache` is that of an
/// evaluation that kept everything or its output.
template <class L>
void update_state(L& layer, typename L::Cache& cache) {
  if constexpr (requires { layer.update_state(cache); }) layer.update_state(cache);
}

/// Calls `f(Buffer<S>&)` for all that `layer` has left in `cache` and that a call with `repeat` needs.
template <class L, class F>
void for_each_memory(const L& layer, typename L::Cache& cache, F&& f) {
  if constexpr (requires { layer.visit_memory(cache, f); })  // where it depends on the layer and not on its type alone
    layer.visit_memory(cache, f);
  else if constexpr (requires { L::each_memory(cache, f); })
    L::each_memory(cache, f);
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

/// Whether T has a cast() to another scalar, as all but what is erased does.
template <class T, class Scalar>
concept Castable = requires(const T& node) {
  node.template cast<Scalar>();
};

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

/// The checks of a pullback, which those who are called by users make for all that they call.
template <class L, class S = typename L::Scalar>
void check_pullback(std::string_view where, const L& layer, const Call<S>& call, const ConstBatch<S>& in,
                    const ConstBatch<S>& out, const ConstBatch<S>& d_out, Index d_log_det_size, const Batch<S>* d_in,
                    const Batch<S>* d_context) {
  check_shape(where, "the input", in.rows(), in.cols(), -1, layer.dim());
  check_shape(where, "the output", out.rows(), out.cols(), in.rows(), in.cols());
  check_shape(where, "the derivative of the output", d_out.rows(), d_out.cols(), in.rows(), in.cols());
  check_shape(where, "d_log_det", d_log_det_size, 1, in.rows(), 1);
  check_context(where, call.context, in.rows(), layer.context_dim());
  if (d_in) check_shape(where, "the derivative of the input", d_in->rows(), d_in->cols(), in.rows(), in.cols());
  if (d_context && layer.context_dim() > 0)
    check_shape(where, "d_context", d_context->rows(), d_context->cols(), call.context.rows(), call.context.cols());
}

// ---- pullbacks in O(1) memory, for an evaluation with Keep::output: its input is rebuilt from its output -----------

/// Where a layer is evaluated again.
template <Real S>
struct Replay {
  Buffer<S> out, log_det;
};

/// What forward_pullback does, but z is written, not read: inverse makes it from x, and forward fills the cache again.
/// A layer made of layers has a member of this name that does so for each of them.
template <Layer L, class S = typename L::Scalar>
void replay_forward_pullback(const L& layer, const Call<S>& call, Batch<S> z, ConstBatch<S> x, typename L::Cache& cache,
                             ConstBatch<S> d_x, ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>* d_context,
                             typename L::Gradient* gradient, Replay<S>& replay) {
  if constexpr (requires {
                  layer.replay_forward_pullback(call, z, x, cache, d_x, d_log_det, d_z, d_context, gradient, replay);
                }) {
    layer.replay_forward_pullback(call, z, x, cache, d_x, d_log_det, d_z, d_context, gradient, replay);
  } else {
    Call<S> again = call;
    again.repeat = true;
    Batch<S> out = replay.out.resize(x.rows(), x.cols());
    Values<S> unused = replay.log_det.resize(x.rows());
    unused.setZero();
    again.keep = Keep::nothing;
    layer.inverse(again, x, z, unused, cache);
    again.keep = Keep::everything;
    layer.forward(again, z, out, unused, cache);
    layer.forward_pullback(again, z, out, cache, d_x, d_log_det, d_z, d_context, gradient);
  }
}
/// The same for inverse_pullback: x is written.
template <Layer L, class S = typename L::Scalar>
void replay_inverse_pullback(const L& layer, const Call<S>& call, Batch<S> x, ConstBatch<S> z, typename L::Cache& cache,
                             ConstBatch<S> d_z, ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>* d_context,
                             typename L::Gradient* gradient, Replay<S>& replay) {
  if constexpr (requires {
                  layer.replay_inverse_pullback(call, x, z, cache, d_z, d_log_det, d_x, d_context, gradient, replay);
                }) {
    layer.replay_inverse_pullback(call, x, z, cache, d_z, d_log_det, d_x, d_context, gradient, replay);
  } else {
    Call<S> again = call;
    again.repeat = true;
    Batch<S> out = replay.out.resize(z.rows(), z.cols());
    Values<S> unused = replay.log_det.resize(z.rows());
    unused.setZero();
    again.keep = Keep::nothing;
    layer.forward(again, z, x, unused, cache);
    again.keep = Keep::everything;
    layer.inverse(again, x, out, unused, cache);
    layer.inverse_pullback(again, x, out, cache, d_z, d_log_det, d_x, d_context, gradient);
  }
}

/// The worst |rebuilt - x| / max(1, |x|); infinite where a number has come back as none.
template <Real S>
double round_trip_error(const ConstBatch<S>& rebuilt, const ConstBatch<S>& x) {
  double worst = 0;
  for (Index i = 0; i < x.size(); ++i) {
    const S value = x.data()[i];
    const double error = static_cast<double>(std::abs(rebuilt.data()[i] - value) / std::max(S(1), std::abs(value)));
    if (error <= worst || std::isnan(value)) continue;
    worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
  }
  return worst;
}

}  // namespace detail
}  // namespace rhei
