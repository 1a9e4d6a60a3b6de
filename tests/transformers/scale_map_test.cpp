// SPDX-License-Identifier: MIT

/// \file
/// The scale maps: values against their formulas in long double, slopes, bounds, names.

#include <array>
#include <cmath>
#include <rhei/core/random.hpp>
#include <rhei/transformers/scale_map.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/finite_difference.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

using Long = long double;

struct Policy {
  ScaleMap map;
  Long (*log_scale)(Long r);
  Long (*slope)(Long r);  // d log-scale / dr, in terms of r and not of the log-scale
};

Long logistic(Long r) { return 1 / (1 + std::exp(-r)); }
Long softplus_of(Long r) { return r > 0 ? r + std::log1p(std::exp(-r)) : std::log1p(std::exp(r)); }

const std::array policies{
    Policy{ScaleMap::exponential(), [](Long r) { return r; }, [](Long) { return Long(1); }},
    Policy{ScaleMap::tanh(2), [](Long r) { return 2 * std::tanh(r / 2); },
           [](Long r) { return 1 / (std::cosh(r / 2) * std::cosh(r / 2)); }},
    Policy{ScaleMap::tanh(0.7), [](Long r) { return Long(0.7) * std::tanh(r / Long(0.7)); },
           [](Long r) { return 1 / (std::cosh(r / Long(0.7)) * std::cosh(r / Long(0.7))); }},
    Policy{ScaleMap::softsign(3), [](Long r) { return r / (1 + std::abs(r / 3)); },
           [](Long r) { return 1 / ((1 + std::abs(r / 3)) * (1 + std::abs(r / 3))); }},
    Policy{ScaleMap::sigmoid(1e-3), [](Long r) { return std::log(logistic(r + 2) + Long(1e-3)); },
           [](Long r) { return logistic(r + 2) * logistic(-r - 2) / (logistic(r + 2) + Long(1e-3)); }},
    Policy{ScaleMap::softplus(1e-3), [](Long r) { return std::log(softplus_of(r) + Long(1e-3)); },
           [](Long r) { return logistic(r) / (softplus_of(r) + Long(1e-3)); }},
};

template <Real S>
Vector<S> log_scales(const ScaleMap& map, const Vector<S>& raw) {
  Vector<S> result(raw.size());
  map.apply(ConstValues<S>(raw), Values<S>(result));
  return result;
}

template <Real S>
Vector<S> slopes(const ScaleMap& map, const Vector<S>& raw) {
  Vector<S> result = Vector<S>::Ones(raw.size());
  map.pull_back(ConstValues<S>(raw), Values<S>(result));
  return result;
}

/// Zero, and numbers of either sign up to 30.
template <Real S>
Vector<S> raw_values() {
  Rng rng(2);
  Vector<S> raw(101);
  for (Index i = 0; i < raw.size(); ++i) raw[i] = static_cast<S>(i % 2 == 0 ? 2 : 8) * rng.normal<S>();
  raw[0] = 0;
  return raw;
}

std::string refusal(const Options& options) {
  return error_text<std::runtime_error>([&] { (void)ScaleMap::from_options(options); });
}

}  // namespace

TEMPLATE_TEST_CASE("scale maps follow their formulas", "[scale_map]", RHEI_TEST_SCALARS) {
  using S = TestType;
  constexpr Long epsilon = std::numeric_limits<S>::epsilon();
  const Vector<S> raw = raw_values<S>();
  for (const Policy& policy : policies) {
    CAPTURE(static_cast<int>(policy.map.kind()), policy.map.constant());
    const Vector<S> got = log_scales(policy.map, raw), slope = slopes(policy.map, raw);
    Long worst = 0, worst_slope = 0;
    for (Index i = 0; i < raw.size(); ++i) {
      const Long want = policy.log_scale(raw[i]);
      worst = std::max(worst, std::abs(Long(got[i]) - want) / (1 + std::abs(want)));
      const Long want_slope = policy.slope(raw[i]);  // relative to itself: at the flat ends, too
      worst_slope = std::max(worst_slope, std::abs(Long(slope[i]) - want_slope) / (1 + std::abs(raw[i])) / want_slope);
    }
    CHECK(static_cast<double>(worst / epsilon) < 8);
    CHECK(static_cast<double>(worst_slope / epsilon) < 8);
    // one at a time: the same bits, wherever in a register a value stands
    for (Index i = 0; i < raw.size(); ++i) REQUIRE(log_scales(policy.map, Vector<S>(raw.segment(i, 1)))[0] == got[i]);
  }
}

TEST_CASE("slopes of scale maps agree with differences of their values", "[scale_map]") {
  const Vector<double> raw = raw_values<double>().tail(100);  // without zero, where softsign has no third derivative
  for (const Policy& policy : policies) {
    CAPTURE(static_cast<int>(policy.map.kind()));
    const Vector<double> numeric = central_difference(
        [&](double h) -> Vector<double> { return log_scales(policy.map, Vector<double>(raw.array() + h)); });
    CHECK(relative_error(slopes(policy.map, raw), numeric) < 1e-8);
  }
}

