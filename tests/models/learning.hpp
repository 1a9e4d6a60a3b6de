// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A ready-made flow as a whole: it learns a toy distribution, remains a density while it does, and draws what it says.

#include <cmath>
#include <numbers>
#include <rhei/data/toys.hpp>
#include <rhei/train/fit.hpp>

#include "support/catch.hpp"
#include "support/chi_square.hpp"

namespace rhei::testing {

/// The Kullback-Leibler divergence of the Gaussian with the mean and covariance of x.
inline double gaussian_divergence(const Matrix<double>& x, double entropy) {
  const auto n = static_cast<double>(x.rows());
  const Matrix<double> centred = x.rowwise() - x.colwise().mean();
  const Matrix<double> covariance = centred.transpose() * centred / n;
  const double determinant = covariance(0, 0) * covariance(1, 1) - covariance(0, 1) * covariance(1, 0);
  return 1 + std::log(2 * std::numbers::pi) + std::log(determinant) / 2 - entropy;
}

/// Fits, then checks what must hold of a flow after training. Its divergence must be below `part` of that of a fitted
/// Gaussian.
template <class Model>
void learns(Model flow, std::string_view toy_name, Index steps, double part) {
  CAPTURE(std::string(toy_name));
  const data::Toy& toy = data::toy(toy_name);
  Rng rng(11);
  fit(flow, toy.sample<float>(20'000, rng), {.steps = steps, .learning_rate = 3e-3}, rng);

  const Matrix<double> test = toy.sample<double>(20'000, rng);
  const auto precise = flow.template cast<double>();
  const double divergence = -precise.log_prob(test).mean() - toy.entropy;
  const double gaussian = gaussian_divergence(test, toy.entropy);
  CAPTURE(gaussian);
  CHECK(divergence < part * gaussian);
  CHECK(divergence > -0.03);  // less would be a density above the data's own: the mean over 20000 rows errs by 0.01
  // float serves as well as double
  CHECK((flow.log_prob(test.cast<float>()).template cast<double>() - precise.log_prob(test)).array().abs().mean() <
        1e-4);

  const CellGrid grid{12, 80};
  const Vector<double> probability = grid.integrate([&](const Matrix<double>& x) { return precise.log_prob(x); }, 8);
  CHECK(probability.sum() == Approx(1).margin(1e-3));
  const Index draws = 100'000;
  const auto [statistic, threshold, degrees] =
      chi_square(probability, grid.count(flow.sample(draws, rng).template cast<double>()), draws);
  CAPTURE(degrees);
  CHECK(degrees > 50);
  CHECK(statistic < threshold);
}

}  // namespace rhei::testing
