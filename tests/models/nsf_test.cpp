// SPDX-License-Identifier: MIT

/// \file
/// Neural spline flows, by couplings and autoregressive.

#include <rhei/models/nsf.hpp>

#include "support/learning.hpp"

using namespace rhei;
using namespace rhei::testing;

TEST_CASE("nsf learns, integrates to one and draws from its own density", "[models][slow]") {
  Rng rng(5);
  learns(models::nsf<float>(2, {.hidden = {32, 32}}, rng), "eight_gaussians", 800, 0.1);
}

TEST_CASE("nsf_ar learns, integrates to one and draws from its own density", "[models][slow]") {
  Rng rng(5);
  learns(models::nsf_ar<float>(2, {.net = {{32, 32}}}, rng), "eight_gaussians", 800, 0.1);
}

TEST_CASE("spline flows know one dimension and a context", "[models]") {
  Rng rng(5);
  const auto check = [&](auto one) {
    CHECK(one.dim() == 1);
    CHECK(one.context_dim() == 2);
    Matrix<float> context(7, 2);
    rng.fill_normal(context);
    const auto draws = one.sample_and_log_prob(7, rng, context);
    CHECK((one.log_prob(draws.x, context) - draws.log_prob).cwiseAbs().maxCoeff() < 1e-5f);
  };
  check(models::nsf<float>(1, {.layers = 2, .hidden = {8}, .spline = {.bins = 5}, .context_dim = 2}, rng));
  check(models::nsf_ar<float>(1, {.layers = 2, .net = {{8}}, .context_dim = 2}, rng));
  CHECK_THROWS_AS(models::nsf<float>(0, {}, rng), std::invalid_argument);
  CHECK_THROWS_AS(models::nsf_ar<float>(2, {.layers = 0}, rng), std::invalid_argument);
}
