// SPDX-License-Identifier: MIT

/// \file
/// ReverseKl: both estimators against finite differences with fixed draws and against each other, and what
/// fit_variational makes of it.

#include <rhei/data/energies.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/elementwise_affine.hpp>

#include "objective_checks.hpp"
#include "support/allocation_counter.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// Draws as a step with Rng(seed) makes them.
template <class Model>
Matrix<double> draws_of(const Model& flow, const DrawView<double>& batch, std::uint64_t seed) {
  Rng rng = generator_of_step(seed);
  typename Model::Cache cache;
  Matrix<double> x(batch.n, flow.dim());
  flow.sample(Call<double>{.context = batch.context, .rng = &rng}, Batch<double>(x), cache);
  return x;
}

double mean_target(const NormalTarget<double>& target, const Matrix<double>& x, const Matrix<double>& context) {
  Vector<double> log_p(x.rows());
  Matrix<double> d_x(x.rows(), 2);
  target(x, context, log_p, d_x);
  return log_p.mean();
}

Matrix<double> some_context(Index rows) {
  Rng rng(77);
  Matrix<double> context(rows, 1);
  rng.fill_normal(context);
  return context;
}

}  // namespace

TEST_CASE("The total estimator is the derivative of the loss with fixed draws", "[reverse_kl]") {
  const Index context_dim = GENERATE(0, 1), context_rows = GENERATE(1, 5);
  auto flow = small_flow<double>(3, context_dim);
  const Matrix<double> context = some_context(context_dim > 0 ? context_rows : 0).leftCols(context_dim);
  const DrawView<double> batch{.n = 5, .context = context};
  const ReverseKl objective(NormalTarget<double>{});
  const auto loss = [&] { return Evaluated(flow, objective, batch, 11).loss; };
  check_gradient(Evaluated(flow, objective, batch, 11), numeric_gradient(flow, loss));

  const Matrix<double> x = draws_of(flow, batch, 11);
  CHECK(loss() == Approx(flow.log_prob(x, context).mean() - mean_target({}, x, context)).epsilon(1e-12));
}

TEST_CASE("The path estimator differentiates through the draws alone", "[reverse_kl]") {
  const Index context_dim = GENERATE(0, 1);
  auto flow = small_flow<double>(4, context_dim);
  const auto frozen = flow;
  const Matrix<double> context = some_context(5 * context_dim).leftCols(context_dim);
  const DrawView<double> batch{.n = 5, .context = context};
  const auto loss = [&] {
    const Matrix<double> x = draws_of(flow, batch, 12);
    return frozen.log_prob(x, context).mean() - mean_target({}, x, context);
  };
  const ReverseKl objective(NormalTarget<double>{}, Estimator::path);
  const Evaluated seen(flow, objective, batch, 12);
  check_gradient(seen, numeric_gradient(flow, loss));
  CHECK(seen.loss == Approx(loss()).epsilon(1e-12));
}

TEST_CASE("Both estimators have the same mean", "[reverse_kl]") {
  auto flow = small_flow<double>(5);
  const ReverseKl total(NormalTarget<double>{}), path(NormalTarget<double>{}, Estimator::path);
  constexpr int rounds = 400;
  const Index size = count_parameters(flow);
  Matrix<double> difference(rounds, size);
  for (int round = 0; round < rounds; ++round) {
    const Evaluated a(flow, total, {.n = 50}, static_cast<std::uint64_t>(round)),
        b(flow, path, {.n = 50}, static_cast<std::uint64_t>(round));
    Index at = 0;
    for (std::size_t i = 0; i < a.gradient.size(); ++i)
      for (Index k = 0; k < a.gradient[i].size(); ++k)
        difference(round, at++) = a.gradient[i].data()[k] - b.gradient[i].data()[k];
  }
  for (Index k = 0; k < size; ++k) {
    const double mean = difference.col(k).mean();
    const double error = std::sqrt((difference.col(k).array() - mean).square().sum() / (rounds - 1.0) / rounds);
    CAPTURE(k, mean, error);
    CHECK(std::abs(mean) <= 4.5 * error + 1e-14);
  }
  CHECK(difference.cwiseAbs().maxCoeff() > 0.01);  // they are two estimators
}

