// SPDX-License-Identifier: MIT

/// \file
/// ElementwiseAffine: values computed by hand.

#include <rhei/layers/elementwise_affine.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

TEMPLATE_TEST_CASE("ElementwiseAffine conforms", "[layer]", RHEI_TEST_SCALARS) {
  conforms([](Index dim) { return ElementwiseAffine<TestType>(dim); });
}

TEMPLATE_TEST_CASE("ElementwiseAffine scales and shifts each feature", "[elementwise_affine]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const Index rows = GENERATE(1, 2);  // one row has a path of its own
  ElementwiseAffine<S> layer(2);
  Matrix<S> z(2, 2);
  z << 1, 2, -3, 4;
  z.conservativeResize(rows, 2);
  CHECK(forward_of(layer, z).out == z);

  layer.parameters().log_scale << std::log(S(2)), std::log(S(0.25));
  layer.parameters().shift << 10, -1;
  Matrix<S> x(2, 2);
  x << 12, -0.5, 4, 0;
  x.conservativeResize(rows, 2);
  const auto forward = forward_of(layer, z), inverse = inverse_of(layer, x);
  CHECK(forward.out.isApprox(x, 4 * std::numeric_limits<S>::epsilon()));
  CHECK(inverse.out.isApprox(z, 4 * std::numeric_limits<S>::epsilon()));
  CHECK(double(forward.log_det[rows - 1]) == Approx(-std::log(2.0)).epsilon(1e-6));
  CHECK(double(inverse.log_det[rows - 1]) == Approx(std::log(2.0)).epsilon(1e-6));
}

TEST_CASE("ElementwiseAffine names itself in errors", "[elementwise_affine]") {
  const ElementwiseAffine<double> layer(3);
  CHECK(error_text<std::invalid_argument>([&] { forward_of(layer, Matrix<double>::Zero(4, 2).eval()); }) ==
        "ElementwiseAffine::forward: the input is 4 x 2 (rows x columns), expected any x 3");
  CHECK_THROWS_AS(ElementwiseAffine<double>(0), std::invalid_argument);
}
