// SPDX-License-Identifier: MIT

/// \file
/// AffineMap: the map of other layers in two matrices.

#include <limits>
#include <rhei/layers/affine_map.hpp>
#include <rhei/layers/elementwise_affine.hpp>
#include <rhei/layers/lu_linear.hpp>
#include <rhei/layers/radial.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

template <class S>
LuLinear<S> linear(Index dim, Rng& rng) {
  LuLinear<S> layer(dim, rng);
  for_each_parameter(layer, [&](std::string_view, Batch<S> values) {
    rng.fill_normal(values);
    values *= S(0.3);
  });
  return layer;
}

template <class S>
void set(AffineMap<S>& map, std::string_view wanted, S value) {
  for_each_state(map, [&](std::string_view name, auto values) {
    if constexpr (requires { values.rows(); })
      if (name == wanted) values(0, 0) = value;
  });
}

}  // namespace

TEMPLATE_TEST_CASE("AffineMap conforms", "[layer]", RHEI_TEST_SCALARS) {
  conforms([](Index dim, Rng& rng) { return AffineMap<TestType>::from_layer(linear<TestType>(dim, rng)); });
}

TEMPLATE_TEST_CASE("AffineMap is the layer it was made from", "[affine_map]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const S tolerance = 300 * std::numeric_limits<S>::epsilon();
  Rng rng(3);
  for (const Index dim : {1, 2, 5, 40})
    for (const Index n : {1, 5, 30}) {
      CAPTURE(dim, n);
      const auto layer = linear<S>(dim, rng);
      const auto map = AffineMap<S>::from_layer(layer);
      CHECK(map.amplification() >= 0.99);
      Matrix<S> rows(n, dim);
      rng.fill_normal(rows);
      const S unit = tolerance * static_cast<S>(map.amplification());
      const auto compare = [&](const Evaluation<S>& a, const Evaluation<S>& b) {
        CHECK((a.out - b.out).cwiseAbs().maxCoeff() < unit * b.out.cwiseAbs().maxCoeff());
        CHECK((a.log_det - b.log_det).cwiseAbs().maxCoeff() < tolerance * (1 + std::abs(b.log_det[0])));
      };
      compare(forward_of(map, rows), forward_of(layer, rows));
      compare(inverse_of(map, rows), inverse_of(layer, rows));
    }
}

TEST_CASE("data far from zero lose nothing", "[affine_map]") {  // for x - shift is what is multiplied
  ElementwiseAffine<float> layer(3);
  layer.parameters().shift.setConstant(1e6f);
  layer.parameters().log_scale.setConstant(2);
  const auto map = AffineMap<float>::from_layer(layer);
  const Matrix<float> x = Matrix<float>::Constant(1, 3, 1e6f + 3);
  CHECK((inverse_of(map, x).out - inverse_of(layer, x).out).cwiseAbs().maxCoeff() < 1e-6f);
}

TEST_CASE("amplification does not see the units of the features, but a matrix that is nearly singular",
          "[affine_map]") {
  ElementwiseAffine<double> scales(2);
  scales.parameters().log_scale << -20, 20;
  CHECK(AffineMap<double>::from_layer(scales).amplification() < 1.01);
  LuLinear<double> shear(2);
  shear.parameters().lu << 0, 1000, 0, 0;
  CHECK(AffineMap<double>::from_layer(shear).amplification() > 1000);
  shear.parameters().log_diagonal[0] = std::numeric_limits<double>::quiet_NaN();
  CHECK(std::isnan(AffineMap<double>::from_layer(shear).amplification()));
}

TEST_CASE("AffineMap refuses what is not affine and numbers that contradict each other", "[affine_map]") {
  Rng rng(1);
  const Radial<double> radial(2, rng);
  CHECK(error_text<std::invalid_argument>([&] { AffineMap<double>::from_layer(radial); }).find("not affine") !=
        std::string::npos);
  const auto sound = AffineMap<double>::from_layer(linear<double>(3, rng));
  sound.check_state();
  for (const auto& [name, said] : {std::pair("matrix", "the largest entry of |matrix inverse_matrix - 1|"),
                                   {"inverse_matrix", "the largest entry of |matrix inverse_matrix - 1|"},
                                   {"shift", "not finite"},
                                   {"log_det", "not finite"}}) {
    auto broken = sound;
    set(broken, name, std::numeric_limits<double>::infinity());
    CAPTURE(name);
    CHECK(error_text<std::runtime_error>([&] { broken.check_state(); }).find(said) != std::string::npos);
  }
}
