// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What importers of PyTorch models share: a module's state_dict, of which every tensor must be used, and the nets in
/// it as nets of rhei.
///
/// A linear map is there as `weight`, outputs x inputs, and `bias`; here a weight is inputs x outputs, in double.

#include <algorithm>
#include <charconv>
#include <limits>
#include <numeric>
#include <rhei/io/safetensors.hpp>
#include <rhei/nn/made.hpp>
#include <rhei/nn/mlp.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace rhei::detail {

/// The tensors of a module, by name. Whoever reads one says which shape it must have (-1: any).
class StateDict {
 public:
  /// The tensors must outlive this.
  explicit StateDict(const SafeTensors& tensors) : tensors_(&tensors) {
    for (const Tensor& tensor : tensors) unused_.insert(tensor.name);
  }

  [[nodiscard]] bool has(const std::string& name) const { return tensors_->contains(name); }
  /// The first tensor, in the order of their names, that begins like this and was not read; empty where there is none.
  [[nodiscard]] std::string first_unused(const std::string& prefix = {}) const {
    const auto found = unused_.lower_bound(prefix);
    return found != unused_.end() && found->starts_with(prefix) ? *found : std::string();
  }
  [[nodiscard]] bool has_under(const std::string& prefix) const { return !first_unused(prefix).empty(); }

  /// How many modules prefix0., prefix1., ... there are (torch.nn.ModuleList), or every `step`-th where the others have
  /// no tensors.
  Index count(const std::string& prefix, Index step = 1) const {
    std::set<Index> numbers;
    for (auto name = unused_.lower_bound(prefix); name != unused_.end() && name->starts_with(prefix); ++name) {
      const char* const begin = name->data() + prefix.size();
      Index number = -1;
      const auto [end, error] = std::from_chars(begin, name->data() + name->size(), number);
      if (error != std::errc() || *end != '.' || number < 0 || number % step != 0)
        throw std::runtime_error("tensor " + name_in_quotes(*name) + " is not expected: names that begin with " +
                                 name_in_quotes(prefix) + " must go on with " +
                                 (step == 1 ? std::string("0., 1., 2.") : "0., 2., 4.") + " and so on");
      numbers.insert(number / step);
    }
    Index expected = 0;
    for (const Index number : numbers)
      if (number != expected++)
        throw std::runtime_error("no tensor's name begins with " +
                                 name_in_quotes(prefix + std::to_string((expected - 1) * step)) +
                                 ", though some with a higher number do: what has no tensors cannot be imported");
    return expected;
  }

  [[nodiscard]] Matrix<double> matrix(const std::string& name, Index rows, Index cols) {
    return take(name, {rows, cols}).to_matrix<double>();
  }
  [[nodiscard]] RowVector<double> row(const std::string& name, Index size) {
    return take(name, {size}).to_vector<double>().transpose();
  }
  /// A tensor of `rows` rows and any further dimension.
  [[nodiscard]] Matrix<double> rows(const std::string& name, Index rows) {
    const bool is_vector = has(name) && tensors_->at(name).shape.size() == 1;
    return is_vector ? Matrix<double>(row(name, rows).transpose()) : matrix(name, rows, -1);
  }
  [[nodiscard]] double number(const std::string& name) { return take(name, {}).to_values<double>().front(); }
  [[nodiscard]] std::vector<std::int64_t> integers(const std::string& name, Index size) {
    return take(name, {size}).to_int64();
  }

  /// \throws std::runtime_error if a tensor was not read.
  void check_all_used(std::string_view what) const {
    if (!unused_.empty())
      throw std::runtime_error("tensor " + name_in_quotes(*unused_.begin()) + " is not expected in " +
                               std::string(what));
  }

