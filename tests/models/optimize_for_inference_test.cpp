// SPDX-License-Identifier: MIT

/// \file
/// optimize_for_inference: the same densities and draws from fewer layers.

#include <rhei/distributions/standard_normal.hpp>
#include <rhei/io/flow_file.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/batch_norm.hpp>
#include <rhei/layers/coupling.hpp>
#include <rhei/layers/dense_linear.hpp>
#include <rhei/layers/householder.hpp>
#include <rhei/layers/lu_linear.hpp>
#include <rhei/layers/rescaling.hpp>
#include <rhei/layers/rotation.hpp>
#include <rhei/models/optimize_for_inference.hpp>

#include "support/allocation_counter.hpp"
#include "support/catch.hpp"

using namespace rhei;

namespace {

template <class S>
using Layers = std::vector<AnyLayer<S>>;

template <class S>
AnyLayer<S> chain(Layers<S> layers) {
  return Repeat<AnyLayer<S>>(std::move(layers));
}

template <class S>
AnyLayer<S> coupling(Index dim, Index context_dim, Rng& rng) {
  return AffineCoupling<S>(dim,
                           {.transformed = feature_range(dim / 2, dim - dim / 2),
                            .net = {{8}, Activation::tanh},
                            .context_dim = context_dim},
                           rng);
}

/// Every affine layer, between couplings, in chains within chains, inverted.
template <class S>
AnyFlow<S> make_flow(Index dim, Index context_dim, Rng& rng) {
  BatchNorm<S> batch_norm(dim);
  Matrix<S> rows(50, dim);
  rng.fill_normal(rows);
  rows.array() = rows.array() * S(3) + S(1);
  batch_norm.set_statistics(rows);
  Layers<S> linear = {LuLinear<S>(dim, rng), Permutation<S>::random(dim, rng), ActNorm<S>(dim)};
  Layers<S> mixed = {Householder<S>(dim, rng), coupling<S>(dim, context_dim, rng), batch_norm, Rescaling<S>(dim)};
  AnyFlow<S> flow(StandardNormal<S>(dim),
                  chain<S>({coupling<S>(dim, context_dim, rng), chain(linear), Inverted<AnyLayer<S>>(chain(mixed)),
                            DenseLinear<S>(dim, rng), Inverted<AnyLayer<S>>(Rotation<S>::random(dim, rng)),
                            ElementwiseAffine<S>(dim), coupling<S>(dim, context_dim, rng), LuLinear<S>(dim, rng)}));
  for_each_parameter(flow, [&](std::string_view, Batch<S> values) {
    Matrix<S> noise(values.rows(), values.cols());
    rng.fill_normal(noise);
    values += S(0.2) / std::sqrt(static_cast<S>(values.rows())) * noise;
  });
  return flow;
}

/// The types of the layers of an optimized flow.
template <class S>
std::vector<std::string> types(const AnyFlow<S>& flow) {
  std::vector<std::string> list;
  const Options options = flow.transform().options();
  for (const Options& layer : options.get<Options::List>("layers")) list.push_back(layer.type());
  return list;
}

template <class A, class B>
double worst(const A& a, const B& b) {
  return ((a - b).array().abs() / (1 + b.array().abs())).maxCoeff();
}

template <class S>
void check_same(const AnyFlow<S>& flow, const AnyFlow<S>& folded, Index n, double tolerance) {
  Rng rng(5);
  Matrix<S> rows(n, flow.dim()), context(n, flow.context_dim());
  rng.fill_normal(rows);
  rng.fill_normal(context);
  const auto forward = flow.forward(rows, context), folded_forward = folded.forward(rows, context);
  CHECK(worst(folded_forward.x, forward.x) < tolerance);
  CHECK(worst(folded_forward.log_det, forward.log_det) < tolerance);
  const auto inverse = flow.inverse(rows, context), folded_inverse = folded.inverse(rows, context);
  CHECK(worst(folded_inverse.z, inverse.z) < tolerance);
  CHECK(worst(folded_inverse.log_det, inverse.log_det) < tolerance);
  CHECK(worst(folded.log_prob(rows, context), flow.log_prob(rows, context)) < tolerance);
  Rng first(1), second(1);
  CHECK(worst(folded.sample(n, first, context), flow.sample(n, second, context)) < tolerance);
}

}  // namespace

