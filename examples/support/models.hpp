// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The ready-made flows by the names that command lines know them by, each in its default shape.

#include <rhei/core/any_flow.hpp>
#include <string>
#include <vector>

namespace examples {

using AnyFlow = rhei::AnyFlow<float>;

struct NamedModel {
  std::string name;
  /// Makes the flow for data like the rows of x. Only rbig, which is built from its data, reads more than their number
  /// of columns.
  AnyFlow (*make)(const Eigen::MatrixXf& x, rhei::Rng& rng);
  bool trained = true;          ///< by `fit`; if not it is complete as it is made
  double learning_rate = 1e-3;  ///< that serves the 2-D densities well
};

/// All of them.
const std::vector<NamedModel>& models();

/// The one of that name, which must be there.
const NamedModel& model(const std::string& name);

/// Their names, for a command line's help and check.
std::vector<std::string> model_names();

}  // namespace examples
