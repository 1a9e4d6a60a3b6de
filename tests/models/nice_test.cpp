// SPDX-License-Identifier: MIT

/// \file
/// NICE.

#include <rhei/models/nice.hpp>

#include "support/learning.hpp"

using namespace rhei;
using namespace rhei::testing;

TEST_CASE("nice learns, integrates to one and draws from its own density", "[models][slow]") {
  Rng rng(5);
  const auto flow = models::nice<float>(2, {.hidden = {32, 32}}, rng);
  learns(flow, "two_moons", 800, 0.5);
  learns(flow, "pinwheel", 800, 0.5);  // a map that preserves volume cannot part a mode in several
}

TEST_CASE("nice starts by standardising and knows one dimension", "[models]") {
  Rng rng(5);
  Matrix<float> x(1000, 1), context(1000, 2);
  rng.fill_normal(x);
  rng.fill_normal(context);
  x = (x.array() * 3 - 7).matrix();
  auto flow = models::nice<float>(1, {.layers = 2, .context_dim = 2}, rng);
  flow.initialize(x, context);
  const Matrix<float> z = flow.inverse(x, context).z;
  CHECK(std::abs(z.mean()) < 1e-4f);
  CHECK(z.squaredNorm() / 1000 == Approx(1).epsilon(1e-4));
}

TEST_CASE("nice has the layers that are asked for, on features in turn", "[models]") {
  Rng rng(5);
  const auto flow = models::nice<float>(5, {.layers = 3, .hidden = {4}, .context_dim = 2}, rng);
  CHECK(flow.dim() == 5);
  CHECK(flow.context_dim() == 2);
  const auto& couplings = std::get<1>(flow.transform().layers()).layers();
  REQUIRE(couplings.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(couplings[i].transformed() == (i % 2 == 0 ? odd_features(5) : even_features(5)));
    CHECK(couplings[i].net().net_options().hidden == std::vector<Index>{4});
  }
  for (const Index dim : {Index(0), Index(-2)})
    CHECK_THROWS_AS(models::nice<float>(dim, {}, rng), std::invalid_argument);
  for (const int count : {0, -1})
    CHECK_THROWS_AS(models::nice<float>(2, {.layers = count}, rng), std::invalid_argument);
}
