// SPDX-License-Identifier: MIT
#include <rhei/distributions/made_mixture.hpp>

#include "support/distribution_checks.hpp"

using namespace rhei;
using namespace rhei::testing;

static_assert(!Reparameterized<MadeMixture<float>>);

namespace {

/// Away from the start: everything depends on everything before it.
MadeMixture<double> some_made_mixture(Index dim, Index components, Index context = 0) {
  Rng rng(19);
  MadeMixture<double> base(dim, {.components = components, .net = {{12, 12}, Activation::tanh}, .context_dim = context},
                           rng);
  for_each_parameter(base, [&](std::string_view, Batch<double> values) {
    for (Index i = 0; i < values.size(); ++i) values.data()[i] += 0.3 * rng.normal<double>();
  });
  return base;
}

/// The sum over the features of log sum_k w_k N(z_i; mu_k, scale_k), as it is written, with what the net gives.
const auto made_mixture_formula = [](const auto& base, const LongRow& z) {
  using S = typename std::decay_t<decltype(base)>::Scalar;
  const Index k = base.components();
  Matrix<S> in = z.template cast<S>(), raw(1, base.net().outputs());
  typename Made<S>::Cache cache;
  base.net().forward(in, {}, raw, cache);
  long double log_p = 0;
  for (Index i = 0; i < z.size(); ++i) {
    long double total_weight = 0, density = 0;
    for (Index j = 0; j < k; ++j) {
      const auto at = [&](Index which) { return static_cast<long double>(raw(0, 3 * k * i + which * k + j)); };
      const long double weight = std::exp(at(0)), scale = std::exp(at(2) / (1 + std::abs(at(2)) / 7));
      const long double u = (z[i] - at(1)) / scale;
      total_weight += weight;
      density += weight * std::exp(-u * u / 2) / (scale * std::sqrt(2 * std::acos(-1.0L)));
    }
    log_p += std::log(density / total_weight);
  }
  return log_p;
};

}  // namespace

TEST_CASE("MadeMixture conforms", "[distribution]") {
  for (const Index dim : {1, 2, 5})
    for (const Index components : {1, 3}) {
      const auto base = some_made_mixture(dim, components);
      check_distribution(base, 1.5 * draw(base, 256, 1), made_mixture_formula);
    }
}

TEST_CASE("MadeMixture integrates to one and draws what it says", "[distribution]") {
  for (const Index dim : {1, 2})
    check_mass_and_samples(some_made_mixture(dim, 3), RowVector<double>::Constant(dim, -24),
                           RowVector<double>::Constant(dim, 24), 1e-5);
}

TEST_CASE("the context of a MadeMixture has a gradient", "[distribution]") {
  const auto base = some_made_mixture(3, 4, 2);
  Rng rng(4);
  Matrix<double> z(5, 3), context(5, 2), d_context = Matrix<double>::Zero(5, 2);
  rng.fill_normal(z);
  rng.fill_normal(context);
  const Vector<double> w = weights<double>(5);
  MadeMixture<double>::Cache cache;
  const auto value = [&] {
    Vector<double> log_p = Vector<double>::Zero(5);
    base.log_prob({.context = context}, z, log_p, cache);
    return w.dot(log_p);
  };
  (void)value();
  Batch<double> wanted(d_context);
  base.log_prob_pullback({.context = context}, z, cache, w, nullptr, &wanted, nullptr);
  Matrix<double> numeric(5, 2);
  for (Index e = 0; e < numeric.size(); ++e) numeric.data()[e] = differentiate(context.data()[e], value);
  CHECK(relative_error(d_context, numeric) <= 1e-8);
}

TEST_CASE("a fresh MadeMixture has components that differ", "[distribution]") {
  Rng rng(1);
  const MadeMixture<float> base(2, {.components = 5}, rng);
  const auto& bias = base.net().parameters().bias.back();
  for (Index j = 1; j < 5; ++j) CHECK(bias[5 + j] - bias[5 + j - 1] == Approx(1));
  CHECK(complaint([&] { (void)MadeMixture<float>(2, {.components = 0}, rng); }) ==
        "MadeMixture: components is 0, expected at least 1");
}
