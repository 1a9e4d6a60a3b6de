// SPDX-License-Identifier: MIT

/// \file
/// Trainer: rebuilt inputs, state that follows the batches, layers that draw, and what it refuses.

#include <rhei/core/any_layer.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/batch_norm.hpp>
#include <rhei/layers/coupling.hpp>
#include <rhei/layers/elementwise_affine.hpp>
#include <rhei/nn/monotone_root.hpp>
#include <rhei/train/fit.hpp>

#include "objective_checks.hpp"
#include "support/allocation_counter.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

template <Real S>
Matrix<S> normal_rows(Index n, std::uint64_t seed = 1) {
  Rng rng(seed);
  Matrix<S> x(n, 2);
  rng.fill_normal(x);
  return x;
}

/// The gradient of one step, as one vector.
template <class T>
Vector<double> gradient_of(const T& trainer) {
  Vector<double> all(0);
  for (const auto& tensor : trainer.gradient()) {
    all.conservativeResize(all.size() + tensor.values.size());
    all.tail(tensor.values.size()) = tensor.values.template cast<double>().reshaped();
  }
  return all;
}

}  // namespace

TEMPLATE_TEST_CASE("Keep::output rebuilds what Keep::everything keeps", "[trainer]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const double tolerance = std::same_as<S, float> ? 1e-4 : 1e-10;
  const int threads = GENERATE(1, 2);
  auto flow = small_flow<S>(3);
  const Matrix<S> x = normal_rows<S>(50);
  const auto compare = [&](auto& kept, auto& rebuilt, const auto& batch) {
    Rng rng(4), again(4);
    const auto a = kept.differentiate(batch, rng), b = rebuilt.differentiate(batch, again);
    CHECK(b.loss == a.loss);
    CHECK(relative_error(gradient_of(rebuilt), gradient_of(kept)) < tolerance);
    CHECK(a.round_trip == 0);
    CHECK(b.round_trip > 0);
    CHECK(b.round_trip < tolerance);
  };
  Trainer kept(flow, {}, threads), rebuilt(flow, {}, threads, Keep::output);
  compare(kept, rebuilt, BatchView<S>{.x = x});
  for (const Estimator estimator : {Estimator::total, Estimator::path}) {
    const ReverseKl objective(NormalTarget<S>{}, estimator);
    Trainer kept_draws(flow, objective, {}, threads), rebuilt_draws(flow, objective, {}, threads, Keep::output);
    compare(kept_draws, rebuilt_draws, DrawView<S>{.n = 50});
  }
  Flow single{DiagonalNormal<S>(2), LuLinear<S>(2)};  // the transform is no chain
  for (auto& tensor : parameter_list<S>(single)) tensor.values.array() += S(0.3);
  Trainer kept_single(single), rebuilt_single(single, {}, 1, Keep::output);
  compare(kept_single, rebuilt_single, BatchView<S>{.x = x});
  const ReverseKl objective(NormalTarget<S>{});
  Trainer kept_single_draws(single, objective), rebuilt_single_draws(single, objective, {}, 1, Keep::output);
  compare(kept_single_draws, rebuilt_single_draws, DrawView<S>{.n = 50});

  if (!testing::counts_allocations()) return;
  rebuilt.step({.x = x}, 1e-3);
  CHECK(testing::allocations_in([&] { rebuilt.step({.x = x}, 1e-3); }) == 0);
}

TEST_CASE("Any number of threads takes the same step, whether or not they share the parameters", "[trainer]") {
  const Index width = GENERATE(8, 200);  // 200: so many parameters that each thread sums and moves a part of them
  const int threads = GENERATE(2, 3);
  CAPTURE(width, threads);
  Rng rng(2);
  const Flow start{StandardNormal<double>(2),
                   AffineCoupling<double>(2, {.transformed = {1}, .net = {{width, width}, Activation::tanh}}, rng)};
  auto one = start, many = start;
  const Matrix<double> x = normal_rows<double>(50);
  Trainer alone(one), together(many, {}, threads);
  for (int step = 0; step < 3; ++step) {
    const auto a = alone.step({.x = x}, 1e-3, 0.1), b = together.step({.x = x}, 1e-3, 0.1);
    CHECK(b.loss == Approx(a.loss).epsilon(1e-12));
    CHECK(b.gradient_norm == Approx(a.gradient_norm).epsilon(1e-9));
    CHECK(a.gradient_norm == Approx(gradient_of(alone).norm()).epsilon(1e-12));
    CHECK(relative_error(gradient_of(together), gradient_of(alone)) < 1e-9);
  }
  const auto left = parameter_list<double>(one), right = parameter_list<double>(many);
  for (std::size_t i = 0; i < left.size(); ++i)
    CHECK((left[i].values - right[i].values).cwiseAbs().maxCoeff() < 1e-7);  // Adam divides by small second moments
}

