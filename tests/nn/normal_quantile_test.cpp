// SPDX-License-Identifier: MIT

/// \file
/// The normal quantile from logarithms of probabilities, against long double.

#include <cmath>
#include <limits>
#include <numbers>
#include <rhei/core/random.hpp>
#include <rhei/nn/normal_quantile.hpp>
#include <vector>

#include "support/catch.hpp"

using namespace rhei;

namespace {

/// (1 - Phi(x)) / phi(x): by erfc, and where that nears the end of long double by the continued fraction of Laplace.
long double mills_reference(long double x) {
  if (x < 20)
    return std::sqrt(std::numbers::pi_v<long double> / 2) * std::exp(x * x / 2) * std::erfc(x / std::sqrt(2.0L));
  long double fraction = x;
  for (int k = 60; k > 0; --k) fraction = x + static_cast<long double>(k) / fraction;
  return 1 / fraction;
}

long double log_tail_reference(long double x) {
  return std::log(mills_reference(x)) - x * x / 2 - std::log(2 * std::numbers::pi_v<long double>) / 2;
}

/// Newton's method, from the value under test: log(1 - Phi) is concave, so it converges from anywhere on its right.
long double quantile_reference(long double log_p, long double start) {
  long double x = std::max(start, 0.0L);
  for (int step = 0; step < 50; ++step) x += (log_tail_reference(x) - log_p) * mills_reference(x);
  return x;
}

template <class S, class F>
S value_at(F f, S x) {
  S y;
  elementwise(1, f, &y, &x);
  return y;
}

/// |got - want| in units in the last place of max(floor, |want|).
template <class S>
double ulps(S got, long double want, S floor) {
  const S size = std::max(static_cast<S>(std::abs(want)), floor);
  const S unit = std::nextafter(size, std::numeric_limits<S>::infinity()) - size;
  return static_cast<double>(std::abs(static_cast<long double>(got) - want) / unit);
}

/// Numbers in [lo, hi], half of them with uniform logarithms.
template <class S>
std::vector<S> numbers(double lo, double hi) {
  Rng rng(3);
  std::vector<S> x(4001);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double u = rng.uniform<double>();
    x[i] = static_cast<S>(i % 2 == 0 ? lo + (hi - lo) * u : lo + (hi - lo) * std::exp2(-30 * u));
  }
  x.front() = static_cast<S>(lo);
  x.back() = static_cast<S>(hi);
  return x;
}

}  // namespace

TEMPLATE_TEST_CASE("the Mills ratio is accurate to a few units in the last place", "[quantile]", RHEI_TEST_SCALARS) {
  using S = TestType;
  double worst = 0;
  for (const double hi : {1.5, 20.0, 1e4})
    for (const S x : numbers<S>(0, hi)) {
      const S m = value_at([](Lanes<S> v) { return mills_ratio(v); }, x);
      worst = std::max(worst, ulps(m, mills_reference(x), std::numeric_limits<S>::min()));
    }
  CAPTURE(worst);
  CHECK(worst < 5);
  CHECK(value_at([](Lanes<S> v) { return mills_ratio(v); }, std::numeric_limits<S>::infinity()) == 0);
}

TEMPLATE_TEST_CASE("the normal quantile is accurate in every tail", "[quantile]", RHEI_TEST_SCALARS) {
  using S = TestType;
  double worst = 0, worst_mills = 0;
  const double lowest = static_cast<double>(std::numeric_limits<S>::lowest()) / 2;
  for (const double lo : {-1.0, -30.0, -1e4, -1e9, -1e18, -1e30, lowest})
    for (const S gap : numbers<S>(0, std::log(0.5) - lo)) {
      const S log_p = static_cast<S>(std::log(0.5)) - gap;
      const S x = value_at([](Lanes<S> l) { return normal_upper_quantile(l).value; }, log_p);
      const double error = ulps(x, quantile_reference(log_p, x), S(1));
      if (!(error <= worst)) worst = error;  // a NaN stays
      const S mills = value_at([](Lanes<S> l) { return normal_upper_quantile(l).mills; }, log_p);
      const double error_mills = ulps(mills, mills_reference(x), std::numeric_limits<S>::min());
      if (!(error_mills <= worst_mills)) worst_mills = error_mills;
    }
  CAPTURE(worst, worst_mills);
  CHECK(worst < 5);
  CHECK(worst_mills < 8);
  const auto at_infinity = normal_upper_quantile(Lanes<S>(-std::numeric_limits<S>::infinity()));
  S mills[Lanes<S>::size];
  at_infinity.mills.store(mills);
  CHECK(mills[0] == 0);
  CHECK(double(value_at([](Lanes<S> l) { return normal_upper_quantile(l).value; }, S(-1e4))) ==
        Approx(141.3798).epsilon(1e-5));
}

TEMPLATE_TEST_CASE("the normal quantile is odd, has no jump and knows its limits", "[quantile]", RHEI_TEST_SCALARS) {
  using S = TestType;
  using L = Lanes<S>;
  const S inf = std::numeric_limits<S>::infinity(), nan = std::numeric_limits<S>::quiet_NaN();
  const auto quantile = [](S log_cdf, S log_survival) {
    S z;
    elementwise(
        1, [](L a, L b) { return normal_quantile(a, b); }, &z, &log_cdf, &log_survival);
    return z;
  };
  const S half = static_cast<S>(std::log(0.5));
  CHECK(std::abs(quantile(half, half)) < 2 * std::numeric_limits<S>::epsilon());
  CHECK(quantile(-inf, 0) == -inf);
  CHECK(quantile(0, -inf) == inf);
  CHECK(std::isnan(quantile(nan, S(-1))));
  CHECK(std::isnan(quantile(S(-1), nan)));
  const S far = std::numeric_limits<S>::lowest() / 2;
  CHECK(double(quantile(far, 0)) == Approx(-std::sqrt(2.0) * std::sqrt(-double(far))).epsilon(1e-6));
  // Where the authors of Gaussianization flows switch to an asymptote, z jumps from -5.33 to -5.80.
  const S edge = static_cast<S>(std::log(0.5e-7));
  CHECK(double(quantile(edge, S(-0.5e-7))) == Approx(-5.32672).epsilon(1e-6));
  S last = -inf;
  for (double log_odds = -60; log_odds <= 60; log_odds += 0.1) {
    const S a = static_cast<S>(-std::log1p(std::exp(-log_odds))), b = static_cast<S>(-std::log1p(std::exp(log_odds)));
    const S z = quantile(a, b);
    CHECK(z == -quantile(b, a));
    CHECK(last < z);
    last = z;
  }
}

TEMPLATE_TEST_CASE("the normal log odds undo the quantile", "[quantile]", RHEI_TEST_SCALARS) {
  using S = TestType;
  double worst = 0;
  for (const double hi : {1.0, 9.0, 1e3})
    for (const S size : numbers<S>(0, hi))
      for (const S z : {size, -size}) {
        const S odds = value_at([](Lanes<S> v) { return normal_log_odds(v); }, z);
        const long double tail = log_tail_reference(size);
        const long double reference = std::log1p(-std::exp(tail)) - tail;
        const double error = ulps(odds, z < 0 ? -reference : reference, S(1));
        if (!(error <= worst)) worst = error;
      }
  CAPTURE(worst);
  CHECK(worst < 8);
}
