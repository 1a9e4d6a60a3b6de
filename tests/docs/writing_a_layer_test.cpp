// SPDX-License-Identifier: MIT

/// \file
/// The code of docs/writing-a-layer.md.

#include <rhei/core/flow.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/train/fit.hpp>

#include "docs/sinh_arcsinh.hpp"
#include "support/catch.hpp"
#include "support/conformance.hpp"

using mine::SinhArcsinh;
using rhei::Index;
using rhei::testing::conforms;

TEMPLATE_TEST_CASE("SinhArcsinh conforms", "[layer]", float, double) {
  conforms([](Index dim) { return SinhArcsinh<TestType>(dim); });
}

TEST_CASE("A layer of one's own in a flow", "[docs]") {
  rhei::Rng rng(5);
  Eigen::MatrixXd x(20'000, 1);  // log-normal: skewed, with a heavy tail
  rng.fill_normal(x);
  x = x.array().exp();

  rhei::Flow gaussian{rhei::StandardNormal<double>(1), rhei::ActNorm<double>(1)};
  rhei::Flow flow{rhei::StandardNormal<double>(1), SinhArcsinh<double>(1), rhei::ActNorm<double>(1)};
  rhei::fit(gaussian, x, {.epochs = 20, .learning_rate = 0.02}, rng);
  rhei::fit(flow, x, {.epochs = 20, .learning_rate = 0.02}, rng);

  const double entropy = 0.5 * std::log(2 * std::numbers::pi * std::numbers::e);  // of this log-normal
  CHECK(-gaussian.log_prob(x).mean() > entropy + 0.3);
  CHECK(-flow.log_prob(x).mean() < entropy + 0.1);
}
