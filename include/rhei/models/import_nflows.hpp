// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Flows trained with nflows 0.14 (Durkan et al., a library on PyTorch), from the plain state_dict of the module.
///
/// What nflows has, and what that is here (file and line as in its release 0.14):
///
/// - A Flow's `_transform` and each CompositeTransform run from data to latent, as do their maps: y = f(x; net(x)).
/// Here
///   layers run the other way, hence InvertedTransformer and Inverted.
/// - AffineCouplingTransform, transforms/coupling.py:153-159: y = x (sigmoid(s + 2) + 1e-3) + t, of all t, then all s.
///   AdditiveCouplingTransform, :184-188: of t alone.
/// - MaskedAffineAutoregressiveTransform, transforms/autoregressive.py:95-127: y = x (softplus(s) + 1e-3) + t, of (s,
/// t)
///   for each feature. (Early releases had the sigmoid here, too, which a file does not tell.)
/// - PiecewiseRationalQuadraticCouplingTransform and MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
///   transforms/splines/rational_quadratic.py:30-97, with linear tails: ours but for slope = 1e-3 + softplus(u), which
///   moves the bias here. The coupling divides widths and heights by the root of the net's width (coupling.py:474-476),
///   which scales its last map here; the autoregressive one (autoregressive.py:398-400) would, but its net does not
///   tell its width.
/// - MADE, transforms/made.py: plain or with residual blocks; the context enters the first layer activated (:277).
/// - ResidualNet, nn/nets/resnet.py: ResidualMlp.
/// - LULinear, transforms/lu.py: y = L U x + b with a diagonal of softplus(u) + 1e-3: LuLinear.
/// - ActNorm, transforms/normalization.py:179: y = x exp(log_scale) + shift.
/// - Permutation, transforms/permutations.py:37: y_i = x_permutation[i].

#include <cmath>
#include <map>
#include <rhei/core/any_flow.hpp>
#include <rhei/core/inverted.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/autoregressive.hpp>
#include <rhei/layers/lu_linear.hpp>
#include <rhei/layers/permutation.hpp>
#include <rhei/layers/spline_coupling.hpp>
#include <rhei/models/detail/state_dict.hpp>
#include <rhei/nn/residual_mlp.hpp>
#include <rhei/transformers/inverted_transformer.hpp>

namespace rhei {

/// What a state_dict does not say, with nflows' defaults.
struct NflowsOptions {
  Index bins = 0;         ///< of splines; 0: a net that gives 3 K - 1 numbers for each feature is one of K bins, K > 1
  double tail_bound = 1;  ///< of splines
  Activation activation = Activation::relu;  ///< of the nets' hidden layers
};

namespace detail {

template <Real S>
class NflowsImporter {
 public:
  NflowsImporter(const SafeTensors& tensors, const NflowsOptions& options) : dict_(tensors), options_(options) {}

  AnyFlow<S> read() {
    if (!dict_.has_under("_transform."))
      throw std::runtime_error("no tensor's name begins with '_transform.', which those of a nflows Flow do");
    AnyLayer<S> transform = read_layer("_transform.");
    if (dict_.has("_distribution._log_z")) {  // a constant, which releases before 0.14 saved
      const double expected = static_cast<double>(transform.dim()) * half_log_two_pi;
      if (const double came = dict_.number("_distribution._log_z"); std::abs(came - expected) > 1e-4)
        throw std::runtime_error("tensor '_distribution._log_z' is " + std::to_string(came) + ", expected " +
                                 std::to_string(expected) + " of a standard normal");
    }
    dict_.check_all_used("the state_dict of a nflows Flow on a standard normal, without an embedding net");
    const Index dim = transform.dim();
    return {StandardNormal<S>(dim), std::move(transform)};
  }

 private:
  using Read = AnyLayer<S> (NflowsImporter::*)(const std::string& prefix);

  /// The transform whose tensors begin like this, known by one of them.
  AnyLayer<S> read_layer(const std::string& prefix) {
    static constexpr std::pair<std::string_view, Read> kinds[] = {
        {"_transforms.", &NflowsImporter::read_composite},
        {"_transform.", &NflowsImporter::read_inverse},
        {"autoregressive_net.", &NflowsImporter::read_autoregressive},
        {"transform_net.", &NflowsImporter::read_coupling},
        {"lower_entries", &NflowsImporter::read_lu},
        {"initialized", &NflowsImporter::read_actnorm},
        {"_permutation", &NflowsImporter::read_permutation},
    };
    std::string known;
    for (const auto& [mark, read] : kinds) {
      if (dict_.has_under(prefix + std::string(mark))) return (this->*read)(prefix);
      known += (known.empty() ? "" : ", ") + in_quotes(mark);
    }
    throw std::runtime_error("tensor " + name_in_quotes(dict_.first_unused(prefix)) +
                             " is of a transform that is not known, expected one of " + known + " at its place");
  }

