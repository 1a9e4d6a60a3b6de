// SPDX-License-Identifier: MIT

/// \file
/// LogVariance: its gradient against finite differences of the variance with fixed draws, its mean against that of
/// ReverseKl, and what it is for: modes in proportion, and no gradient of the target.

#include <rhei/distributions/gaussian_mixture.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/elementwise_affine.hpp>
#include <rhei/train/log_variance.hpp>

#include "objective_checks.hpp"
#include "support/allocation_counter.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// NormalTarget whose gradient nobody may read.
struct WithoutGradient : NormalTarget<double> {
  void operator()(ConstBatch<double> x, ConstBatch<double> context, Values<double> log_p, Batch<double> d_x) const {
    NormalTarget<double>::operator()(x, context, log_p, d_x);
    d_x.setConstant(std::numeric_limits<double>::quiet_NaN());
  }
};

}  // namespace

TEST_CASE("LogVariance differentiates half the weighted variance of fixed draws", "[log_variance]") {
  const double width = GENERATE(1.0, 1.7);
  const Index context_dim = GENERATE(0, 1), context_rows = GENERATE(1, 5);
  auto flow = small_flow<double>(3, context_dim);
  Rng rng(77);
  Matrix<double> context(context_dim > 0 ? context_rows : 0, context_dim);
  rng.fill_normal(context);
  const DrawView<double> batch{.n = 5, .context = context};

  Rng draws = generator_of_step(11);
  Matrix<double> z(batch.n, 2);
  typename decltype(flow)::Base::Cache drawn;
  flow.base().sample(Call<double>{.rng = &draws}, Batch<double>(z), drawn);
  Vector<double> before = Vector<double>::Zero(batch.n), after = before;
  flow.base().log_prob({}, z, Values<double>(before), drawn);
  z *= width;
  flow.base().log_prob({}, z, Values<double>(after), drawn);
  const Vector<double> weights = width * width * (after - before).array().exp();
  const Matrix<double> x = flow.forward(z, context).x;

  const NormalTarget<double> target;
  Vector<double> log_p(batch.n);
  Matrix<double> unread(batch.n, 2);
  target(x, context, log_p, unread);
  const auto variance = [&] {
    const Vector<double> f = flow.log_prob(x, context) - log_p;
    const double mean = weights.dot(f) / weights.sum();
    return 0.5 * weights.dot((f.array() - mean).square().matrix()) / static_cast<double>(batch.n);
  };
  const Evaluated seen(flow, LogVariance(WithoutGradient(), width), batch, 11);
  check_gradient(seen, numeric_gradient(flow, variance));
  CHECK(seen.loss ==
        Approx(weights.dot(flow.log_prob(x, context) - log_p) / static_cast<double>(batch.n)).epsilon(1e-12));
}

TEST_CASE("LogVariance has the mean of the reverse divergence's gradient, at any width", "[log_variance]") {
  const double width = GENERATE(1.0, 1.4);
  auto flow = small_flow<double>(5);
  const ReverseKl divergence(NormalTarget<double>{});
  const LogVariance variance(NormalTarget<double>{}, width);
  constexpr int rounds = 400, n = 50;
  Matrix<double> difference(rounds, count_parameters(flow));
  Vector<double> loss(rounds);
  for (int round = 0; round < rounds; ++round) {
    const auto seed = static_cast<std::uint64_t>(round);
    const Evaluated a(flow, divergence, {.n = n}, seed);
    const Evaluated b(flow, variance, {.n = n}, seed);
    loss[round] = a.loss - b.loss;
    Index at = 0;
    for (std::size_t i = 0; i < a.gradient.size(); ++i)
      for (Index k = 0; k < a.gradient[i].size(); ++k)
        difference(round, at++) = (1 - 1.0 / n) * a.gradient[i].data()[k] - b.gradient[i].data()[k];
  }
  const auto near_zero = [](const auto& values) {
    const double mean = values.mean();
    const double error = std::sqrt((values.array() - mean).square().sum() / (rounds - 1.0) / rounds);
    CAPTURE(mean, error);
    CHECK(std::abs(mean) <= 4.5 * error + 1e-14);
  };
  if (width == 1)  // with weights, 1 - 1/n holds to first order only
    for (Index k = 0; k < difference.cols(); ++k) near_zero(difference.col(k));
  else
    CHECK(difference.colwise().mean().norm() <
          0.1 * std::sqrt(static_cast<double>(difference.cols())) * difference.norm() / std::sqrt(difference.size()));
  near_zero(loss);
  CHECK(difference.cwiseAbs().maxCoeff() > 0.01);  // they are two estimators
}

