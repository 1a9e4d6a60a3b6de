// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// `load`: a flow from a file alone, without being told its type.

#include <map>
#include <rhei/core/any_flow.hpp>
#include <rhei/core/inverted.hpp>
#include <rhei/distributions/diagonal_normal.hpp>
#include <rhei/distributions/gaussian_mixture.hpp>
#include <rhei/distributions/logistic.hpp>
#include <rhei/distributions/made_mixture.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/distributions/uniform.hpp>
#include <rhei/distributions/uniform_normal.hpp>
#include <rhei/io/flow_file.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/affine_map.hpp>
#include <rhei/layers/autoregressive.hpp>
#include <rhei/layers/batch_norm.hpp>
#include <rhei/layers/circular_shift.hpp>
#include <rhei/layers/coupling.hpp>
#include <rhei/layers/dense_linear.hpp>
#include <rhei/layers/domains.hpp>
#include <rhei/layers/elementwise_affine.hpp>
#include <rhei/layers/householder.hpp>
#include <rhei/layers/lu_linear.hpp>
#include <rhei/layers/marginal_gaussianization.hpp>
#include <rhei/layers/on_features.hpp>
#include <rhei/layers/permutation.hpp>
#include <rhei/layers/planar.hpp>
#include <rhei/layers/radial.hpp>
#include <rhei/layers/rescaling.hpp>
#include <rhei/layers/rotation.hpp>
#include <rhei/layers/spline_coupling.hpp>
#include <rhei/layers/sylvester.hpp>
#include <rhei/nn/periodic.hpp>
#include <rhei/nn/residual_mlp.hpp>
#include <rhei/transformers/inverted_transformer.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rhei {

/// A flow of any architecture. In another scalar it is `load<T>(to_safetensors(flow))`.
template <Real S>
using AnyFlow = Flow<AnyDistribution<S>, AnyLayer<S>>;

/// The layers and distributions that `load` can build, by their type in files. Add your own to load flows that contain
/// them:
/// \code
///   rhei::Registry<float> registry;
///   registry.add_layer<MyLayer<float>>();
///   auto flow = rhei::load<float>("flow.safetensors", registry);
/// \endcode
template <Real S>
class Registry {
 public:
  /// Everything that comes with rhei.
  Registry() {
    add_layer<ActNorm<S>>();
    add_layer<BatchNorm<S>>();
    add_layer<ElementwiseAffine<S>>();
    add_layer<Rescaling<S>>();
    add_layer<AffineMap<S>>();
    add_layer<CircularShift<S>>();
    add_layer<Domains<S>>();
    add_layer<MarginalGaussianization<S>>();
    add_layer<Permutation<S>>();
    add_layer<Rotation<S>>();
    add_layer<Householder<S>>();
    add_layer<LuLinear<S>>();
    add_layer<DenseLinear<S>>();
    add_layer<Planar<S>>();
    add_layer<Radial<S>>();
    add_layer<Sylvester<S>>();
    add_layer<AdditiveCoupling<S>>("coupling/shift/mlp");
    add_layer<AffineCoupling<S>>("coupling/affine/mlp");
    add_layer<SplineCoupling<S>>("coupling/rational_quadratic/mlp");
    add_layer<AdditiveCoupling<S, ResidualMlp<S>>>("coupling/shift/residual_mlp");
    add_layer<AffineCoupling<S, ResidualMlp<S>>>("coupling/affine/residual_mlp");
    add_layer<SplineCoupling<S, ResidualMlp<S>>>("coupling/rational_quadratic/residual_mlp");
    add_layer<SplineCoupling<S, Periodic<Mlp<S>>>>("coupling/rational_quadratic/periodic");
    add_layer<Maf<S>>("autoregressive/affine/made");
    add_layer<Autoregressive<RationalQuadratic<S>>>("autoregressive/rational_quadratic/made");
    add_layer<Autoregressive<InvertedTransformer<Affine<S>>>>("autoregressive/inverted/affine/made");
    add_layer<Autoregressive<InvertedTransformer<RationalQuadratic<S>>>>(
        "autoregressive/inverted/rational_quadratic/made");
    add_distribution<StandardNormal<S>>();
    add_distribution<DiagonalNormal<S>>();
    add_distribution<Logistic<S>>();
    add_distribution<Uniform<S>>();
    add_distribution<UniformNormal<S>>();
    add_distribution<GaussianMixture<S>>();
    add_distribution<MadeMixture<S>>();
  }

