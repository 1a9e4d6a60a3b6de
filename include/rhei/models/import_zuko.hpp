// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Flows trained with zuko 1.6 (F. Rozet, a library on PyTorch), from the plain state_dict of the module.
///
/// What zuko has, and what that is here (file and line as in its release 1.6.0):
///
/// - `transform.transforms` runs from data to latent, as do its maps: y = f(x; net(x)). Here layers run the other way,
///   hence InvertedTransformer and Inverted.
/// - MonotonicAffineTransform, transforms.py:426-440: y = x exp(s / (1 + |s / log(1000)|)) + t, of (t, s).
/// - MonotonicRQSTransform, transforms.py:480-490: SplineMap::clipped, no least width, slopes 1e-3 to 1e3.
/// - MaskedAutoregressiveTransform, flows/autoregressive.py:107-150 and nn.py:271-295: a net of masked maps that reads
///   features and context. Features may share a degree (`passes`), an adjacency may leave out any dependencies: the
///   order here follows from the masks. (What such masks leave out beyond that is zero here, and no longer masked.)
/// - GeneralCouplingTransform, flows/coupling.py:97, 128-139: `mask` is true where a feature is kept.
/// - ElementWiseTransform, flows/gaussianization.py:70-94, which the two above are where there is one feature.

#include <cmath>
#include <rhei/core/any_flow.hpp>
#include <rhei/core/inverted.hpp>
#include <rhei/distributions/diagonal_normal.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/autoregressive.hpp>
#include <rhei/layers/spline_coupling.hpp>
#include <rhei/models/detail/state_dict.hpp>
#include <rhei/transformers/inverted_transformer.hpp>

namespace rhei {

/// What a state_dict does not say, with zuko's defaults.
struct ZukoOptions {
  Index bins = 0;         ///< of splines; 0: a net that gives 3 K - 1 numbers for each feature is one of K bins, K > 1
  double tail_bound = 5;  ///< of splines
  Activation activation = Activation::relu;  ///< of the nets' hidden layers
};

namespace detail {

inline const ScaleMap kZukoScale = ScaleMap::softsign(std::log(1000.0));

inline SplineOptions zuko_spline(Index bins, double bound) {
  return {.bins = bins, .bound = bound, .min_width = 0, .min_height = 0, .min_slope = 1e-3, .map = SplineMap::clipped};
}

template <Real S>
class ZukoImporter {
 public:
  ZukoImporter(const SafeTensors& tensors, const ZukoOptions& options) : dict_(tensors), options_(options) {}

  AnyFlow<S> read() {
    AnyDistribution<S> base = read_base();
    const std::string list = "transform.transforms.";
    std::vector<AnyLayer<S>> layers;
    for (Index i = dict_.count(list) - 1; i >= 0; --i) layers.push_back(read_layer(list + std::to_string(i) + "."));
    if (layers.empty()) throw std::runtime_error("no tensor's name begins with 'transform.transforms.0.'");
    dict_.check_all_used("the state_dict of a zuko flow of masked autoregressive, coupling and elementwise transforms");
    return {std::move(base), Repeat<AnyLayer<S>>(std::move(layers))};
  }

 private:
  AnyDistribution<S> read_base() {
    const bool numbered = dict_.has("base._0");  // as the arguments of a base are that are passed by position
    const RowVector<double> mean = dict_.row(numbered ? "base._0" : "base.loc", -1);
    const RowVector<double> scale = dict_.row(numbered ? "base._1" : "base.scale", mean.size());
    features_ = mean.size();
    if (!(scale.array() > 0).all())
      throw std::runtime_error("the scale of the base holds numbers that are not above 0");
    if (mean.isZero(0) && (scale.array() == 1).all()) return StandardNormal<S>(features_);
    DiagonalNormal<S> base(features_);
    base.parameters().mean = mean.cast<S>();
    base.parameters().log_scale = scale.array().log().matrix().cast<S>();
    return base;
  }

