// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The pre-activation residual net that neural spline flows are conditioned by (Durkan et al. 2019; after He et al.
/// 2016, "Identity mappings", without normalization and dropout):
///
///   h = x W + c W_c + b
///   h = h + branch(h) [* sigmoid(c G + g)]      branch(h) = act(act(h) W_0 + b_0) W_1 + b_1, in each block
///   y = h W' + b'
///
/// The gate in brackets is there where there is a context c (Dauphin et al. 2017, gated linear units).

#include <algorithm>
#include <rhei/nn/dense.hpp>
#include <rhei/nn/net.hpp>
#include <utility>
#include <vector>

namespace rhei {

/// A residual net with one block for each entry of `NetOptions::hidden`, which must all be the same width.
template <Real S>
class ResidualMlp {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "residual_mlp";

  /// Parameters of one block: W_0 and b_0, W_1 and b_1, G and g.
  struct Block {
    Dense<S> first, second;  ///< H x H
    Dense<S> gate;           ///< C x H; no parameter where C = 0

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("first", self.first);
      f("second", self.second);
      if (self.gate.weight.rows() > 0) f("gate", self.gate);
    }
  };
  struct Parameters {
    Dense<S> initial;           ///< inputs x H
    Matrix<S> context_weight;   ///< C x H; no parameter where C = 0
    std::vector<Block> blocks;  ///< one for each entry of NetOptions::hidden
    Dense<S> final;             ///< H x outputs

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("initial", self.initial);
      if (self.context_weight.rows() > 0) f("context_weight", self.context_weight);
      f("blocks", self.blocks);
      f("final", self.final);
    }
  };
  using Gradient = Parameters;

  struct Cache {
    /// What one block leaves.
    struct BlockCache {
      Buffer<S> in;            ///< n x H, h before the block
      Buffer<S> in_active;     ///< n x H, act of it
      Buffer<S> sum;           ///< n x H, what enters the second activation, where its derivative needs that
      Buffer<S> sum_active;    ///< n x H, what leaves it
      Buffer<S> branch, gate;  ///< n x H, where there is a context; the gate is one row where the context is
    };
    Index rows = 0;                          ///< of the last evaluation, n
    std::vector<BlockCache> blocks;          ///< of each block
    Buffer<S> out;                           ///< h after the last block
    Buffer<S> row;                           ///< scratch, 1 x H
    Buffer<S> d_h, d_branch, d_sum, d_gate;  ///< scratch of the pullback
  };

  /// Initialised as nflows does: uniform on +-1/sqrt(inputs of the map), but +-1e-3 for the second map of each block;
  /// the last map zero.
  /// \throws std::invalid_argument if a size is not possible or the widths differ.
  ResidualMlp(Index inputs, Index context, Index outputs, const NetOptions& options, Rng& rng)
      : ResidualMlp(inputs, context, outputs, options) {
    const auto draw = [&](Dense<S>& dense, double bound) {
      detail::draw_uniform(dense.weight, bound, rng);
      detail::draw_uniform(dense.bias, bound, rng);
    };
    draw(parameters_.initial, detail::initial_bound(inputs + context));
    detail::draw_uniform(parameters_.context_weight, detail::initial_bound(inputs + context), rng);
    for (Block& block : parameters_.blocks) {
      draw(block.first, detail::initial_bound(width()));
      draw(block.second, 1e-3);
      draw(block.gate, detail::initial_bound(context));
    }
  }

  [[nodiscard]] Index inputs() const { return parameters_.initial.weight.rows(); }
  [[nodiscard]] Index context_dim() const { return parameters_.context_weight.rows(); }
  [[nodiscard]] Index outputs() const { return parameters_.final.weight.cols(); }
  /// H.
  [[nodiscard]] Index width() const { return parameters_.initial.weight.cols(); }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }
  /// What it is made of, its sizes apart.
  [[nodiscard]] const NetOptions& net_options() const { return options_; }

  [[nodiscard]] Options options() const {
    return detail::describe_net(type, inputs(), context_dim(), outputs(), options_);
  }
  /// A net of that description with all parameters zero, for a reader to fill.
  static ResidualMlp from_options(const Options& options) {
    const NetOptions net = detail::net_options(options);
    const Index inputs = options.get_size("inputs"), context = options.get_size("context");
    const Index outputs = options.get_size("outputs", 1);
    std::vector<std::pair<Index, Index>> shapes;
    for (const Index width : net.hidden) {  // weights and biases, those at the ends of the net with the first block's
      if (shapes.empty()) shapes = {{inputs + context + 1, width}, {width + 1, outputs}};
      shapes.insert(shapes.end(), {{width + 1, width}, {width + 1, width}, {context + 1, width}});
    }
    options.check_tensors(shapes);
    return ResidualMlp(inputs, context, outputs, net);
  }

  void forward(ConstBatch<S> input, ConstBatch<S> context, Batch<S> output, Cache& cache) const {
    detail::check_net("ResidualMlp::forward", *this, input, context, ConstBatch<S>(output));
    const auto& [initial, context_weight, blocks, final] = parameters_;
    const bool in_place = derivative_from_output(options_.activation);
    const Index n = input.rows(), width = this->width();
    cache.rows = n;
    cache.blocks.resize(blocks.size());
    detail::affine(input, initial.weight, initial.bias, cache.blocks[0].in.resize(n, width), context, context_weight,
                   cache.row);
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      const Block& block = blocks[b];
      auto& kept = cache.blocks[b];
      const ConstBatch<S> h = detail::read(kept.in);
      const Batch<S> in_active = kept.in_active.resize(n, width), sum_active = kept.sum_active.resize(n, width);
      const Batch<S> sum = in_place ? sum_active : kept.sum.resize(n, width);
      activate(options_.activation, h, in_active);
      detail::affine(in_active, block.first.weight, block.first.bias, sum);
      activate(options_.activation, sum, sum_active);
      Batch<S> next = (b + 1 < blocks.size() ? cache.blocks[b + 1].in : cache.out).resize(n, width);
      if (context.cols() > 0) {
        const Batch<S> branch = kept.branch.resize(n, width), gate = kept.gate.resize(context.rows(), width);
        detail::affine(sum_active, block.second.weight, block.second.bias, branch);
        detail::affine(context, block.gate.weight, block.gate.bias, gate);
        activate(Activation::sigmoid, gate, gate);
        multiply_by_gate(branch, gate, next);
      } else {
        detail::affine(sum_active, block.second.weight, block.second.bias, next);
      }
      next += h;
    }
    detail::affine(detail::read(cache.out), final.weight, final.bias, output);
  }

  void pullback(ConstBatch<S> input, ConstBatch<S> context, Cache& cache, ConstBatch<S> d_output, Batch<S>* d_input,
                Batch<S>* d_context, Gradient* gradient) const {
    detail::check_net_pullback("ResidualMlp::pullback", *this, input, context, cache.rows, d_output, d_input,
                               d_context);
    if (!d_input && !d_context && !gradient) return;
    const auto& [initial, context_weight, blocks, final] = parameters_;
    const bool in_place = derivative_from_output(options_.activation);
    const Index n = input.rows(), width = this->width();
    const auto add_gradient = [&](ConstBatch<S> x, ConstBatch<S> d, Dense<S>& dense) {
      detail::add_affine_gradient(x, d, dense.weight, dense.bias);
    };
    Batch<S> d_h = cache.d_h.resize(n, width);  // of h after the block at hand
    if (gradient) add_gradient(detail::read(cache.out), d_output, gradient->final);
    set_product_transposed(d_h, d_output, final.weight);
    for (std::size_t b = blocks.size(); b-- > 0;) {
      const Block& block = blocks[b];
      Block* const d_block = gradient ? &gradient->blocks[b] : nullptr;
      auto& kept = cache.blocks[b];
      Batch<S> d_branch = cache.d_branch.resize(n, width), d_sum = cache.d_sum.resize(n, width);
      if (context.cols() > 0) {
        const ConstBatch<S> gate = detail::read(kept.gate);
        multiply_by_gate(d_h, gate, d_branch);
        if (gradient || d_context) {
          Batch<S> d_gate = cache.d_gate.resize(gate.rows(), width);
          multiply_rows(d_h, detail::read(kept.branch), d_gate);
          activate_pullback(Activation::sigmoid, gate, gate, d_gate);
          if (d_block) add_gradient(context, d_gate, d_block->gate);
          if (d_context) add_product_transposed(*d_context, d_gate, block.gate.weight);
        }
      }
      const ConstBatch<S> d = context.cols() > 0 ? d_branch : d_h;
      const ConstBatch<S> in_active = detail::read(kept.in_active), sum_active = detail::read(kept.sum_active);
      if (d_block) add_gradient(sum_active, d, d_block->second);
      set_product_transposed(d_sum, d, block.second.weight);
      activate_pullback(options_.activation, in_place ? sum_active : detail::read(kept.sum), sum_active, d_sum);
      if (d_block) add_gradient(in_active, d_sum, d_block->first);
      set_product_transposed(d_branch, d_sum, block.first.weight);
      activate_pullback(options_.activation, detail::read(kept.in), in_active, d_branch);
      d_h += d_branch;
    }
    if (gradient) add_gradient(input, d_h, gradient->initial);
    detail::add_context_gradient(context, context_weight, ConstBatch<S>(d_h), d_context,
                                 gradient ? &gradient->context_weight : nullptr, cache.row);
    if (d_input) set_product_transposed(*d_input, d_h, initial.weight);
  }

  /// The same net in another scalar.
  template <Real T>
  [[nodiscard]] ResidualMlp<T> cast() const {
    return cast_to<ResidualMlp<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }

 private:
  ResidualMlp(Index inputs, Index context, Index outputs, const NetOptions& options) : options_(options) {
    detail::check_net_sizes("ResidualMlp", inputs, context, outputs, options);
    const std::size_t count = options.hidden.size();
    detail::check_value("ResidualMlp", "the number of hidden widths", count, count > 0, "1 or more, one a block");
    const Index width = options.hidden.front();
    for (const Index other : options.hidden)
      detail::check_value("ResidualMlp", "a hidden width", other, other == width,
                          std::to_string(width) + ": all widths of a residual net are equal");
    parameters_.initial = Dense<S>(inputs, width);
    parameters_.context_weight = Matrix<S>::Zero(context, width);
    const Dense<S> square(width, width);
    parameters_.blocks.assign(count, {square, square, Dense<S>(context, width)});
    parameters_.final = Dense<S>(width, outputs);
  }

  /// out = values * gate; the gate has a row for each sample or one for all.
  static void multiply_by_gate(ConstBatch<S> values, ConstBatch<S> gate, Batch<S> out) {
    if (gate.rows() == values.rows())
      out = values.cwiseProduct(gate);
    else
      for (Index j = 0; j < values.cols(); ++j) out.col(j) = values.col(j) * gate(0, j);
  }
  /// out = a * b, summed over the samples where out has one row.
  static void multiply_rows(ConstBatch<S> a, ConstBatch<S> b, Batch<S> out) {
    if (out.rows() == a.rows())
      out = a.cwiseProduct(b);
    else
      for (Index j = 0; j < a.cols(); ++j) out(0, j) = a.col(j).dot(b.col(j));
  }

  NetOptions options_;
  Parameters parameters_;
};

}  // namespace rhei
