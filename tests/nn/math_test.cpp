// SPDX-License-Identifier: MIT

#include <cmath>
#include <limits>
#include <rhei/core/random.hpp>
#include <rhei/nn/math.hpp>
#include <vector>

#include "support/catch.hpp"

using namespace rhei;

namespace {

/// The largest error in units in the last place, over values in [lo, hi], half of them with uniform logarithm down to
/// 2^-40; where |reference| is below the smallest normal number, half of that is a unit.
template <class S, class F, class R>
double worst_ulps(F f, R reference, double lo, double hi) {
  Rng rng(11);
  std::vector<S> x(20'003), y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double u = rng.uniform<double>();
    const double end = rng.uniform<double>() < 0.5 ? lo : hi;
    x[i] = static_cast<S>(i % 2 == 0 ? lo + (hi - lo) * u : end * std::exp2(-40 * u));
  }
  elementwise(static_cast<Index>(x.size()), f, y.data(), x.data());
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const long double r = reference(static_cast<long double>(x[i]));
    const S rounded = std::max(static_cast<S>(std::abs(r)), std::numeric_limits<S>::min());
    const S unit = std::nextafter(rounded, std::numeric_limits<S>::infinity()) - rounded;
    const double error = static_cast<double>(std::abs(static_cast<long double>(y[i]) - r) / unit);
    if (!(error <= worst)) worst = error;  // a NaN stays
  }
  return worst;
}

long double softplus_reference(long double x) { return std::max(x, 0.0L) + std::log1p(std::exp(-std::abs(x))); }

template <class S, class F>
S at(F f, S x) {
  S y;
  elementwise(1, f, &y, &x);
  return y;
}

}  // namespace

TEMPLATE_TEST_CASE("elementwise functions are accurate to a few units in the last place", "[math]", RHEI_TEST_SCALARS) {
  using S = TestType;
  using L = Lanes<S>;
  const double range = std::same_as<S, float> ? 80 : 700;
  CHECK(worst_ulps<S>([](L x) { return tanh(x); }, [](long double x) { return std::tanh(x); }, -20, 20) < 6);
  CHECK(worst_ulps<S>([](L x) { return exp_negative(x); }, [](long double x) { return std::exp(x); }, -range, 0) < 3);
  const auto log_reference = [](long double x) { return std::log(x); };
  for (const double hi : {1.0, 2.0, range == 80 ? 3e38 : 1e308})
    CHECK(worst_ulps<S>([](L x) { return log(x); }, log_reference, hi * std::exp2(-40), hi) < 2);
  CHECK(worst_ulps<S>([](L x) { return sigmoid(x); }, [](long double x) { return 1 / (1 + std::exp(-x)); }, -range,
                      range) < 5);
  CHECK(worst_ulps<S>([](L x) { return softplus(x); }, softplus_reference, -range, range) < 5);
  CHECK(worst_ulps<S>([](L x) { return log_sigmoid(x); }, [](long double x) { return -softplus_reference(-x); }, -range,
                      range) < 5);
  CHECK(worst_ulps<S>([](L x) { return log1p(x); }, [](long double x) { return std::log1p(x); }, -0.99, 100) < 4);
  CHECK(worst_ulps<S>([](L x) { return expm1_negative(x); }, [](long double x) { return std::expm1(x); }, -20, 0) < 8);
  const auto cdf = [](long double x) { return std::erfc(-x * std::sqrt(0.5L)) / 2; };
  CHECK(worst_ulps<S>([](L x) { return normal_cdf(x); }, cdf, -1, 10) < 8);
  CHECK(worst_ulps<S>([](L x) { return normal_cdf(x); }, cdf, -10, 0) < 256);  // rounding of x * x in the tail
}

TEMPLATE_TEST_CASE("elementwise functions at the ends of the line", "[math]", RHEI_TEST_SCALARS) {
  using S = TestType;
  using L = Lanes<S>;
  const S inf = std::numeric_limits<S>::infinity(), nan = std::numeric_limits<S>::quiet_NaN();
  const S tiny = std::numeric_limits<S>::min();
  const auto check = [&](auto f, S below, S above) {
    const S low = at(f, -inf), high = at(f, inf);
    CHECK(std::isnan(at(f, nan)));
    CHECK((low == below || std::abs(low - below) < tiny));
    CHECK((high == above || std::abs(high - above) < tiny));
  };
  check([](L x) { return tanh(x); }, -1, 1);
  check([](L x) { return exp_negative(-abs(x)); }, 0, 0);
  CHECK(at<S>([](L x) { return exp_negative(x); }, 0) == 1);
  const auto logarithm = [](L x) { return log(x); };
  CHECK(at<S>(logarithm, 1) == 0);
  CHECK(at<S>(logarithm, 0) == -inf);
  CHECK(at<S>(logarithm, inf) == inf);
  const S subnormal = std::numeric_limits<S>::denorm_min(), log_subnormal = at<S>(logarithm, subnormal);
  CHECK(log_subnormal <= at<S>(logarithm, tiny));
  CHECK(log_subnormal >= std::log(subnormal) * (1 + std::numeric_limits<S>::epsilon()));
  for (const S none : {nan, S(-1), -tiny, -inf}) CHECK(std::isnan(at<S>(logarithm, none)));
  CHECK(at<S>([](L x) { return exp_negative(x, S(-60)); }, -1000) == at<S>([](L x) { return exp_negative(x); }, -60));
  check([](L x) { return sigmoid(x); }, 0, 1);
  check([](L x) { return softplus(x); }, 0, inf);
  check([](L x) { return log_sigmoid(x); }, -inf, 0);
  check([](L x) { return normal_cdf(x); }, 0, 1);
  const auto f = [](L x) { return log1p(x); };
  CHECK(at(f, S(0)) == 0);
  CHECK(at(f, S(-1)) == -inf);
  CHECK(at(f, inf) == inf);
  CHECK(std::isnan(at(f, nan)));
  CHECK(std::isnan(at(f, S(-2))));
}

TEMPLATE_TEST_CASE("a value does not depend on its place in a range", "[math]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const auto f = [](Lanes<S> x, Lanes<S> y) { return sigmoid(x) * softplus(y); };
  Rng rng(5);
  std::vector<S> x(37), y(37), whole(38, S(-7)), part(37);
  for (auto& v : x) v = rng.normal<S>();
  for (auto& v : y) v = rng.normal<S>();
  elementwise(37, f, whole.data(), x.data(), y.data());
  CHECK(whole[37] == S(-7));  // nothing is written beyond the end
  for (const Index count : {0, 1, 2, 3, 5, 7, 8, 15, 17, 33}) {
    elementwise(count, f, part.data(), x.data() + 4, y.data() + 4);
    for (Index i = 0; i < count && i < 33; ++i)
      CHECK(part[static_cast<std::size_t>(i)] == whole[static_cast<std::size_t>(i + 4)]);
  }
}
