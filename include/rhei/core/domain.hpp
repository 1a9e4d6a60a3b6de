// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What values a feature can take: any real number, those of an interval, those above a bound, or those of a circle.

#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <rhei/core/errors.hpp>
#include <rhei/core/options.hpp>
#include <string>
#include <string_view>

namespace rhei {

/// The set in which one feature of a table lies:
/// \code
///   const std::vector<Domain> domains = {Domain::line(), Domain::interval(0, 1), Domain::half_line(),
///                                        Domain::circle(0, 24)};  // the hours of a day
/// \endcode
struct Domain {
  /// What sort of set it is.
  enum class Kind {
    line,       ///< all real numbers
    interval,   ///< lower < x < upper
    half_line,  ///< lower < x
    circle,     ///< lower <= x < upper, where x and x + (upper - lower) are the same point
  };
  /// As files spell the kinds.
  static constexpr std::array<std::string_view, 4> names = {"line", "interval", "half_line", "circle"};

  Kind kind = Kind::line;                                   ///< what lower and upper mean
  double lower = -std::numeric_limits<double>::infinity();  ///< where the set begins, in the units of the feature
  double upper = std::numeric_limits<double>::infinity();   ///< where it ends

  /// All real numbers.
  [[nodiscard]] static Domain line() { return {}; }
  /// What lies between two ends.
  /// \throws std::invalid_argument unless lower < upper, both finite, and their distance too.
  [[nodiscard]] static Domain interval(double lower, double upper) {
    return bounded("Domain::interval", {Kind::interval, lower, upper});
  }
  /// What lies above an end.
  /// \throws std::invalid_argument unless lower is finite.
  [[nodiscard]] static Domain half_line(double lower = 0) {
    detail::check_value("Domain::half_line", "lower", lower, std::isfinite(lower), "a finite number");
    return {Kind::half_line, lower};
  }
  /// Angles in radians, unless other ends are given; a value beyond them is the point that it comes round to.
  /// \throws std::invalid_argument unless lower < upper, both finite, and their distance too.
  [[nodiscard]] static Domain circle(double lower = -std::numbers::pi, double upper = std::numbers::pi) {
    return bounded("Domain::circle", {Kind::circle, lower, upper});
  }

  /// Whether its two ends are the same point.
  [[nodiscard]] bool is_circle() const { return kind == Kind::circle; }

  /// The kind, and those ends that are finite.
  [[nodiscard]] Options options() const {
    Options own(names[static_cast<std::size_t>(kind)]);
    if (std::isfinite(lower)) own.set("lower", lower);
    if (std::isfinite(upper)) own.set("upper", upper);
    return own;
  }
  /// \throws std::runtime_error or std::invalid_argument for what is no domain.
  [[nodiscard]] static Domain from_options(const Options& options) {
    const Kind kind = parse_kind(options.type());
    if (kind == Kind::line) return line();
    const double lower = options.get_number("lower");
    if (kind == Kind::half_line) return half_line(lower);
    const double upper = options.get_number("upper");
    return kind == Kind::interval ? interval(lower, upper) : circle(lower, upper);
  }

  /// The kind of that name.
  /// \throws std::invalid_argument naming the valid ones.
  [[nodiscard]] static Kind parse_kind(std::string_view name) {
    std::string known;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (names[i] == name) return static_cast<Kind>(i);
      if (i > 0) known.append(", ");
      known.append(names[i]);
    }
    detail::throw_invalid("Domain::parse_kind",
                          "'" + std::string(name) + "' is not a domain, expected one of " + known);
  }

  bool operator==(const Domain&) const = default;

 private:
  static Domain bounded(std::string_view where, Domain domain) {
    const double width = domain.upper - domain.lower;
    if (!(width > 0) || !std::isfinite(width))
      detail::throw_invalid(where, "the ends are " + std::to_string(domain.lower) + " and " +
                                       std::to_string(domain.upper) +
                                       ", expected lower < upper, both finite, and their distance too");
    return domain;
  }
};

}  // namespace rhei
