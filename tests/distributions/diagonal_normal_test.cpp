// SPDX-License-Identifier: MIT
#include <rhei/distributions/diagonal_normal.hpp>
#include <rhei/distributions/standard_normal.hpp>

#include "support/distribution_checks.hpp"

using namespace rhei;
using namespace rhei::testing;

static_assert(Reparameterized<DiagonalNormal<float>> && Reparameterized<DiagonalNormal<double>>);

namespace {

DiagonalNormal<double> some_normal(Index dim) {
  Rng rng(31);
  DiagonalNormal<double> base(dim);
  rng.fill_normal(base.parameters().mean);
  rng.fill_normal(base.parameters().log_scale);
  base.parameters().log_scale *= 0.5;
  return base;
}

}  // namespace

TEST_CASE("DiagonalNormal conforms", "[distribution]") {
  const auto formula = [](const auto& base, const LongRow& z) {
    long double sum = 0;
    for (Index d = 0; d < z.size(); ++d) {
      const long double mean = base.parameters().mean[d], s = std::exp(2.0L * base.parameters().log_scale[d]);
      sum -= (z[d] - mean) * (z[d] - mean) / (2 * s) + std::log(2 * std::acos(-1.0L) * s) / 2;
    }
    return sum;
  };
  for (const Index dim : {1, 2, 5}) {
    const auto base = some_normal(dim);
    check_distribution(base, 2 * draw(base, 256, 1), formula);
  }
}

TEST_CASE("DiagonalNormal integrates to one and draws what it says", "[distribution]") {
  for (const Index dim : {1, 2}) {
    const auto base = some_normal(dim);
    const auto& [mean, log_scale] = base.parameters();
    const RowVector<double> reach = 8 * log_scale.array().exp();
    check_mass_and_samples(base, mean - reach, mean + reach);
  }
}

TEST_CASE("DiagonalNormal starts as the standard normal", "[distribution]") {
  const StandardNormal<double> standard(3);
  const Matrix<double> z = draw(standard, 20, 8);
  CHECK(same(draw(DiagonalNormal<double>(3), 20, 8), z));
  CHECK(relative_error(log_prob(DiagonalNormal<double>(3), z), log_prob(standard, z)) < 1e-14);
}

TEST_CASE("DiagonalNormal differentiates only a draw that its cache remembers", "[distribution]") {
  const auto base = some_normal(2);
  DiagonalNormal<double>::Cache cache;
  auto gradient = base.make_gradient();
  const Matrix<double> d_z = Matrix<double>::Ones(3, 2);
  CHECK(complaint([&] { base.sample_pullback({}, d_z, cache, d_z, nullptr, &gradient); }) ==
        "DiagonalNormal::sample_pullback: d_z is 3 x 2 (rows x columns), expected 0 x 0");
}

TEST_CASE("DiagonalNormal refuses a dimension below one", "[distribution]") {
  CHECK(complaint([] { DiagonalNormal<float>(-1); }) == "DiagonalNormal: dim is -1, expected at least 1");
}