  AnyLayer<S> read_composite(const std::string& prefix) {
    const std::string list = prefix + "_transforms.";
    std::vector<AnyLayer<S>> layers;
    for (Index i = dict_.count(list) - 1; i >= 0; --i) layers.push_back(read_layer(list + std::to_string(i) + "."));
    return Repeat<AnyLayer<S>>(std::move(layers));
  }
  AnyLayer<S> read_inverse(const std::string& prefix) {
    return Inverted<AnyLayer<S>>(read_layer(prefix + "_transform."));
  }

  AnyLayer<S> read_permutation(const std::string& prefix) {
    return Permutation<S>(dict_.integers(prefix + "_permutation", -1));
  }

  AnyLayer<S> read_actnorm(const std::string& prefix) {
    const RowVector<double> log_scale = dict_.row(prefix + "log_scale", -1);
    const RowVector<double> shift = dict_.row(prefix + "shift", log_scale.size());
    const double initialized = dict_.number(prefix + "initialized");
    ActNorm<S> layer(log_scale.size());
    layer.parameters().log_scale = (-log_scale).template cast<S>();
    layer.parameters().shift = (-shift.array() * (-log_scale).array().exp()).matrix().template cast<S>();
    for_each_state(layer, [&](std::string_view, auto values) { values[0] = initialized != 0; });
    return layer;
  }

  AnyLayer<S> read_lu(const std::string& prefix) {
    const RowVector<double> bias = dict_.row(prefix + "bias", -1);
    const Index dim = bias.size(), entries = dim * (dim - 1) / 2;
    const RowVector<double> lower = dict_.row(prefix + "lower_entries", entries);
    const RowVector<double> upper = dict_.row(prefix + "upper_entries", entries);
    const RowVector<double> diagonal = dict_.row(prefix + "unconstrained_upper_diag", dim);
    LuLinear<S> layer(dim);
    auto& parameters = layer.parameters();
    Index below = 0, above = 0;
    for (Index i = 0; i < dim; ++i) {  // row by row
      for (Index j = 0; j < i; ++j) parameters.lu(i, j) = static_cast<S>(lower[below++]);
      for (Index j = i + 1; j < dim; ++j) parameters.lu(i, j) = static_cast<S>(upper[above++]);
      parameters.log_diagonal[i] = static_cast<S>(std::log(softplus(diagonal[i]) + kLeast));
    }
    parameters.bias = bias.template cast<S>();
    return layer;
  }

