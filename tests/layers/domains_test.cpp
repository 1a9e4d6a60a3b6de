// SPDX-License-Identifier: MIT

/// \file
/// Domains: the maps of its file comment against the formulas in long double, up to the ends and beyond.

#include <rhei/layers/domains.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// Any real number, squeezed into (-1, 1); 1e3 comes within 1e-3 of an end.
double squeezed(double v) { return v / (1 + std::abs(v)); }

std::vector<Domain> repeated(const Domain& domain, Index dim) {
  return std::vector<Domain>(static_cast<std::size_t>(dim), domain);
}

template <class S>
Matrix<S> column(std::initializer_list<S> values) {
  return Eigen::Map<const Vector<S>>(values.begin(), static_cast<Index>(values.size()));
}

template <Real S>
Domains<S> one(const Domain& domain) {
  return Domains<S>({domain});
}

}  // namespace

TEMPLATE_TEST_CASE("Domains of one kind conform", "[layer]", RHEI_TEST_SCALARS) {
  using S = TestType;
  struct Case {
    std::string_view name;
    Domain domain;
    double (*latent)(double);
    double (*data)(double);
    double largest_input = 1e3;
  };
  const auto real = [](double v) { return v; };
  const auto angle = [](double v) { return 3 * squeezed(v); };
  const Case cases[] = {
      {"Domains, line", Domain::line(), real, real},
      // beyond |y| = 5 an x in float tells a y from its neighbour by less than 1e-4
      {"Domains, interval", Domain::interval(-2, 3), [](double v) { return 5 * squeezed(v); },
       [](double v) { return 0.5 + 2.5 * squeezed(v); }},
      {"Domains, half-line", Domain::half_line(0), real, [](double v) { return v < 0 ? 1 / (1 - v) : 1 + v; }},
      {"Domains, circle", Domain::circle(), angle, angle},
      {"Domains, circle of 24", Domain::circle(0, 24), angle, [](double v) { return 12 + 11.5 * squeezed(v); }},
  };
  for (const Case& c : cases)
    conforms([&](Index dim) { return Domains<S>(repeated(c.domain, dim)); },
             {.name = c.name, .dims = {1, 3}, .largest_input = c.largest_input, .domain = [&](Direction d, double v) {
                return d == Direction::forward ? c.latent(v) : c.data(v);
              }});
}

TEMPLATE_TEST_CASE("Domains of all kinds side by side conform", "[layer]", RHEI_TEST_SCALARS) {
  using S = TestType;
  conforms(
      [](Index) {
        return Domains<S>({Domain::circle(-4, 3), Domain::line(), Domain::half_line(-2.5), Domain::interval(-3, 2.5),
                           Domain::circle(-2.5, 3.5)});
      },
      {.name = "Domains, mixed", .dims = {5}, .domain = [](Direction d, double v) {
         return (d == Direction::forward ? 3 : 2.4) * squeezed(v);
       }});
}

