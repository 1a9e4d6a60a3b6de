// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The layers that jacobian_cost times: tables of makers, one line a layer, one file a family.

#include <functional>
#include <rhei/core/any_layer.hpp>
#include <rhei/core/random.hpp>
#include <string_view>
#include <vector>

namespace bench {

using rhei::Index;

/// A layer under measurement, of any dimension from 2 on.
struct Subject {
  std::string_view name;
  std::function<rhei::AnyLayer<float>(Index dim, rhei::Rng& rng)> make;
  bool constant = false;  ///< whether the log-determinant is the same for all rows (without a context)
};

std::vector<Subject> affine_subjects();
std::vector<Subject> autoregressive_subjects();
std::vector<Subject> coupling_subjects();
std::vector<Subject> elementwise_subjects();
std::vector<Subject> low_rank_subjects();

}  // namespace bench
