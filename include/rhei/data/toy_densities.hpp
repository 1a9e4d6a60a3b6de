// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The definitions of the toy distributions: for each, how a point is drawn and what its log-density is.
///
/// Users take them from data/toys.hpp. The distributions are those of FFJORD's `toy_data.py` (Grathwohl et al. 2019,
/// ICLR) with its constants, drawn independently where that shuffles equal shares; `gaussian_grid` is ours.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <rhei/core/random.hpp>
#include <rhei/data/smeared_curve.hpp>
#include <utility>

namespace rhei::data::detail {

using std::numbers::pi;

inline Point on_circle(double radius, double angle) { return {radius * std::cos(angle), radius * std::sin(angle)}; }

inline Point smeared(Point p, double sigma, Rng& rng) {
  const double dx = sigma * rng.normal<double>();
  return {p.x + dx, p.y + sigma * rng.normal<double>()};
}

/// Two interleaved half circles of radius 2, their angle uniform, under Gaussian noise of 0.2.
/// Density: quadrature over the angle.
struct TwoMoons {
  static constexpr double sigma = 0.2;
  static Point arc(int arm, double t) {
    const Point p = on_circle(2, t);
    return arm == 0 ? Point{p.x - 1, p.y - 0.2} : Point{1 - p.x, 0.8 - p.y};
  }
  static Point draw(Rng& rng) {
    const int arm = static_cast<int>(rng.below(2));
    return smeared(arc(arm, pi * rng.uniform<double>()), sigma, rng);
  }
  static double log_density(Point p) {
    static const CurveNodes<2, 8> curve([](double u) { return pi * u; }, [](double) { return 1 / pi; }, arc);
    return log_smeared_curve(curve, GaussianNoise{sigma}, p);
  }
};

/// Eight Gaussians of standard deviation 0.5 / 1.414 on a circle of radius 4 / 1.414 (sic). Density: closed form.
struct EightGaussians {
  static constexpr double radius = 4 / 1.414, sigma = 0.5 / 1.414;
  static Point draw(Rng& rng) {
    return smeared(on_circle(radius, pi / 4 * static_cast<double>(rng.below(8))), sigma, rng);
  }
  static double log_density(Point p) {
    static const auto centres = [] {
      std::array<Point, 8> c;
      for (std::size_t k = 0; k < c.size(); ++k) c[k] = on_circle(radius, pi / 4 * static_cast<double>(k));
      return c;
    }();
    LogSum sum;
    for (const auto [x, y] : centres) sum.add(-0.5 * ((p.x - x) * (p.x - x) + (p.y - y) * (p.y - y)) / (sigma * sigma));
    return sum.value() - std::log(8.) + log_gaussian(0, sigma);
  }
};

/// Uniform on the eight squares of side 2 of a chessboard on [-4, 4]^2. Density: exact.
struct Checkerboard {
  static Point draw(Rng& rng) {
    const double x = 4 * rng.uniform<double>() - 2;
    const double y = rng.uniform<double>() - 2 * static_cast<double>(rng.below(2)) + (is_odd(std::floor(x)) ? 1 : 0);
    return {2 * x, 2 * y};
  }
  /// The squares are closed, so that a sample that was rounded to float, onto an edge, remains in the support.
  static double log_density(Point p) {
    for (const double column : {std::floor(p.x / 2), std::ceil(p.x / 2) - 1})
      for (const double row : {std::floor(p.y / 2), std::ceil(p.y / 2) - 1})
        if (-2 <= column && column < 2 && -2 <= row && row < 2 && is_odd(column) == is_odd(row)) return -std::log(32.);
    return -std::numeric_limits<double>::infinity();
  }

