// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The multi-layer perceptron: affine maps with an activation between each two. A context enters the first of them.

#include <rhei/nn/dense.hpp>
#include <rhei/nn/net.hpp>
#include <utility>
#include <vector>

namespace rhei {

/// An MLP with any number of hidden layers; with none it is an affine map.
template <Real S>
class Mlp {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "mlp";

  struct Parameters {
    std::vector<Matrix<S>> weight;   ///< of layer l, its inputs x its outputs
    std::vector<RowVector<S>> bias;  ///< of layer l
    Matrix<S> context_weight;        ///< C x outputs of the first layer; no parameter where C = 0

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("weight", self.weight);
      f("bias", self.bias);
      if (self.context_weight.rows() > 0) f("context_weight", self.context_weight);
    }
  };
  using Gradient = Parameters;

  struct Cache {
    Index rows = 0;                 ///< of the last evaluation, n
    std::vector<Buffer<S>> before;  ///< what enters the activation after layer l, where its derivative needs that
    std::vector<Buffer<S>> after;   ///< what leaves it
    Buffer<S> row;                  ///< 1 x outputs of the first layer
    Buffer<S> d[2];                 ///< scratch of the pullback
  };

  /// Initialised as PyTorch does (uniform on +-1/sqrt(inputs of the layer, context included)), the last layer zero.
  /// \throws std::invalid_argument if a size is not possible.
  Mlp(Index inputs, Index context, Index outputs, const NetOptions& options, Rng& rng)
      : Mlp(inputs, context, outputs, options) {
    for (std::size_t l = 0; l + 1 < parameters_.weight.size(); ++l) {
      const double bound = detail::initial_bound(parameters_.weight[l].rows() + (l == 0 ? context : 0));
      detail::draw_uniform(parameters_.weight[l], bound, rng);
      detail::draw_uniform(parameters_.bias[l], bound, rng);
      if (l == 0) detail::draw_uniform(parameters_.context_weight, bound, rng);
    }
  }

  [[nodiscard]] Index inputs() const { return parameters_.weight.front().rows(); }
  [[nodiscard]] Index context_dim() const { return parameters_.context_weight.rows(); }
  [[nodiscard]] Index outputs() const { return parameters_.weight.back().cols(); }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }
  /// What it is made of, its sizes apart.
  [[nodiscard]] const NetOptions& net_options() const { return options_; }

  [[nodiscard]] Options options() const {
    return detail::describe_net(type, inputs(), context_dim(), outputs(), options_);
  }
  /// A net of that description with all parameters zero, for a reader to fill.
  static Mlp from_options(const Options& options) {
    const NetOptions net = detail::net_options(options);
    const Index inputs = options.get_size("inputs"), context = options.get_size("context");
    const Index outputs = options.get_size("outputs", 1);
    std::vector<std::pair<Index, Index>> shapes = {{context, net.hidden.empty() ? outputs : net.hidden.front()}};
    Index before = inputs;
    for (const Index width : net.hidden) {
      shapes.emplace_back(before + 1, width);  // weight and bias
      before = width;
    }
    shapes.emplace_back(before + 1, outputs);
    options.check_tensors(shapes);
    return Mlp(inputs, context, outputs, net);
  }

  void forward(ConstBatch<S> input, ConstBatch<S> context, Batch<S> output, Cache& cache) const {
    detail::check_net("Mlp::forward", *this, input, context, ConstBatch<S>(output));
    const auto& [weight, bias, context_weight] = parameters_;
    const std::size_t last = weight.size() - 1;
    const bool in_place = derivative_from_output(options_.activation);
    const bool is_relu = options_.activation == Activation::relu;  // which the products do on their way
    const Index n = input.rows();
    cache.rows = n;
    cache.before.resize(last);
    cache.after.resize(last);
    for (std::size_t l = 0; l <= last; ++l) {
      const Index width = bias[l].size();
      Batch<S> sum = l == last ? output : (in_place ? cache.after : cache.before)[l].resize(n, width);
      const detail::Finish<S> finish{.relu = is_relu && l < last};
      if (l == 0)
        detail::affine(input, weight[0], bias[0], sum, context, context_weight, cache.row, finish);
      else
        detail::affine(detail::read(cache.after[l - 1]), weight[l], bias[l], sum, finish);
      if (l < last && !is_relu) activate(options_.activation, sum, in_place ? sum : cache.after[l].resize(n, width));
    }
  }

  void pullback(ConstBatch<S> input, ConstBatch<S> context, Cache& cache, ConstBatch<S> d_output, Batch<S>* d_input,
                Batch<S>* d_context, Gradient* gradient) const {
    detail::check_net_pullback("Mlp::pullback", *this, input, context, cache.rows, d_output, d_input, d_context);
    if (!d_input && !d_context && !gradient) return;
    const auto& [weight, bias, context_weight] = parameters_;
    const bool in_place = derivative_from_output(options_.activation);
    const bool is_relu = options_.activation == Activation::relu;
    const std::size_t last = weight.size() - 1;
    const auto d_sum = [&](std::size_t l) { return l == last ? d_output : detail::read(cache.d[l % 2]); };
    for (std::size_t l = last; l > 0; --l) {
      const ConstBatch<S> x = detail::read(cache.after[l - 1]);
      if (gradient) detail::add_affine_gradient(x, d_sum(l), gradient->weight[l], gradient->bias[l]);
      Batch<S> d_x = cache.d[(l - 1) % 2].resize(x.rows(), x.cols());
      detail::affine_pullback(d_x, d_sum(l), weight[l], is_relu ? detail::relu_pullback(x) : detail::Finish<S>());
      if (!is_relu) activate_pullback(options_.activation, in_place ? x : detail::read(cache.before[l - 1]), x, d_x);
    }
    const ConstBatch<S> d = d_sum(0);
    if (gradient) detail::add_affine_gradient(input, d, gradient->weight[0], gradient->bias[0]);
    detail::add_context_gradient(context, context_weight, d, d_context, gradient ? &gradient->context_weight : nullptr,
                                 cache.row);
    if (d_input) set_product_transposed(*d_input, d, weight[0]);
  }

  /// The same net in another scalar.
  template <Real T>
  [[nodiscard]] Mlp<T> cast() const {
    return cast_to<Mlp<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }

 private:
  Mlp(Index inputs, Index context, Index outputs, const NetOptions& options) : options_(options) {
    detail::check_net_sizes("Mlp", inputs, context, outputs, options);
    std::vector<Index> widths = options.hidden;
    widths.push_back(outputs);
    Index before = inputs;
    for (const Index width : widths) {
      parameters_.weight.push_back(Matrix<S>::Zero(before, width));
      parameters_.bias.push_back(RowVector<S>::Zero(width));
      before = width;
    }
    parameters_.context_weight = Matrix<S>::Zero(context, widths.front());
  }

  NetOptions options_;
  Parameters parameters_;
};

}  // namespace rhei