  AnyLayer<S> read_coupling(const std::string& prefix) {
    const auto kept = dict_.integers(prefix + "identity_features", -1);
    const auto moved = dict_.integers(prefix + "transform_features", -1);
    if (!std::is_sorted(kept.begin(), kept.end()) || !std::is_sorted(moved.begin(), moved.end()))
      throw std::runtime_error("tensors " + name_in_quotes(prefix + "identity_features") +
                               " and 'transform_features' do not " + "ascend, expected ascending features");
    const Index dim = static_cast<Index>(kept.size() + moved.size()), count = static_cast<Index>(moved.size());
    std::vector<std::int64_t> all = kept;
    all.insert(all.end(), moved.begin(), moved.end());
    if (const std::string defect = permutation_defect(all); !defect.empty())
      throw std::runtime_error("tensors " + name_in_quotes(prefix + "identity_features") +
                               " and 'transform_features': " + defect);

    const std::string net = prefix + "transform_net.";
    const Dense<double> initial = read_linear(dict_, net + "initial_layer.", -1, -1);
    const Index width = initial.bias.size(), context = initial.weight.rows() - static_cast<Index>(kept.size());
    if (context < 0)
      throw std::runtime_error("tensor " + name_in_quotes(net + "initial_layer.weight") + " takes " +
                               std::to_string(initial.weight.rows()) + " inputs, expected at least the " +
                               std::to_string(kept.size()) + " features that are kept");
    const Index blocks = dict_.count(net + "blocks.");
    check_blocks(net, blocks);
    const Dense<double> final = read_linear(dict_, net + "final_layer.", width, -1);
    const Index numbers = count_numbers(net, final.bias.size(), count);
    const bool splines = is_spline(numbers);
    const Dense<double> ours = rearrange_coupling(
        final, count, splines ? spline_outputs(numbers, 1 / std::sqrt(static_cast<double>(width))) : outputs(numbers),
        splines);

    auto mlp = ResidualMlp<S>::from_options(describe_net(
        ResidualMlp<S>::type, static_cast<Index>(kept.size()), context, final.bias.size(),
        {.hidden = std::vector<Index>(static_cast<std::size_t>(blocks), width), .activation = options_.activation}));
    auto& parameters = mlp.parameters();
    const auto set = [](Dense<S>& dense, const Dense<double>& from) {
      dense.weight = from.weight.topRows(dense.weight.rows()).template cast<S>();
      dense.bias = from.bias.template cast<S>();
    };
    set(parameters.initial, initial);
    parameters.context_weight = initial.weight.bottomRows(context).template cast<S>();
    for (Index b = 0; b < blocks; ++b) {
      const std::string block = net + "blocks." + std::to_string(b) + ".";
      auto& to = parameters.blocks[static_cast<std::size_t>(b)];
      set(to.first, read_linear(dict_, block + "linear_layers.0.", width, width));
      set(to.second, read_linear(dict_, block + "linear_layers.1.", width, width));
      if (context > 0) set(to.gate, read_linear(dict_, block + "context_layer.", context, width));
    }
    set(parameters.final, ours);

    const auto layer = [&](auto transformer) {
      return AnyLayer<S>(Inverted<AnyLayer<S>>(
          Coupling(dim, std::vector<Index>(moved.begin(), moved.end()), std::move(transformer), std::move(mlp))));
    };
    if (splines) return layer(spline(numbers));
    if (numbers == 2) return layer(Affine<S>(ScaleMap::sigmoid(kLeast)));
    if (numbers == 1) return layer(Shift<S>());
    refuse_numbers(net, numbers, "1 (additive), 2 (affine)");
  }

  AnyLayer<S> read_autoregressive(const std::string& prefix) {
    const std::string net = prefix + "autoregressive_net.";
    MaskedNet masked;
    std::vector<std::int64_t> degrees;  // of what the last map gives
    const auto read = [&](const std::string& name, Index inputs, Index outputs) {
      masked.maps.push_back(read_masked(dict_, net + name, inputs, outputs));
      const Matrix<double>& mask = masked.maps.back().mask;
      if (degrees.empty())
        for (Index i = 1; i <= mask.rows(); ++i) degrees.push_back(i);
      const auto given = dict_.integers(net + name + "degrees", mask.cols());
      const bool is_output = name == kOutput;
      for (Index i = 0; i < mask.rows(); ++i)
        for (Index j = 0; j < mask.cols(); ++j) {
          const auto in = degrees[static_cast<std::size_t>(i)], out = given[static_cast<std::size_t>(j)];
          if ((mask(i, j) != 0) != (is_output ? out > in : out >= in))
            throw std::runtime_error("tensors " + name_in_quotes(net + name + "mask") +
                                     " and 'degrees' contradict each other");
        }
      degrees = given;
    };
    read("initial_layer.", -1, -1);
    const Index dim = masked.maps.front().weight.rows(), width = masked.maps.front().bias.size();
    if (dict_.has_under(net + "context_layer.")) {
      auto context = read_linear(dict_, net + "context_layer.", -1, width);
      masked.context_weight.push_back(std::move(context.weight));
      masked.context_bias = std::move(context.bias);
    }
    const Index blocks = dict_.count(net + "blocks.");
    check_blocks(net, blocks);
    masked.residual = dict_.has_under(net + "blocks.0.linear_layers.");
    for (Index b = 0; b < blocks; ++b) {
      const std::string block = "blocks." + std::to_string(b) + ".";
      if (!masked.residual) {
        read(block + "linear.", width, width);
        continue;
      }
      read(block + "linear_layers.0.", width, width);
      if (!masked.context_weight.empty()) {
        auto context = read_linear(dict_, net + block + "context_layer.", masked.context_weight[0].rows(), width);
        masked.context_weight.push_back(std::move(context.weight));
        masked.maps.back().bias += context.bias;
      }
      read(block + "linear_layers.1.", width, width);
    }
    read(std::string(kOutput), width, -1);

    const Index numbers = count_numbers(net, masked.maps.back().bias.size(), dim);
    const bool splines = is_spline(numbers);
    if (!splines && numbers != 2) refuse_numbers(net, numbers, "2 (affine)");
    std::vector<std::int64_t> keys(static_cast<std::size_t>(dim));
    std::iota(keys.begin(), keys.end(), 0);
    auto [made, order] = make_made<S>(std::move(masked), splines ? spline_outputs(numbers, 1) : affine_outputs(), keys,
                                      options_.activation, "the net " + name_in_quotes(net));
    if (splines) return Autoregressive(std::move(made), InvertedTransformer(spline(numbers)), std::move(order));
    return Autoregressive(std::move(made), InvertedTransformer(Affine<S>(ScaleMap::softplus(kLeast))),
                          std::move(order));
  }

