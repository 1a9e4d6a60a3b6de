// SPDX-License-Identifier: MIT

/// \file
/// Training and evaluation of a whole flow take nothing from the heap once their buffers have grown.

#include <atomic>
#include <rhei/core/parallel_flow.hpp>
#include <rhei/models/realnvp.hpp>
#include <rhei/train/trainer.hpp>

#include "support/allocation_counter.hpp"
#include "support/catch.hpp"

using namespace rhei;
using testing::allocations_in;

namespace {

using Model = decltype(models::realnvp<float>(2, {}, std::declval<Rng&>()));

/// A flow that counts what its evaluations allocate, on whatever thread they run.
struct Counted : Model {
  explicit Counted(Model model) : Model(std::move(model)) {}
  void log_prob(auto&&... arguments) const {
    allocations += allocations_in([&] { Model::log_prob(arguments...); });
  }
  void log_prob_pullback(auto&&... arguments) const {
    allocations += allocations_in([&] { Model::log_prob_pullback(arguments...); });
  }
  void sample(auto&&... arguments) const {
    allocations += allocations_in([&] { Model::sample(std::forward<decltype(arguments)>(arguments)...); });
  }
  mutable std::atomic<std::size_t> allocations = 0;
};

Model make_model(Index width, Index context_dim = 0) {
  Rng rng(1);
  return models::realnvp<float>(
      2, {.layers = 4, .hidden = {width, width}, .activation = Activation::silu, .context_dim = context_dim}, rng);
}

Matrix<float> normal_rows(Index n, Index cols) {
  Rng rng(2);
  Matrix<float> x(n, cols);
  rng.fill_normal(x);
  return x;
}

}  // namespace

TEST_CASE("the counter counts operator new and malloc, on this thread", "[allocation]") {
  if (!testing::counts_allocations()) return;
  static Matrix<float> matrix;  // static, so that no compiler may leave their memory out
  static std::vector<int> vector;
  CHECK(allocations_in([] { matrix.resize(3, 3); }) == 1);
  CHECK(allocations_in([] {
          vector.assign(100, 1);
          vector.push_back(2);
        }) == 2);
}

TEST_CASE("a training step allocates nothing but in the first", "[train][allocation]") {
  if (!testing::counts_allocations()) return;
  const Index width = GENERATE(64, 512), context_dim = GENERATE(0, 3);
  CAPTURE(width, context_dim);
  Model model = make_model(width, context_dim);
  const Matrix<float> x = normal_rows(256, 2), context = normal_rows(256, context_dim);
  const Vector<float> weights = Vector<float>::Constant(256, 0.5f);
  model.initialize(x, context);
  Trainer trainer(model);
  const BatchView<float> batch{.x = x, .context = context};
  const BatchView<float> weighted{.x = x, .context = context, .weights = weights};
  CHECK(allocations_in([&] { trainer.step(batch, 1e-3, 5); }) > 0);
  CHECK(allocations_in([&] {
          for (int i = 0; i < 3; ++i) trainer.step(i == 1 ? weighted : batch, 1e-3, 5);
        }) == 0);
}

TEST_CASE("two threads allocate nothing, either", "[train][allocation]") {
  if (!testing::counts_allocations()) return;
  const Index width = GENERATE(64, 512);
  CAPTURE(width);
  Counted model(make_model(width));
  const Matrix<float> x = normal_rows(256, 2);
  model.initialize(x);
  Trainer trainer(model, {}, 2);
  trainer.step({.x = x}, 1e-3);
  CHECK(model.allocations > 0);
  model.allocations = 0;
  CHECK(allocations_in([&] {
          for (int i = 0; i < 3; ++i) trainer.step({.x = x}, 1e-3);
        }) == 0);
  CHECK(model.allocations == 0);
}

TEST_CASE("log_prob and sample allocate nothing with a cache that has grown", "[flow][allocation]") {
  if (!testing::counts_allocations()) return;
  const Index width = GENERATE(64, 512), n = GENERATE(1, 256, 1000), context_dim = GENERATE(0, 3);
  CAPTURE(width, n, context_dim);
  const Model model = make_model(width, context_dim);
  const Matrix<float> x = normal_rows(n, 2), context = normal_rows(n, context_dim);
  Matrix<float> draws(n, 2);
  Vector<float> log_p(n);
  Model::Cache cache;
  Rng rng(3);
  const auto evaluate = [&] {
    model.log_prob(x, context, log_p, cache);
    model.sample(rng, context, draws, cache);
    model.sample_and_log_prob(rng, context, draws, log_p, cache);
  };
  CHECK(allocations_in(evaluate) > 0);
  CHECK(allocations_in(evaluate) == 0);
}

TEST_CASE("ParallelFlow allocates nothing on any of its threads, once their caches have grown", "[flow][allocation]") {
  if (!testing::counts_allocations()) return;
  const int threads = GENERATE(1, 2);
  CAPTURE(threads);
  const Counted model(make_model(64, 3));
  const Matrix<float> x = normal_rows(1000, 2), context = normal_rows(1000, 3);
  Matrix<float> draws(1000, 2);
  Vector<float> log_p(1000);
  ParallelFlow parallel(model, threads);
  Rng rng(3);
  const auto evaluate = [&] {
    parallel.log_prob(x, context, log_p);
    parallel.sample(rng, context, draws);
  };
  evaluate();
  CHECK(model.allocations > 0);
  model.allocations = 0;
  CHECK(allocations_in(evaluate) == 0);
  CHECK(model.allocations == 0);
}
