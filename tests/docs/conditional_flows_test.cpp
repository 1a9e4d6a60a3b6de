// SPDX-License-Identifier: MIT

/// \file
/// The code of docs/conditional-flows.md that is not in examples/infer.cpp.

#include <rhei/models/nsf.hpp>
#include <rhei/train/fit.hpp>

#include "support/catch.hpp"

TEST_CASE("A regression with two answers", "[docs]") {
  rhei::Rng rng(7);
  Eigen::MatrixXf x(4'000, 1), y(4'000, 1);
  rng.fill_uniform(x);
  for (Eigen::Index i = 0; i < x.size(); ++i)
    y(i) = (rng.uniform<float>() < 0.5f ? -1 : 1) * (1 + x(i)) + 0.1f * rng.normal<float>();

  auto flow = rhei::models::nsf_ar<float>(1, {.layers = 2, .net = {.hidden = {32}}, .context_dim = 1}, rng);
  rhei::fit(flow, rhei::FitData<float>{.x = y, .context = x}, {.epochs = 20, .learning_rate = 5e-3}, rng);
  const Eigen::MatrixXf at = Eigen::MatrixXf::Constant(1, 1, 0.5f);  // one context for all draws
  const Eigen::MatrixXf drawn = flow.sample(10'000, rng, at);

  const auto near = [&](float mode) { return ((drawn.array() - mode).abs() < 0.4f).cast<double>().mean(); };
  CAPTURE(near(-1.5f), near(1.5f));
  CHECK(std::abs(near(-1.5f) - 0.5) < 0.1);
  CHECK(std::abs(near(1.5f) - 0.5) < 0.1);
}
