// SPDX-License-Identifier: MIT
#include <rhei/distributions/uniform_normal.hpp>

#include "support/distribution_checks.hpp"

using namespace rhei;
using namespace rhei::testing;

static_assert(Reparameterized<UniformNormal<float>> && Reparameterized<UniformNormal<double>>);

TEST_CASE("UniformNormal conforms", "[distribution]") {
  const auto formula = [](const auto& base, const LongRow& z) {
    const auto half = std::log(2 * std::numbers::pi_v<long double>) / 2;
    long double sum = 0;
    for (Index d = 0; d < z.size(); ++d) {
      const bool circle = std::count(base.circles().begin(), base.circles().end(), d) > 0;
      sum -= circle ? 2 * half : z[d] * z[d] / 2 + half;
    }
    return sum;
  };
  for (const UniformNormal<double>& base :
       {UniformNormal<double>(1, {}), UniformNormal<double>(1, {0}), UniformNormal<double>(2, {0}),
        UniformNormal<double>(5, {4, 1}), UniformNormal<double>(3, {0, 1, 2})})
    check_distribution(base, 2 * draw(base, 256, 1), formula);  // angles of more than one turn too
}

TEST_CASE("UniformNormal integrates to one and draws what it says", "[distribution]") {
  const double pi = std::numbers::pi;
  RowVector<double> lower(2), upper(2);
  lower << -pi, -7;
  upper << pi, 7;
  check_mass_and_samples(UniformNormal<double>(2, {0}), lower, upper);
  check_mass_and_samples(UniformNormal<double>(1, {0}), lower.leftCols(1), upper.leftCols(1));
}

TEMPLATE_TEST_CASE("UniformNormal draws angles between -pi and pi", "[distribution]", RHEI_TEST_SCALARS) {
  using S = TestType;
  constexpr S pi = std::numbers::pi_v<S>;
  const Matrix<S> z = draw(UniformNormal<S>(1, {0}), 100'000, 3);
  CHECK(bool((z.array() >= -pi && z.array() < pi).all()));
}

TEST_CASE("UniformNormal refuses circles that are no features", "[distribution]") {
  const auto said = [](Index dim, std::vector<Index> circles) {
    return complaint([&] { UniformNormal<double>(dim, circles); });
  };
  CHECK(said(0, {}) == "UniformNormal: dim is 0, expected at least 1");
  CHECK(said(2, {2}) == "UniformNormal: a feature of circles is 2, expected 0 to 1");
  CHECK(said(2, {1, 1}) == "UniformNormal: circles names feature 1 twice");
  CHECK(UniformNormal<double>(4, {3, 0}).circles() == std::vector<Index>{0, 3});
}
