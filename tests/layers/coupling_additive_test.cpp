// SPDX-License-Identifier: MIT

/// \file
/// Additive couplings. (A file of their own, to keep each quick to compile.)

#include <rhei/layers/coupling.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

TEMPLATE_TEST_CASE("additive couplings conform", "[layer]", RHEI_TEST_SCALARS) {
  // the odd features; where there is one feature, nothing is kept. All is smooth: the longer step rounds less
  conforms(
      [](Index dim, Index context, Rng& rng) {
        return AdditiveCoupling<TestType>(
            dim,
            {.transformed = alternating_features(dim, 0), .net = {{8, 8}, Activation::silu}, .context_dim = context},
            rng);
      },
      {.name = "AdditiveCoupling", .contexts = {0, 3}, .step = 0x1p-12});
}

TEST_CASE("an additive coupling starts as the identity and preserves volume", "[coupling]") {
  Rng rng(1);
  AdditiveCoupling<float> layer(4, {.transformed = {0, 1}, .net = {{8}}}, rng);
  Matrix<float> in(7, 4);
  rng.fill_normal(in);
  for (const auto& result : {forward_of(layer, in), inverse_of(layer, in)}) {
    CHECK(bool(result.out == in));
    CHECK(result.log_det.isZero(0));
  }

  for_each_parameter(layer, [&](std::string_view, Batch<float> values) { rng.fill_normal(values); });
  const auto forward = forward_of(layer, in), inverse = inverse_of(layer, in);
  CHECK(forward.log_det.isZero(0));
  CHECK(inverse.log_det.isZero(0));
  CHECK(bool(forward.out.rightCols(2) == in.rightCols(2)));
  for (Index d = 0; d < 2; ++d) {
    CHECK(bool(forward.out.col(d) != in.col(d)));
    CHECK(relative_error(forward.out.col(d) + inverse.out.col(d), 2 * in.col(d)) < 1e-6);  // x + t and x - t
  }
}
