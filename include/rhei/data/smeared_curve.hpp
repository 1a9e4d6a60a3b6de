// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The numerical parts of the toy densities: curves smeared by noise, and sums of densities that do not underflow.
///
/// A point drawn on a curve c(t) and moved by noise of density k has the density p(x) = integral k(x - c(t)) w(t) dt.
/// A full circle under Gaussian noise has a closed form. Any other curve is replaced once by the nodes of a composite
/// Gauss-Legendre rule; the error falls exponentially with the nodes per standard deviation of the noise.

#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <rhei/core/types.hpp>

namespace rhei::data::detail {

/// A position in the plane.
struct Point {
  double x, y;
};

inline constexpr double log_two_pi = 1.8378770664093454836;

/// log(sum of exp(v)) over what has been added; -infinity when nothing has.
class LogSum {
 public:
  void add(double v) {
    if (v > largest_) {
      scaled_ = scaled_ * std::exp(largest_ - v) + 1;
      largest_ = v;
    } else if (v > largest_ - 745) {  // below, the exponential is zero; so is it when both are -infinity
      scaled_ += std::exp(v - largest_);
    }
  }
  [[nodiscard]] double largest() const { return largest_; }
  [[nodiscard]] double value() const { return largest_ + std::log(scaled_); }

 private:
  double largest_ = -std::numeric_limits<double>::infinity();
  double scaled_ = 0;
};

/// Log-density at a squared distance from the centre of an isotropic Gaussian in the plane.
inline double log_gaussian(double squared_distance, double sigma) {
  return -0.5 * squared_distance / (sigma * sigma) - log_two_pi - 2 * std::log(sigma);
}

/// exp(-x) I0(x) for x >= 0 to about 1e-15 of its value, I0 the modified Bessel function (which itself overflows).
inline double scaled_bessel_i0(double x) {
  constexpr double negligible = 1e-17;
  double sum, term;
  if (x < 20) {  // the power series, DLMF 10.25.2: all terms are positive
    sum = term = std::exp(-x);
    for (int k = 1; term > negligible * sum; ++k) sum += term *= 0.25 * x * x / (k * k);
  } else {  // the asymptotic series, DLMF 10.40.1: its smallest term is near exp(-2 x)
    sum = term = 1 / std::sqrt(2 * std::numbers::pi * x);
    for (int k = 1; term > negligible * sum; ++k) sum += term *= (2. * k - 1) * (2. * k - 1) / (8. * k * x);
  }
  return sum;
}

/// Log-density at distance `r` from the centre of a uniform circle of the given radius under Gaussian noise of standard
/// deviation sigma: log N(r - radius) + log of the scaled I0(r radius / sigma^2), in closed form.
inline double log_smeared_circle(double r, double radius, double sigma) {
  return log_gaussian((r - radius) * (r - radius), sigma) + std::log(scaled_bessel_i0(r * radius / (sigma * sigma)));
}

/// The N-point Gauss-Legendre rule on [0, 1].
template <int N>
struct GaussLegendre {
  std::array<double, N> node, weight;
  GaussLegendre() {
    for (int i = 0; i < N; ++i) {
      double z = std::cos(std::numbers::pi * (i + 0.75) / (N + 0.5)), slope = 0;
      for (int newton = 0; newton < 8; ++newton) {
        double p = 1, previous = 0;
        for (int k = 1; k <= N; ++k) {
          const double before = previous;
          previous = p;
          p = ((2 * k - 1) * z * previous - (k - 1) * before) / k;
        }
        slope = N * (z * p - previous) / (z * z - 1);
        z -= p / slope;
      }
      const auto at = static_cast<std::size_t>(i);
      node[at] = 0.5 * (1 - z);
      weight[at] = 1 / ((1 - z * z) * slope * slope);
    }
  }
};

/// A curve, or several, as weighted centres of the noise.
template <int Arms, int Panels>
struct CurveNodes {
  static constexpr int panel_size = 16;
  static constexpr int size = Arms * Panels * panel_size;
  using Array = Eigen::Array<double, size, 1>;
  Array x, y, log_weight;  // the weights sum to one

