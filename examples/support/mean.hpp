// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The mean of a sample, as divergences are judged by.

#include <cmath>
#include <Eigen/Core>

namespace examples {

struct Mean {
  double value, stderr_;
};

/// The mean of independent values, and its standard error.
inline Mean mean_of(const Eigen::ArrayXd& values) {
  const double mean = values.mean();
  return {mean, std::sqrt((values - mean).square().sum() / static_cast<double>(values.size() - 1) /
                          static_cast<double>(values.size()))};
}

}  // namespace examples
