// SPDX-License-Identifier: MIT
#include <rhei/distributions/gaussian_mixture.hpp>

#include "support/distribution_checks.hpp"

using namespace rhei;
using namespace rhei::testing;

static_assert(!Reparameterized<GaussianMixture<float>>);

namespace {

/// Away from the start: unequal weights and scales.
GaussianMixture<double> some_gaussian_mixture(Index dim, Index components) {
  Rng rng(19);
  GaussianMixture<double> base(dim, components, rng);
  rng.fill_normal(base.parameters().logits);
  rng.fill_normal(base.parameters().log_scales);
  base.parameters().means *= 2;
  base.parameters().log_scales *= 0.4;
  return base;
}

/// log sum_k w_k prod_d N(z_d; mean_kd, scale_kd), as it is written. A long double reaches down to e^-11355.
const auto mixture_formula = [](const auto& base, const LongRow& z) {
  const auto& [logits, means, log_scales] = base.parameters();
  long double total_weight = 0, density = 0;
  for (Index k = 0; k < base.components(); ++k) {
    long double product = std::exp(static_cast<long double>(logits[k]));
    total_weight += product;
    for (Index d = 0; d < z.size(); ++d) {
      const long double scale = std::exp(static_cast<long double>(log_scales(k, d)));
      const long double u = (z[d] - means(k, d)) / scale;
      product *= std::exp(-u * u / 2) / (scale * std::sqrt(2 * std::acos(-1.0L)));
    }
    density += product;
  }
  return std::log(density / total_weight);
};

}  // namespace

TEST_CASE("GaussianMixture conforms", "[distribution]") {
  for (const Index dim : {1, 2, 5})
    for (const Index components : {1, 3}) {
      const auto base = some_gaussian_mixture(dim, components);
      check_distribution(base, 1.5 * draw(base, 256, 1), mixture_formula);
    }
}

TEST_CASE("GaussianMixture integrates to one and draws what it says", "[distribution]") {
  for (const Index dim : {1, 2})
    for (const Index components : {1, 4})
      check_mass_and_samples(some_gaussian_mixture(dim, components), RowVector<double>::Constant(dim, -16),
                             RowVector<double>::Constant(dim, 16), 1e-6);
}

TEST_CASE("GaussianMixture holds where every component underflows", "[distribution]") {
  const auto base = some_gaussian_mixture(2, 3);
  Matrix<double> z(9, 2);
  z << 40, 40, -40, 40, 60, 0, 0, -60, 50, -50, 30, 30, 45, -10, -25, 35, 0, 40;
  check_values(base, z, mixture_formula);
  check_values(base.cast<float>(), z, mixture_formula);

  Rng rng(1);
  GaussianMixture<float> narrow(1, 2, rng);
  narrow.parameters().means << -1, 1;
  const Matrix<float> far = Matrix<float>::Constant(20, 1, 1e6f);  // nearer to the second, by e^-2e6
  const double want = -0.5 * (1e6 - 1) * (1e6 - 1) - 0.5 * std::log(2 * std::acos(-1.0)) - std::log(2.0);
  const Vector<float> log_p = log_prob(narrow, far);
  for (const float value : log_p) CHECK(std::abs(value / want - 1) < 1e-6);
  const Gradients gradients(narrow, far, Vector<float>(Vector<float>::Ones(20)));
  for (Index i = 0; i < 20; ++i) CHECK(std::abs(gradients.d_z(i, 0) / -(1e6 - 1) - 1) < 1e-6);
  CHECK(std::abs(gradients.gradient.logits[0] + 10) < 1e-5f);
  CHECK(std::abs(gradients.gradient.logits[1] - 10) < 1e-5f);
}

TEST_CASE("GaussianMixture starts with equal weights and unit scales around drawn means", "[distribution]") {
  Rng first(4), second(4);
  const GaussianMixture<double> a(3, 5, first), b(3, 5, second);
  CHECK(same(a.parameters().means, b.parameters().means));
  CHECK(!(first == Rng(4)));
  CHECK(a.parameters().logits.isZero(0));
  CHECK(a.parameters().log_scales.isZero(0));
  CHECK(a.parameters().means.cwiseAbs().minCoeff() > 0);
  CHECK(count_parameters(a) == 5 + 15 + 15);
}

TEST_CASE("GaussianMixture with a component of weight zero", "[distribution]") {
  auto base = some_gaussian_mixture(2, 3), without = some_gaussian_mixture(2, 2);
  auto& [logits, means, log_scales] = base.parameters();
  logits << 0, 1, -std::numeric_limits<double>::infinity();
  without.parameters().logits = logits.head(2);
  without.parameters().means = means.topRows(2);
  without.parameters().log_scales = log_scales.topRows(2);
  means.row(2).setConstant(1e3);
  const Matrix<double> z = draw(base, 10'000, 6);
  CHECK(z.maxCoeff() < 500);
  CHECK(relative_error(log_prob(base, z), log_prob(without, z)) < 1e-14);
  const Gradients gradients(base, z, Vector<double>(Vector<double>::Ones(z.rows())));
  CHECK(gradients.d_z.allFinite());
  CHECK(std::abs(gradients.gradient.logits[2]) < 1e-100);
}

TEST_CASE("GaussianMixture names what is wrong", "[distribution]") {
  Rng rng(1);
  CHECK(complaint([&] { GaussianMixture<float>(0, 2, rng); }) == "GaussianMixture: dim is 0, expected at least 1");
  CHECK(complaint([&] { GaussianMixture<float>(2, 0, rng); }) ==
        "GaussianMixture: components is 0, expected at least 1");

  const auto base = some_gaussian_mixture(2, 3);
  GaussianMixture<double>::Cache cache;
  const Matrix<double> z = Matrix<double>::Zero(4, 2);
  CHECK(complaint([&] { base.log_prob_pullback({}, z, cache, Vector<double>(4), nullptr, nullptr, nullptr); }) ==
        "GaussianMixture::log_prob_pullback: what the cache remembers is 0 x 0 (rows x columns), expected 4 x 3");

  Options options = base.options();
  options.limit_sizes(5);  // a file of five values cannot hold 3 x 2 means
  CHECK_THROWS_AS(GaussianMixture<double>::from_options(options), std::runtime_error);
}