TEST_CASE("LogVariance: the gradient from rebuilt inputs is that from stored ones", "[log_variance]") {
  auto flow = small_flow<double>(12);
  const LogVariance objective(NormalTarget<double>{}, 1.3);
  Trainer rebuilding(flow, objective, {}, 1, Keep::output);
  Rng rng(5);
  const auto step = rebuilding.differentiate({.n = 20}, rng);
  CHECK(step.round_trip > 0);
  CHECK(step.round_trip < 1e-12);
  const Evaluated stored(flow, objective, {.n = 20}, 5);
  for (std::size_t i = 0; i < stored.gradient.size(); ++i)
    CHECK(relative_error(rebuilding.gradient()[i].values, stored.gradient[i]) < 1e-9);
}

TEST_CASE("LogVariance has no noise where the flow is the target", "[log_variance]") {
  auto flow = small_flow<double>(6);
  const auto target = flow;
  Trainer trainer(flow, LogVariance(FixedDensity(target), 1.5));
  Rng rng(1);
  const auto step = trainer.differentiate({.n = 64}, rng);
  CHECK(std::abs(step.loss) < 1e-12);
  CHECK(step.gradient_norm < 1e-12);
}

TEMPLATE_TEST_CASE("LogVariance brings modes that are apart into proportion", "[log_variance][fit]",
                   RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(3);
  const auto two_modes = [&](S logit) {
    GaussianMixture<S> mixture(2, 2, rng);
    mixture.parameters().logits << logit, 0;
    mixture.parameters().means << -9, 0, 9, 0;
    return mixture;
  };
  // a base that ReverseKl cannot learn: its draws are no differentiable function of its parameters
  const Flow target{two_modes(S(1.5)), ElementwiseAffine<S>(2)};
  Flow flow{two_modes(0), ElementwiseAffine<S>(2)};
  fit_variational(flow, LogVariance(FixedDensity(target)),
                  {.steps = 600, .batch_size = 128, .learning_rate = 2e-2, .threads = 2}, rng);
  const auto& logits = flow.base().parameters().logits;
  CHECK(logits[0] - logits[1] == Approx(1.5).margin(1e-3));
  CHECK(importance_report(flow, FixedDensity(target), 2000, rng).effective_sample_size > 1999);
}

TEST_CASE("LogVariance: the same bits for the same count of threads, and nothing allocated", "[log_variance]") {
  const int threads = GENERATE(1, 3);
  const auto target = small_flow<float>(10);
  const LogVariance objective{FixedDensity(target), 1.5};
  const auto run = [&] {
    auto flow = small_flow<float>(9);
    Rng rng(6);
    fit_variational(flow, objective, {.steps = 20, .batch_size = 10, .threads = threads}, rng);
    return Vector<float>(parameter_list<float>(flow)[3].values.reshaped());
  };
  CHECK(run() == run());

  if (!testing::counts_allocations()) return;
  auto flow = small_flow<float>(9);
  Trainer trainer(flow, objective, {}, threads);
  Rng rng(7);
  trainer.step({.n = 100}, rng, 1e-3);
  CHECK(testing::allocations_in([&] { trainer.step({.n = 100}, rng, 1e-3); }) == 0);
}

namespace {

/// A layer that says that its rows depend on each other.
struct MixingRows : ElementwiseAffine<double> {
  using ElementwiseAffine<double>::ElementwiseAffine;
  [[nodiscard]] static Traits traits() { return {.rows_independent = false}; }
};

}  // namespace

TEST_CASE("LogVariance says what is wrong", "[log_variance]") {
  for (const double width : {0.5, -1.0, std::numeric_limits<double>::quiet_NaN()})
    CHECK(contains(error_text([&] { LogVariance(NormalTarget<double>{}, width); }), "LogVariance: width is "));
  Flow flow{StandardNormal<double>(2), MixingRows(2)};
  Rng rng(9);
  Trainer trainer(flow, LogVariance(NormalTarget<double>{}));
  CHECK(contains(error_text([&] { trainer.differentiate({.n = 4}, rng); }), "use ReverseKl with Estimator::total"));
  auto plain = small_flow<double>(4);
  const auto broken = [](ConstBatch<double>, Values<double> log_p, Batch<double> d_x) {
    log_p.setConstant(-std::numeric_limits<double>::infinity());
    d_x.setZero();
  };
  CHECK(
      contains(error_text<std::runtime_error>([&] { fit_variational(plain, LogVariance(broken), {.steps = 5}, rng); }),
               "first not finite: the log-density of the target"));
}
