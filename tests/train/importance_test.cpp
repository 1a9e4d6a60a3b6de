// SPDX-License-Identifier: MIT

/// \file
/// Importance weights: the bound, its doubly reparameterised gradient, and the figures of importance_report.

#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/elementwise_affine.hpp>

#include "objective_checks.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

Matrix<double> draws_of(const auto& flow, Index n, ConstBatch<double> context, std::uint64_t seed) {
  Rng rng = generator_of_step(seed);
  typename std::remove_cvref_t<decltype(flow)>::Cache cache;
  Matrix<double> x(n, flow.dim());
  flow.sample(Call<double>{.context = context, .rng = &rng}, Batch<double>(x), cache);
  return x;
}

Vector<double> log_target(const NormalTarget<double>& target, const Matrix<double>& x, const Matrix<double>& context) {
  Vector<double> log_p(x.rows());
  Matrix<double> d_x(x.rows(), 2);
  target(x, context, log_p, d_x);
  return log_p;
}

}  // namespace

TEST_CASE("The bound and its doubly reparameterised gradient are those of the papers", "[importance]") {
  const Index k = GENERATE(1, 2, 7), context_dim = GENERATE(0, 1), context_rows = GENERATE(1, 4);
  constexpr Index n = 4;
  CAPTURE(k, context_dim, context_rows);
  auto flow = small_flow<double>(1, context_dim);
  const auto frozen = flow;
  const NormalTarget<double> target;
  Rng rng(2);
  Matrix<double> context(context_dim > 0 ? context_rows : 0, context_dim);
  rng.fill_normal(context);
  const bool shared = context.rows() <= 1;
  const Matrix<double> repeated = shared ? context : context.replicate(k, 1).eval();  // draw j of bound i: row i + n j

  // equation 8 of Burda et al., naively, and with equation 8 of Tucker et al. the weights of the gradient
  const Matrix<double> x = draws_of(flow, n * k, repeated, 3);
  const Vector<double> w = (log_target(target, x, repeated) - flow.log_prob(x, repeated)).array().exp();
  double bound = 0;
  Vector<double> squares(n * k);
  for (Index i = 0; i < n; ++i) {
    double sum = 0;
    for (Index j = 0; j < k; ++j) sum += w[i + n * j];
    bound += std::log(sum / static_cast<double>(k)) / static_cast<double>(n);
    for (Index j = 0; j < k; ++j) squares[i + n * j] = w[i + n * j] * w[i + n * j] / (sum * sum);
  }
  const Evaluated seen(flow, ImportanceWeighted(target, k), {.n = n, .context = context}, 3);
  CHECK(seen.loss == Approx(-bound).epsilon(1e-12));
  const auto surrogate = [&] {
    const Matrix<double> moved = draws_of(flow, n * k, repeated, 3);
    return squares.dot(frozen.log_prob(moved, repeated) - log_target(target, moved, repeated)) / n;
  };
  check_gradient(seen, numeric_gradient(flow, surrogate));
}

TEST_CASE("The doubly reparameterised gradient has the mean of the bound's own", "[importance]") {
  Flow flow{DiagonalNormal<double>(2), LuLinear<double>(2)};
  Rng rng(4);
  for (auto& tensor : parameter_list<double>(flow))
    for (Index i = 0; i < tensor.values.size(); ++i) tensor.values.data()[i] += 0.3 * rng.normal<double>();
  const ImportanceWeighted objective(NormalTarget<double>{}, 5);
  const DrawView<double> batch{.n = 20};
  constexpr int rounds = 200;
  Matrix<double> difference(rounds, count_parameters(flow));
  for (int round = 0; round < rounds; ++round) {
    const auto seed = static_cast<std::uint64_t>(round);
    const Evaluated seen(flow, objective, batch, seed);
    const auto own = numeric_gradient(flow, [&] { return Evaluated(flow, objective, batch, seed).loss; });
    Index at = 0;
    for (std::size_t i = 0; i < own.size(); ++i)
      for (Index entry = 0; entry < own[i].size(); ++entry)
        difference(round, at++) = seen.gradient[i].data()[entry] - own[i].data()[entry];
  }
  for (Index entry = 0; entry < difference.cols(); ++entry) {
    const double mean = difference.col(entry).mean();
    const double error = std::sqrt((difference.col(entry).array() - mean).square().sum() / (rounds - 1.0) / rounds);
    CAPTURE(entry, mean, error);
    CHECK(std::abs(mean) <= 4.5 * error + 1e-9);
  }
  CHECK(difference.cwiseAbs().maxCoeff() > 0.01);
}

