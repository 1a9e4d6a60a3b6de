// SPDX-License-Identifier: MIT
#include <rhei/distributions/standard_normal.hpp>

#include "support/distribution_checks.hpp"

using namespace rhei;
using namespace rhei::testing;

static_assert(Reparameterized<StandardNormal<float>> && Reparameterized<StandardNormal<double>>);

TEST_CASE("StandardNormal conforms", "[distribution]") {
  const auto formula = [](const auto&, const LongRow& z) {
    return -z.squaredNorm() / 2 - static_cast<long double>(z.size()) * std::log(2 * std::acos(-1.0L)) / 2;
  };
  for (const Index dim : {1, 2, 5}) {
    const StandardNormal<double> base(dim);
    check_distribution(base, 3 * draw(base, 256, 1), formula);
  }
}

TEST_CASE("StandardNormal integrates to one and draws what it says", "[distribution]") {
  check_mass_and_samples(StandardNormal<double>(1), RowVector<double>::Constant(1, -8),
                         RowVector<double>::Constant(1, 8));
  check_mass_and_samples(StandardNormal<double>(2), RowVector<double>::Constant(2, -8),
                         RowVector<double>::Constant(2, 8));
}

TEST_CASE("StandardNormal refuses a dimension below one", "[distribution]") {
  CHECK(complaint([] { StandardNormal<float>(0); }) == "StandardNormal: dim is 0, expected at least 1");
  CHECK(complaint([] { StandardNormal<float>(-3); }) == "StandardNormal: dim is -3, expected at least 1");
}
