// SPDX-License-Identifier: MIT

/// \file
/// Glow for vectors.

#include <rhei/models/glow.hpp>

#include "support/learning.hpp"

using namespace rhei;
using namespace rhei::testing;

TEST_CASE("glow learns, integrates to one and draws from its own density", "[models][slow]") {
  Rng rng(5);
  learns(models::glow<float>(2, {.layers = 8}, rng), "two_moons", 800, 0.25);
}

TEST_CASE("glow's actnorms are initialised through the layers behind them", "[models]") {
  Rng rng(5);
  Matrix<float> x(1000, 3);
  rng.fill_normal(x);
  x.col(1) = (x.col(0) * 2 + x.col(1) * 0.1f).array() + 50.0f;
  auto flow = models::glow<float>(3, {.layers = 4, .context_dim = 1}, rng);
  CHECK(flow.context_dim() == 1);
  flow.initialize(x, Matrix<float>::Zero(1, 1));
  const Matrix<float> z = flow.inverse(x, Matrix<float>::Zero(1, 1)).z;
  for (Index d = 0; d < 3; ++d) {
    CHECK(std::abs(z.col(d).mean()) < 1e-3f);
    CHECK(z.col(d).squaredNorm() / 1000 == Approx(1).epsilon(1e-3));
  }
  CHECK_THROWS_AS(models::glow<float>(0, {}, rng), std::invalid_argument);
}
