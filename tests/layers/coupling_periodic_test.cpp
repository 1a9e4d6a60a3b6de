// SPDX-License-Identifier: MIT

/// \file
/// Couplings whose conditioner is periodic in some of the features that it reads.

#include <numbers>
#include <rhei/layers/coupling.hpp>
#include <rhei/nn/periodic.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// Moves the last feature; the one before it is an angle.
template <Real S>
auto make(Index dim, Index context, Rng& rng) {
  using Net = Periodic<Mlp<S>>;
  const NetOptions net{{8, 8}, Activation::tanh};
  Coupling<Affine<S>, Net> layer(dim, {.transformed = {dim - 1}, .net = net, .context_dim = context}, rng);
  layer.net() = Net({dim - 2}, dim - 1, context, layer.net().outputs(), net, rng);
  return layer;
}

}  // namespace

TEMPLATE_TEST_CASE("couplings with a periodic net conform", "[layer]", RHEI_TEST_SCALARS) {
  conforms([](Index dim, Index context, Rng& rng) { return make<TestType>(dim, context, rng); },
           {.name = "AffineCoupling, periodic",
            .dims = {2, 3},
            .contexts = {0, 2},
            .batches = {0, 1, 7, 33},
            .step = 0x1p-12});
}

TEST_CASE("a coupling with a periodic net does not see a turn", "[coupling]") {
  Rng rng(1);
  auto layer = make<double>(3, 0, rng);
  for_each_parameter(layer, [&](std::string_view, Batch<double> values) { rng.fill_normal(values); });
  Matrix<double> z(9, 3);
  rng.fill_normal(z);
  const auto here = forward_of(layer, z);
  z.col(1).array() += 2 * std::numbers::pi;
  const auto there = forward_of(layer, z);
  CHECK(relative_error(there.out.col(2), here.out.col(2)) < 1e-13);
  CHECK(relative_error(there.log_det, here.log_det) < 1e-13);
  z.col(0).array() += 2 * std::numbers::pi;  // no angle
  CHECK(relative_error(forward_of(layer, z).out.col(2), here.out.col(2)) > 0.1);
}
