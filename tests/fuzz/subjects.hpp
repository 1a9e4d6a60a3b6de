// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The layers that random_conformance.cpp draws from: tables of makers, one line a layer.

#include <functional>
#include <rhei/core/any_layer.hpp>
#include <string_view>
#include <vector>

namespace rhei::fuzz {

enum class Direction { forward, inverse };

/// A layer and the same in double.
template <Real S>
struct Made {
  AnyLayer<S> layer;
  AnyLayer<double> wide;
};

/// A layer under test.
template <Real S>
struct Subject {
  std::string_view name;
  /// Makes a layer and adds normal numbers of deviation `by` to its parameters.
  std::function<Made<S>(Index dim, Index context, double by, Rng& rng)> make;
  /// From a real number to the domain of a direction, where that is not the real line.
  double (*domain)(Direction, double) = nullptr;
  /// What the layer's own lengths are like (an interval, a centre, a kernel): shorter data are rounded as these are.
  double length = 1;
};

/// From a maker (dim, context, rng) -> layer, which is free to draw its shape (features, widths, activations).
template <class Maker>
auto made_by(Maker maker) {
  using L = std::invoke_result_t<Maker, Index, Index, Rng&>;
  using S = typename L::Scalar;
  return [maker](Index dim, Index context, double by, Rng& rng) -> Made<S> {
    L layer = maker(dim, context, rng);
    for_each_parameter(layer, [&](std::string_view, Batch<S> values) {
      for (Index i = 0; i < values.size(); ++i) values.data()[i] += static_cast<S>(by * rng.normal<double>());
    });
    rhei::check_state(layer);
    AnyLayer<double> wide(layer.template cast<double>());
    return {std::move(layer), std::move(wide)};
  };
}

/// The lines of one group of layers: each group is a file subjects_<group>.cpp, so that none takes long to compile.
template <Real S>
using Group = std::vector<Subject<S>> (*)();

template <Real S>
std::vector<Subject<S>> affine_subjects();
template <Real S>
std::vector<Subject<S>> autoregressive_subjects();
template <Real S>
std::vector<Subject<S>> chain_subjects();
template <Real S>
std::vector<Subject<S>> coupling_subjects();
template <Real S>
std::vector<Subject<S>> elementwise_subjects();
template <Real S>
std::vector<Subject<S>> low_rank_subjects();

/// The whole table.
template <Real S>
std::vector<Subject<S>> subjects() {
  std::vector<Subject<S>> all;
  for (const Group<S> group : {affine_subjects<S>, autoregressive_subjects<S>, chain_subjects<S>, coupling_subjects<S>,
                               elementwise_subjects<S>, low_rank_subjects<S>})
    for (Subject<S>& subject : group()) all.push_back(std::move(subject));
  return all;
}

}  // namespace rhei::fuzz
