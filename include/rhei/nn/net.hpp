// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What a conditioner is: a net that maps a batch, and a context beside it, to the parameters of a transformer.
///
/// Conventions for every net (input: n x inputs, where inputs may be 0; context: n x C, 1 x C for all samples, or
/// empty where C = 0; output, d_output: n x outputs):
///
/// - `forward(input, context, output, cache)` writes output. Outputs must not overlap inputs.
/// - `pullback(input, context, cache, d_output, d_input, d_context, gradient)` is shown what forward was shown, its
///   cache, and d_output = dL/doutput. It writes d_input and **adds** to d_context (summed into one row where the
///   context is one row) and to gradient. Each of these three may be null: then it is not computed. A cache serves any
///   number of pullbacks of the evaluation that filled it.
///
/// A new net's last layer is zero, so that the flow it conditions starts as the identity.

#include <concepts>
#include <cstdint>
#include <rhei/core/call.hpp>
#include <rhei/core/options.hpp>
#include <rhei/core/parameters.hpp>
#include <rhei/nn/activation.hpp>
#include <string>
#include <vector>

namespace rhei {

/// The shape of a dense net between its inputs and outputs.
struct NetOptions {
  std::vector<Index> hidden = {64, 64};      ///< widths of the hidden layers; see each net for what they mean to it
  Activation activation = Activation::relu;  ///< of the hidden layers
};

/// \concept Net
/// A conditioner; see the file comment for the contract.
// clang-format off
template <class N>
concept Net = std::copyable<N> && Real<typename N::Scalar> &&
    std::constructible_from<N, Index, Index, Index, const NetOptions&, Rng&> &&
    std::default_initializable<typename N::Cache> && std::movable<typename N::Gradient> &&
    requires(const N& net, ConstBatch<typename N::Scalar> in, Batch<typename N::Scalar> out, typename N::Cache& cache,
             Batch<typename N::Scalar>* wanted, typename N::Gradient* gradient, const Options& options) {
      { net.inputs() } -> std::same_as<Index>;
      { net.context_dim() } -> std::same_as<Index>;
      { net.outputs() } -> std::same_as<Index>;
      { net.options() } -> std::same_as<Options>;
      { N::from_options(options) } -> std::same_as<N>;
      { net.make_gradient() } -> std::same_as<typename N::Gradient>;
      net.forward(in, in, out, cache);
      net.pullback(in, in, cache, in, wanted, wanted, gradient);
    };
// clang-format on

namespace detail {

/// The checks that start every evaluation of a net.
template <Net N, Real S>
void check_net(std::string_view where, const N& net, const ConstBatch<S>& input, const ConstBatch<S>& context,
               const ConstBatch<S>& output) {
  check_shape(where, "the input", input.rows(), input.cols(), -1, net.inputs());
  check_context(where, context, input.rows(), net.context_dim());
  check_shape(where, "the output", output.rows(), output.cols(), input.rows(), net.outputs());
}

/// The checks that start every pullback of a net; `cached_rows` is the size of the batch that filled the cache.
template <Net N, Real S>
void check_net_pullback(std::string_view where, const N& net, const ConstBatch<S>& input, const ConstBatch<S>& context,
                        Index cached_rows, const ConstBatch<S>& d_output, const Batch<S>* d_input,
                        const Batch<S>* d_context) {
  check_net(where, net, input, context, d_output);
  check_shape(where, "the batch in the cache", cached_rows, net.inputs(), input.rows(), input.cols());
  if (d_input) check_shape(where, "d_input", d_input->rows(), d_input->cols(), input.rows(), input.cols());
  if (d_context) check_shape(where, "d_context", d_context->rows(), d_context->cols(), context.rows(), context.cols());
}

/// The checks of what a net is built from.
inline void check_net_sizes(std::string_view where, Index inputs, Index context, Index outputs,
                            const NetOptions& options) {
  check_value(where, "the number of inputs", inputs, inputs >= 0, "0 or more");
  check_value(where, "the number of context columns", context, context >= 0, "0 or more");
  check_value(where, "the number of outputs", outputs, outputs >= 1, "1 or more");
  for (const Index width : options.hidden) check_value(where, "a hidden width", width, width >= 1, "1 or more");
}

/// The description of a net of one of these classes, and back.
inline Options describe_net(std::string_view type, Index inputs, Index context, Index outputs,
                            const NetOptions& options) {
  return Options(type)
      .set("inputs", std::int64_t{inputs})
      .set("context", std::int64_t{context})
      .set("outputs", std::int64_t{outputs})
      .set("hidden", Options::Integers(options.hidden.begin(), options.hidden.end()))
      .set("activation", to_string(options.activation));
}
inline NetOptions net_options(const Options& options) {
  return {.hidden = options.get_sizes("hidden", 1),
          .activation = parse_activation(options.get<std::string>("activation"))};
}

}  // namespace detail
}  // namespace rhei
