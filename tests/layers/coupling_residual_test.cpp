// SPDX-License-Identifier: MIT

/// \file
/// Couplings with a residual net. (A file of their own, to keep each quick to compile.)

#include <rhei/layers/coupling.hpp>
#include <rhei/nn/residual_mlp.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

// Some gradients are small beside the loss: the longer step, which a smooth layer may take, rounds less.
TEMPLATE_TEST_CASE("couplings with residual nets conform", "[layer]", RHEI_TEST_SCALARS) {
  using S = TestType;
  conforms(
      [](Index dim, Index context, Rng& rng) {
        return AffineCoupling<S, ResidualMlp<S>>(
            dim,
            {.transformed = alternating_features(dim, 0), .net = {{8, 8}, Activation::silu}, .context_dim = context},
            rng);
      },
      {.name = "AffineCoupling, ResidualMlp", .contexts = {0, 3}, .step = 0x1p-12});
  conforms(
      [](Index dim, Index context, Rng& rng) {
        return AdditiveCoupling<S, ResidualMlp<S>>(
            dim, {.transformed = feature_range(0, dim - 1), .net = {{8}, Activation::tanh}, .context_dim = context},
            rng);
      },
      {.name = "AdditiveCoupling, ResidualMlp",
       .dims = {2, 8},
       .contexts = {0, 3},
       .batches = {1, 7},
       .step = 0x1p-12});
}

TEST_CASE("a fresh coupling with a residual net is the identity, bit for bit", "[coupling]") {
  Rng rng(1);
  const AffineCoupling<float, ResidualMlp<float>> layer(4, {.transformed = {1, 2}, .net = {{8, 8}}}, rng);
  Matrix<float> in(7, 4);
  rng.fill_normal(in);
  for (const auto& result : {forward_of(layer, in), inverse_of(layer, in)}) {
    CHECK(bool(result.out == in));
    CHECK(result.log_det.isZero(0));
  }
  CHECK(decltype(layer)::from_options(layer.options()).options() == layer.options());
}
