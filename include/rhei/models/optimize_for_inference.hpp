// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// `optimize_for_inference`: a trained flow made ready to be used.
/// \code
///   const auto flow = rhei::optimize_for_inference(rhei::load<float>("model.safetensors"));
/// \endcode
/// Runs of affine layers (permutations, linear maps in any of their parametrizations, rotations, actnorm, scalings,
/// batch norm with its stored statistics) become one AffineMap each: one product instead of a pass, a triangular
/// solution and an exponential for each of them. What such a map has in front of it and behind it stays as it is. (The
/// masked nets of autoregressive layers need nothing: they skip the blocks of zeros as they are.)
///
/// A folded run rounds by its product what the layers round one after the other: outputs differ by some units in the
/// last place, times AffineMap::amplification(). A run where that is more than 1000 is folded in two parts, or not at
/// all; so is one whose layers hold less than half as many numbers as the matrix would have, because a product would
/// take longer (a permutation of many features, a few reflections).

#include <algorithm>
#include <rhei/core/any_flow.hpp>
#include <rhei/core/inverted.hpp>
#include <rhei/layers/affine_map.hpp>
#include <utility>
#include <vector>

namespace rhei {
namespace detail {

/// Appends the layers that a layer consists of, in the order of `forward`.
template <Layer L, Real S>
void append_parts(const L& layer, std::vector<AnyLayer<S>>& parts) {
  if constexpr (requires { layer.layers(); }) {
    for_each_element(layer.layers(), [&](const auto&, const auto& part) { append_parts(part, parts); });
  } else if constexpr (std::same_as<L, AnyLayer<S>>) {
    if (const auto* chain = layer.template get_if<Repeat<AnyLayer<S>>>()) {
      append_parts(*chain, parts);
    } else if (const auto* inverted = layer.template get_if<Inverted<AnyLayer<S>>>()) {
      std::vector<AnyLayer<S>> inner;
      append_parts(inverted->layer(), inner);
      std::for_each(inner.rbegin(), inner.rend(),
                    [&](AnyLayer<S>& part) { parts.push_back(Inverted<AnyLayer<S>>(std::move(part))); });
    } else {
      parts.push_back(layer);
    }
  } else {
    parts.push_back(layer);
  }
}

/// Appends what a run of affine layers becomes.
template <Real S>
void append_folded(const std::vector<AnyLayer<S>>& run, std::vector<AnyLayer<S>>& folded) {
  constexpr double most_amplification = 1000;
  const Repeat<AnyLayer<S>> chain(run);
  Index numbers = 0;
  const auto count = [&](std::string_view, const auto& values) { numbers += static_cast<Index>(values.size()); };
  for_each_parameter(chain, count);
  for_each_state(chain, count);
  if (2 * numbers >= chain.dim() * chain.dim()) {
    auto map = AffineMap<S>::from_layer(chain);
    if (map.amplification() <= most_amplification) return folded.push_back(std::move(map));
  }
  if (run.size() == 1) return folded.push_back(run.front());
  const auto middle = run.begin() + static_cast<std::ptrdiff_t>(run.size() / 2);
  append_folded(std::vector<AnyLayer<S>>(run.begin(), middle), folded);
  append_folded(std::vector<AnyLayer<S>>(middle, run.end()), folded);
}

}  // namespace detail

/// The same densities and draws in less time, above all for single samples; see the file comment. What was folded has
/// no parameters any more: fit first, fold then. A file holds the result like any other flow.
template <class Base, class Transform>
[[nodiscard]] AnyFlow<typename Transform::Scalar> optimize_for_inference(const Flow<Base, Transform>& flow) {
  using S = typename Transform::Scalar;
  std::vector<AnyLayer<S>> parts, folded;
  detail::append_parts(flow.transform(), parts);
  const auto is_affine = [](const AnyLayer<S>& layer) { return layer.traits().affine; };
  for (auto next = parts.begin(); next != parts.end();) {
    const auto end = std::find_if_not(next, parts.end(), is_affine);
    if (end != next)
      detail::append_folded(std::vector<AnyLayer<S>>(next, end), folded);
    else
      folded.push_back(*next);
    next = end != next ? end : next + 1;
  }
  return {flow.base(), Repeat<AnyLayer<S>>(std::move(folded))};
}

}  // namespace rhei