  AnyLayer<S> read_layer(const std::string& prefix) {
    if (dict_.has(prefix + "hyper.0.mask")) return read_autoregressive(prefix);
    if (dict_.has(prefix + "mask")) {
      std::vector<Index> moved;
      const auto kept = dict_.integers(prefix + "mask", features_);
      for (Index f = 0; f < features_; ++f)
        if (kept[static_cast<std::size_t>(f)] == 0) moved.push_back(f);
      return read_coupling(prefix, moved, read_maps(prefix + "hyper.", features_ - static_cast<Index>(moved.size())));
    }
    std::vector<Index> all(static_cast<std::size_t>(features_));
    std::iota(all.begin(), all.end(), 0);
    if (dict_.has(prefix + "phi.0")) return read_coupling(prefix, all, {read_constants(prefix + "phi.")});
    if (dict_.has(prefix + "hyper.0.weight")) return read_coupling(prefix, all, read_maps(prefix + "hyper.", 0));
    throw std::runtime_error("tensor " + name_in_quotes(dict_.first_unused(prefix)) +
                             " is of a transform that is not known, expected 'hyper.0.mask' (masked autoregressive), " +
                             "'mask' (coupling) or 'phi.0' (elementwise) at its place");
  }

  AnyLayer<S> read_autoregressive(const std::string& prefix) {
    std::vector<std::int64_t> keys(static_cast<std::size_t>(features_), 0);
    if (dict_.has(prefix + "order")) keys = dict_.integers(prefix + "order", features_);
    const std::string hyper = prefix + "hyper.";
    MaskedNet net;
    const Index count = dict_.count(hyper, 2);
    for (Index l = 0; l < count; ++l)
      net.maps.push_back(
          read_masked(dict_, hyper + std::to_string(2 * l) + ".", l == 0 ? -1 : net.maps.back().bias.size(), -1));
    auto& first = net.maps.front();
    const Index context = first.weight.rows() - features_;
    check_features(hyper, context);
    if (context > 0) {
      net.context_weight.push_back(first.weight.bottomRows(context));
      first.weight = first.weight.topRows(features_).eval();
      first.mask = first.mask.topRows(features_).eval();
    }
    const Index numbers = count_numbers(hyper, net.maps.back().bias.size(), features_);
    auto [made, order] =
        make_made<S>(std::move(net), outputs(numbers), keys, options_.activation, "the net " + name_in_quotes(hyper));
    const auto layer = [&, &m = made, &o = order](auto transformer) {
      return AnyLayer<S>(Autoregressive(std::move(m), InvertedTransformer(std::move(transformer)), std::move(o)));
    };
    if (is_spline(numbers)) return layer(spline(numbers));
    if (numbers == 2) return layer(Affine<S>(kZukoScale));
    refuse_numbers(hyper, numbers);
  }

  AnyLayer<S> read_coupling(const std::string& prefix, const std::vector<Index>& moved,
                            std::vector<Dense<double>> maps) {
    const Index kept = features_ - static_cast<Index>(moved.size());
    check_features(prefix + "hyper.", maps.front().weight.rows() - kept);
    const Index count = static_cast<Index>(moved.size());
    const Index numbers = count_numbers(prefix, maps.back().bias.size(), count);
    maps.back() = rearrange_coupling(maps.back(), count, outputs(numbers), true);
    const auto layer = [&](auto transformer) {
      return AnyLayer<S>(Inverted<AnyLayer<S>>(
          Coupling(features_, moved, std::move(transformer), make_mlp<S>(kept, std::move(maps), options_.activation))));
    };
    if (is_spline(numbers)) return layer(spline(numbers));
    if (numbers == 2) return layer(Affine<S>(kZukoScale));
    if (numbers == 1) return layer(Shift<S>());
    refuse_numbers(prefix, numbers);
  }