TEST_CASE("The path estimator has no variance where the flow is the target", "[reverse_kl]") {
  auto flow = small_flow<double>(6);
  const auto target = flow;
  const auto norm = [&](Estimator estimator) {
    Trainer trainer(flow, ReverseKl(FixedDensity(target), estimator));
    Rng rng(1);
    const auto step = trainer.differentiate({.n = 64}, rng);
    CHECK(std::abs(step.loss) < 1e-12);
    return step.gradient_norm;
  };
  CHECK(norm(Estimator::path) < 1e-12);
  CHECK(norm(Estimator::total) > 0.1);
}

TEST_CASE("Annealing weighs the target in the gradient and not in the loss", "[reverse_kl]") {
  CHECK(Annealing{}.at(0) == 1);
  const Annealing published{.start = 0.01, .per_step = 1e-4};
  CHECK(published.at(0) == 0.01);
  CHECK(published.at(5000) == Approx(0.51));
  CHECK(published.at(1'000'000) == 1);

  const Estimator estimator = GENERATE(Estimator::total, Estimator::path);
  auto flow = small_flow<double>(7);
  NormalTarget<double> weaker;
  weaker.precision *= 0.25;
  const Evaluated annealed(flow, ReverseKl(NormalTarget<double>{}, estimator, {.start = 0.25}), {.n = 5}, 2);
  const Evaluated plain(flow, ReverseKl(NormalTarget<double>{}, estimator), {.n = 5}, 2);
  check_gradient(annealed, Evaluated(flow, ReverseKl(weaker, estimator), {.n = 5}, 2).gradient, 1e-12);
  CHECK(annealed.loss == plain.loss);

  Trainer trainer(flow, ReverseKl(NormalTarget<double>{}, estimator, {.start = 0.25, .per_step = 0.75}));
  Rng rng(2);
  trainer.step({.n = 5}, rng, 1e-12);  // hardly moves
  Rng again(2);
  trainer.differentiate({.n = 5}, again);  // step 1: at full weight
  CHECK(relative_error(trainer.gradient().back().values, plain.gradient.back()) < 1e-8);
}

TEMPLATE_TEST_CASE("fit_variational reaches a normal target", "[reverse_kl][fit]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const NormalTarget<S> target;
  const Estimator estimator = GENERATE(Estimator::total, Estimator::path);
  Flow flow{DiagonalNormal<S>(2), LuLinear<S>(2)};
  Rng rng(3);
  const FitReport report = fit_variational(flow, ReverseKl(target, estimator),
                                           {.steps = 2000, .batch_size = 64, .learning_rate = 2e-2}, rng);
  CHECK(report.stop == Stop::steps);
  CHECK(report.history.size() == 20);
  const auto seen = importance_report(flow, target, 2000, rng);
  const double divergence = report.last().train_loss + target.log_z();
  if (estimator == Estimator::path) {  // without noise at the optimum it settles there
    CHECK(std::abs(divergence) < 1e-5);
    CHECK(seen.effective_sample_size > 1999.9);
  } else {
    CHECK(std::abs(divergence) < 1e-2);
    CHECK(seen.effective_sample_size > 1990);
  }
  CHECK(seen.log_z == Approx(target.log_z()).margin(1e-2));
}

TEST_CASE("fit_variational learns an energy with couplings", "[reverse_kl][fit]") {
  Rng rng(4);
  Flow flow{
      StandardNormal<float>(2),
      Repeat(6,
             [&](int i) {
               return AffineCoupling<float>(2, {.transformed = {i % 2}, .net = {{24, 24}, Activation::tanh}}, rng);
             }),
      LuLinear<float>(2)};
  const data::Energy& energy = data::energy("u2");
  const auto report = fit_variational(flow, ReverseKl(energy, Estimator::path),
                                      {.steps = 2500, .batch_size = 128, .learning_rate = 5e-3}, rng);
  const double divergence = report.last().train_loss + energy.log_z;
  CAPTURE(divergence);
  CHECK(divergence > 0);
  CHECK(divergence < 0.15);
}

TEST_CASE("One flow for all contexts", "[reverse_kl][fit]") {
  Rng rng(5);
  const NormalTarget<double> target;
  auto flow = small_flow<double>(8, 1, 0.05);
  const auto draw_context = [](Index n, Rng& g) {
    Matrix<double> context(n, 1);
    g.fill_normal(context);
    return context;
  };
  fit_variational(flow, ReverseKl(target, Estimator::path), {.steps = 2500, .batch_size = 64, .learning_rate = 1e-2},
                  rng, draw_context);
  for (const double c : {-1.0, 0.0, 1.5}) {
    CAPTURE(c);
    const auto seen = importance_report(flow, target, 4000, rng, Matrix<double>::Constant(1, 1, c));
    CHECK(seen.log_z == Approx(target.log_z()).margin(0.03));
    CHECK(seen.log_z - seen.bound < 0.03);  // KL(q || p)
  }
}

