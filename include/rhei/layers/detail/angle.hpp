// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Angles: points of the circle as numbers in [-pi, pi), pi being that of the scalar.

#include <cmath>
#include <numbers>
#include <rhei/nn/math.hpp>

namespace rhei::detail {

/// The angle in [-pi, pi) that differs from x by a whole number of turns. What is an angle stays it bit for bit.
template <Real S>
Lanes<S> wrap_angle(Lanes<S> x) {
  constexpr S pi = std::numbers::pi_v<S>, turn = 2 * pi;
  const S largest = std::nextafter(pi, S(0));
  const Lanes<S> turns = Lanes<S>::of(Eigen::internal::pfloor(((x + pi) / turn).p));
  const Lanes<S> turned = select(abs(x) < pi, x, x - turns * turn);
  // rounding may carry a point over the seam; a NaN is on neither side of it
  return select(largest < turned, Lanes<S>(-pi), select(turned < -pi, Lanes<S>(-pi), turned));
}

}  // namespace rhei::detail