TEST_CASE("Domains are their formulas, in both directions and at every scale", "[domains]") {
  using Real128 = long double;
  const Real128 lower = -2, width = 5, unit = 3;
  Domains<double> layer({Domain::line(), Domain::interval(-2, 3), Domain::half_line(-2), Domain::circle(-2, 3)});
  layer.initialize({}, Matrix<double>(Matrix<double>::Constant(1, 4, 1)));  // the unit is the distance of 1 from -2
  CHECK(layer.unit()[2] == 3);
  for (const double y : {-40.0, -20.0, -3.0, -0.7, -1e-9, 0.0, 1e-300, 0.5, 2.0, 3.0, 19.0, 30.0}) {
    CAPTURE(y);
    const Real128 Y = y, tau = 2 * std::numbers::pi_v<Real128>;
    const Real128 turned = Y - tau * std::floor((Y + tau / 2) / tau);
    const Real128 x[4] = {Y, lower + width / (1 + std::exp(-Y)), lower + unit * std::log1p(std::exp(Y)),
                          lower + width / 2 + turned * width / tau};
    const Real128 log_slope = std::log(width) - Y - 2 * std::log1p(std::exp(-Y)) + std::log(unit) -
                              std::log1p(std::exp(-Y)) + std::log(width / tau);
    const Matrix<double> latent = Matrix<double>::Constant(1, 4, y);
    const auto forward = forward_of(layer, latent);
    for (Index d = 0; d < 4; ++d)
      CHECK(forward.out(0, d) == Approx(static_cast<double>(x[d])).epsilon(1e-14).margin(1e-14));
    CHECK(forward.log_det[0] == Approx(static_cast<double>(log_slope)).epsilon(1e-14).margin(1e-14));
    const auto inverse = inverse_of(layer, forward.out);
    // of an interval and a half-line as good as x tells y apart: a neighbour of x is eps |x| / (dx/dy) away
    CHECK(inverse.out(0, 0) == y);
    const double slope1 = 5 * std::exp(-std::abs(y)) / std::pow(1 + std::exp(-std::abs(y)), 2);
    const double slope2 = 3 / (1 + std::exp(-y));
    if (slope1 > 1e-12) CHECK(std::abs(inverse.out(0, 1) - y) < 1e-14 + 1e-15 / slope1 + 1e-15 * std::abs(y));
    if (slope2 > 1e-12) CHECK(std::abs(inverse.out(0, 2) - y) < 1e-14 + 1e-15 / slope2 + 1e-15 * std::abs(y));
    CHECK(inverse.out(0, 3) == Approx(static_cast<double>(turned)).epsilon(1e-14).margin(1e-14));
  }
}

// An end at zero, as concentrations and shares have it: all of x's digits count there.
TEMPLATE_TEST_CASE("Domains keep their precision down to the end", "[domains]", RHEI_TEST_SCALARS) {
  using S = TestType;
  constexpr double eps = std::numeric_limits<S>::epsilon();
  const S smallest = std::numeric_limits<S>::min();
  for (const S x : {smallest * 4, S(1e-30), S(1e-9), S(1e-3), S(0.2)}) {
    CAPTURE(x);
    const long double X = x;
    const auto share = inverse_of(one<S>(Domain::interval(0, 1)), column<S>({x}));
    CHECK(double(share.out(0, 0)) == Approx(static_cast<double>(std::log(X) - std::log1p(-X))).epsilon(8 * eps));
    CHECK(double(share.log_det[0]) == Approx(static_cast<double>(-std::log(X) - std::log1p(-X))).epsilon(8 * eps));
    const auto amount = inverse_of(one<S>(Domain::half_line(0)), column<S>({x}));
    const long double slope = -std::expm1(-X);
    CHECK(double(amount.out(0, 0)) == Approx(static_cast<double>(X + std::log(slope))).epsilon(8 * eps));
    CHECK(double(amount.log_det[0]) == Approx(static_cast<double>(-std::log(slope))).epsilon(8 * eps));
    for (const Domain& domain : {Domain::interval(0, 1), Domain::half_line(0)}) {
      const auto back = forward_of(one<S>(domain), inverse_of(one<S>(domain), column<S>({x})).out);
      // y has eps |y| of error, which is relative to x
      CHECK(double(back.out(0, 0)) == Approx(double(x)).epsilon(300 * eps));
    }
  }
  // the other end of an interval as this one
  const auto mirrored = one<S>(Domain::interval(-1, 0));
  for (const S x : {smallest * 4, S(1e-9), S(0.2)})
    CHECK(inverse_of(mirrored, column<S>({-x})).out(0, 0) ==
          -inverse_of(one<S>(Domain::interval(0, 1)), column<S>({x})).out(0, 0));
  // far out a half-line is a line
  CHECK(inverse_of(one<S>(Domain::half_line(0)), column<S>({S(1e6)})).out(0, 0) == S(1e6));
}

