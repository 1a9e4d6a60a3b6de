// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The energy functions U1 to U4 of Rezende & Mohamed 2015 (table 1) as targets of variational inference, each with its
/// exact log-normaliser, so that the Kullback-Leibler divergence of a fitted flow, E_q[log q - log p~] + log Z, is an
/// absolute figure and not a picture. With w1 = sin(pi x / 2), w2 = 3 exp(-((x - 1) / 0.6)^2 / 2),
/// w3 = 3 / (1 + exp(-(x - 1) / 0.3)):
///
///   U1 = ((|(x, y)| - 2) / 0.4)^2 / 2 - log(exp(-((x - 2) / 0.6)^2 / 2) + exp(-((x + 2) / 0.6)^2 / 2))
///   U2 = ((y - w1) / 0.4)^2 / 2
///   U3 = -log(exp(-((y - w1) / 0.35)^2 / 2) + exp(-((y - w1 + w2) / 0.35)^2 / 2))
///   U4 = -log(exp(-((y - w1) / 0.4)^2 / 2) + exp(-((y - w1 + w3) / 0.35)^2 / 2))
///
/// U2 to U4 do not decay along x: exp(-U) has no finite integral over the plane. As a target each energy has the
/// penalty of De Cao et al. 2019 ("Block neural autoregressive flow") beside it, which makes it a density,
///
///   log p~(x, y) = -U(x, y) - relu(|x| - 6)^2 - relu(|y| - 6)^2;
///
/// where the paper's figures are, on [-4, 4]^2, exp(-U) alone is one, too.

#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <rhei/core/errors.hpp>
#include <rhei/core/types.hpp>
#include <span>
#include <string>
#include <string_view>

namespace rhei::data {
namespace detail {

/// A function of the plane and its derivatives at a point.
struct Slope {
  double value, by_x, by_y;
};

/// exp(-s^2 / 2) with its s, where s = (a + b y) / sigma for some function a of x.
struct Ridge {
  double s, by_x, by_y;
};
inline Slope half_square(const Ridge& r) { return {0.5 * r.s * r.s, r.s * r.by_x, r.s * r.by_y}; }
/// -log(exp(-a.value) + exp(-b.value)).
inline Slope soft_minimum(const Slope& a, const Slope& b) {
  const double least = std::min(a.value, b.value);
  const double u = std::exp(least - a.value), v = std::exp(least - b.value), sum = u + v;
  return {least - std::log(sum), (u * a.by_x + v * b.by_x) / sum, (u * a.by_y + v * b.by_y) / sum};
}

/// A function of x and its derivative.
struct Wave {
  double value, slope;
};
inline Wave sine(double x) {
  constexpr double frequency = std::numbers::pi / 2;
  return {std::sin(frequency * x), frequency * std::cos(frequency * x)};
}
inline Wave bump(double x) {
  const double u = (x - 1) / 0.6, value = 3 * std::exp(-0.5 * u * u);
  return {value, -value * u / 0.6};
}
inline Wave rise(double x) {
  const double s = 1 / (1 + std::exp(-(x - 1) / 0.3));
  return {3 * s, 3 * s * (1 - s) / 0.3};
}
/// The ridge along y = w(x).
inline Ridge along(const Wave& w, double y, double sigma) {
  return {(y - w.value) / sigma, -w.slope / sigma, 1 / sigma};
}

inline Slope energy_u1(double x, double y) {
  const double r = std::hypot(x, y), s = (r - 2) / 0.4;
  const double by_r = r > 0 ? s / 0.4 / r : 0;  // the cone's tip has no slope
  const auto at = [x](double centre) { return half_square({(x - centre) / 0.6, 1 / 0.6, 0}); };
  const Slope pair = soft_minimum(at(2), at(-2));
  return {0.5 * s * s + pair.value, by_r * x + pair.by_x, by_r * y + pair.by_y};
}
inline Slope energy_u2(double x, double y) { return half_square(along(sine(x), y, 0.4)); }
inline Slope energy_u3(double x, double y) {
  const Wave w1 = sine(x), w2 = bump(x), lower{w1.value - w2.value, w1.slope - w2.slope};
  return soft_minimum(half_square(along(w1, y, 0.35)), half_square(along(lower, y, 0.35)));
}
inline Slope energy_u4(double x, double y) {
  const Wave w1 = sine(x), w3 = rise(x), lower{w1.value - w3.value, w1.slope - w3.slope};
  return soft_minimum(half_square(along(w1, y, 0.4)), half_square(along(lower, y, 0.35)));
}

}  // namespace detail

/// An energy function: what `energies()` lists. It is a LogDensity (train/log_density.hpp): pass it to ReverseKl.
struct Energy {
  std::string_view name;                    ///< as `energies()` lists it
  detail::Slope (*at)(double x, double y);  ///< U and its derivatives
  double log_z;                             ///< log of the integral of exp(-U - penalty) over the plane
  double log_z_box;                         ///< log of the integral of exp(-U) over [-4, 4]^2

