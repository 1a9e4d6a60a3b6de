// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The usual two-dimensional toy distributions, each with its exact log-density and entropy, so that the
/// Kullback-Leibler divergence of a fitted flow (its mean negative log-likelihood minus the entropy) is an absolute
/// figure and not a picture.
///
/// All are the distributions of FFJORD (Grathwohl et al. 2019, ICLR; `lib/toy_data.py`) but `gaussian_grid`, which is
/// ours. Points are drawn in double and rounded: float and double give the same points for the same seed.

#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <rhei/core/errors.hpp>
#include <rhei/core/random.hpp>
#include <rhei/core/types.hpp>
#include <rhei/data/toy_densities.hpp>
#include <span>
#include <string>
#include <string_view>

namespace rhei::data {

namespace detail {

template <Real S>
Matrix<S> draw_points(std::string_view name, Point (*draw)(Rng&), Index n, Rng& rng) {
  rhei::detail::check_value(name, "n", n, n >= 0, "at least 0");
  Matrix<S> x(n, 2);
  for (Index i = 0; i < n; ++i) {
    const Point p = draw(rng);
    x(i, 0) = static_cast<S>(p.x);
    x(i, 1) = static_cast<S>(p.y);
  }
  return x;
}

}  // namespace detail

/// A toy distribution: what `toys()` lists.
struct Toy {
  std::string_view name;                    ///< as files and command lines call it
  detail::Point (*draw)(Rng&);              ///< one point
  double (*log_density_at)(detail::Point);  ///< log p, in nats
  double entropy;                           ///< differential entropy in nats: no model has a smaller mean -log p
  std::string_view entropy_source;          ///< how `entropy` was found and how far it may be off

  /// `n` independent points, n x 2. Throws std::invalid_argument when n < 0.
  template <Real S>
  [[nodiscard]] Matrix<S> sample(Index n, Rng& rng) const {
    return detail::draw_points<S>(name, draw, n, rng);
  }

  /// Natural logarithm of the density at each row of `x` (n x 2): n values, right to 1e-5 (all but two_spirals to 1e-9)
  /// where they are above -30, -infinity outside the support, NaN for a row with a NaN. Throws std::invalid_argument
  /// unless x has two columns.
  [[nodiscard]] Vector<double> log_density(const Matrix<double>& x) const {
    rhei::detail::check_shape(std::string(name) + ": log_density", "x", x.rows(), x.cols(), -1, 2);
    Vector<double> result(x.rows());
    for (Index i = 0; i < x.rows(); ++i)
      result[i] = std::isnan(x(i, 0)) || std::isnan(x(i, 1)) ? std::numeric_limits<double>::quiet_NaN()
                                                             : log_density_at({x(i, 0), x(i, 1)});
    return result;
  }
};

/// All toys, in a fixed order.
inline std::span<const Toy> toys() {
  static const auto table = [] {
    const auto row = []<class T>(T, std::string_view name, double entropy, std::string_view source) {
      return Toy{name, &T::draw, &T::log_density, entropy, source};
    };
    // The value of the quadrature agrees with the one at half the step, to better than the error stated.
    return std::array{
        row(detail::TwoMoons{}, "two_moons", 2.3938792, "2-D quadrature (midpoint, step 0.05), error < 1e-7"),
        row(detail::EightGaussians{}, "eight_gaussians", 2.8318804,
            "2-D quadrature (midpoint, step 0.08), error < 1e-7"),
        row(detail::Checkerboard{}, "checkerboard", 5 * std::numbers::ln2, "exact: the logarithm of the area, 32"),
        row(detail::TwoCircles{}, "circles", 3.2681357, "2-D quadrature (midpoint, step 0.06), error < 1e-7"),
        row(detail::Rings{}, "rings", 2.6231828, "2-D quadrature (midpoint, step 0.02), error < 1e-7"),
        row(detail::Pinwheel{}, "pinwheel", 2.3177880, "2-D quadrature (midpoint, step 0.01), error < 1e-6"),
        row(detail::TwoSpirals{}, "two_spirals", 2.6454503, "2-D quadrature (midpoint, step 0.025), error < 1e-6"),
        row(detail::SwissRoll{}, "swiss_roll", 2.6696462, "2-D quadrature (midpoint, step 0.05), error < 1e-7"),
        row(detail::GaussianGrid{}, "gaussian_grid", 3.6488041, "2-D quadrature (midpoint, step 0.02), error < 1e-7"),
    };
  }();
  return table;
}

/// The toy of that name. Throws std::invalid_argument, which lists the names there are, when there is none.
inline const Toy& toy(std::string_view name) {
  std::string known;
  for (const Toy& candidate : toys()) {
    if (candidate.name == name) return candidate;
    known += (known.empty() ? "" : ", ") + std::string(candidate.name);
  }
  rhei::detail::throw_invalid("data::toy", "name is '" + std::string(name) + "', expected one of " + known);
}

/// Two interleaved half circles of radius 2 under Gaussian noise of 0.2 (scikit-learn's moons, doubled and centred).
/// `n` points, n x 2; its log-density, here and below: `toy(name).log_density`. Throws when n < 0, as all do.
template <Real S>
Matrix<S> two_moons(Index n, Rng& rng) {
  return detail::draw_points<S>("two_moons", detail::TwoMoons::draw, n, rng);
}

/// Eight Gaussians of standard deviation 0.354 on a circle of radius 2.83.
template <Real S>
Matrix<S> eight_gaussians(Index n, Rng& rng) {
  return detail::draw_points<S>("eight_gaussians", detail::EightGaussians::draw, n, rng);
}

/// Uniform on eight squares of side 2 of a chessboard on [-4, 4]^2.
template <Real S>
Matrix<S> checkerboard(Index n, Rng& rng) {
  return detail::draw_points<S>("checkerboard", detail::Checkerboard::draw, n, rng);
}

/// Two circles of radius 3 and 1.5 under Gaussian noise of 0.24.
template <Real S>
Matrix<S> circles(Index n, Rng& rng) {
  return detail::draw_points<S>("circles", detail::TwoCircles::draw, n, rng);
}

/// Four circles of radius 0.75, 1.5, 2.25 and 3 under Gaussian noise of 0.08.
template <Real S>
Matrix<S> rings(Index n, Rng& rng) {
  return detail::draw_points<S>("rings", detail::Rings::draw, n, rng);
}

/// Five Gaussian arms twisted around the origin.
template <Real S>
Matrix<S> pinwheel(Index n, Rng& rng) {
  return detail::draw_points<S>("pinwheel", detail::Pinwheel::draw, n, rng);
}

/// Two spirals, one the negative of the other, under uniform and Gaussian noise.
template <Real S>
Matrix<S> two_spirals(Index n, Rng& rng) {
  return detail::draw_points<S>("two_spirals", detail::TwoSpirals::draw, n, rng);
}

/// One spiral of one and a half turns under Gaussian noise of 0.2 (scikit-learn's swiss roll, from the side).
template <Real S>
Matrix<S> swiss_roll(Index n, Rng& rng) {
  return detail::draw_points<S>("swiss_roll", detail::SwissRoll::draw, n, rng);
}

/// 15 x 15 Gaussians of standard deviation 0.1 at distance 1: many separate modes.
template <Real S>
Matrix<S> gaussian_grid(Index n, Rng& rng) {
  return detail::draw_points<S>("gaussian_grid", detail::GaussianGrid::draw, n, rng);
}

}  // namespace rhei::data