TEST_CASE("Threads: the same bits for the same count, and nothing allocated", "[reverse_kl]") {
  const Estimator estimator = GENERATE(Estimator::total, Estimator::path);
  const int threads = GENERATE(1, 3);
  const auto run = [&] {
    auto flow = small_flow<float>(9);
    Rng rng(6);
    fit_variational(flow, ReverseKl(data::energy("u1"), estimator), {.steps = 20, .batch_size = 10, .threads = threads},
                    rng);
    return Vector<float>(parameter_list<float>(flow)[3].values.reshaped());
  };
  CHECK(run() == run());

  if (!testing::counts_allocations()) return;
  auto flow = small_flow<float>(9);
  Trainer trainer(flow, ReverseKl(data::energy("u1"), estimator), {}, threads);
  Rng rng(7);
  trainer.step({.n = 100}, rng, 1e-3);
  CHECK(testing::allocations_in([&] { trainer.step({.n = 100}, rng, 1e-3); }) == 0);
}

TEST_CASE("fit_variational says what is wrong", "[reverse_kl]") {
  Rng rng(8);
  auto flow = small_flow<double>(10);
  auto conditional = small_flow<double>(10, 1);
  const ReverseKl objective(NormalTarget<double>{});
  const auto refused = [&](const FitOptions& options) {
    return error_text([&] { fit_variational(flow, objective, options, rng); });
  };
  CHECK(contains(refused({}), "fit_variational: epochs, steps and seconds are all 0"));
  CHECK(contains(refused({.steps = 1, .validation_fraction = 0.1}), "validation_fraction"));
  CHECK(contains(refused({.steps = 1, .patience = 2}), "patience"));
  CHECK(contains(error_text([&] { fit_variational(conditional, objective, {.steps = 1}, rng); }),
                 "a drawn context is 0 x 0"));
  CHECK(contains(error_text([&] {
                   fit_variational(conditional, objective, {.steps = 1, .batch_size = 8}, rng,
                                   [](Index n, Rng&) -> Matrix<double> { return Matrix<double>::Zero(n - 1, 1); });
                 }),
                 "a drawn context is 7 x 1"));
  Trainer trainer(flow, objective);
  CHECK(contains(error_text([&] { trainer.differentiate({.n = 3}); }), "call.rng is null"));

  const auto broken = [](ConstBatch<double>, Values<double> log_p, Batch<double> d_x) {
    log_p.setConstant(-std::numeric_limits<double>::infinity());
    d_x.setZero();
  };
  const auto before = parameter_list<double>(flow)[2].values.eval();
  const std::string text =
      error_text<std::runtime_error>([&] { fit_variational(flow, ReverseKl(broken), {.steps = 5}, rng); });
  CAPTURE(text);
  CHECK(contains(text, "fit_variational: the loss is inf"));
  CHECK(contains(text, "first not finite: the log-density of the target"));
  CHECK(parameter_list<double>(flow)[2].values == before);

  parameter_list<double>(flow)[2].values.setConstant(std::numeric_limits<double>::quiet_NaN());
  CHECK(contains(error_text<std::runtime_error>([&] { fit_variational(flow, objective, {.steps = 5}, rng); }),
                 "first not finite: layers.0.layers.0 (coupling)"));
}

namespace {

/// A layer that says that its rows depend on each other.
struct Mixing : ElementwiseAffine<double> {
  using ElementwiseAffine<double>::ElementwiseAffine;
  [[nodiscard]] static Traits traits() { return {.rows_independent = false}; }
};

}  // namespace

TEST_CASE("The path estimator refuses rows that depend on each other", "[reverse_kl]") {
  Flow flow{StandardNormal<double>(2), Mixing(2)};
  Rng rng(9);
  Trainer total(flow, ReverseKl(NormalTarget<double>{})),
      path(flow, ReverseKl(NormalTarget<double>{}, Estimator::path));
  CHECK(std::isfinite(total.differentiate({.n = 4}, rng).loss));
  CHECK(contains(error_text([&] { path.differentiate({.n = 4}, rng); }), "Estimator::total"));
}
