// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// MADE, the masked autoencoder for distribution estimation (Germain et al. 2015), as autoregressive flows use it: a
/// net whose outputs for feature i depend on the features before i alone. Plain, or with residual blocks (Durkan et al.
/// 2019).
///
/// Input i = 0 ... D-1 has degree i + 1, a hidden unit a degree in 0 ... D-1, and the m outputs of feature i have
/// degree i. A weight counts only where degree(its input) <= degree(its output): so a unit of degree g sees the first g
/// features.
///
///   plain     a_l = act(s_l),  s_l = a_{l-1} W_l + b_l  [s_0 += c W_c, or act(c W_c + b_c)]
///   residual  s_0 = x W_0 + b_0 [+ c W_c0, or act(c W_c0 + b_c)];  s_2k = s_2k-2 + act(s_2k-1) W_2k + b_2k,
///             s_2k-1 = act(s_2k-2) W_2k-1 + b_2k-1 [+ c W_ck]
///
/// The units of every layer are kept **sorted by degree** (an exact reordering of the same net), which makes every
/// weight matrix block triangular, and with it three things possible that a net with masked weights cannot do:
///
/// - the blocks of zeros are skipped;
/// - `sweep`, the direction in which feature i must be made from the outputs of the features before it, evaluates each
///   unit exactly once, as soon as the features it sees exist: a recursion over halves of the degrees, as in a blocked
///   triangular solve, leaves most of the work to large products. The textbook's D passes of the net become one;
/// - `sweep_pullback` differentiates that for the price of one backward pass, from the last degree down to the first.
///
/// Entries of the weights that do not count are ignored, whatever they hold; their gradient is zero.

#include <algorithm>
#include <rhei/nn/dense.hpp>
#include <rhei/nn/net.hpp>
#include <rhei/nn/staircase_product.hpp>
#include <stdexcept>
#include <utility>
#include <vector>

namespace rhei {

/// The hidden layers of a MADE.
struct MadeOptions {
  std::vector<Index> hidden = {64, 64};  ///< widths, of which there may be none; one for each residual block, the same
  Activation activation = Activation::relu;  ///< of the hidden layers
  bool residual = false;                     ///< pre-activation residual blocks rather than plain layers
  bool random_degrees = false;               ///< drawn (Germain et al. 2015, section 4.2) rather than spread evenly
  /// The context enters s_0 as act(c W_c + b_c) rather than c W_c (nflows 0.14, transforms/made.py:277).
  bool activated_context = false;
};

/// A net of D inputs and m outputs for each, where the outputs of a feature depend on the features before it, and on a
/// context. Batches: input n x D, context n x C or 1 x C or empty, output n x (D m), the m outputs of feature i in
/// columns i m ... (i + 1) m - 1.
template <Real S>
class Made {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "made";

  struct Parameters {
    std::vector<Matrix<S>> weight;          ///< of map l, its inputs x its outputs, both sorted by degree
    std::vector<RowVector<S>> bias;         ///< of map l
    std::vector<Matrix<S>> context_weight;  ///< of the maps that take the context: the first of the net, of each block
    RowVector<S> context_bias;              ///< b_c, where the context is activated

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("weight", self.weight);
      f("bias", self.bias);
      if (!self.context_weight.empty()) f("context_weight", self.context_weight);
      if (self.context_bias.size() > 0) f("context_bias", self.context_bias);
    }
  };
  using Gradient = Parameters;

  struct Cache {
    Index rows = 0;                     ///< of the last evaluation, n
    Index units = 0;                    ///< hidden units that the last evaluation computed
    std::vector<Buffer<S>> sum, after;  ///< s_l, and what map l + 1 is given where that is not s_l itself
    std::vector<Buffer<S>> d_sum;       ///< dL/ds_l
    Buffer<S> row;                      ///< scratch: one row of sums
    Buffer<S> scratch;                  ///< of the products
    Buffer<S> context_sum, context_after, d_context_sum;  ///< c W_c + b_c and act of it, where that is what enters s_0
  };

