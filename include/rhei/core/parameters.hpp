// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Parameters and state by name.
///
/// Whatever owns trainable tensors has a table of them, and whatever owns parts has a table of its parts:
/// \code
///   template <class Self, class F>
///   static void each_parameter(Self& self, F&& f) { f("log_scale", self.log_scale); f("conditioner", self.net); }
/// \endcode
/// `for_each_parameter` walks such a tree and meets every tensor once, in a fixed order, under its dotted name
/// ("layers.3.conditioner.weight.0"). A gradient is a tree of the same shape, so that parameters and gradients pair up.
/// `each_state` is the same for what an optimizer does not move but a file must hold.

#include <algorithm>
#include <cstdint>
#include <rhei/core/errors.hpp>
#include <rhei/core/types.hpp>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace rhei {

/// The gradient of a layer that has no parameters.
struct NoParameters {
  template <class Self, class F>
  static void each_parameter(Self&, F&&) {}
};

namespace detail {

inline std::string join_names(std::string_view prefix, std::string_view name) {
  if (prefix.empty() || name.empty()) return std::string(prefix) + std::string(name);
  return std::string(prefix) + "." + std::string(name);
}

template <class T>
concept DenseTensor = std::is_base_of_v<Eigen::MatrixBase<std::remove_const_t<T>>, std::remove_const_t<T>>;

template <class T>
constexpr bool is_sequence = false;
template <class T, class A>
constexpr bool is_sequence<std::vector<T, A>> = !std::is_arithmetic_v<T>;
template <class... T>
constexpr bool is_sequence<std::tuple<T...>> = true;

/// Calls f(name, child) for the children of a vector or tuple, named by their position.
template <class Sequence, class F>
void for_each_element(Sequence& sequence, F&& f) {
  if constexpr (requires { sequence.begin(); }) {
    for (std::size_t i = 0; i < sequence.size(); ++i) f(std::to_string(i), sequence[i]);
  } else {
    std::size_t i = 0;
    std::apply([&](auto&... child) { (f(std::to_string(i++), child), ...); }, sequence);
  }
}

template <class Tensor>
auto tensor_view(Tensor& tensor) {
  using S = typename Tensor::Scalar;
  using View = std::conditional_t<std::is_const_v<Tensor>, ConstBatch<S>, Batch<S>>;
  return View(tensor.data(), tensor.rows(), tensor.cols());
}

}  // namespace detail

/// Calls `f(std::string_view name, Batch<S> tensor)` (ConstBatch for a const tree) for every parameter below `node`.
/// A vector of D values is seen as 1 x D or D x 1, as it is stored.
template <class Node, class F>
void for_each_parameter(Node& node, F&& f, std::string_view prefix = {}) {
  using T = std::remove_const_t<Node>;
  const auto descend = [&](std::string_view name, auto& child) {
    for_each_parameter(child, f, detail::join_names(prefix, name));
  };
  if constexpr (detail::DenseTensor<T>)
    f(prefix, detail::tensor_view(node));
  else if constexpr (detail::is_sequence<T>)
    detail::for_each_element(node, descend);
  else if constexpr (requires { node.visit_parameters(f, prefix); })  // behind a type erasure
    node.visit_parameters(f, prefix);
  else if constexpr (requires { T::each_parameter(node, descend); })
    T::each_parameter(node, descend);
}

/// Calls `f(name, Batch<S>)` or `f(name, std::span<std::int64_t>)` (of const for a const tree) for every piece of state
/// below `node`. Flags are spans of one.
template <class Node, class F>
void for_each_state(Node& node, F&& f, std::string_view prefix = {}) {
  using T = std::remove_const_t<Node>;
  using Integer = std::conditional_t<std::is_const_v<Node>, const std::int64_t, std::int64_t>;
  const auto descend = [&](std::string_view name, auto& child) {
    for_each_state(child, f, detail::join_names(prefix, name));
  };
  if constexpr (detail::DenseTensor<T>)
    f(prefix, detail::tensor_view(node));
  else if constexpr (std::same_as<T, std::int64_t>)
    f(prefix, std::span<Integer>(&node, 1));
  else if constexpr (std::same_as<T, std::vector<std::int64_t>>)
    f(prefix, std::span<Integer>(node.data(), node.size()));
  else if constexpr (detail::is_sequence<T>)
    detail::for_each_element(node, descend);
  else if constexpr (requires { node.visit_state(f, prefix); })
    node.visit_state(f, prefix);
  else if constexpr (requires { T::each_state(node, descend); })
    T::each_state(node, descend);
}