TEST_CASE("fit with rebuilt inputs", "[trainer][fit]") {
  const Matrix<double> x = normal_rows<double>(200);
  const auto run = [&](bool rebuild) {
    auto flow = small_flow<double>(5);
    Rng rng(6);
    return fit(flow, x, {.epochs = 3, .batch_size = 50, .rebuild_inputs = rebuild}, rng);
  };
  const FitReport kept = run(false), rebuilt = run(true);
  CHECK(rebuilt.last().train_loss == Approx(kept.last().train_loss).epsilon(1e-9));
  CHECK(kept.last().round_trip == 0);
  CHECK(rebuilt.last().round_trip > 0);
  CHECK(rebuilt.last().round_trip < 1e-12);
}

namespace {

using Plain = Flow<StandardNormal<double>, ElementwiseAffine<double>>;

/// A flow that notes whose cache its state is to follow.
struct Watched : Plain {
  Watched() : Plain(StandardNormal<double>(2), ElementwiseAffine<double>(2)) {}
  void update_state(Cache& cache) {
    ++updates;
    seen = cache.z.view();
  }
  int updates = 0;
  Matrix<double> seen;
};

}  // namespace

TEST_CASE("State follows the batch of the first thread that had rows", "[trainer]") {
  Watched flow;
  const Matrix<double> x = normal_rows<double>(9);
  Trainer one(flow), three(flow, {}, 3);
  const auto step = one.differentiate({.x = x});
  CHECK(flow.updates == 0);
  one.update(step, 1e-12);  // hardly moves: the latents are the data
  CHECK(flow.updates == 1);
  CHECK((flow.seen - x).cwiseAbs().maxCoeff() < 1e-9);
  three.step({.x = x}, 1e-12);
  CHECK((flow.seen - x.topRows(3)).cwiseAbs().maxCoeff() < 1e-9);
  const Matrix<double> alone = x.topRows(1);
  three.step({.x = alone}, 1e-12);  // the last thread gets the only row
  CHECK(flow.updates == 3);
  REQUIRE(flow.seen.rows() == 1);
  CHECK((flow.seen - alone).cwiseAbs().maxCoeff() < 1e-9);
}

TEST_CASE("The best epoch is restored with the state of its layers", "[trainer][fit]") {
  Rng rng(7);
  const Matrix<double> x = normal_rows<double>(60, 8), validation = normal_rows<double>(60, 9);
  Flow flow{StandardNormal<double>(2),
            Repeat(2,
                   [&](int i) {
                     return AffineCoupling<double>(2, {.transformed = {i % 2}, .net = {{16}, Activation::tanh}}, rng);
                   }),
            BatchNorm<double>(2)};
  const auto report = fit(
      flow, FitData<double>{.x = x}, FitData<double>{.x = validation},
      {.epochs = 400, .batch_size = 20, .learning_rate = 2e-2, .schedule = Schedule::constant, .patience = 20}, rng);
  REQUIRE(report.stop == Stop::patience);
  const double best = report.history[static_cast<std::size_t>(report.best_epoch - 1)].validation_loss;
  CHECK(-flow.log_prob(validation).mean() == Approx(best).epsilon(1e-12));
}

