// SPDX-License-Identifier: MIT

/// \file
/// What the Jacobian of each layer costs. Names are LAYER/OP/rows:N/D:dim, the times those of a whole batch:
///
///   forward, inverse                    the map and its log-determinant
///   forward_pullback, inverse_pullback  all derivatives of that: of the input, and of the parameters
///   log_det                             the log-determinant alone, where it is cheaper than with the map: where it is
///                                       the same for all rows, so that one of them is enough
///   naive (one row)                     the explicit Jacobian of one sample, from the pullbacks of D unit vectors in
///                                       one batch, and its determinant by a dense LU decomposition
///
/// Each LAYER/OP/rows:N has a fitted complexity in D.

#include <benchmark/benchmark.h>

#include <cmath>
#include <Eigen/LU>
#include <map>
#include <string>
#include <utility>

#include "layers/subjects.hpp"

namespace {

using namespace bench;
using namespace rhei;
using Layer = AnyLayer<float>;

/// A layer of some dimension, kept for the operations and batches to come: some take long to make.
const Layer& layer_of(const Subject& subject, Index dim) {
  static std::string_view of;
  static std::map<Index, Layer> made;
  if (std::exchange(of, subject.name) != subject.name) made.clear();
  if (const auto found = made.find(dim); found != made.end()) return found->second;
  Rng rng(static_cast<std::uint64_t>(dim));
  Layer layer = subject.make(dim, rng);
  for_each_parameter(layer, [&](std::string_view, Batch<float> values) {
    const float by = 0.1f / std::sqrt(static_cast<float>(dim));  // away from the start, and still well-conditioned
    for (Index i = 0; i < values.size(); ++i) values.data()[i] += by * rng.normal<float>();
  });
  check_state(layer);
  return made.emplace(dim, std::move(layer)).first->second;
}

/// A batch z and its image x, with all that the four operations need.
struct Setting {
  explicit Setting(const Layer& own_layer, Index rows)
      : layer(own_layer),
        z(rows, layer.dim()),
        x(rows, layer.dim()),
        d_out(rows, layer.dim()),
        d_in(rows, layer.dim()),
        log_det(Vector<float>::Zero(rows)),
        d_log_det(Vector<float>::Ones(rows)),
        gradient(layer.make_gradient()) {
    Rng rng(1);
    rng.fill_normal(z);
    rng.fill_normal(d_out);
    z *= 0.5f;
    forward(z, x);
  }

  void forward(ConstBatch<float> from, Batch<float> to) { layer.forward(call, from, to, log_det, cache); }
  void inverse(ConstBatch<float> from, Batch<float> to) { layer.inverse(call, from, to, log_det, cache); }

  const Layer& layer;
  Call<float> call;
  Layer::Cache cache;
  Matrix<float> z, x, d_out, d_in;
  Vector<float> log_det, d_log_det;
  Layer::Gradient gradient;
};

enum class Op { forward, inverse, forward_pullback, inverse_pullback };
constexpr std::array<std::string_view, 4> op_names = {"forward", "inverse", "forward_pullback", "inverse_pullback"};

void time_op(benchmark::State& state, const Subject& subject, Op op, Index rows) {
  const Index dim = state.range(0);
  Setting s(layer_of(subject, dim), rows);
  Matrix<float> out(rows, dim);
  const bool forwards = op == Op::forward || op == Op::forward_pullback;
  const ConstBatch<float> in = forwards ? s.z : s.x;
  forwards ? s.forward(in, out) : s.inverse(in, out);
  Batch<float> d_in = s.d_in;
  const auto run = [&] {
    switch (op) {
      case Op::forward:
        return s.forward(in, out);
      case Op::inverse:
        return s.inverse(in, out);
      case Op::forward_pullback:
        return s.layer.forward_pullback(s.call, in, out, s.cache, s.d_out, s.d_log_det, &d_in, nullptr, &s.gradient);
      case Op::inverse_pullback:
        return s.layer.inverse_pullback(s.call, in, out, s.cache, s.d_out, s.d_log_det, &d_in, nullptr, &s.gradient);
    }
  };
  run();  // memory grows
  for (auto _ : state) {
    run();
    benchmark::ClobberMemory();
  }
  state.SetComplexityN(dim);
}

void time_log_det(benchmark::State& state, const Subject& subject, Index rows) {
  const Index dim = state.range(0);
  Setting s(layer_of(subject, dim), 1);
  Vector<float> log_det(rows);
  for (auto _ : state) {
    s.log_det.setZero();
    s.forward(s.z, s.x);
    log_det.setConstant(s.log_det[0]);
    benchmark::ClobberMemory();
  }
  state.SetComplexityN(dim);
}

void time_naive(benchmark::State& state, const Subject& subject) {
  const Index dim = state.range(0);
  Setting s(layer_of(subject, dim), dim);
  s.z = s.z.row(0).replicate(dim, 1).eval();
  s.d_out.setIdentity();
  s.d_log_det.setZero();
  Batch<float> jacobian = s.d_in;
  Eigen::PartialPivLU<Matrix<float>> lu(dim);
  for (auto _ : state) {
    s.forward(s.z, s.x);
    s.layer.forward_pullback(s.call, s.z, s.x, s.cache, s.d_out, s.d_log_det, &jacobian, nullptr, nullptr);
    lu.compute(s.d_in);
    float log_abs_det = lu.matrixLU().diagonal().array().abs().log().sum();
    benchmark::DoNotOptimize(log_abs_det);
  }
  state.SetComplexityN(dim);
}

template <class F>
void register_family(const std::string& name, F time) {
  benchmark::RegisterBenchmark(name.c_str(), time)
      ->ArgName("D")
      ->RangeMultiplier(2)
      ->Range(2, 1024)
      ->Complexity()
      ->Unit(benchmark::kMicrosecond);
}

void register_subject(const Subject& subject) {
  const std::string name(subject.name);
  for (const Op op : {Op::forward, Op::inverse, Op::forward_pullback, Op::inverse_pullback})
    for (const Index rows : {1, 32, 256})
      register_family(
          name + "/" + std::string(op_names[static_cast<std::size_t>(op)]) + "/rows:" + std::to_string(rows),
          [&subject, op, rows](benchmark::State& state) { time_op(state, subject, op, rows); });
  if (subject.constant)
    for (const Index rows : {1, 32, 256})
      register_family(name + "/log_det/rows:" + std::to_string(rows),
                      [&subject, rows](benchmark::State& state) { time_log_det(state, subject, rows); });
  register_family(name + "/naive/rows:1", [&subject](benchmark::State& state) { time_naive(state, subject); });
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Subject> all;
  for (const auto& family :
       {elementwise_subjects, affine_subjects, low_rank_subjects, coupling_subjects, autoregressive_subjects})
    for (Subject& subject : family()) all.push_back(std::move(subject));
  for (const Subject& subject : all) register_subject(subject);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
