// SPDX-License-Identifier: MIT

#include <cmath>
#include <limits>
#include <rhei/core/random.hpp>
#include <rhei/nn/monotone_root.hpp>
#include <utility>

#include "support/catch.hpp"

using namespace rhei;

namespace {

template <class S>
constexpr S epsilon = std::numeric_limits<S>::epsilon();
template <class S>
constexpr S infinity = std::numeric_limits<S>::infinity();

/// f and f' in the scalar of x, so that the same text serves as reference in long double.
constexpr auto linear = [](auto x) {
  using T = decltype(x);
  return std::pair<T, T>{T(0.75) * x, T(0.75)};
};
constexpr auto cubic = [](auto x) {
  using T = decltype(x);
  return std::pair<T, T>{x * x * x + x / 8, 3 * x * x + T(0.125)};
};
constexpr auto hyperbolic = [](auto x) {
  using T = decltype(x);
  const T t = std::tanh(x);
  return std::pair<T, T>{t, 1 - t * t};
};
constexpr auto logit = [](auto x) {
  using T = decltype(x);
  return std::pair<T, T>{std::log(x) - std::log1p(-x), 1 / (x * (1 - x))};
};
constexpr auto nearly_flat = [](auto x) {  // slope 1e-4 at 0, as a planar layer whose w'u is close to -1
  using T = decltype(x);
  const T t = std::tanh(x), q = T(-0.9999);
  return std::pair<T, T>{x + q * t, 1 + q * (1 - t * t)};
};

/// The largest |f(x) - target| over what rounding f and x by one unit each explains, for targets f(t) with t in
/// [lower, upper]; and the most evaluations.
struct Worst {
  double units = 0;
  int evaluations = 0;
};
template <class S, class F>
Worst worst_of(F f, S lower, S upper, bool bracketed = true) {
  Rng rng(3);
  Worst worst;
  SolveReport report;
  for (int i = 0; i < 2000; ++i) {
    const S t = lower + (upper - lower) * rng.uniform<S>(), start = lower + (upper - lower) * rng.uniform<S>();
    const S target = f(t).first;
    int evaluations = 0;
    const auto counted = [&](S x) {
      ++evaluations;
      return f(x);
    };
    const S x = solve_increasing(counted, target, bracketed ? lower : -infinity<S>, bracketed ? upper : infinity<S>,
                                 start, report);
    const auto [value, slope] = f(static_cast<long double>(x));
    const long double unit = epsilon<S> / 2 * (std::abs(static_cast<long double>(target)) + slope * std::abs(x));
    const double units = static_cast<double>(std::abs(value - target) / unit);
    if (!(units <= worst.units)) worst.units = units;
    worst.evaluations = std::max(worst.evaluations, evaluations);
  }
  CHECK(report.failures == 0);
  CHECK(report.worst_residual == 0);
  return worst;
}

}  // namespace

TEMPLATE_TEST_CASE("solve_increasing solves to the last units", "[root]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const auto check = [](const Worst& worst, double units, int evaluations) {
    CHECK(worst.units < units);
    CHECK(worst.evaluations <= evaluations);
  };
  SECTION("a line") { check(worst_of<S>(linear, -7, 9), 2, 3); }
  SECTION("a line without a bracket") { check(worst_of<S>(linear, -7, 9, false), 2, 3); }
  SECTION("a cubic") { check(worst_of<S>(cubic, -7, 9), 8, 24); }
  SECTION("a cubic without a bracket") { check(worst_of<S>(cubic, -7, 9, false), 8, 24); }
  SECTION("tanh, down to slopes of 1e-5") { check(worst_of<S>(hyperbolic, -6, 6), 8, 40); }
  SECTION("a logit") { check(worst_of<S>(logit, epsilon<S>, 1 - epsilon<S>), 8, 60); }
  // x - 0.9999 tanh x: the difference is rounded as its terms are.
  SECTION("a nearly flat place") { check(worst_of<S>(nearly_flat, S(0.5), 4), 20, 12); }
}

TEMPLATE_TEST_CASE("solve_increasing in flat regions stops where f cannot tell", "[root]", RHEI_TEST_SCALARS) {
  using S = TestType;
  SolveReport report;
  int evaluations = 0;
  const auto flat = [&](S x) {  // constant to rounding beyond |x| = 20, so that its slope is exactly zero
    ++evaluations;
    return hyperbolic(x);
  };
  for (const S target : {S(-0.999), S(-0.5), S(0), S(0.25), S(0.9999)})
    for (const S start : {S(-1000), S(-20), S(3), S(1000)}) {
      evaluations = 0;
      const S x = solve_increasing(flat, target, S(-1000), S(1000), start, report);
      CHECK(std::abs(std::tanh(x) - target) <= 2 * epsilon<S>);
      CHECK(evaluations < 60);
    }
  // A step of the target's own height: any x on the level is a root.
  const auto steps = [](S x) { return std::pair<S, S>{std::floor(x), S(0)}; };
  CHECK(std::floor(solve_increasing(steps, S(3), S(-100), S(100), S(0), report)) == 3);
  // A multiple root, where Newton's method alone gains a third a step.
  const auto cube = [](S x) { return std::pair<S, S>{x * x * x, 3 * x * x}; };
  CHECK(std::pow(solve_increasing(cube, S(0), S(-1), S(2), S(2), report), S(3)) == 0);
  CHECK(report.failures == 0);
}