/// The number of trainable values below `node`.
template <class Node>
Index count_parameters(const Node& node) {
  Index count = 0;
  for_each_parameter(node, [&](std::string_view, const auto& tensor) { count += tensor.size(); });
  return count;
}

/// Sets every tensor of a tree to zero.
template <class Node>
void set_zero(Node& node) {
  for_each_parameter(node, [](std::string_view, auto tensor) { tensor.setZero(); });
}

/// A copy with every tensor zero: how a layer makes its gradient from its parameters.
template <class Node>
Node zeros_like(Node node) {
  set_zero(node);
  return node;
}

/// One named tensor of a parameter tree, as optimizers keep them.
template <Real S>
struct ParameterView {
  std::string name;  ///< dotted, as for_each_parameter() gives it
  Batch<S> values;   ///< the tensor itself, rows x columns as it is stored
};

/// All parameters of a tree in order. The views stay valid while the tree is neither moved nor resized.
template <Real S, class Node>
std::vector<ParameterView<S>> parameter_list(Node& node) {
  std::vector<ParameterView<S>> list;
  for_each_parameter(node, [&](std::string_view name, Batch<S> tensor) {
    list.push_back({std::string(name), tensor});
  });
  return list;
}

/// Copies every parameter and every piece of state from one tree to another of the same structure, converting the
/// scalar: what `cast` and restoring the best parameters are made of.
/// \throws std::invalid_argument if names or shapes differ.
template <class From, class To>
void copy_values(const From& from, To& to) {
  struct Source {
    std::string name;
    const void* data;
    Index rows, cols;
  };
  const auto copy_all = [](auto&& walk_from, auto&& walk_to) {
    std::vector<Source> sources;
    walk_from([&](std::string_view name, const auto& values) {
      if constexpr (requires { values.rows(); })
        sources.push_back({std::string(name), values.data(), values.rows(), values.cols()});
      else
        sources.push_back({std::string(name), values.data(), static_cast<Index>(values.size()), -1});
    });
    std::size_t next = 0;
    const auto take = [&](std::string_view name, Index rows, Index cols) {
      if (next == sources.size() || sources[next].name != name || sources[next].rows != rows ||
          sources[next].cols != cols)
        detail::throw_invalid("copy_values", "the trees differ at '" + std::string(name) + "'");
      return sources[next++].data;
    };
    walk_to([&](std::string_view name, auto values) {
      if constexpr (requires { values.rows(); }) {
        using S = typename From::Scalar;
        const auto* data = static_cast<const S*>(take(name, values.rows(), values.cols()));
        using T = typename decltype(values)::Scalar;
        values = ConstBatch<S>(data, values.rows(), values.cols()).template cast<T>();
      } else {
        const auto* data = static_cast<const std::int64_t*>(take(name, static_cast<Index>(values.size()), -1));
        std::copy(data, data + values.size(), values.begin());
      }
    });
    if (next != sources.size()) detail::throw_invalid("copy_values", "'" + sources[next].name + "' has no counterpart");
  };
  copy_all([&](auto&& f) { for_each_parameter(from, f); }, [&](auto&& f) { for_each_parameter(to, f); });
  copy_all([&](auto&& f) { for_each_state(from, f); }, [&](auto&& f) { for_each_state(to, f); });
}

/// The same layer, net or distribution in another scalar: built from its description, then given its values.
template <class To, class From>
To cast_to(const From& from) {
  To to = To::from_options(from.options());
  copy_values(from, to);
  if constexpr (requires { to.check_state(); }) to.check_state();
  return to;
}

}  // namespace rhei
