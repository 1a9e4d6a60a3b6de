// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Do samples follow a density? Pearson's chi-square test over cells, and a grid of cells on a square of the plane.

#include <algorithm>
#include <cmath>
#include <rhei/core/types.hpp>
#include <stdexcept>

namespace rhei::testing {

/// The samples contradict the density when `statistic` exceeds `threshold`.
struct ChiSquare {
  double statistic;
  double threshold;
  Index degrees;  ///< of freedom
};

/// The value that chi-square with that many degrees of freedom exceeds with probability 1e-6 (Wilson & Hilferty 1931;
/// for 10 degrees or more the probability is right to a factor of two).
inline double chi_square_threshold(Index degrees) {
  constexpr double normal_quantile = 4.753424;  // of 1 - 1e-6
  const double v = 2 / (9 * static_cast<double>(degrees)), root = 1 - v + normal_quantile * std::sqrt(v);
  return static_cast<double>(degrees) * root * root * root;
}

/// Compares counts of `draws` samples, of which `observed[i]` fell into cell i, with the probabilities of the cells.
///
/// Cells where fewer than 10 are expected form one rest cell together with everything outside all cells; if even that
/// expects fewer than 10, it joins the smallest other cell, so that a sample where none should be still counts.
inline ChiSquare chi_square(const Vector<double>& probability, const Vector<double>& observed, Index draws) {
  if (probability.size() != observed.size()) throw std::invalid_argument("chi_square: sizes differ");
  constexpr double enough = 10;
  const auto n = static_cast<double>(draws);
  const auto term = [](double count, double expected) { return (count - expected) * (count - expected) / expected; };

  double statistic = 0, rest_count = n, rest_expected = n;
  double smallest_expected = n, smallest_count = n;
  Index cells = 0;
  for (Index i = 0; i < probability.size(); ++i) {
    const double expected = n * probability[i];
    if (!(expected >= enough)) continue;
    ++cells;
    statistic += term(observed[i], expected);
    rest_count -= observed[i];
    rest_expected -= expected;
    if (expected < smallest_expected) {
      smallest_expected = expected;
      smallest_count = observed[i];
    }
  }
  if (cells < 2) throw std::invalid_argument("chi_square: fewer than two cells expect 10 samples");
  if (rest_expected >= enough) {
    ++cells;
    statistic += term(rest_count, rest_expected);
  } else {
    statistic +=
        term(smallest_count + rest_count, smallest_expected + rest_expected) - term(smallest_count, smallest_expected);
  }
  return {statistic, chi_square_threshold(cells - 1), cells - 1};
}

/// cells x cells equal squares that fill [-half_width, half_width]^2.
struct CellGrid {
  double half_width;
  Index cells;

  [[nodiscard]] double side() const { return 2 * half_width / static_cast<double>(cells); }

  /// How many rows of `x` (n x 2) lie in each cell; those outside the square are in none.
  [[nodiscard]] Vector<double> count(const Matrix<double>& x) const {
    Vector<double> result = Vector<double>::Zero(cells * cells);
    for (Index i = 0; i < x.rows(); ++i) {
      const double column = std::floor((x(i, 0) + half_width) / side());
      const double row = std::floor((x(i, 1) + half_width) / side());
      const auto size = static_cast<double>(cells);
      if (0 <= column && column < size && 0 <= row && row < size)
        ++result[static_cast<Index>(column) * cells + static_cast<Index>(row)];
    }
    return result;
  }

  /// The probability of each cell: `log_density` (n x 2 points -> n values) integrated by the midpoint rule with
  /// points x points points a cell. A side of one standard deviation and 3 points make 0.5 % of error in a cell, and
  /// far less in the sum.
  [[nodiscard]] Vector<double> integrate(auto log_density, Index points = 3) const {
    const double step = side() / static_cast<double>(points);
    Vector<double> result(cells * cells);
    Matrix<double> x(cells * points * points, 2);  // one column of cells
    for (Index column = 0; column < cells; ++column) {
      for (Index i = 0; i < x.rows(); ++i) {
        x(i, 0) = -half_width + step * (static_cast<double>(column * points + i % points) + 0.5);
        x(i, 1) = -half_width + step * (static_cast<double>(i / points) + 0.5);
      }
      const Vector<double> log_p = log_density(x);
      for (Index row = 0; row < cells; ++row)
        result[column * cells + row] =
            step * step * log_p.segment(row * points * points, points * points).array().exp().sum();
    }
    return result;
  }
};

}  // namespace rhei::testing