namespace {

/// A layer whose inverse draws noise, as those with a random log-determinant do.
struct Noisy : ElementwiseAffine<double> {
  using ElementwiseAffine<double>::ElementwiseAffine;
  void inverse(const Call<double>& call, ConstBatch<double> x, Batch<double> z, Values<double> log_det,
               Cache& cache) const {
    ElementwiseAffine<double>::inverse(call, x, z, log_det, cache);
    if (call.rng == nullptr) throw std::invalid_argument("Noisy: call.rng is null");
    log_det[0] += call.rng->normal<double>();
  }
};

/// A layer whose inverse is iterative and fails for the rows beyond 2.
struct Unsolved : ElementwiseAffine<double> {
  using ElementwiseAffine<double>::ElementwiseAffine;
  struct Cache : ElementwiseAffine<double>::Cache {
    SolveReport solve;
  };
  void inverse(const Call<double>& call, ConstBatch<double> x, Batch<double> z, Values<double> log_det,
               Cache& cache) const {
    ElementwiseAffine<double>::inverse(call, x, z, log_det, cache);
    cache.solve = {};
    for (Index i = 0; i < x.rows(); ++i)
      if (std::abs(x(i, 0)) > 2) {
        z.row(i).setConstant(std::numeric_limits<double>::quiet_NaN());
        cache.solve = {cache.solve.failures + 1, 0.5};
      }
  }
};

}  // namespace

TEST_CASE("Layers draw from the generator of the step", "[trainer]") {
  Flow flow{StandardNormal<double>(2), Noisy(2)};
  const Matrix<double> x = normal_rows<double>(8);
  Trainer trainer(flow, {}, 2);
  CHECK(contains(error_text([&] { Trainer(flow, {}, 2).differentiate({.x = x}); }), "call.rng is null"));
  Rng rng(10), again(10);
  const double first = trainer.differentiate({.x = x}, rng).loss;
  CHECK(trainer.differentiate({.x = x}, rng).loss != first);
  CHECK(trainer.differentiate({.x = x}, again).loss == first);
  Rng fit_rng(11);
  CHECK(std::isfinite(fit(flow, x, {.epochs = 2, .batch_size = 4}, fit_rng).last().train_loss));
}

TEST_CASE("fit says that an iterative inverse did not converge", "[trainer][fit]") {
  Flow flow{StandardNormal<double>(2), Unsolved(2), ElementwiseAffine<double>(2)};
  Matrix<double> x = normal_rows<double>(64) * 0.3;
  x(7, 0) = 3;
  x(9, 0) = -4;
  const int threads = GENERATE(1, 2);
  Rng rng(12);
  const std::string text =
      error_text<std::runtime_error>([&] { fit(flow, x, {.epochs = 2, .batch_size = 64, .threads = threads}, rng); });
  CAPTURE(text);
  CHECK(contains(text, "first not finite: layers.0 (elementwise_affine), where "));
  CHECK(contains(text, "did not converge, the worst with a residual of 0.5"));
}

TEST_CASE("Trainer says what is wrong with a batch", "[trainer]") {
  auto flow = small_flow<double>(13, 1);
  const Matrix<double> x = normal_rows<double>(6), context = Matrix<double>::Zero(4, 1);
  const Vector<double> weights = Vector<double>::Ones(5);
  const int threads = GENERATE(1, 2);
  const Matrix<double> shared = Matrix<double>::Zero(1, 1);
  const auto refused = [&](const BatchView<double>& batch) {
    return error_text([&] { Trainer(flow, {}, threads).differentiate(batch); });
  };
  CHECK(contains(refused({.x = x, .context = context}), "context is 4 x 1"));
  CHECK(contains(refused({.x = x, .context = shared, .weights = weights}), "weights is 5 x 1"));
  CHECK(contains(refused({.x = x}), "context is 0 x 0"));
  CHECK(contains(refused({.x = Matrix<double>(0, 2)}), "number of rows is 0"));
  CHECK(refused({.x = x, .context = shared}).empty());
  CHECK(contains(error_text([&] { Trainer(flow, {}, 1, Keep::nothing); }), "Keep::nothing"));
}

TEST_CASE("A sequence of layers known at run time trains as the chain of them does", "[trainer]") {
  const ElementwiseAffine<double> first(2);
  const ActNorm<double> second(2);
  Flow chain{StandardNormal<double>(2), first, second};
  Flow sequence{StandardNormal<double>(2), Repeat(std::vector<AnyLayer<double>>{first, second})};
  const Matrix<double> x = normal_rows<double>(9);
  Trainer expected(chain, {}, 2);
  Trainer trainer(sequence, {}, 2);
  CHECK(trainer.step(BatchView<double>{.x = x}, 1e-2).loss == expected.step(BatchView<double>{.x = x}, 1e-2).loss);
  CHECK(gradient_of(trainer) == gradient_of(expected));
  CHECK(sequence.log_prob(x) == chain.log_prob(x));
}
