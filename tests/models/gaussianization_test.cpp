// SPDX-License-Identifier: MIT

/// \file
/// Gaussianization flows.

#include <rhei/models/gaussianization.hpp>

#include "support/learning.hpp"

using namespace rhei;
using namespace rhei::testing;

TEST_CASE("gaussianization learns, integrates to one and draws from its own density", "[models][slow]") {
  Rng rng(5);
  const auto flow = models::gaussianization<float>(2, {.layers = 4, .kernels = 16}, rng);
  learns(flow, "two_moons", 200, 0.35);
}

TEST_CASE("gaussianization starts from the data's own marginals", "[models]") {
  Rng rng(5);
  const data::Toy& toy = data::toy("two_moons");
  const Matrix<float> x = toy.sample<float>(4000, rng);
  auto flow = models::gaussianization<float>(2, {.kernels = 50}, rng);
  flow.initialize(x);
  const double divergence = -flow.log_prob(x).cast<double>().mean() - toy.entropy;
  CHECK(divergence < 0.6 * gaussian_divergence(x.cast<double>(), toy.entropy));
}

TEST_CASE("gaussianization has the layers that are asked for", "[models]") {
  Rng rng(5);
  const auto flow = models::gaussianization<double>(3, {.layers = 4, .kernels = 7}, rng);
  CHECK(flow.dim() == 3);
  CHECK(flow.context_dim() == 0);
  const auto& layers = std::get<0>(flow.transform().layers()).layers();
  REQUIRE(layers.size() == 4);
  for (const auto& layer : layers) CHECK(std::get<1>(layer.layers()).kernels() == 7);
  CHECK(models::gaussianization<float>(1, {.layers = 1, .kernels = 3}, rng).dim() == 1);
  CHECK_THROWS_AS(models::gaussianization<float>(0, {}, rng), std::invalid_argument);
  CHECK_THROWS_AS(models::gaussianization<float>(2, {.layers = 0}, rng), std::invalid_argument);
  CHECK_THROWS_AS(models::gaussianization<float>(2, {.kernels = 0}, rng), std::invalid_argument);
}