 private:
  static bool is_odd(double integer) { return std::fmod(integer, 2) != 0; }
};

/// Concentric circles of equal weight under Gaussian noise: a point of one of them, or the log-density of all.
template <std::size_t Count>
struct Circles {
  std::array<double, Count> radii;
  double sigma;
  Point draw(Rng& rng) const {
    const double radius = radii[static_cast<std::size_t>(rng.below(Count))];
    return smeared(on_circle(radius, 2 * pi * rng.uniform<double>()), sigma, rng);
  }
  [[nodiscard]] double log_density(Point p) const {
    const double r = std::hypot(p.x, p.y);
    LogSum sum;
    for (const double radius : radii) sum.add(log_smeared_circle(r, radius, sigma));
    return sum.value() - std::log(static_cast<double>(Count));
  }
};

/// Circles of radius 3 and 1.5 under Gaussian noise of 0.24. Density: closed form (Bessel I0).
struct TwoCircles {
  static constexpr Circles<2> circles{{3, 1.5}, 0.24};
  static Point draw(Rng& rng) { return circles.draw(rng); }
  static double log_density(Point p) { return circles.log_density(p); }
};

/// Circles of radius 3, 2.25, 1.5 and 0.75 under Gaussian noise of 0.08. Density: closed form (Bessel I0).
struct Rings {
  static constexpr Circles<4> circles{{3, 2.25, 1.5, 0.75}, 0.08};
  static Point draw(Rng& rng) { return circles.draw(rng); }
  static double log_density(Point p) { return circles.log_density(p); }
};

/// The zero of `f` between `low` and `high`, where it has opposite signs; f(x) gives its value and slope.
/// Newton's method to a step of 1e-12, and bisection whenever a step would leave the bracket.
inline double bracketed_root(double low, double high, auto f) {
  const bool rising = f(low).first < 0;
  double x = 0.5 * (low + high);
  for (int step = 0; step < 200; ++step) {
    const auto [value, slope] = f(x);
    if (value == 0) return x;
    ((value < 0) == rising ? low : high) = x;
    const double newton = x - value / slope;
    const double next = low < newton && newton < high ? newton : 0.5 * (low + high);
    const double change = std::abs(next - x);
    x = next;
    if (change <= 1e-12 * (1 + std::abs(x))) break;
  }
  return x;
}

/// Five Gaussian arms, each twisted: with a ~ N(1, 0.3^2) along the arm and b ~ N(0, 0.1^2) across it,
/// (x, y) = 2 R(-theta) (a, b), where theta = 2 pi k / 5 + exp(a) / 4 and R rotates counter-clockwise.
///
/// Density: change of variables, closed form after root-finding. In polar coordinates (x, y) / 2 = (rho, alpha) the
/// pre-images of arm k are a = rho cos(psi), b = rho sin(psi) with psi(a) = alpha + theta(a), hence the roots of
/// h(a) = rho cos(psi(a)) - a, and the Jacobian is 4 |1 + b exp(a) / 4|. The twist folds the plane where the Jacobian
/// is zero (nowhere less than 5.9 standard deviations from the centre of the arm): there the density has an integrable
/// infinity.
struct Pinwheel {
  static constexpr int arms = 5;
  static constexpr double scale = 2, sigma_a = 0.3, sigma_b = 0.1, rate = 0.25;

  static Point draw(Rng& rng) {
    const double start = 2 * pi / arms * static_cast<double>(rng.below(arms));
    const double a = 1 + sigma_a * rng.normal<double>(), b = sigma_b * rng.normal<double>();
    const double theta = start + rate * std::exp(a), c = std::cos(theta), s = std::sin(theta);
    return {scale * (a * c + b * s), scale * (b * c - a * s)};
  }

  static double log_density(Point p) {
    const double rho = std::hypot(p.x, p.y) / scale, alpha = std::atan2(p.y, p.x);
    const double log_norm = -log_two_pi - std::log(scale * scale * sigma_a * sigma_b);
    if (rho > wound_up) {
      // Laplace's approximation of the average over psi, whose maximum is at psi = 0
      constexpr double precision_a = 1 / (sigma_a * sigma_a), precision_b = 1 / (sigma_b * sigma_b);
      const double log_curvature = std::log(rho) + std::log(rho * (precision_b - precision_a) + precision_a);
      return log_weight(rho, 0) + log_norm - 0.5 * (log_two_pi + log_curvature);
    }
    LogSum sum;
    for (int k = 0; k < arms; ++k) add_arm(rho, alpha + 2 * pi / arms * k, sum);
    return sum.value() + log_norm - std::log(static_cast<double>(arms));
  }

 private:
  /// Beyond this rho (log p < -270) there are more than a thousand pre-images, and the density is given as its average
  /// over the angle.
  static constexpr double wound_up = 8;

  static double log_weight(double a, double b) {
    return -0.5 * ((a - 1) * (a - 1) / (sigma_a * sigma_a) + b * b / (sigma_b * sigma_b));
  }

  /// Adds the pre-images on one arm, phase = alpha + 2 pi k / 5.
  static void add_arm(double rho, double phase, LogSum& sum) {
    // All roots are in [-rho, rho]; the margin makes the signs of h at the ends definite.
    const double bottom = -rho - 0.01;
    double high = rho + 0.01;
    // cos(psi) is monotone between multiples of pi. From the top down, because the weight falls with a.
    for (double turn = std::floor((phase + rate * std::exp(high)) / pi); high > bottom; --turn) {
      const double excess = (turn * pi - phase) / rate;
      const double low = excess > 0 ? std::clamp(std::log(excess), bottom, high) : bottom;
      // on the circle b^2 = rho^2 - a^2 the log-weight is convex in a: what remains is below the larger of the ends
      const auto bound = [rho](double a) { return log_weight(a, std::sqrt(std::max(0., rho * rho - a * a))); };
      if (std::max(bound(high), bound(bottom)) < sum.largest() - 50) return;
      add_piece(rho, phase, low, high, std::fmod(turn, 2) != 0, sum);
      high = low;
    }
  }

