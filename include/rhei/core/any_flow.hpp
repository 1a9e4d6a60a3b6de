// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// `AnyFlow<S>`: a flow whose architecture is known only at run time (read from a file, chosen on a command line).

#include <rhei/core/any_distribution.hpp>
#include <rhei/core/any_layer.hpp>
#include <rhei/core/flow.hpp>

namespace rhei {

/// A flow of any architecture.
template <Real S>
using AnyFlow = Flow<AnyDistribution<S>, AnyLayer<S>>;

/// The same flow behind a type that says nothing of its architecture: what trains, draws or saves flows is then
/// compiled once for all of them.
template <class Base, class Transform>
[[nodiscard]] AnyFlow<typename Transform::Scalar> erase(Flow<Base, Transform> flow) {
  return {std::move(flow.base()), std::move(flow.transform())};
}

}  // namespace rhei
