// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Derivatives by six-point central differences, and the measure in which two tensors are compared: what every
/// hand-written pullback is tested against.

#include <algorithm>
#include <cmath>
#include <Eigen/Core>
#include <limits>
#include <type_traits>

namespace rhei::testing {

/// About 1e-5, smaller than the distance to a kink of a redrawn input; a power of two, so that x + k * step is exact.
inline constexpr double difference_step = 0x1p-17;

/// df/dt at t = 0 of a number or an Eigen object f(t), from t = -3h ... 3h. Truncation h^6 f^(7) / 140 is nothing at
/// this step; what remains is rounding, about 1e-16 |f| / h = 2e-11 |f|.
template <class F>
auto central_difference(F&& f, double h = difference_step) {
  using Value = std::decay_t<decltype(f(h))>;
  const Value f1 = f(h), g1 = f(-h), f2 = f(2 * h), g2 = f(-2 * h), f3 = f(3 * h), g3 = f(-3 * h);
  return Value((45 * (f1 - g1) - 9 * (f2 - g2) + (f3 - g3)) / (60 * h));
}

/// The derivative of f() by one entry of whatever f reads; the entry is left as it was.
template <class F>
auto differentiate(double& entry, F&& f, double h = difference_step) {
  const double value = entry;
  auto derivative = central_difference(
      [&](double t) {
        entry = value + t;
        return f();
      },
      h);
  entry = value;
  return derivative;
}

/// The largest |a - b|, divided by the largest |b| or by `floor` where b is smaller. Infinite where anything is not
/// finite or the sizes differ, so that a comparison with a tolerance fails.
template <class A, class B>
double relative_error(const Eigen::DenseBase<A>& a, const Eigen::DenseBase<B>& b, double floor = 1e-3) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (a.rows() != b.rows() || a.cols() != b.cols()) return infinity;
  double difference = 0, scale = floor;
  for (Eigen::Index j = 0; j < b.cols(); ++j)
    for (Eigen::Index i = 0; i < b.rows(); ++i) {
      const double x = static_cast<double>(a.derived()(i, j)), y = static_cast<double>(b.derived()(i, j));
      if (!std::isfinite(x) || !std::isfinite(y)) return infinity;
      difference = std::max(difference, std::abs(x - y));
      scale = std::max(scale, std::abs(y));
    }
  return difference / scale;
}

}  // namespace rhei::testing