TEST_CASE("More draws tighten the bound", "[importance]") {
  auto flow = small_flow<double>(5);
  NormalTarget<double> target;
  double before = std::numeric_limits<double>::infinity();
  for (const Index k : {1, 4, 64}) {
    Trainer trainer(flow, ImportanceWeighted(target, k));
    Rng rng(6);
    const double loss = trainer.differentiate({.n = 4000}, rng).loss;
    CHECK(loss < before - 0.05);
    CHECK(loss > -target.log_z() - 0.05);
    before = loss;
  }
}

TEMPLATE_TEST_CASE("fit_variational raises the bound to log Z", "[importance][fit]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const NormalTarget<S> target;
  Flow flow{DiagonalNormal<S>(2), LuLinear<S>(2)};
  Rng rng(7);
  const auto report = fit_variational(flow, ImportanceWeighted(target, 4),
                                      {.steps = 2000, .batch_size = 16, .learning_rate = 2e-2, .threads = 2}, rng);
  CHECK(report.last().train_loss == Approx(-target.log_z()).margin(1e-4));
  CHECK(importance_report(flow, target, 1000, rng).effective_sample_size > 999);
}

TEST_CASE("importance_report of a flow that is its target", "[importance]") {
  const auto flow = small_flow<double>(8);
  Rng rng(8);
  const auto report = importance_report(flow, FixedDensity(flow), 500, rng);
  CHECK(report.effective_sample_size == Approx(500).epsilon(1e-10));
  CHECK(std::abs(report.log_z) < 1e-12);
  CHECK(report.log_z_standard_error < 1e-6);
  CHECK(std::abs(report.bound) < 1e-12);
}

TEST_CASE("importance_report of two normal densities", "[importance]") {
  // q = N(0, 1), p~ = 3 N(m, s^2) in each of two dimensions: all figures have a closed form
  constexpr double m = 0.4, s2 = 0.8;
  const auto target = [&](ConstBatch<double> x, Values<double> log_p, Batch<double> d_x) {
    d_x = (m - x.array()) / s2;
    log_p =
        -0.5 * ((x.array() - m).square() / s2).rowwise().sum() - std::log(2 * std::acos(-1.0) * s2) + 2 * std::log(3.0);
  };
  const Flow flow{StandardNormal<double>(2), ElementwiseAffine<double>(2)};
  // E_q[w^2] / E_q[w]^2 in one dimension: integral of p^2 / q
  const double precision = 2 / s2 - 1,
               square = std::exp(0.5 * (4 * m * m / (s2 * s2)) / precision - m * m / s2) / (s2 * std::sqrt(precision));
  Rng rng(9);
  constexpr Index n = 20'000;
  const auto report = importance_report(flow, target, n, rng);
  CHECK(report.effective_sample_size == Approx(n / (square * square)).epsilon(0.05));
  CHECK(report.log_z_standard_error == Approx(std::sqrt((square * square - 1) / n)).epsilon(0.05));
  CHECK(std::abs(report.log_z - 2 * std::log(3.0)) < 4 * report.log_z_standard_error);
  const double divergence = 0.5 * ((1 + m * m) / s2 - 1 + std::log(s2));  // KL(q || p) in one dimension
  CHECK(report.log_z - report.bound == Approx(2 * divergence).epsilon(0.1));

  // the standard error is that of repeated estimates
  Vector<double> estimates(300);
  for (Index i = 0; i < estimates.size(); ++i) estimates[i] = importance_report(flow, target, 400, rng).log_z;
  const double spread = std::sqrt((estimates.array() - estimates.mean()).square().mean());
  CHECK(spread == Approx(std::sqrt((square * square - 1) / 400)).epsilon(0.2));
}

TEST_CASE("Importance weights say what is wrong", "[importance]") {
  CHECK(contains(error_text([] { ImportanceWeighted(NormalTarget<double>{}, 0); }), "k is 0, expected at least 1"));
  const auto flow = small_flow<double>(8);
  Rng rng(10);
  CHECK(contains(error_text([&] { importance_report(flow, NormalTarget<double>{}, 1, rng); }), "n is 1"));
}