TEMPLATE_TEST_CASE("clamped log-scales keep their bounds however large the raw value", "[scale_map]",
                   RHEI_TEST_SCALARS) {
  using S = TestType;
  Vector<S> raw(8);
  raw << 10, -10, S(1e3), S(-1e3), S(1e10), S(-1e10), std::numeric_limits<S>::max(), std::numeric_limits<S>::lowest();
  for (const double bound : {0.1, 0.7, 2.0, 3.0, std::log(1000.0)})
    for (const ScaleMap& map : {ScaleMap::tanh(bound), ScaleMap::softsign(bound)}) {
      CAPTURE(bound, static_cast<int>(map.kind()));
      const Vector<S> got = log_scales(map, raw), slope = slopes(map, raw);
      CHECK(double(got.cwiseAbs().maxCoeff()) <= bound * (1 + 2 * double(std::numeric_limits<S>::epsilon())));
      CHECK(double(got[6]) == Approx(bound).epsilon(1e-6));
      CHECK(double(got[7]) == Approx(-bound).epsilon(1e-6));
      CHECK((got.head(6).array().sign() == raw.head(6).array().sign()).all());
      CHECK(slope.array().isFinite().all());
      CHECK(double(slope.tail(4).cwiseAbs().maxCoeff()) < 1e-6);
    }
  for (const ScaleMap& map : {ScaleMap::sigmoid(1e-3), ScaleMap::softplus(1e-3)}) {
    CAPTURE(static_cast<int>(map.kind()));
    const Vector<S> got = log_scales(map, raw);
    CHECK(got.array().isFinite().all());
    CHECK(double(got[7]) == Approx(std::log(1e-3)));  // the smallest scale
    CHECK(slopes(map, raw).array().isFinite().all());
  }
  CHECK(double(log_scales(ScaleMap::sigmoid(1e-3), raw)[6]) == Approx(std::log(1.001)).margin(1e-6));
}

TEMPLATE_TEST_CASE("zero is no change of scale", "[scale_map]", RHEI_TEST_SCALARS) {
  const Vector<TestType> zero = Vector<TestType>::Zero(9);
  for (const ScaleMap& map : {ScaleMap::exponential(), ScaleMap::tanh(2), ScaleMap::softsign(2)}) {
    CHECK((log_scales(map, zero).array() == TestType(0)).all());
    CHECK((slopes(map, zero).array() == TestType(1)).all());
  }
}

TEMPLATE_TEST_CASE("NaN stays NaN in every scale map", "[scale_map]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Vector<S> raw = Vector<S>::Ones(9);
  raw[4] = std::numeric_limits<S>::quiet_NaN();
  for (const Policy& policy : policies) {
    CAPTURE(static_cast<int>(policy.map.kind()));
    const Vector<S> got = log_scales(policy.map, raw), slope = slopes(policy.map, raw);
    for (Index i = 0; i < raw.size(); ++i) CHECK(std::isnan(got[i]) == (i == 4));
    if (policy.map.kind() != ScaleMap::Kind::exponential) CHECK(std::isnan(slope[4]));
    CHECK(log_scales(policy.map, Vector<S>(0)).size() == 0);
  }
}

TEST_CASE("scale maps are known by name", "[scale_map]") {
  for (const Policy& policy : policies) {
    Options options;
    policy.map.describe(options);
    CHECK(ScaleMap::from_options(options) == policy.map);
  }
  Options integer;  // as a file may have it
  integer.set("scale_map", std::string("tanh")).set("constant", std::int64_t{2});
  CHECK(ScaleMap::from_options(integer) == ScaleMap::tanh(2));

  Options unknown("affine");
  unknown.set("scale_map", std::string("square")).set("constant", 1.0);
  CHECK(refusal(unknown) == "scale_map is 'square', expected exponential, tanh, softsign, sigmoid or softplus");
  CHECK(refusal(Options("affine")) == "description of 'affine': 'scale_map' is missing");
  Options incomplete("affine");
  incomplete.set("scale_map", std::string("tanh"));
  CHECK(refusal(incomplete) == "description of 'affine': 'constant' is missing");
}

TEST_CASE("scale maps refuse a constant that is no bound", "[scale_map]") {
  for (const double bad : {0.0, -1.0, std::numeric_limits<double>::infinity(), std::nan("")})
    for (ScaleMap (*make)(double) : {&ScaleMap::tanh, &ScaleMap::softsign, &ScaleMap::sigmoid, &ScaleMap::softplus}) {
      CAPTURE(bad);
      const std::string text = error_text<std::invalid_argument>([&] { (void)make(bad); });
      CHECK(text.find("ScaleMap: the constant is ") == 0);
      CHECK(text.find(", expected a finite number above 0") != std::string::npos);
    }
}
