// SPDX-License-Identifier: MIT

/// \file
/// The work people do: a training step, log_prob and sample of the named cases. Names are CASE/OP/threads:N; times are
/// by the wall clock, N the library's own threads on one batch. Counters:
///
///   floor       part of the time that the floor would take (support/cost.hpp), 1 at best
///   p50, p99    of a single event (cases of one row), in seconds, the two readings of the clock (some 50 ns) included
///
/// `flow_steps --cases` prints the cases with their shapes, parameters and multiply-adds as JSON, and `--rates` the
/// measured rates behind the floor. With `--no_floor` no rates are measured, which takes a second: for scripts that
/// start this often.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>
#include <rhei/io/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/cases.hpp"
#include "support/cost.hpp"
#include "support/flow_work.hpp"

namespace {

using namespace bench;
using rhei::Json;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// What the floor is computed from; nothing where it is not wanted.
std::optional<Rates> rates;

void run(FlowWork& work, Op op) {
  switch (op) {
    case Op::train_step:
      return work.train_step();
    case Op::log_prob:
      return work.log_prob();
    case Op::sample:
      return work.sample();
  }
}

void time_batches(benchmark::State& state, const Case& c, Op op, int threads) {
  const auto work = make_flow_work(c, threads);
  run(*work, op);
  const auto begin = Clock::now();
  for (auto _ : state) {
    run(*work, op);
    benchmark::ClobberMemory();
  }
  const double seconds = seconds_since(begin) / static_cast<double>(state.iterations());
  state.SetItemsProcessed(state.iterations() * c.rows);
  if (rates) state.counters["floor"] = work->cost(op).seconds(*rates) / threads / seconds;
}

void time_events(benchmark::State& state, const Case& c, Op op) {
  const auto work = make_flow_work(c, 1);
  for (int i = 0; i < 100; ++i) run(*work, op);
  std::vector<double> seconds;
  seconds.reserve(static_cast<std::size_t>(state.max_iterations));
  for (auto _ : state) {
    const auto begin = Clock::now();
    run(*work, op);
    benchmark::ClobberMemory();
    seconds.push_back(seconds_since(begin));
    state.SetIterationTime(seconds.back());
  }
  const auto quantile = [&](double part) {
    const auto place = seconds.begin() + static_cast<std::ptrdiff_t>(part * static_cast<double>(seconds.size() - 1));
    std::nth_element(seconds.begin(), place, seconds.end());
    return *place;
  };
  state.counters["p50"] = quantile(0.5);
  state.counters["p99"] = quantile(0.99);
  if (rates) state.counters["floor"] = work->cost(op).seconds(*rates) / quantile(0.5);
}

void register_case(const Case& c) {
  const std::string name(c.name);
  for (const Op op : {Op::train_step, Op::log_prob, Op::sample}) {
    if (c.rows == 1 && op == Op::train_step) continue;
    const std::string of_op = name + "/" + std::string(op_names[static_cast<std::size_t>(op)]) + "/threads:";
    if (c.rows == 1) {
      benchmark::RegisterBenchmark((of_op + "1").c_str(),
                                   [&c, op](benchmark::State& state) { time_events(state, c, op); })
          ->UseManualTime()
          ->Unit(benchmark::kMicrosecond);
      continue;
    }
    for (const int threads : {1, 2})
      benchmark::RegisterBenchmark((of_op + std::to_string(threads)).c_str(),
                                   [&c, op, threads](benchmark::State& s) { time_batches(s, c, op, threads); })
          ->UseRealTime()
          ->Unit(benchmark::kMicrosecond);
  }
}

Json described(const Case& c) {
  const auto work = make_flow_work(c, 1);
  Json json = Json::Object{{"name", c.name},   {"family", family_names[static_cast<std::size_t>(c.family)]},
                           {"dim", c.dim},     {"layers", c.layers},
                           {"width", c.width}, {"parts", c.parts},
                           {"rows", c.rows},   {"parameters", work->parameters()}};
  json["multiply_adds"] = work->cost(Op::log_prob).multiply_adds / c.rows;
  return json;
}

Json described(const Rates& r) {
  return Json::Object{{"gemm_gflops", 2e-9 / r.multiply_add},
                      {"gemm_size", r.best_size},
                      {"pass_ns", 1e9 * r.pass},
                      {"exp_ns", 1e9 * r.exp},
                      {"log_ns", 1e9 * r.log},
                      {"tanh_ns", 1e9 * r.tanh},
                      {"divide_ns", 1e9 * r.divide},
                      {"normal_ns", 1e9 * r.normal},
                      {"adam_ns", 1e9 * r.adam}};
}

}  // namespace

int main(int argc, char** argv) {
  const auto take = [&](std::string_view option) {  // whether it is there, and away with it
    char** const end = std::remove_if(argv + 1, argv + argc, [&](const char* a) { return option == a; });
    return std::exchange(argc, static_cast<int>(end - argv)) != argc;
  };
  if (take("--cases")) {
    Json list = Json::Array{};
    for (const Case& c : cases) list.push_back(described(c));
    std::puts(list.text(2).c_str());
    return 0;
  }
  if (!take("--no_floor")) rates = measure_rates();
  if (take("--rates")) {
    std::puts(described(rates.value()).text(2).c_str());
    return 0;
  }
  for (const Case& c : cases) register_case(c);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  if (rates) {
    const Json measured = described(*rates);
    for (const auto& [name, value] : measured.members()) benchmark::AddCustomContext(name, value.text());
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
