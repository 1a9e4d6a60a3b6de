// SPDX-License-Identifier: MIT

/// \file
/// The work people do: one training step, log_prob and sample of a named flow. Names are CASE/OP/threads:N.

#include <benchmark/benchmark.h>

#include <rhei/models/realnvp.hpp>
#include <rhei/train/trainer.hpp>

namespace {

using namespace rhei;

Matrix<float> normal_rows(Index n, Index dim) {
  Rng rng(1);
  Matrix<float> x(n, dim);
  rng.fill_normal(x);
  return x;
}

/// RealNVP on 2 features: 8 couplings, MLP 64-64, ReLU, batch 256.
constexpr Index kBatch = 256;
auto realnvp_2d() {
  Rng rng(7);
  return models::realnvp<float>(2, {.layers = 8, .hidden = {64, 64}}, rng);
}

void realnvp_2d_train_step(benchmark::State& state) {
  auto flow = realnvp_2d();
  Trainer trainer(flow, {}, static_cast<int>(state.range(0)));
  const Matrix<float> x = normal_rows(kBatch, 2);
  trainer.step({.x = x}, 1e-4);
  for (auto _ : state) benchmark::DoNotOptimize(trainer.step({.x = x}, 1e-4));
  state.SetItemsProcessed(state.iterations() * kBatch);
}

void realnvp_2d_log_prob(benchmark::State& state) {
  const auto flow = realnvp_2d();
  decltype(realnvp_2d())::Cache cache;
  const Matrix<float> x = normal_rows(kBatch, 2), no_context;
  Vector<float> log_p(kBatch);
  for (auto _ : state) {
    flow.log_prob(x, no_context, log_p, cache);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * kBatch);
}

void realnvp_2d_sample(benchmark::State& state) {
  const auto flow = realnvp_2d();
  decltype(realnvp_2d())::Cache cache;
  const Matrix<float> no_context;
  Matrix<float> x(kBatch, 2);
  Rng rng(3);
  for (auto _ : state) {
    flow.sample(rng, no_context, x, cache);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * kBatch);
}

}  // namespace

BENCHMARK(realnvp_2d_train_step)->Name("realnvp-2d/train_step")->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(realnvp_2d_log_prob)->Name("realnvp-2d/log_prob/threads:1");
BENCHMARK(realnvp_2d_sample)->Name("realnvp-2d/sample/threads:1");