  /// Adds the pre-images with `low` < a < `high`, between which cos(psi) rises or falls.
  static void add_piece(double rho, double phase, double low, double high, bool rises, LogSum& sum) {
    const auto twist = [](double a) { return rate * std::exp(a); };
    const auto slope = [=](double a) { return -rho * std::sin(phase + twist(a)) * twist(a) - 1; };
    const auto bend = [=](double a) {
      const double w = twist(a), psi = phase + w;
      return -rho * w * (std::sin(psi) + w * std::cos(psi));
    };
    const auto h = [=](double a) { return std::pair(rho * std::cos(phase + twist(a)) - a, slope(a)); };
    const auto add_root = [&](double from, double to) {
      if ((h(from).first > 0) == (h(to).first > 0)) return;
      const double a = bracketed_root(from, to, h), b = rho * std::sin(phase + twist(a));
      sum.add(log_weight(a, b) - std::log(std::abs(1 + b * twist(a))));
    };
    if (!rises || rho * twist(high) <= 1) {  // h falls
      add_root(low, high);
      return;
    }
    // The slope of h has one maximum here. Where that is positive h falls, rises and falls again.
    const auto flattening = [=](double a) {  // of the sign of -bend
      const double w = twist(a), psi = phase + w;
      return std::pair(std::sin(psi) + w * std::cos(psi), w * (2 * std::cos(psi) - w * std::sin(psi)));
    };
    const double steepest = bend(low) > 0 && bend(high) < 0 ? bracketed_root(low, high, flattening)
                                                            : (slope(low) > slope(high) ? low : high);
    if (slope(steepest) <= 0) {
      add_root(low, high);
      return;
    }
    const auto turning = [=](double a) { return std::pair(slope(a), bend(a)); };
    const double valley = slope(low) < 0 ? bracketed_root(low, steepest, turning) : low;
    const double peak = slope(high) < 0 ? bracketed_root(steepest, high, turning) : high;
    add_root(low, valley);
    add_root(valley, peak);
    add_root(peak, high);
  }
};

/// Two spirals (-t cos t, t sin t) / 3 and its negative, t = 3 pi sqrt(u), u uniform on (0, 1), under uniform noise on
/// [0, 1/6]^2 (which has the sign of its arm) and Gaussian noise of 0.1.
/// Density: quadrature over t; both noises together are differences of normal distribution functions, exactly.
struct TwoSpirals {
  static constexpr double end = 3 * pi, half = 0.25 / 3, sigma = 0.1;
  /// The middle of the square of uniform noise.
  static Point middle(int arm, double t) {
    const double sign = arm == 0 ? 1 : -1;
    return {sign * (half - t * std::cos(t) / 3), sign * (half + t * std::sin(t) / 3)};
  }
  static Point draw(Rng& rng) {
    const int arm = static_cast<int>(rng.below(2));
    Point p = middle(arm, end * std::sqrt(rng.uniform<double>()));
    p.x += half * (2 * rng.uniform<double>() - 1);
    p.y += half * (2 * rng.uniform<double>() - 1);
    return smeared(p, sigma, rng);
  }
  static double log_density(Point p) {
    static const CurveNodes<2, 32> curve([](double u) { return end * std::sqrt(u); },
                                         [](double t) { return 2 * t / (end * end); }, middle);
    return log_smeared_curve(curve, BoxNoise{half, sigma}, p);
  }
};

/// The spiral (t cos t, t sin t) / 5, t uniform on (1.5 pi, 4.5 pi), under Gaussian noise of 0.2.
/// Density: quadrature over t.
struct SwissRoll {
  static constexpr double start = 1.5 * pi, end = 4.5 * pi, sigma = 0.2;
  static Point draw(Rng& rng) {
    const double t = start + (end - start) * rng.uniform<double>();
    return smeared(on_circle(t / 5, t), sigma, rng);
  }
  static double log_density(Point p) {
    static const CurveNodes<1, 24> curve(
        [](double u) { return std::sqrt(start * start + (end * end - start * start) * u); },
        [](double) { return 1 / (end - start); }, [](int, double t) { return on_circle(t / 5, t); });
    return log_smeared_curve(curve, GaussianNoise{sigma}, p);
  }
};

/// 15 x 15 Gaussians of standard deviation 0.1 and equal weight on the integers -7, ..., 7. Density: closed form.
struct GaussianGrid {
  static constexpr int reach = 7;
  static constexpr double sigma = 0.1;
  static Point draw(Rng& rng) {
    const auto x = static_cast<double>(rng.below(2 * reach + 1) - reach);
    const auto y = static_cast<double>(rng.below(2 * reach + 1) - reach);
    return smeared({x, y}, sigma, rng);
  }
  static double log_density(Point p) { return log_row(p.x) + log_row(p.y) + log_gaussian(0, sigma); }

 private:
  /// The grid is a product of two rows.
  static double log_row(double x) {
    LogSum sum;
    for (int k = -reach; k <= reach; ++k) sum.add(-0.5 * (x - k) * (x - k) / (sigma * sigma));
    return sum.value() - std::log(2. * reach + 1);
  }
};

}  // namespace rhei::data::detail