TEMPLATE_TEST_CASE("Domains give NaN outside and on their ends, in that row alone", "[domains]", RHEI_TEST_SCALARS) {
  using S = TestType;
  constexpr S infinity = std::numeric_limits<S>::infinity();
  const Domains<S> layer({Domain::interval(-2, 3), Domain::half_line(-2), Domain::circle(0, 24)});
  Matrix<S> good(9, 3);
  for (Index i = 0; i < 9; ++i) good.row(i) << S(0.3) * static_cast<S>(i), S(i), S(3 * i);
  const auto clean = inverse_of(layer, good);
  CHECK(clean.out.allFinite());
  struct Bad {
    Index column;
    S value;
  };
  for (const Bad bad : {Bad{0, -2}, Bad{0, 3}, Bad{0, -5}, Bad{0, 4}, Bad{0, infinity}, Bad{1, -2}, Bad{1, S(-2.5)},
                        Bad{1, -infinity}, Bad{2, infinity}, Bad{2, std::numeric_limits<S>::quiet_NaN()}}) {
    CAPTURE(bad.column, bad.value);
    Matrix<S> x = good;
    x(4, bad.column) = bad.value;
    auto got = inverse_of(layer, x);
    CHECK(std::isnan(got.out(4, bad.column)));
    if (bad.column < 2) CHECK(std::isnan(got.log_det[4]));
    got.out.row(4) = clean.out.row(4);
    got.log_det[4] = clean.log_det[4];
    CHECK(bool(got.out == clean.out));
    CHECK(bool(got.log_det == clean.log_det));
  }
}

TEMPLATE_TEST_CASE("Domains never leave a domain, and take back what they give", "[domains]", RHEI_TEST_SCALARS) {
  using S = TestType;
  constexpr S pi = std::numbers::pi_v<S>, large = std::numeric_limits<S>::max() / 8;
  const Domain domains[] = {
      Domain::interval(0, 1), Domain::interval(-0.1, 0.3), Domain::interval(1e6, 1e6 + 2), Domain::interval(-3e-7, 2e5),
      Domain::half_line(0),   Domain::half_line(-0.7),     Domain::half_line(1e6),         Domain::circle(),
      Domain::circle(0, 24),  Domain::circle(-0.1, 0.3),   Domain::circle(1e4, 1e4 + 7)};
  Rng rng(3);
  for (const Domain& domain : domains) {
    CAPTURE(domain.options().type(), domain.lower, domain.upper);
    const auto layer = one<S>(domain);
    Matrix<S> y(4000, 1);
    rng.fill_normal(y);
    y *= S(30);
    y.topRows(14) << 0, pi, -pi, std::nextafter(pi, S(0)), std::nextafter(-pi, S(0)), std::nextafter(pi, S(9)), 2 * pi,
        -2 * pi, 90, -90, 1000, -1000, large, -large;
    const auto forward = forward_of(layer, y);
    const S lower = static_cast<S>(domain.lower), upper = static_cast<S>(domain.upper);
    if (domain.is_circle())
      CHECK(bool((forward.out.array() >= lower).all()));
    else
      CHECK(bool((forward.out.array() > lower).all()));
    CHECK(bool((forward.out.array() < upper).all()));
    const auto inverse = inverse_of(layer, forward.out);
    CHECK(inverse.out.allFinite());
    CHECK(inverse.log_det.allFinite());
    if (domain.is_circle()) CHECK(bool((inverse.out.array() >= -pi && inverse.out.array() < pi).all()));
  }
}

TEMPLATE_TEST_CASE("a point of a circle is the same from every turn", "[domains]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const auto hours = one<S>(Domain::circle(0, 24));
  const Matrix<S> x = column<S>({0, 3, 12, 23.5});
  const auto first = inverse_of(hours, x);
  CHECK(first.out(0, 0) == -std::numbers::pi_v<S>);
  CHECK(first.out(2, 0) == 0);
  for (const S turns : {S(-24), S(24), S(240)}) {
    const auto again = inverse_of(hours, Matrix<S>(x.array() + turns));
    CHECK((again.out - first.out).cwiseAbs().maxCoeff() < 60 * std::numeric_limits<S>::epsilon());
    CHECK(bool(again.log_det == first.log_det));
  }
  CHECK(bool(inverse_of(hours, column<S>({24})).out == inverse_of(hours, column<S>({0})).out));  // the seam
  CHECK(double(first.log_det[0]) == Approx(std::log(2 * std::numbers::pi / 24)).epsilon(1e-6));
  // radians are what they are, bit for bit
  const auto radians = one<S>(Domain::circle());
  const Matrix<S> angle = column<S>({-std::numbers::pi_v<S>, S(-1.1), 0, S(0.3), S(3.1)});
  CHECK(bool(inverse_of(radians, angle).out == angle));
  CHECK(bool(forward_of(radians, angle).out == angle));
  CHECK(inverse_of(radians, angle).log_det.isZero(0));
}

