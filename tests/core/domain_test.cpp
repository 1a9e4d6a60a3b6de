// SPDX-License-Identifier: MIT

#include <rhei/core/domain.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"

using namespace rhei;
using namespace rhei::testing;

TEST_CASE("domains are rebuilt from their options", "[domain]") {
  for (const Domain& domain : {Domain::line(), Domain::interval(-0.1, 2.5), Domain::half_line(3), Domain::half_line(),
                               Domain::circle(), Domain::circle(0, 24)}) {
    CAPTURE(domain.options().type());
    CHECK(Domain::from_options(domain.options()) == domain);
    CHECK(Domain::parse_kind(domain.options().type()) == domain.kind);
    CHECK(domain.is_circle() == (domain.options().type() == "circle"));
  }
  CHECK(Domain::interval(0, 1).options() == Options("interval").set("lower", 0.0).set("upper", 1.0));
  CHECK(Domain::half_line(2).options() == Options("half_line").set("lower", 2.0));
  CHECK(Domain::line().options() == Options("line"));
  CHECK(Domain::line() != Domain::circle());
}

TEST_CASE("domains refuse ends that are none", "[domain]") {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const auto said = [](auto make) { return error_text<std::invalid_argument>(make); };
  CHECK(said([] { (void)Domain::interval(1, 1); }) ==
        "Domain::interval: the ends are 1.000000 and 1.000000, expected lower < upper, both finite, and their distance "
        "too");
  CHECK(said([] { (void)Domain::circle(2, 1); }).find("Domain::circle: the ends are 2.000000 and 1.000000") == 0);
  CHECK(said([&] { (void)Domain::interval(0, infinity); }).find("finite") != std::string::npos);
  CHECK(said([&] { (void)Domain::interval(nan, 1); }).find("finite") != std::string::npos);
  CHECK(said([] { (void)Domain::interval(-1e308, 1e308); }).find("distance") != std::string::npos);
  CHECK(said([&] { (void)Domain::half_line(nan); }).find("lower is nan") != std::string::npos);
  CHECK(said([&] { (void)Domain::half_line(-infinity); }).find("a finite number") != std::string::npos);
}

TEST_CASE("domains refuse descriptions that are none", "[domain]") {
  const auto said = [](const Options& options) {
    return error_text<std::exception>([&] { (void)Domain::from_options(options); });
  };
  CHECK(said(Options("sphere")) ==
        "Domain::parse_kind: 'sphere' is not a domain, expected one of line, interval, half_line, circle");
  CHECK(said(Options("interval").set("lower", 0.0)).find("'upper' is missing") != std::string::npos);
  CHECK(said(Options("half_line")).find("'lower' is missing") != std::string::npos);
  CHECK(said(Options("circle").set("lower", 1.0).set("upper", 0.0)).find("expected lower < upper") !=
        std::string::npos);
  CHECK(said(Options("interval").set("lower", std::int64_t{0}).set("upper", std::int64_t{1})).empty());
}