  /// Initialised as PyTorch does (uniform on +-1/sqrt(inputs that count)), in the second map of each residual block on
  /// +-1e-3; the last map is zero.
  /// \throws std::invalid_argument if a size is not possible.
  Made(Index features, Index outputs_per_feature, Index context, const MadeOptions& options, Rng& rng)
      : Made(features, outputs_per_feature, context, options) {
    for (std::size_t level = 0; level < degrees_.size(); ++level) {
      const Index lowest = level > 0 && options.random_degrees ? degrees_[level - 1].front() : lowest_degree();
      const auto width = static_cast<std::int64_t>(degrees_[level].size());
      for (std::int64_t j = 0; j < width; ++j) {
        const Index spread = features - lowest;
        degrees_[level][static_cast<std::size_t>(j)] =
            lowest + (options.random_degrees ? rng.below(spread) : j * spread / width);
      }
      std::sort(degrees_[level].begin(), degrees_[level].end());
    }
    check_state();
    if (activates_context(0)) detail::draw_uniform(parameters_.context_bias, detail::initial_bound(context), rng);
    for (Index l = 0; l < last(); ++l) {
      const bool second = options.residual && l > 0 && l % 2 == 0;
      auto& weight = parameters_.weight[at(l)];
      for (Index j = 0; j < weight.cols(); ++j) {
        const Index seen = start(l, degree(l + 1, j) + 1) + (takes_context(l) ? context : 0);
        const double bound = second ? 1e-3 : detail::initial_bound(seen);
        detail::draw_uniform(weight.col(j), bound, rng);
        detail::draw_uniform(parameters_.bias[at(l)].segment(j, 1), bound, rng);
        if (takes_context(l)) detail::draw_uniform(context_weight(parameters_, l).col(j), bound, rng);
      }
    }
  }

  /// A net whose parameters are all zero, with the given degrees of its units: a list for each hidden layer, or one for
  /// all layers of a residual net.
  /// \throws std::invalid_argument if a size is not possible, std::runtime_error unless all degrees ascend within
  /// 0 ... D-1.
  Made(Index features, Index outputs_per_feature, Index context, const MadeOptions& options,
       std::vector<std::vector<std::int64_t>> degrees)
      : Made(features, outputs_per_feature, context, options) {
    detail::check_value("Made", "the number of lists of degrees", degrees.size(), degrees.size() == degrees_.size(),
                        std::to_string(degrees_.size()));
    for (std::size_t level = 0; level < degrees.size(); ++level)
      detail::check_value("Made", "the number of degrees of a layer", degrees[level].size(),
                          degrees[level].size() == degrees_[level].size(), std::to_string(degrees_[level].size()));
    degrees_ = std::move(degrees);
    check_state();
  }