 private:
  const Tensor& take(const std::string& name, const std::vector<Index>& shape) {
    if (!has(name)) throw std::runtime_error("there is no tensor " + name_in_quotes(name));
    const Tensor& tensor = tensors_->at(name);
    const auto fits = [](Index came, Index wanted) { return wanted == -1 || came == wanted; };
    if (!std::equal(tensor.shape.begin(), tensor.shape.end(), shape.begin(), shape.end(), fits)) {
      std::string expected;
      for (const Index extent : shape)
        expected += (expected.empty() ? "" : ", ") + (extent == -1 ? std::string("any") : std::to_string(extent));
      throw std::runtime_error("tensor " + name_in_quotes(name) + " has the shape " + tensor.shape_text() +
                               ", expected [" + expected + "]");
    }
    unused_.erase(name);
    return tensor;
  }

  const SafeTensors* tensors_;
  std::set<std::string> unused_;
};

/// torch.nn.Linear. -1: any number.
inline Dense<double> read_linear(StateDict& dict, const std::string& prefix, Index inputs, Index outputs) {
  Dense<double> map;
  map.weight = dict.matrix(prefix + "weight", outputs, inputs).transpose();
  map.bias = dict.row(prefix + "bias", map.weight.cols());
  return map;
}

/// A linear map of which only the entries count where the mask is not zero.
struct MaskedMap {
  Matrix<double> weight;  ///< inputs x outputs, zero where it does not count
  Matrix<double> mask;    ///< inputs x outputs, 0 or 1
  RowVector<double> bias;
};
inline MaskedMap read_masked(StateDict& dict, const std::string& prefix, Index inputs, Index outputs) {
  Dense<double> map = read_linear(dict, prefix, inputs, outputs);
  MaskedMap masked{std::move(map.weight), {}, std::move(map.bias)};
  masked.mask = dict.matrix(prefix + "mask", masked.weight.cols(), masked.weight.rows()).transpose();
  if (!(masked.mask.array() == 0 || masked.mask.array() == 1).all())
    throw std::runtime_error("tensor " + name_in_quotes(prefix + "mask") + " holds numbers that are neither 0 nor 1");
  masked.weight = masked.weight.cwiseProduct(masked.mask);
  return masked;
}

/// How one of the numbers that our transformer takes comes from those that a file's net gives for a feature.
struct Output {
  Index source;  ///< which of them
  double factor = 1, offset = 0;
};

/// The last map of a coupling's net (see Coupling on the order of ours), of which a file has all numbers of a feature
/// together, or all features of a number.
inline Dense<double> rearrange_coupling(const Dense<double>& map, Index features, const std::vector<Output>& outputs,
                                        bool by_feature) {
  const auto count = static_cast<Index>(outputs.size());
  Dense<double> ours(map.weight.rows(), map.weight.cols());
  for (Index f = 0; f < features; ++f)
    for (Index q = 0; q < count; ++q) {
      const auto& [source, factor, offset] = outputs[static_cast<std::size_t>(q)];
      const Index from = by_feature ? f * count + source : source * features + f, to = q * features + f;
      ours.weight.col(to) = map.weight.col(from) * factor;
      ours.bias[to] = map.bias[from] * factor + offset;
    }
  return ours;
}

/// An MLP with the maps of a file. The context comes after the `inputs` inputs of the first.
template <Real S>
Mlp<S> make_mlp(Index inputs, std::vector<Dense<double>> maps, Activation activation) {
  const Index context = maps.front().weight.rows() - inputs;
  NetOptions options{.hidden = {}, .activation = activation};
  for (std::size_t l = 0; l + 1 < maps.size(); ++l) options.hidden.push_back(maps[l].bias.size());
  auto net = Mlp<S>::from_options(describe_net(Mlp<S>::type, inputs, context, maps.back().bias.size(), options));
  auto& [weight, bias, context_weight] = net.parameters();
  for (std::size_t l = 0; l < maps.size(); ++l) {
    weight[l] = maps[l].weight.topRows(weight[l].rows()).template cast<S>();
    bias[l] = maps[l].bias.template cast<S>();
  }
  context_weight = maps.front().weight.bottomRows(context).template cast<S>();
  return net;
}

