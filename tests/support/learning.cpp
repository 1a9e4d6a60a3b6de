// SPDX-License-Identifier: MIT

#include "support/learning.hpp"

#include <cmath>
#include <numbers>
#include <rhei/train/fit.hpp>
#include <string>

#include "support/chi_square.hpp"

namespace rhei::testing {

double gaussian_divergence(const Matrix<double>& x, double entropy) {
  const auto n = static_cast<double>(x.rows());
  const Matrix<double> centred = x.rowwise() - x.colwise().mean();
  const Matrix<double> covariance = centred.transpose() * centred / n;
  const double determinant = covariance(0, 0) * covariance(1, 1) - covariance(0, 1) * covariance(1, 0);
  return 1 + std::log(2 * std::numbers::pi) + std::log(determinant) / 2 - entropy;
}

void learns(AnyFlow<float> flow,
            const std::function<Vector<double>(const AnyFlow<float>&, const Matrix<double>&)>& log_prob_in_double,
            std::string_view toy_name, Index steps, double part) {
  CAPTURE(std::string(toy_name));
  const data::Toy& toy = data::toy(toy_name);
  Rng rng(11);
  fit(flow, toy.sample<float>(20'000, rng), {.steps = steps, .learning_rate = 3e-3}, rng);

  const Matrix<double> test = toy.sample<double>(20'000, rng);
  const Vector<double> precise = log_prob_in_double(flow, test);
  const double divergence = -precise.mean() - toy.entropy;
  const double gaussian = gaussian_divergence(test, toy.entropy);
  CAPTURE(gaussian);
  CHECK(divergence < part * gaussian);
  CHECK(divergence > -0.03);  // less would be a density above the data's own: the mean over 20000 rows errs by 0.01
  // float serves as well as double
  CHECK((flow.log_prob(test.cast<float>()).cast<double>() - precise).array().abs().mean() < 1e-4);

  const CellGrid grid{12, 80};
  const Vector<double> probability =
      grid.integrate([&](const Matrix<double>& x) { return log_prob_in_double(flow, x); }, 8);
  CHECK(probability.sum() == Approx(1).margin(1e-3));
  const Index draws = 100'000;
  const auto [statistic, threshold, degrees] =
      chi_square(probability, grid.count(flow.sample(draws, rng).cast<double>()), draws);
  CAPTURE(degrees);
  CHECK(degrees > 50);
  CHECK(statistic < threshold);
}

}  // namespace rhei::testing