TEST_CASE("Domains take the unit of a half-line from the data, once", "[domains]") {
  Domains<double> layer({Domain::half_line(10), Domain::line(), Domain::half_line(0)});
  CHECK(bool(layer.unit() == RowVector<double>::Ones(3)));
  Matrix<double> x(5, 3);
  x << 11, -7, 3e6, 12, 0, 1e6, 13, 2, 2e6, 10.5, 4, 9e9, 400, -1, 1e-3;
  layer.initialize({}, x);
  RowVector<double> want(3);
  want << 2, 1, 2e6;
  CHECK(bool(layer.unit() == want));
  layer.initialize({}, Matrix<double>(x.array() + 5));
  CHECK(bool(layer.unit() == want));
  // so the median is softplus^-1(1) whatever the data's unit
  CHECK(inverse_of(layer, Matrix<double>(x.row(1))).out(0, 0) == Approx(1 + std::log(1 - std::exp(-1.0))));

  const auto said = [](const Domain& domain, double value) {
    return error_text<std::invalid_argument>([&] {
      Matrix<double> data = Matrix<double>::Constant(4, 2, 0.5);
      data(2, 1) = value;
      Domains<double>({Domain::line(), domain}).initialize({}, data);
    });
  };
  CHECK(said(Domain::interval(0, 1), 0.75).empty());
  CHECK(said(Domain::interval(0, 1), 1) ==
        "Domains::initialize: a value of column 1 of x is 1.000000, expected a number between 0.000000 and 1.000000, "
        "the ends not included");
  CHECK(said(Domain::half_line(0), -3).find("column 1 of x is -3.000000, expected a finite number above 0.000000") !=
        std::string::npos);
  CHECK(said(Domain::circle(), std::nan("")).find("column 1 of x is nan") != std::string::npos);
  CHECK(error_text<std::invalid_argument>([&] {
          Domains<double>({Domain::line()}).initialize({}, Matrix<double>(0, 1));
        }) == "Domains::initialize: the number of rows is 0, expected at least 1");
}

TEST_CASE("Domains are rebuilt from their options and refuse what is none", "[domains]") {
  Domains<double> layer({Domain::circle(0, 24), Domain::half_line(1), Domain::line(), Domain::interval(0.1, 0.3)});
  const auto rebuilt = Domains<double>::from_options(layer.options());
  CHECK(rebuilt.domains() == layer.domains());
  CHECK(rebuilt.options() == layer.options());
  CHECK(layer.cast<float>().options() == layer.options());

  CHECK(error_text<std::invalid_argument>([] { Domains<float>({}); }) ==
        "Domains: the number of domains is 0, expected at least 1");
  const Domain thin = Domain::interval(1, 1 + 1e-12);
  CHECK_NOTHROW(Domains<double>({thin}));
  CHECK(error_text<std::invalid_argument>([&] { Domains<float>({thin}); }).find("not a domain in this scalar") !=
        std::string::npos);
  CHECK_THROWS_AS(Domains<float>({Domain::circle(0, 1e300)}), std::invalid_argument);
  CHECK_THROWS_AS(Domains<float>({Domain::half_line(1e300)}), std::invalid_argument);
  CHECK_THROWS_AS(Domains<double>::from_options(Options("domains")), std::runtime_error);

  layer.check_state();
  for_each_state(layer, [](std::string_view name, auto values) {
    if (name == "unit") std::fill(values.data(), values.data() + values.size(), 0);
  });
  CHECK(error_text<std::runtime_error>([&] { layer.check_state(); }) ==
        "Domains: unit 0 is 0.000000, expected a positive number");
}
