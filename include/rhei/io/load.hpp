// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// `load`: a flow from a file alone, without being told its type.

#include <functional>
#include <map>
#include <rhei/core/any_distribution.hpp>
#include <rhei/core/any_layer.hpp>
#include <rhei/core/flow.hpp>
#include <rhei/core/inverted.hpp>
#include <rhei/distributions/diagonal_normal.hpp>
#include <rhei/distributions/gaussian_mixture.hpp>
#include <rhei/distributions/logistic.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/distributions/uniform.hpp>
#include <rhei/io/flow_file.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/coupling.hpp>
#include <rhei/layers/elementwise_affine.hpp>
#include <rhei/layers/lu_linear.hpp>
#include <rhei/layers/permutation.hpp>
#include <rhei/layers/rescaling.hpp>
#include <rhei/nn/residual_mlp.hpp>

namespace rhei {

/// A flow of any architecture.
template <Real S>
using AnyFlow = Flow<AnyDistribution<S>, AnyLayer<S>>;

/// The layers and distributions that `load` can build, by type. Add your own to load flows that contain them.
template <Real S>
class Registry {
 public:
  /// Everything that comes with rhei.
  Registry() {
    add_layer<ActNorm<S>>();
    add_layer<ElementwiseAffine<S>>();
    add_layer<Rescaling<S>>();
    add_layer<Permutation<S>>();
    add_layer<LuLinear<S>>();
    add_layer<AdditiveCoupling<S>>("coupling/shift/mlp");
    add_layer<AffineCoupling<S>>("coupling/affine/mlp");
    add_layer<AdditiveCoupling<S, ResidualMlp<S>>>("coupling/shift/residual_mlp");
    add_layer<AffineCoupling<S, ResidualMlp<S>>>("coupling/affine/residual_mlp");
    add_distribution<StandardNormal<S>>();
    add_distribution<DiagonalNormal<S>>();
    add_distribution<Logistic<S>>();
    add_distribution<Uniform<S>>();
    add_distribution<GaussianMixture<S>>();
  }

  /// A layer with a static from_options(). `key` is its type, followed by those of its transformer and net if any.
  template <class L>
  void add_layer(std::string_view key = L::type) {
    layers_[std::string(key)] = [](const Options& options) { return AnyLayer<S>(L::from_options(options)); };
  }
  template <class D>
  void add_distribution(std::string_view key = D::type) {
    distributions_[std::string(key)] = [](const Options& options) {
      return AnyDistribution<S>(D::from_options(options));
    };
  }

  /// \throws std::runtime_error for a type that is not known or a description that is not complete.
  [[nodiscard]] AnyLayer<S> make_layer(const Options& options) const {
    if (options.type() == "chain") {
      std::vector<AnyLayer<S>> layers;
      for (const Options& item : options.get<Options::List>("layers")) layers.push_back(make_layer(item));
      return Repeat<AnyLayer<S>>(std::move(layers));
    }
    if (options.type() == "inverted") return Inverted<AnyLayer<S>>(make_layer(options.get<Options>("layer")));
    std::string key = options.type();
    for (const std::string_view part : {"transformer", "net"})
      if (options.has(part)) key += "/" + options.get<Options>(part).type();
    return find(layers_, key, "layer")(options);
  }
  [[nodiscard]] AnyDistribution<S> make_distribution(const Options& options) const {
    return find(distributions_, options.type(), "distribution")(options);
  }

 private:
  template <class Map>
  static const typename Map::mapped_type& find(const Map& map, const std::string& key, const std::string& what) {
    const auto found = map.find(key);
    if (found == map.end()) throw std::runtime_error("'" + key + "' is no known type of " + what);
    return found->second;
  }

  std::map<std::string, std::function<AnyLayer<S>(const Options&)>> layers_;
  std::map<std::string, std::function<AnyDistribution<S>(const Options&)>> distributions_;
};

/// Builds the flow that a file holds. The scalar may differ from the file's: values are then rounded.
/// \throws std::runtime_error for a file that is no flow of a known version, or contradicts itself.
template <Real S>
AnyFlow<S> load(const SafeTensors& file, const std::string& source = "file", const Registry<S>& registry = {}) {
  const Options options = detail::read_architecture(file, source);
  try {
    if (options.type() != "flow") throw std::runtime_error("'" + options.type() + "' is not a flow");
    AnyFlow<S> flow(registry.make_distribution(options.get<Options>("base")),
                    registry.make_layer(options.get<Options>("transform")));
    detail::fill(flow, file, source);
    return flow;
  } catch (const std::invalid_argument& error) {  // a constructor refuses what the file describes
    throw std::runtime_error(source + ": " + error.what());
  }
}
template <Real S>
AnyFlow<S> load(const std::string& path, const Registry<S>& registry = {}) {
  return load<S>(read_safetensors(path), path, registry);
}

}  // namespace rhei
