// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The solution x of f(x) = y for a strictly increasing f: how inverses without a formula are found.
///
/// Newton's method inside a bracket [lower, upper] that every evaluation of f narrows:
///
///   x <- x - (f(x) - y) / f'(x)    where that lies inside the bracket and is less than half the step before last
///                                (or the bracket has no end yet),
///   x <- the middle                otherwise (Brent 1973, "Algorithms for Minimization without Derivatives", ch. 4).
///
/// The middle of two numbers is their mean or, every third time, the middle of all floating-point numbers between them,
/// of which 64 halvings leave one (32 in float), whatever their scales. So the number of steps is bounded, and the only
/// ways to fail are a root outside the bracket and an f that gives NaN.
///
/// Each element is solved on its own: what it gives does not depend on what is solved beside it.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <rhei/core/types.hpp>
#include <type_traits>

namespace rhei {

/// What the solutions of one evaluation were like. Whoever owns it sets it to {} when an evaluation begins.
struct SolveReport {
  Index failures = 0;         ///< elements that have no solution in their bracket; they are NaN
  double worst_residual = 0;  ///< the largest |f(x) - y| among these, infinity where f was NaN
};

/// Where a root lies.
template <Real S>
struct Bracket {
  S lower, upper;  ///< its ends, both included
};

namespace detail {

/// The position of x among all floating-point numbers: next to each other means one apart, both zeros are 0.
template <Real S>
auto float_order(S x) {
  using Bits = std::conditional_t<std::same_as<S, float>, std::int32_t, std::int64_t>;
  const auto bits = std::bit_cast<Bits>(x);
  return bits < 0 ? std::numeric_limits<Bits>::min() - bits : bits;
}

template <Real S, class Bits>
S float_at(Bits order) {
  return std::bit_cast<S>(order < 0 ? std::numeric_limits<Bits>::min() - order : order);
}

}  // namespace detail

/// The x in [lower, upper] where f(x) = target, to the last few units that f's own rounding lets one see.
///
/// `value_and_slope(x)` returns a pair {f(x), f'(x)}; f increases strictly (a slope that is rounded to zero does no
/// harm), and a wrong slope costs steps, not accuracy. The ends may be infinite. A root that rounding has put beside an
/// end counts as that end. A target, or an end, that is NaN gives NaN, as an infinite target does; so does a root
/// outside the bracket or a NaN of f, which `report` counts.
template <Real S, class F>
S solve_increasing(F&& value_and_slope, S target, S lower, S upper, S start, SolveReport& report) {
  constexpr S epsilon = std::numeric_limits<S>::epsilon(), infinity = std::numeric_limits<S>::infinity();
  constexpr S nan = std::numeric_limits<S>::quiet_NaN();
  constexpr int free_steps = 100;  // and then only halvings that must end
  if (!std::isfinite(target) || std::isnan(lower) || std::isnan(upper)) return nan;

  const auto fail = [&](S residual) {
    ++report.failures;
    const double size = std::isnan(residual) ? double(infinity) : std::abs(static_cast<double>(residual));
    report.worst_residual = std::max(report.worst_residual, size);
    return nan;
  };
  S x = std::min(std::max(start, lower), upper);
  S below = -infinity, above = infinity;  // the residuals at the ends, infinite while not known
  S last_step = infinity, step_before = infinity;
  for (int step = 0, halvings = 0;; ++step) {
    const auto [value, slope] = value_and_slope(x);
    const S residual = value - target;
    if (residual == 0) return x;
    if (std::isnan(residual)) return fail(residual);
    (residual < 0 ? lower : upper) = x;
    (residual < 0 ? below : above) = residual;

    S next = x - residual / slope;
    if (std::abs(next - x) <= 2 * epsilon * std::abs(x)) return std::min(std::max(next, lower), upper);
    if (2 * std::abs(residual) <= epsilon * std::abs(target)) return x;
    const bool fast = 2 * std::abs(next - x) < step_before || std::isinf(upper - lower);
    const bool newton = step < free_steps && lower < next && next < upper && fast;
    if (!newton) {
      const auto first = detail::float_order(lower), last = detail::float_order(upper);
      if (first >= last || first + 1 == last) break;
      next = S(0.5) * lower + S(0.5) * upper;
      const bool distinct = lower < next && next < upper && std::isfinite(next);
      if (step >= free_steps || ++halvings % 3 == 0 || !distinct)
        next = detail::float_at<S>(std::midpoint(first, last));
    }
    step_before = last_step;
    last_step = std::abs(next - x);
    x = next;
  }

  // No number is left between the ends; one of them may never have been looked at.
  S slope_beside = 0;
  const auto look = [&](S end, S& residual) {
    if (std::isfinite(residual)) return;
    const auto [value, slope] = value_and_slope(end);
    residual = value - target;
    slope_beside = slope;
  };
  look(lower, below);
  look(upper, above);
  if (std::isnan(below) || std::isnan(above)) return fail(nan);
  const bool nearer_below = std::abs(below) <= std::abs(above);
  x = nearer_below ? lower : upper;
  if (below <= 0 && 0 <= above) return x;
  const S residual = nearer_below ? below : above;
  const S rounding = 4 * epsilon * (std::abs(target) + std::abs(slope_beside * x));
  return std::abs(residual) <= rounding ? x : fail(residual);
}

/// A bracket of the x where f(x) = target for an increasing f (as solve_increasing takes it), sought from `start` in
/// steps that grow fourfold from `step` > 0. An end that no finite number offers is infinite.
template <Real S, class F>
Bracket<S> bracket_increasing(F&& value_and_slope, S target, S start, S step) {
  const auto residual = [&](S x) { return value_and_slope(x).first - target; };
  Bracket<S> found{start, start};
  if (residual(start) < 0) {
    for (found.upper += step; std::isfinite(found.upper) && residual(found.upper) < 0; found.upper += step *= 4)
      found.lower = found.upper;
  } else {
    for (found.lower -= step; std::isfinite(found.lower) && residual(found.lower) > 0; found.lower -= step *= 4)
      found.upper = found.lower;
  }
  return found;
}

}  // namespace rhei