/// A MADE whose units and features are in any order: what depends on what is in the masks. Its outputs are all numbers
/// of a feature together.
struct MaskedNet {
  std::vector<MaskedMap> maps;                 ///< the first of D inputs
  std::vector<Matrix<double>> context_weight;  ///< C x outputs of the maps that take the context (see Made)
  RowVector<double> context_bias;              ///< of an activated context, else empty
  bool residual = false;
};

/// What the masks of a net say.
struct MaskedOrder {
  std::vector<std::int64_t> features;              ///< each after those that its outputs depend on
  std::vector<std::vector<std::int64_t>> degrees;  ///< of the units, for each hidden layer (see Made), ascending
  std::vector<std::vector<Index>> units;           ///< for each hidden layer, the file's units by degree
};

/// Of `features`, those first whose key is the least among those that may come next.
/// \throws std::runtime_error if features depend on each other in a circle.
inline std::vector<std::int64_t> order_features(const Matrix<double>& depends, const std::vector<std::int64_t>& keys,
                                                const std::string& where) {
  const Index features = depends.rows();  // depends(i, f): f on i
  std::vector<Index> pending(static_cast<std::size_t>(features));
  for (Index f = 0; f < features; ++f) pending[static_cast<std::size_t>(f)] = (depends.col(f).array() > 0).count();
  std::set<std::pair<std::int64_t, Index>> ready;
  const auto release = [&](Index f) {
    if (pending[static_cast<std::size_t>(f)] == 0) ready.insert({keys[static_cast<std::size_t>(f)], f});
  };
  for (Index f = 0; f < features; ++f) release(f);
  std::vector<std::int64_t> order;
  while (!ready.empty()) {
    const Index next = ready.begin()->second;
    ready.erase(ready.begin());
    order.push_back(next);
    for (Index f = 0; f < features; ++f)
      if (depends(next, f) > 0) {
        --pending[static_cast<std::size_t>(f)];
        release(f);
      }
  }
  if (static_cast<Index>(order.size()) != features)
    throw std::runtime_error(where + ": by the masks features depend on each other in a circle, expected an order");
  return order;
}

inline MaskedOrder read_order(const MaskedNet& net, Index outputs_per_feature, const std::vector<std::int64_t>& keys,
                              const std::string& where) {
  const Index features = net.maps.front().mask.rows();
  const std::size_t last = net.maps.size() - 1;
  std::vector<Matrix<double>> seen;  // by the units of each hidden layer: features x units, 0 or 1
  Matrix<double> outputs;            // and by each output
  for (std::size_t l = 0; l <= last; ++l) {
    Matrix<double> sees = l == 0 ? net.maps[0].mask : (seen[l - 1] * net.maps[l].mask).cwiseMin(1.0).eval();
    if (net.residual && l > 0 && l % 2 == 0) sees = sees.cwiseMax(seen[l - 2]);
    (l == last ? outputs : seen.emplace_back()) = std::move(sees);
  }
  Matrix<double> depends(features, features);
  for (Index f = 0; f < features; ++f)
    depends.col(f) = outputs.middleCols(f * outputs_per_feature, outputs_per_feature).rowwise().maxCoeff();

  MaskedOrder order{.features = order_features(depends, keys, where), .degrees = {}, .units = {}};
  for (std::size_t l = 0; l < last; ++l) {
    std::vector<std::int64_t> degrees(static_cast<std::size_t>(seen[l].cols()), 0);
    for (std::size_t unit = 0; unit < degrees.size(); ++unit)
      for (Index place = 0; place < features; ++place)
        if (seen[l](order.features[static_cast<std::size_t>(place)], static_cast<Index>(unit)) > 0)
          degrees[unit] = place + 1;
    if (!net.residual || l == 0)
      order.degrees.push_back(std::move(degrees));
    else if (degrees != order.degrees.front())
      throw std::runtime_error(where +
                               ": by the masks a unit of a residual net sees more features in one layer than in " +
                               "another, expected the same in all");
  }
  for (auto& degrees : order.degrees) {
    auto& units = order.units.emplace_back(degrees.size());
    std::iota(units.begin(), units.end(), 0);
    std::stable_sort(units.begin(), units.end(), [&](Index a, Index b) {
      return degrees[static_cast<std::size_t>(a)] < degrees[static_cast<std::size_t>(b)];
    });
    std::sort(degrees.begin(), degrees.end());
  }
  return order;
}