  /// A layer with a static from_options(); see Options on how that treats what a file says. `key` is the type in its
  /// options, followed by the types of the entries "transformer" (and of the transformer in that) and "net" where they
  /// are there, with slashes between.
  /// Takes the place of what had this key before.
  template <class L>
  void add_layer(std::string_view key = L::type) {
    layers_[std::string(key)] = [](const Options& options) -> AnyLayer<S> { return L::from_options(options); };
  }
  /// A distribution with a static from_options(). `key` is the type in its options.
  template <class D>
  void add_distribution(std::string_view key = D::type) {
    distributions_[std::string(key)] = [](const Options& options) -> AnyDistribution<S> {
      return D::from_options(options);
    };
  }

  /// The flow that is described, its parameters and state still to be set.
  /// \throws std::runtime_error for a type that is not known and for what its from_options() refuses.
  [[nodiscard]] AnyFlow<S> make_flow(const Options& options) const {
    if (options.type() != AnyFlow<S>::type)
      throw std::runtime_error("the type is " + detail::in_quotes(options.type()) + ", expected \"flow\"");
    Index left = options.size_limit();
    auto base = detail::refuse_at("base", [&] {
      const auto& described = options.get<Options>("base");
      return make(distributions_, described.type(), described, left);
    });
    auto transform =
        detail::refuse_at("transform", [&] { return make_layer(options.get<Options>("transform"), left); });
    return {std::move(base), std::move(transform)};
  }

 private:
  template <class Part>
  using Makers = std::map<std::string, Part (*)(const Options&)>;

  AnyLayer<S> make_layer(const Options& options, Index& left) const {
    if (options.type() == Repeat<AnyLayer<S>>::type) {
      std::vector<AnyLayer<S>> layers;
      for (const Options& item : options.get<Options::List>("layers"))
        layers.push_back(
            detail::refuse_at("layers." + std::to_string(layers.size()), [&] { return make_layer(item, left); }));
      return Repeat<AnyLayer<S>>(std::move(layers));
    }
    if (options.type() == Inverted<AnyLayer<S>>::type)
      return detail::refuse_at("layer",
                               [&] { return Inverted<AnyLayer<S>>(make_layer(options.get<Options>("layer"), left)); });
    if (options.type() == OnFeatures<AnyLayer<S>>::type)
      return detail::refuse_at("layer", [&] {
        return OnFeatures<AnyLayer<S>>(options.get_size("dim", 1), options.get_sizes("features"),
                                       [&](Index) { return make_layer(options.get<Options>("layer"), left); });
      });
    return make(layers_, key(options), options, left);
  }

  /// The key of add_layer().
  static std::string key(const Options& options) {
    std::string key = options.type();
    if (options.has("transformer")) key += "/" + Registry::key(options.get<Options>("transformer"));
    if (options.has("net")) key += "/" + options.get<Options>("net").type();
    return key;
  }

  /// A part of at most `left` values, which it takes off: the parts of a flow are together no larger than its file.
  template <class Part>
  static Part make(const Makers<Part>& makers, const std::string& key, Options options, Index& left) {
    const auto maker = makers.find(key);
    if (maker == makers.end()) throw std::runtime_error(detail::in_quotes(key) + " is no type that the registry has");
    options.limit_sizes(left);
    Part part = maker->second(options);
    const auto count = [&](std::string_view, const auto& values) { left -= static_cast<Index>(values.size()); };
    for_each_parameter(std::as_const(part), count);
    for_each_state(std::as_const(part), count);
    if (left < 0) throw std::runtime_error("with " + detail::in_quotes(key) + " the flow is larger than the file");
    return part;
  }

  Makers<AnyLayer<S>> layers_;
  Makers<AnyDistribution<S>> distributions_;
};

/// Builds the flow that a file holds. The scalar may differ from the file's: values are then rounded. `source` is what
/// messages call the file.
/// \throws std::runtime_error for a file that is no flow of a known version or contradicts itself; says where.
template <Real S>
AnyFlow<S> load(const SafeTensors& file, const Registry<S>& registry = {}, const std::string& source = "file") {
  return detail::refuse_at(source, [&] {
    AnyFlow<S> flow = registry.make_flow(detail::read_architecture(file));
    detail::fill(flow, file);
    return flow;
  });
}
/// The same from a file at `path`. \throws std::runtime_error also where it cannot be read.
template <Real S>
AnyFlow<S> load(const std::string& path, const Registry<S>& registry = {}) {
  return load<S>(read_safetensors(path), registry, path);
}

}  // namespace rhei