  /// D, the columns of the input.
  [[nodiscard]] Index features() const { return parameters_.weight.front().rows(); }
  [[nodiscard]] Index outputs() const { return parameters_.weight.back().cols(); }
  /// m.
  [[nodiscard]] Index outputs_per_feature() const { return outputs() / features(); }
  [[nodiscard]] Index context_dim() const {
    return parameters_.context_weight.empty() ? 0 : parameters_.context_weight.front().rows();
  }
  /// The number of hidden units.
  [[nodiscard]] Index units() const {
    Index count = 0;
    for (Index l = 0; l < last(); ++l) count += width(l);
    return count;
  }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }
  /// What it is made of, its sizes apart.
  [[nodiscard]] const MadeOptions& made_options() const { return options_; }
  /// The degrees of the units, ascending, for each hidden layer; one list for all layers of a residual net.
  [[nodiscard]] const std::vector<std::vector<std::int64_t>>& degrees() const { return degrees_; }

  [[nodiscard]] Options options() const {
    Options own(type);
    own.set("features", features())
        .set("outputs_per_feature", outputs_per_feature())
        .set("context", context_dim())
        .set("hidden", Options::Integers(options_.hidden.begin(), options_.hidden.end()))
        .set("activation", to_string(options_.activation))
        .set("residual", options_.residual);
    if (options_.activated_context) own.set("activated_context", true);
    return own;
  }
  /// A net of that description with all parameters and degrees zero, for a reader to fill.
  static Made from_options(const Options& options) {
    const Index features = options.get_size("features", 1), outputs = options.get_size("outputs_per_feature", 1);
    const Index context = options.get_size("context");
    const MadeOptions made{
        .hidden = options.get_sizes("hidden", 1),
        .activation = parse_activation(options.get<std::string>("activation")),
        .residual = options.get<bool>("residual"),
        .activated_context = options.has("activated_context") && options.get<bool>("activated_context")};
    std::vector<std::pair<Index, Index>> shapes;
    Index before = features;
    for (const Index width : made.hidden) {  // weights and biases; the second maps of blocks with the first
      shapes.emplace_back(before + 1 + context, width);
      if (made.residual) shapes.emplace_back(width + 1, width);
      before = width;
    }
    options.check_tensors({{features, outputs}});
    shapes.emplace_back(before + 1 + (made.hidden.empty() ? context : 0), features * outputs);
    options.check_tensors(shapes);
    Made net(features, outputs, context, made);
    net.check_state();
    return net;
  }
  /// \throws std::runtime_error unless all degrees ascend within 0 ... D-1.
  void check_state() {
    const Index dims = features();
    for (const auto& level : degrees_)
      for (std::size_t j = 0; j < level.size(); ++j)
        if (level[j] < (j > 0 ? level[j - 1] : 0) || level[j] >= dims)
          throw std::runtime_error("Made: degree " + std::to_string(j) + " is " + std::to_string(level[j]) +
                                   ", expected ascending values from 0 to " + std::to_string(dims - 1));
    starts_.assign(at(last() + 2), std::vector<Index>(at(dims + 1)));
    for (Index g = 0; g <= dims; ++g) {
      starts_.front()[at(g)] = std::max<Index>(g - 1, 0);
      starts_.back()[at(g)] = g * outputs_per_feature();
      for (Index l = 0; l < last(); ++l) {
        const auto& level = level_degrees(l);
        starts_[at(l + 1)][at(g)] = std::lower_bound(level.begin(), level.end(), g) - level.begin();
      }
    }
    stairs_.clear();
    for (Index l = 0; l <= last(); ++l) {
      std::vector<Index> ends;
      for (Index g = 0; g < dims; ++g) ends.resize(at(start(l + 1, g + 1)), start(l, g + 1));
      stairs_.emplace_back(parameters_.weight[at(l)].rows(), std::move(ends));
    }
  }

  /// Writes the outputs for an input that is known. Outputs must not overlap inputs.
  void forward(ConstBatch<S> input, ConstBatch<S> context, Batch<S> output, Cache& cache) const {
    prepare("Made::forward", input, context, output, cache);
    if (input.rows() < few_rows) start_all_sums(context, output, cache);
    if (1 < input.rows() && input.rows() < few_rows)
      return run_range(0, features(), input, output, cache, [](Index) {});
    for (Index l = 0; l <= last(); ++l) {
      const ConstBatch<S> x = l == 0 ? input : after(cache, l - 1);
      const Batch<S> y = l == last() ? output : cache.sum[at(l)].view();
      if (input.rows() == 1)  // one matrix-vector product a degree
        for (Index g = 0; g < features(); ++g) add_block(l, block(l, 0, g + 1, g, g + 1), x, y);
      else
        Product::multiply(y, x, parameters_.weight[at(l)], stairs_[at(l)], start_sums(l, context, y, cache),
                          {.relu = l < last() && is_plain_relu()}, cache.scratch);
      if (l < last()) finish(l, 0, width(l), cache, input.rows() > 1 && is_plain_relu());
    }
  }

  /// Writes d_input and adds to d_context and gradient, each of which may be null, given d_output = dL/doutput.
  void pullback(ConstBatch<S> input, ConstBatch<S> context, Cache& cache, ConstBatch<S> d_output, Batch<S>* d_input,
                Batch<S>* d_context, Gradient* gradient) const {
    run_back("Made::pullback", input, context, cache, d_input, d_output, d_context, gradient, [&] {
      if (input.rows() < few_rows) {
        if (d_input) d_input->setZero();
        start_all_pullbacks(cache);
        return run_back_range(0, features(), d_input, d_output, cache, [](Index) {});
      }
      for (Index l = last(); l >= 0; --l) {
        if (l < last() && !is_plain_relu()) finish_pullback(l, 0, width(l), cache);
        if (l > 0 || d_input)
          Product::multiply_transposed(
              l == 0 ? *d_input : cache.d_sum[at(l - 1)].view(),
              l == last() ? d_output : detail::read(cache.d_sum[at(l)]), parameters_.weight[at(l)], stairs_[at(l)],
              l > 0 && is_plain_relu() ? detail::relu_pullback(after(cache, l - 1)) : detail::Finish<S>(),
              cache.scratch);
      }
    });
  }

  /// The other order: `make(i)` is called for i = 0 ... D-1 as soon as the outputs of feature i are complete, and must
  /// then write column i of `input`.
  template <class MakeFeature>
  void sweep(Batch<S> input, ConstBatch<S> context, Batch<S> output, Cache& cache, MakeFeature&& make) const {
    prepare("Made::sweep", input, context, output, cache);
    if (!starts_in_products(input.rows())) start_all_sums(context, output, cache);
    run_range(0, features(), input, output, cache, make);
  }

  /// The pullback of `sweep`. `d_input` holds dL/dinput of what was made, and ends as scratch; `pull(i)` is called for
  /// i = D-1 ... 0 when column i of d_input also holds what came back through the net, and must then write the columns
  /// of d_output that belong to feature i.
  template <class PullFeature>
  void sweep_pullback(ConstBatch<S> input, ConstBatch<S> context, Cache& cache, Batch<S> d_input, Batch<S> d_output,
                      Batch<S>* d_context, Gradient* gradient, PullFeature&& pull) const {
    run_back("Made::sweep_pullback", input, context, cache, &d_input, d_output, d_context, gradient, [&] {
      start_all_pullbacks(cache);
      run_back_range(0, features(), &d_input, d_output, cache, pull);
    });
  }

  template <Real T>
  [[nodiscard]] Made<T> cast() const {
    return cast_to<Made<T>>(*this);
  }
  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("degrees", self.degrees_);
  }

 private:
  /// All zero; degrees and what follows from them are not yet set.
  Made(Index features, Index outputs_per_feature, Index context, const MadeOptions& options) : options_(options) {
    detail::check_value("Made", "the number of features", features, features >= 1, "1 or more");
    detail::check_value("Made", "the number of outputs per feature", outputs_per_feature, outputs_per_feature >= 1,
                        "1 or more");
    const Index outputs = features * outputs_per_feature;
    detail::check_net_sizes("Made", features, context, outputs, {options.hidden, options.activation});
    const auto& hidden = options.hidden;
    if (options.residual) {
      detail::check_value("Made", "the number of residual blocks", hidden.size(), !hidden.empty(), "at least 1");
      for (const Index width : hidden)
        detail::check_value("Made", "a hidden width", width, width == hidden.front(),
                            std::to_string(hidden.front()) + ", the same for all residual blocks");
    }
    const auto add = [&](Index rows, Index cols) {
      parameters_.weight.push_back(Matrix<S>::Zero(rows, cols));
      parameters_.bias.push_back(RowVector<S>::Zero(cols));
    };
    if (options.residual) {
      add(features, hidden.front());
      for (std::size_t block = 0; block < 2 * hidden.size(); ++block) add(hidden.front(), hidden.front());
      add(hidden.front(), outputs);
    } else {
      Index before = features;
      for (const Index width : hidden) {
        add(before, width);
        before = width;
      }
      add(before, outputs);
    }
    if (context > 0)
      for (Index l = 0; l <= last(); ++l)
        if (reads_context(l)) parameters_.context_weight.push_back(Matrix<S>::Zero(context, width(l)));
    if (activates_context(0)) parameters_.context_bias = RowVector<S>::Zero(width(0));
    for (const Index width : hidden) {
      degrees_.emplace_back(width, 0);
      if (options.residual) break;
    }
  }

  using Product = detail::StaircaseProduct<S>;
  /// Fewer rows than that are multiplied as vectors, by blocks (nn/product.hpp).
  static constexpr Index few_rows = 8;

  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }

  // Map l = 0 ... last() leads from level l to level l + 1; level 0 is the input.
  [[nodiscard]] Index last() const { return static_cast<Index>(parameters_.weight.size()) - 1; }
  [[nodiscard]] Index width(Index l) const { return parameters_.bias[at(l)].size(); }
  /// Units of level l with a degree below g; of the inputs only those that anything depends on.
  [[nodiscard]] Index start(Index level, Index g) const { return starts_[at(level)][at(g)]; }
  [[nodiscard]] const std::vector<std::int64_t>& level_degrees(Index l) const {
    return degrees_[options_.residual ? 0 : at(l)];
  }
  [[nodiscard]] Index degree(Index level, Index unit) const { return level_degrees(level - 1)[at(unit)]; }
  /// A unit of degree 0 sees the context alone.
  [[nodiscard]] Index lowest_degree() const { return context_dim() > 0 || features() == 1 ? 0 : 1; }

  /// Whether map l has a place for a context: the first of the net, and the first of each block.
  [[nodiscard]] bool reads_context(Index l) const { return l == 0 || (options_.residual && l % 2 == 1 && l < last()); }
  [[nodiscard]] bool takes_context(Index l) const { return context_dim() > 0 && reads_context(l); }
  [[nodiscard]] bool activates_context(Index l) const {
    return options_.activated_context && context_dim() > 0 && l == 0;
  }
  template <class P>
  static auto& context_weight(P& parameters, Index l) {
    return parameters.context_weight[at((l + 1) / 2)];
  }
  /// Whether s_l is added to s_{l+2}.
  [[nodiscard]] bool is_trunk(Index l) const { return options_.residual && l % 2 == 0 && l < last(); }
  /// Whether between two maps there is ReLU and nothing else, which products do on their way.
  [[nodiscard]] bool is_plain_relu() const { return options_.activation == Activation::relu && !options_.residual; }
  [[nodiscard]] bool is_activated(Index l) const { return !options_.residual || l + 1 < last(); }
  /// Whether the activation may overwrite s_l.
  [[nodiscard]] bool is_in_place(Index l) const {
    return !is_activated(l) || (!is_trunk(l) && derivative_from_output(options_.activation));
  }
  ConstBatch<S> after(const Cache& cache, Index l) const {
    return is_in_place(l) ? cache.sum[at(l)].view() : cache.after[at(l)].view();
  }

  /// Degrees that are taken one after the other rather than in halves: all for a row alone, which has no use for larger
  /// products.
  [[nodiscard]] Index leaf(Index rows) const { return rows == 1 ? features() : 4; }

  /// Checks the shapes and makes room.
  void prepare(std::string_view where, ConstBatch<S> input, ConstBatch<S> context, Batch<S> output,
               Cache& cache) const {
    const Index rows = input.rows();
    detail::check_shape(where, "the input", rows, input.cols(), -1, features());
    detail::check_context(where, context, rows, context_dim());
    detail::check_shape(where, "the output", output.rows(), output.cols(), rows, outputs());
    cache.rows = rows;
    cache.units = 0;
    for (auto* buffers : {&cache.sum, &cache.after, &cache.d_sum})
      if (buffers->size() != at(last())) buffers->resize(at(last()));
    for (Index l = 0; l < last(); ++l) {
      cache.sum[at(l)].resize(rows, width(l));
      if (!is_in_place(l)) cache.after[at(l)].resize(rows, width(l));
    }
  }

  /// What the sums of map l depend on besides features, bias and context: one row for all rows of a batch, where that
  /// is so (it stays until the next call); else it is written to `sum`.
  detail::Start<S> start_sums(Index l, const ConstBatch<S>& context, Batch<S> sum, Cache& cache) const {
    const detail::Start<S> bias{parameters_.bias[at(l)].data()};
    if (!takes_context(l)) return bias;
    const bool is_shared = context.rows() == 1;  // computed once for all rows
    const Batch<S> start = is_shared ? cache.row.resize(1, width(l)) : sum;
    if (activates_context(l)) {
      const Batch<S> own = cache.context_sum.resize(context.rows(), width(l));
      const Batch<S> activated = cache.context_after.resize(context.rows(), width(l));
      detail::affine(context, context_weight(parameters_, l), parameters_.context_bias, own);
      activate<S>(options_.activation, own, activated);
      detail::fill_rows(start, bias.values);
      Batch<S>(start) += activated;
    } else {
      detail::affine(context, context_weight(parameters_, l), parameters_.bias[at(l)], start);
    }
    return is_shared ? detail::Start<S>{start.data()} : detail::Start<S>();
  }

  /// Whether run_range() starts the sums in its products: else start_all_sums() does.
  [[nodiscard]] bool starts_in_products(Index rows) const { return rows >= few_rows && context_dim() == 0; }

  /// Starts all sums, for a caller that adds to them by and by.
  void start_all_sums(const ConstBatch<S>& context, Batch<S> output, Cache& cache) const {
    for (Index l = 0; l <= last(); ++l) {
      const Batch<S> sum = l == last() ? output : cache.sum[at(l)].view();
      if (const auto row = start_sums(l, context, sum, cache); row.values) detail::fill_rows(sum, row.values);
    }
  }

  /// What the sums of map l send back to the context and its parameters, given d = dL/ds_l.
  void pull_back_context(Index l, const ConstBatch<S>& context, ConstBatch<S> d, Batch<S>* d_context,
                         Gradient* gradient, Cache& cache) const {
    if (!d_context && !gradient) return;
    Matrix<S>* const d_weight = gradient ? &context_weight(*gradient, l) : nullptr;
    if (!activates_context(l))
      return detail::add_context_gradient(context, context_weight(parameters_, l), d, d_context, d_weight, cache.row);
    Batch<S> d_own = cache.d_context_sum.resize(context.rows(), width(l));
    if (context.rows() == d.rows()) {
      d_own = d;
    } else {
      d_own.setZero();
      detail::add_row_sums(d, d_own);
    }
    activate_pullback<S>(options_.activation, cache.context_sum.view(), cache.context_after.view(), d_own);
    if (gradient) detail::add_row_sums(d_own, Batch<S>(gradient->context_bias));
    detail::add_context_gradient(context, context_weight(parameters_, l), ConstBatch<S>(d_own), d_context, d_weight,
                                 cache.row);
  }

  /// Zeros, for a caller that adds to them by and by.
  void start_all_pullbacks(Cache& cache) const {
    for (Buffer<S>& d : cache.d_sum) d.view().setZero();
  }

  /// Pulls the outputs back to the sums by `back`, and from these to the parameters.
  template <class Back>
  void run_back(std::string_view where, ConstBatch<S> input, ConstBatch<S> context, Cache& cache, Batch<S>* d_input,
                ConstBatch<S> d_output, Batch<S>* d_context, Gradient* gradient, Back&& back) const {
    detail::check_shape(where, "the batch in the cache", cache.rows, features(), input.rows(), input.cols());
    detail::check_shape(where, "d_output", d_output.rows(), d_output.cols(), input.rows(), outputs());
    detail::check_context(where, context, input.rows(), context_dim());
    if (d_input) detail::check_shape(where, "d_input", d_input->rows(), d_input->cols(), input.rows(), input.cols());
    if (d_context)
      detail::check_shape(where, "d_context", d_context->rows(), d_context->cols(), context.rows(), context.cols());
    for (Index l = 0; l < last(); ++l) cache.d_sum[at(l)].resize(input.rows(), width(l));
    back();
    for (Index l = 0; l <= last(); ++l) {
      const ConstBatch<S> d = l == last() ? d_output : detail::read(cache.d_sum[at(l)]);
      if (gradient) {
        Product::add_gradient(gradient->weight[at(l)], l == 0 ? input : after(cache, l - 1), d, stairs_[at(l)]);
        detail::add_row_sums(d, Batch<S>(gradient->bias[at(l)]));
      }
      if (takes_context(l)) pull_back_context(l, context, d, d_context, gradient, cache);
    }
  }

  /// From complete sums of `count` units of map l on to what the next map is given; the product may have done that.
  void finish(Index l, Index first, Index count, Cache& cache, bool is_done = false) const {
    cache.units += count;
    if (is_done) return;
    Batch<S> sum = cache.sum[at(l)].view().features(first, count);
    if (l > 0 && is_trunk(l)) sum += cache.sum[at(l - 2)].view().features(first, count);
    if (is_activated(l))
      activate<S>(options_.activation, sum, is_in_place(l) ? sum : cache.after[at(l)].view().features(first, count));
  }

  /// From what came back to the outputs of `count` units of map l to their sums.
  void finish_pullback(Index l, Index first, Index count, Cache& cache) const {
    Batch<S> d = cache.d_sum[at(l)].view().features(first, count);
    if (is_activated(l))
      activate_pullback<S>(options_.activation, cache.sum[at(l)].view().features(first, count),
                           after(cache, l).features(first, count), d);
    if (is_trunk(l) && l + 2 < last()) d += cache.d_sum[at(l + 2)].view().features(first, count);
  }

  /// A block of W_l, by the degrees of its rows and columns. It is dense where row_end <= col + 1.
  struct Block {
    Index row, rows, col, cols;
    [[nodiscard]] bool empty() const { return rows == 0 || cols == 0; }
  };
  [[nodiscard]] Block block(Index l, Index row_degree, Index row_end, Index col_degree, Index col_end) const {
    const Index row = start(l, row_degree), col = start(l + 1, col_degree);
    return {row, start(l, row_end) - row, col, start(l + 1, col_end) - col};
  }

  /// y += x W for a dense block.
  void add_block(Index l, const Block& b, const ConstBatch<S>& x, Batch<S> y) const {
    if (b.empty()) return;
    const Matrix<S>& weight = parameters_.weight[at(l)];
    if (x.rows() == 1)  // so small a block that the way to its product would take as long
      detail::add_by_dots<1>(y.data() + b.col, Index(1), x.data() + b.row, Index(0),
                             weight.data() + b.row + b.col * weight.rows(), weight.rows(), b.rows, b.cols);
    else
      multiply_block(l, b, x, y, {}, {});
  }
  /// y = finish(start + x W) for a dense block.
  void multiply_block(Index l, const Block& b, const ConstBatch<S>& x, Batch<S> y, detail::Start<S> start,
                      detail::Finish<S> finish) const {
    detail::multiply<false, false>(
        detail::writable_panel(y).columns(b.col, b.cols), detail::panel(x).columns(b.row, b.rows),
        detail::panel(parameters_.weight[at(l)].block(b.row, b.col, b.rows, b.cols)), start.from(b.col), finish);
  }
  /// x += y W^T for a dense block.
  void add_block_transposed(Index l, const Block& b, const ConstBatch<S>& y, Batch<S> x) const {
    if (!b.empty())
      add_product_transposed(x.middleCols(b.row, b.rows), y.middleCols(b.col, b.cols),
                             parameters_.weight[at(l)].block(b.row, b.col, b.rows, b.cols));
  }

  /// Makes the features first ... end - 1: all sums of these degrees hold what comes from lower ones.
  template <class Make>
  void run_range(Index first, Index end, const ConstBatch<S>& input, const Batch<S>& output, Cache& cache,
                 Make&& make) const {
    const bool is_fused = starts_in_products(input.rows());
    const auto add = [&](Index l, const Block& b, detail::Finish<S> finish) {
      const ConstBatch<S> x = l == 0 ? input : after(cache, l - 1);
      const Batch<S> y = l == last() ? output : cache.sum[at(l)].view();
      if (!is_fused) return add_block(l, b, x, y);
      // the blocks of the first rows are the first ones of their columns
      if (b.cols > 0)
        multiply_block(l, b, x, y, first == 0 ? detail::Start<S>{parameters_.bias[at(l)].data()} : detail::Start<S>(),
                       finish);
    };
    if (end - first > leaf(input.rows())) {
      const Index middle = (first + end) / 2;
      run_range(first, middle, input, output, cache, make);
      for (Index l = 0; l <= last(); ++l) add(l, block(l, first, middle, middle, end), {});
      run_range(middle, end, input, output, cache, make);
      return;
    }
    for (Index g = first; g < end; ++g) {
      for (Index l = 0; l <= last(); ++l) {
        const Block b = block(l, first, g + 1, g, g + 1);
        const bool is_relu = is_fused && is_plain_relu() && l < last();
        add(l, b, {.relu = is_relu});
        if (l < last() && b.cols > 0) finish(l, b.col, b.cols, cache, is_relu);
      }
      make(g);
    }
  }

  /// Pulls back the features end - 1 ... first: everything that comes from higher degrees has been added.
  template <class Pull>
  void run_back_range(Index first, Index end, Batch<S>* d_input, const ConstBatch<S>& d_output, Cache& cache,
                      Pull&& pull) const {
    const auto add = [&](Index l, const Block& b) {
      if (l > 0 || d_input)
        add_block_transposed(l, b, l == last() ? d_output : detail::read(cache.d_sum[at(l)]),
                             l == 0 ? *d_input : cache.d_sum[at(l - 1)].view());
    };
    if (end - first > leaf(d_output.rows())) {
      const Index middle = (first + end) / 2;
      run_back_range(middle, end, d_input, d_output, cache, pull);
      for (Index l = last(); l >= 0; --l) add(l, block(l, first, middle, middle, end));
      run_back_range(first, middle, d_input, d_output, cache, pull);
      return;
    }
    for (Index g = end - 1; g >= first; --g) {
      pull(g);
      for (Index l = last(); l >= 0; --l) {
        const Block b = block(l, first, g + 1, g, g + 1);
        if (l < last() && b.cols > 0) finish_pullback(l, b.col, b.cols, cache);
        add(l, b);
      }
    }
  }

  MadeOptions options_;
  Parameters parameters_;
  std::vector<std::vector<std::int64_t>> degrees_;
  std::vector<std::vector<Index>> starts_;  ///< [level][degree]
  std::vector<detail::Staircase> stairs_;   ///< of the weights
};

}  // namespace rhei