TEST_CASE("runs of affine layers become one, and nothing else changes", "[inference]") {
  Rng rng(1);
  for (const Index dim : {2, 3, 8})
    for (const Index context_dim : {0, 2}) {
      CAPTURE(dim, context_dim);
      const auto flow = make_flow<double>(dim, context_dim, rng);
      const auto folded = optimize_for_inference(flow);
      CHECK(types(folded) ==
            std::vector<std::string>{"coupling", "affine_map", "inverted", "affine_map", "coupling", "affine_map"});
      CHECK(folded.context_dim() == context_dim);
      for (const Index n : {1, 5, 300}) check_same(flow, folded, n, 1e-11);
      CHECK(types(optimize_for_inference(folded)) == types(folded));
    }
  const auto single = make_flow<float>(8, 0, rng);
  check_same(single, optimize_for_inference(single), 300, 2e-4);
}

TEST_CASE("a flow of known types is folded, too, and a layer alone", "[inference]") {
  Rng rng(2);
  LuLinear<double> linear(3, rng);
  linear.parameters().lu(1, 0) = 0.5;
  const Flow flow{StandardNormal<double>(3), Chain{linear, Permutation<double>::reverse(3)},
                  Repeat(2, [&](int) { return ActNorm<double>(3); })};
  const auto folded = optimize_for_inference(flow);
  CHECK(types(folded) == std::vector<std::string>{"affine_map"});
  check_same(erase(flow), folded, 7, 1e-14);
  const AnyFlow<double> alone(StandardNormal<double>(3), linear);
  CHECK(types(optimize_for_inference(alone)) == std::vector<std::string>{"affine_map"});
}

TEST_CASE("what would lose digits or time is not folded", "[inference]") {
  const auto folded = [](Layers<double> layers) {
    const Index dim = layers.front().dim();
    const AnyFlow<double> flow(StandardNormal<double>(dim), chain(std::move(layers)));
    const auto result = optimize_for_inference(flow);
    check_same(flow, result, 3, 1e-9);
    return types(result);
  };
  Rng rng(3);
  LuLinear<double> shear(3);
  shear.parameters().lu(0, 1) = 1e4;
  CHECK(folded({shear}) == std::vector<std::string>{"lu_linear"});
  const LuLinear<double> sound(3, rng);
  CHECK(folded({sound, ActNorm<double>(3), shear, sound}) ==  // halves are tried, then their halves
        std::vector<std::string>{"affine_map", "lu_linear", "affine_map"});
  CHECK(folded({Permutation<double>::random(30, rng), ActNorm<double>(30)}) ==
        std::vector<std::string>{"permutation", "actnorm"});
  CHECK(folded({Householder<double>(30, 4, rng)}) == std::vector<std::string>{"householder"});
}

TEST_CASE("a folded flow is saved and filled bit for bit, and allocates nothing", "[inference][allocation]") {
  Rng rng(4), other(9);
  const auto folded = optimize_for_inference(make_flow<float>(6, 0, rng));
  auto loaded = optimize_for_inference(make_flow<float>(6, 0, other));
  load_into(loaded, to_safetensors(folded));
  Matrix<float> x(1, 6), drawn(1, 6);
  const Matrix<float> no_context;
  rng.fill_normal(x);
  Vector<float> log_p(1);
  CHECK(loaded.log_prob(x) == folded.log_prob(x));

  if (!testing::counts_allocations()) return;
  AnyFlow<float>::Cache cache;
  const auto serve = [&] {
    folded.log_prob(x, no_context, log_p, cache);
    folded.sample(rng, no_context, drawn, cache);
  };
  serve();
  CHECK(testing::allocations_in(serve) == 0);
}