  /// Each arm gets the same share of the weight. `edge(u)` for u = 0, 1 / Panels, ..., 1 are the ends of the panels in
  /// the parameter t of the curve, to be chosen so that panels are about equally long; `density(t)` is the density of
  /// t, `position(arm, t)` the point of the curve.
  CurveNodes(auto edge, auto density, auto position) {
    const GaussLegendre<panel_size> rule;
    Index at = 0;
    for (int arm = 0; arm < Arms; ++arm)
      for (int panel = 0; panel < Panels; ++panel) {
        const double from = edge(static_cast<double>(panel) / Panels);
        const double length = edge(static_cast<double>(panel + 1) / Panels) - from;
        for (std::size_t i = 0; i < panel_size; ++i, ++at) {
          const double t = from + length * rule.node[i];
          const Point p = position(arm, t);
          x[at] = p.x;
          y[at] = p.y;
          log_weight[at] = std::log(rule.weight[i] * length * density(t) / Arms);
        }
      }
  }
};

/// Isotropic Gaussian noise: one of the two kinds of noise that `log_smeared_curve` takes.
struct GaussianNoise {
  double sigma;

  /// Squares of one coordinate of the distances from the centres.
  template <class Array>
  [[nodiscard]] Array squared_gap(const Array& differences) const {
    return differences.square();
  }
  /// Log-density up to `log_scale()`, at a difference from the centre.
  [[nodiscard]] double log_shape(double dx, double dy) const { return -0.5 * (dx * dx + dy * dy) / (sigma * sigma); }
  [[nodiscard]] double log_scale() const { return log_gaussian(0, sigma); }
};

/// The sum of uniform noise on the square [-half, half]^2 and Gaussian noise.
struct BoxNoise {
  double half, sigma;

  /// Squares of one coordinate of the distances from the squares around the centres, which bound the density.
  template <class Array>
  [[nodiscard]] Array squared_gap(const Array& differences) const {
    return (differences.abs() - half).max(0.).square();
  }
  [[nodiscard]] double log_shape(double dx, double dy) const {
    return log_smeared_interval(std::abs(dx)) + log_smeared_interval(std::abs(dy));
  }
  [[nodiscard]] double log_scale() const { return -2 * std::log(2 * half); }

 private:
  /// log(Phi((d + half) / sigma) - Phi((d - half) / sigma)) for d >= 0, from the upper tails, which do not cancel.
  [[nodiscard]] double log_smeared_interval(double d) const {
    const double near = (d - half) / sigma, far = (d + half) / sigma;
    if (near < 30)
      return std::log(0.5 * (std::erfc(near / std::numbers::sqrt2) - std::erfc(far / std::numbers::sqrt2)));
    // erfc would underflow soon. Its asymptotic series, DLMF 7.12.1, is good to 15 / near^6.
    const double q = 1 / (near * near);
    return -0.5 * near * near - 0.5 * log_two_pi - std::log(near) + std::log1p(q * (3 * q - 1));
  }
};

/// Log-density of a curve under noise.
template <int Arms, int Panels, class Noise>
double log_smeared_curve(const CurveNodes<Arms, Panels>& curve, const Noise& noise, Point p) {
  using Array = typename CurveNodes<Arms, Panels>::Array;
  const Array dx = p.x - curve.x, dy = p.y - curve.y;
  const Array gap = noise.squared_gap(dx) + noise.squared_gap(dy);
  // a node beyond this reach has at most about exp(-25) of the density of the nearest one
  const double reach = gap.minCoeff() + 50 * noise.sigma * noise.sigma;
  LogSum sum;
  for (Index i = 0; i < gap.size(); ++i)
    if (gap[i] <= reach) sum.add(noise.log_shape(dx[i], dy[i]) + curve.log_weight[i]);
  return sum.value() + noise.log_scale();
}

}  // namespace rhei::data::detail
