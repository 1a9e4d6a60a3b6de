// SPDX-License-Identifier: MIT

/// \file
/// The code of docs/numerics.md.

#include <rhei/models/planar.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

using rhei::testing::error_text;

TEST_CASE("A NaN stays in its row", "[docs]") {
  rhei::Rng rng(7);
  const auto flow = rhei::models::planar<float>(2, {.layers = 4}, rng);

  Eigen::MatrixXf x = flow.sample(4, rng);
  const Eigen::VectorXf before = flow.log_prob(x);
  x(2, 0) = std::numeric_limits<float>::quiet_NaN();
  const Eigen::VectorXf after = flow.log_prob(x);  // after[2] is NaN, the others are as they were, bit for bit

  for (const Eigen::Index i : {0, 1, 3}) CHECK(after[i] == before[i]);
  CHECK(std::isnan(after[2]));
}

TEST_CASE("The same flow in double", "[docs]") {
  rhei::Rng rng(7);
  const auto flow = rhei::models::planar<float>(2, {.layers = 4}, rng);
  const Eigen::MatrixXf x = flow.sample(1'000, rng);

  const auto precise = flow.cast<double>();
  const Eigen::VectorXd exact = precise.log_prob(x.cast<double>());
  const double rounding = (flow.log_prob(x).cast<double>() - exact).cwiseAbs().maxCoeff();  // what float costs here

  CHECK(rounding > 0);
  CHECK(rounding < 1e-4);
}

TEST_CASE("Errors that help", "[docs]") {
  rhei::Rng rng(7);
  const auto flow = rhei::models::planar<float>(2, {.layers = 4}, rng);
  CHECK(error_text<std::invalid_argument>([&] { (void)flow.log_prob(Eigen::MatrixXf::Zero(10, 3)); }) ==
        "Flow::log_prob: the input is 10 x 3 (rows x columns), expected any x 2");
}
