// SPDX-License-Identifier: MIT

/// \file
/// MAF, its inverse IAF, and MAF on a MADE of mixtures.

#include <rhei/models/maf.hpp>

#include "support/learning.hpp"

using namespace rhei;
using namespace rhei::testing;

TEST_CASE("maf learns, integrates to one and draws from its own density", "[models][slow]") {
  Rng rng(5);
  learns(models::maf<float>(2, {.net = {{32, 32}}}, rng), "two_moons", 800, 0.25);
}

TEST_CASE("iaf learns, integrates to one and draws from its own density", "[models][slow]") {
  Rng rng(5);
  learns(models::iaf<float>(2, {.net = {{32, 32}}}, rng), "two_moons", 800, 0.25);
}

TEST_CASE("maf_mog learns, integrates to one and draws from its own density", "[models][slow]") {
  Rng rng(5);
  learns(models::maf_mog<float>(2, {.maf = {.layers = 2, .net = {{32, 32}}}}, rng), "eight_gaussians", 800, 0.1);
}

TEST_CASE("the order of maf's layers turns round, and all know one dimension and a context", "[models]") {
  Rng rng(5);
  const models::MafOptions options{.layers = 3, .net = {{4}}, .context_dim = 2};
  const auto flow = models::maf<float>(3, options, rng);
  const auto& layers = std::get<0>(flow.transform().layers()).layers();
  REQUIRE(layers.size() == 3);
  for (std::size_t i = 0; i < 3; ++i)
    CHECK(layers[i].order() == (i % 2 == 1 ? reversed_order(3) : std::vector<std::int64_t>{0, 1, 2}));
  const auto check = [&](auto one) {
    CHECK(one.dim() == 1);
    CHECK(one.context_dim() == 2);
    Matrix<float> context(7, 2);
    rng.fill_normal(context);
    const auto draws = one.sample_and_log_prob(7, rng, context);
    CHECK((one.log_prob(draws.x, context) - draws.log_prob).cwiseAbs().maxCoeff() < 1e-5f);
  };
  check(models::maf<float>(1, options, rng));
  check(models::iaf<float>(1, options, rng));
  check(models::maf_mog<float>(1, {.maf = options}, rng));
  CHECK_THROWS_AS(models::maf<float>(0, {}, rng), std::invalid_argument);
  CHECK_THROWS_AS(models::iaf<float>(2, {.layers = 0}, rng), std::invalid_argument);
}