/// The columns of a matrix in another order, and rows as well.
template <class M>
M gather_columns(const M& matrix, const std::vector<Index>& columns) {
  M gathered(matrix.rows(), static_cast<Index>(columns.size()));
  for (std::size_t j = 0; j < columns.size(); ++j) gathered.col(static_cast<Index>(j)) = matrix.col(columns[j]);
  return gathered;
}
inline Matrix<double> gather(const Matrix<double>& matrix, const std::vector<Index>& rows,
                             const std::vector<Index>& columns) {
  return gather_columns(Matrix<double>(gather_columns(matrix, columns).transpose()), rows).transpose();
}

/// A MADE with the parameters of a file, and the order of its features.
template <Real S>
struct OrderedMade {
  Made<S> net;
  std::vector<std::int64_t> order;
};

/// Sorts features and units so that the net is a Made, which is exact. `keys` order the features where the masks leave
/// that open.
template <Real S>
OrderedMade<S> make_made(MaskedNet net, const std::vector<Output>& outputs, const std::vector<std::int64_t>& keys,
                         Activation activation, const std::string& where) {
  const Index features = net.maps.front().weight.rows();
  const Index context = net.context_weight.empty() ? 0 : net.context_weight.front().rows();
  const auto count = static_cast<Index>(outputs.size());
  const MaskedOrder order = read_order(net, count, keys, where);
  const std::size_t last = net.maps.size() - 1;
  MadeOptions options{.hidden = {}, .activation = activation, .residual = net.residual};
  for (std::size_t l = 0; l < last; l += net.residual && l > 0 ? 2 : 1)
    if (!net.residual || l > 0) options.hidden.push_back(net.maps[l].bias.size());
  options.activated_context = net.context_bias.size() > 0;

  const std::vector<Index> features_in_order(order.features.begin(), order.features.end());
  const auto rows = [&](std::size_t l) { return l == 0 ? features_in_order : order.units[net.residual ? 0 : l - 1]; };
  const auto cols = [&](std::size_t l) {
    if (l < last) return order.units[net.residual ? 0 : l];
    std::vector<Index> columns;
    for (const Index f : features_in_order)
      for (const Output& output : outputs) columns.push_back(f * count + output.source);
    return columns;
  };
  for (Index f = 0; f < features; ++f)
    for (const auto& [source, factor, offset] : outputs) {
      net.maps[last].weight.col(f * count + source) *= factor;
      net.maps[last].bias[f * count + source] = net.maps[last].bias[f * count + source] * factor + offset;
    }
  Made<S> made(features, count, context, options, order.degrees);
  auto& parameters = made.parameters();
  for (std::size_t l = 0; l <= last; ++l) {
    parameters.weight[l] = gather(net.maps[l].weight, rows(l), cols(l)).template cast<S>();
    parameters.bias[l] = gather_columns(net.maps[l].bias, cols(l)).template cast<S>();
  }
  std::size_t k = 0;
  for (std::size_t l = 0; k < net.context_weight.size(); l = l == 0 ? 1 : l + 2, ++k)  // as Made takes them
    parameters.context_weight[k] = gather_columns(net.context_weight[k], cols(l)).template cast<S>();
  if (options.activated_context) parameters.context_bias = gather_columns(net.context_bias, cols(0)).template cast<S>();
  return {std::move(made), order.features};
}

}  // namespace rhei::detail