  std::vector<Dense<double>> read_maps(const std::string& hyper, Index inputs) {
    std::vector<Dense<double>> maps;
    const Index count = dict_.count(hyper, 2);
    for (Index l = 0; l < count; ++l)
      maps.push_back(
          read_linear(dict_, hyper + std::to_string(2 * l) + ".", l == 0 ? -1 : maps.back().bias.size(), -1));
    if (maps.empty()) throw std::runtime_error("there is no tensor " + name_in_quotes(hyper + "0.weight"));
    if (maps.front().weight.rows() < inputs)
      throw std::runtime_error("tensor " + name_in_quotes(hyper + "0.weight") + " takes " +
                               std::to_string(maps.front().weight.rows()) + " inputs, expected at least the " +
                               std::to_string(inputs) + " features that are kept");
    return maps;
  }

  /// The parameters of an elementwise transform, which are tensors of their own: a map that has no inputs.
  Dense<double> read_constants(const std::string& phi) {
    std::vector<Matrix<double>> parts;
    Index numbers = 0;
    for (Index i = 0; dict_.has(phi + std::to_string(i)); ++i) {
      parts.push_back(dict_.rows(phi + std::to_string(i), features_));
      numbers += parts.back().cols();
    }
    Matrix<double> all(features_, numbers);
    Index column = 0;
    for (const auto& part : parts) {
      all.middleCols(column, part.cols()) = part;
      column += part.cols();
    }
    Dense<double> map(0, features_ * numbers);
    for (Index f = 0; f < features_; ++f) map.bias.segment(f * numbers, numbers) = all.row(f);
    return map;
  }

  void check_features(const std::string& where, Index context) const {
    if (context < 0)
      throw std::runtime_error("the net " + name_in_quotes(where) + " takes " + std::to_string(features_ + context) +
                               " inputs, expected at least the features, of which the base has " +
                               std::to_string(features_));
  }
  static Index count_numbers(const std::string& where, Index outputs, Index features) {
    if (features == 0 || outputs % features != 0)
      throw std::runtime_error("the net " + name_in_quotes(where) + " has " + std::to_string(outputs) +
                               " outputs, expected a multiple of the " + std::to_string(features) +
                               " features that it moves");
    return outputs / features;
  }
  [[nodiscard]] bool is_spline(Index numbers) const {
    return options_.bins > 0 ? numbers == 3 * options_.bins - 1 : numbers > 2 && numbers % 3 == 2;
  }
  [[nodiscard]] RationalQuadratic<S> spline(Index numbers) const {
    return RationalQuadratic<S>(zuko_spline((numbers + 1) / 3, options_.tail_bound));
  }
  /// zuko's numbers are ours.
  static std::vector<Output> outputs(Index numbers) {
    std::vector<Output> outputs;
    for (Index q = 0; q < numbers; ++q) outputs.push_back({q});
    return outputs;
  }
  [[noreturn]] void refuse_numbers(const std::string& where, Index numbers) const {
    throw std::runtime_error("the net " + name_in_quotes(where) + " gives " + std::to_string(numbers) +
                             " numbers for each feature, expected 2 (affine) or " +
                             (options_.bins > 0 ? std::to_string(3 * options_.bins - 1) + " (a spline of " +
                                                      std::to_string(options_.bins) + " bins)"
                                                : std::string("3 K - 1 (a spline of K bins)")));
  }

  StateDict dict_;
  ZukoOptions options_;
  Index features_ = 0;
};

}  // namespace detail

/// The flow of a zuko module's state_dict: MAF, NSF, NICE and RealNVP, with or without a context, or any list of their
/// transforms. `source` is what messages call the file.
/// \throws std::runtime_error naming the tensor that is missing, not expected, or of another shape than expected.
template <Real S>
AnyFlow<S> import_zuko(const SafeTensors& state_dict, const ZukoOptions& options = {},
                       const std::string& source = "file") {
  return detail::refuse_at(source, [&] { return detail::ZukoImporter<S>(state_dict, options).read(); });
}
/// The same from the file that `safetensors.torch.save_file(flow.state_dict(), path)` wrote.
template <Real S>
AnyFlow<S> import_zuko(const std::string& path, const ZukoOptions& options = {}) {
  return import_zuko<S>(read_safetensors(path), options, path);
}

}  // namespace rhei