  static void check_blocks(const std::string& net, Index blocks) {
    if (blocks == 0)
      throw std::runtime_error("the net " + name_in_quotes(net) +
                               " has no tensors under 'blocks.', expected 1 block or more");
  }
  static Index count_numbers(const std::string& net, Index outputs, Index features) {
    if (features == 0 || outputs % features != 0)
      throw std::runtime_error("the net " + name_in_quotes(net) + " has " + std::to_string(outputs) +
                               " outputs, expected a multiple of the " + std::to_string(features) +
                               " features that it moves");
    return outputs / features;
  }
  [[nodiscard]] bool is_spline(Index numbers) const {
    return options_.bins > 0 ? numbers == 3 * options_.bins - 1 : numbers > 2 && numbers % 3 == 2;
  }
  [[nodiscard]] RationalQuadratic<S> spline(Index numbers) const {
    return RationalQuadratic<S>({.bins = (numbers + 1) / 3,
                                 .bound = options_.tail_bound,
                                 .min_width = kLeast,
                                 .min_height = kLeast,
                                 .min_slope = kLeast});
  }
  static std::vector<Output> outputs(Index numbers) {
    std::vector<Output> outputs;
    for (Index q = 0; q < numbers; ++q) outputs.push_back({q});
    return outputs;
  }
  /// Scale and shift change places.
  static std::vector<Output> affine_outputs() { return {{1}, {0}}; }
  static std::vector<Output> spline_outputs(Index numbers, double factor) {
    std::vector<Output> own = outputs(numbers);
    const Index sides = 2 * ((numbers + 1) / 3);
    for (Index q = 0; q < numbers; ++q)
      if (q < sides)
        own[static_cast<std::size_t>(q)].factor = factor;
      else
        own[static_cast<std::size_t>(q)].offset = -std::log(std::expm1(1 - kLeast));
    return own;
  }
  static double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }
  [[noreturn]] void refuse_numbers(const std::string& net, Index numbers, const std::string& others) const {
    throw std::runtime_error("the net " + name_in_quotes(net) + " gives " + std::to_string(numbers) +
                             " numbers for each feature, expected " + others + " or " +
                             (options_.bins > 0 ? std::to_string(3 * options_.bins - 1) + " (a spline of " +
                                                      std::to_string(options_.bins) + " bins)"
                                                : std::string("3 K - 1 (a spline of K bins with linear tails)")));
  }

  static constexpr std::string_view kOutput = "final_layer.";
  static constexpr double kLeast = 1e-3;  ///< of all scales, widths, heights and slopes

  StateDict dict_;
  NflowsOptions options_;
};

}  // namespace detail

/// The flow of a nflows Flow's state_dict. `source` is what messages call the file.
/// \throws std::runtime_error naming the tensor that is missing, not expected, or of another shape than expected.
template <Real S>
AnyFlow<S> import_nflows(const SafeTensors& state_dict, const NflowsOptions& options = {},
                         const std::string& source = "file") {
  return detail::refuse_at(source, [&] { return detail::NflowsImporter<S>(state_dict, options).read(); });
}
/// The same from the file that `safetensors.torch.save_file(flow.state_dict(), path)` wrote.
template <Real S>
AnyFlow<S> import_nflows(const std::string& path, const NflowsOptions& options = {}) {
  return import_nflows<S>(read_safetensors(path), options, path);
}

}  // namespace rhei