TEMPLATE_TEST_CASE("solve_increasing finds roots at the ends of the bracket", "[root]", RHEI_TEST_SCALARS) {
  using S = TestType;
  SolveReport report;
  for (const S start : {S(-2), S(0), S(1), S(5)}) {
    CHECK(solve_increasing(linear, S(-1.5), S(-2), S(5), start, report) == -2);
    CHECK(solve_increasing(linear, S(3.75), S(-2), S(5), start, report) == 5);
    CHECK(solve_increasing(linear, S(0.75), S(1), S(1), start, report) == 1);
  }
  // Rounding has put the root beside the end.
  CHECK(solve_increasing(linear, S(3.75) * (1 + epsilon<S>), S(-2), S(5), S(0), report) == 5);
  CHECK(solve_increasing(linear, S(-1.5) * (1 + epsilon<S>), S(-2), S(5), S(0), report) == -2);
  CHECK(report.failures == 0);
}

TEMPLATE_TEST_CASE("solve_increasing at every scale, with and without bracket", "[root]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const int exponents = std::numeric_limits<S>::max_exponent - 4;
  SolveReport report;
  const auto same = [](S x) { return std::pair<S, S>{x, S(1)}; };
  const auto misled = [](S x) { return std::pair<S, S>{x, S(0)}; };  // no slope: halvings alone
  for (int e = -exponents; e <= exponents; e += exponents / 12) {
    const S root = std::ldexp(S(1.37), e);
    for (const S sign : {S(1), S(-1)}) {
      CHECK(solve_increasing(same, sign * root, -infinity<S>, infinity<S>, S(0), report) == sign * root);
      int evaluations = 0;
      const auto counted = [&](S x) {
        ++evaluations;
        return misled(x);
      };
      const S x = solve_increasing(counted, sign * root, -infinity<S>, infinity<S>, S(0), report);
      CHECK(std::abs(x / root - sign) < 2 * epsilon<S>);
      CHECK(evaluations < 170);
      const Bracket<S> bracket = bracket_increasing(same, sign * root, S(0), S(1));
      CHECK(bracket.lower <= sign * root);
      CHECK(sign * root <= bracket.upper);
      CHECK(solve_increasing(misled, sign * root, bracket.lower, bracket.upper, S(0), report) ==
            Approx(sign * root).epsilon(2 * epsilon<S>));
    }
  }
  CHECK(report.failures == 0);
}

TEMPLATE_TEST_CASE("solve_increasing says when there is no root", "[root]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const S nan = std::numeric_limits<S>::quiet_NaN();
  SolveReport report;
  SECTION("a root outside the bracket") {
    CHECK(std::isnan(solve_increasing(linear, S(9), S(-2), S(5), S(0), report)));
    CHECK(report.failures == 1);
    CHECK(report.worst_residual == 9 - 3.75);
    CHECK(std::isnan(solve_increasing(linear, S(-2), S(-2), S(5), S(0), report)));
    CHECK(report.failures == 2);
    CHECK(report.worst_residual == 9 - 3.75);  // the worse of both
  }
  SECTION("a target that is never reached") {
    CHECK(std::isnan(solve_increasing(hyperbolic, S(1.5), -infinity<S>, infinity<S>, S(0), report)));
    CHECK(report.failures == 1);
    CHECK(report.worst_residual == 0.5);
    const Bracket<S> bracket = bracket_increasing(hyperbolic, S(1.5), S(0), S(1));
    CHECK(bracket.upper == infinity<S>);
    CHECK(bracket_increasing(hyperbolic, S(-1.5), S(0), S(1)).lower == -infinity<S>);
  }
  SECTION("a function that is NaN") {
    CHECK(std::isnan(solve_increasing([nan](S) { return std::pair{nan, nan}; }, S(1), S(0), S(1), S(0), report)));
    CHECK(report.failures == 1);
    CHECK(report.worst_residual == double(infinity<S>));
  }
  SECTION("an empty bracket") {
    CHECK(std::isnan(solve_increasing(linear, S(0), S(3), S(2), S(0), report)));
    CHECK(report.failures == 1);
  }
  SECTION("a target that is none is no failure") {
    for (const S target : {nan, infinity<S>, -infinity<S>}) {
      CHECK(std::isnan(solve_increasing(linear, target, S(-2), S(5), S(0), report)));
      bracket_increasing(linear, target, S(0), S(1));  // ends
    }
    CHECK(std::isnan(solve_increasing(linear, S(0), nan, nan, S(0), report)));
    CHECK(report.failures == 0);
    CHECK(report.worst_residual == 0);
  }
}