  /// log p~ = -U - penalty at each row of x (n x 2), with d_x its derivative. Computed in double.
  template <Real S>
  void operator()(ConstBatch<S> x, Values<S> log_p, Batch<S> d_x) const {
    rhei::detail::check_shape(name, "x", x.rows(), x.cols(), -1, 2);
    for (Index i = 0; i < x.rows(); ++i) {
      const auto a = static_cast<double>(x(i, 0)), b = static_cast<double>(x(i, 1));
      const detail::Slope u = at(a, b);
      const double beyond_a = beyond(a), beyond_b = beyond(b);
      log_p[i] = static_cast<S>(-u.value - beyond_a * beyond_a - beyond_b * beyond_b);
      d_x(i, 0) = static_cast<S>(-u.by_x - 2 * beyond_a);
      d_x(i, 1) = static_cast<S>(-u.by_y - 2 * beyond_b);
    }
  }

  /// -U at each row of x (n x 2) inside of [-4, 4]^2, -infinity outside, NaN for a row with a NaN.
  [[nodiscard]] Vector<double> log_density_in_box(const Matrix<double>& x) const {
    rhei::detail::check_shape(name, "x", x.rows(), x.cols(), -1, 2);
    Vector<double> result(x.rows());
    for (Index i = 0; i < x.rows(); ++i)
      result[i] = std::abs(x(i, 0)) > 4 || std::abs(x(i, 1)) > 4 ? -std::numeric_limits<double>::infinity()
                                                                 : -at(x(i, 0), x(i, 1)).value;
    return result;
  }

 private:
  /// How far a coordinate lies outside of [-6, 6], with its sign.
  static double beyond(double v) { return v > 6 ? v - 6 : v < -6 ? v + 6 : v - v; }
};

/// All energies, in order.
inline std::span<const Energy> energies() {
  // Composite Gauss-Legendre rules; right to the last digit shown (tests/data/energies_test.cpp computes them again).
  static constexpr std::array table{
      Energy{"u1", &detail::energy_u1, 1.8775016261, 1.8775016168},
      Energy{"u2", &detail::energy_u2, 2.6253183009, 2.0820893430},
      Energy{"u3", &detail::energy_u3, 3.1849340888, 2.6417051309},
      Energy{"u4", &detail::energy_u4, 3.2539269603, 2.6845676702},
  };
  return table;
}

/// The energy of that name. Throws std::invalid_argument, which lists the names there are, when there is none.
inline const Energy& energy(std::string_view name) {
  std::string known;
  for (const Energy& candidate : energies()) {
    if (candidate.name == name) return candidate;
    known += (known.empty() ? "" : ", ") + std::string(candidate.name);
  }
  rhei::detail::throw_invalid("data::energy", "name is '" + std::string(name) + "', expected one of " + known);
}

}  // namespace rhei::data
