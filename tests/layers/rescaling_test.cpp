// SPDX-License-Identifier: MIT

/// \file
/// Rescaling: values computed by hand; NICE counts the factor from data to latent.

#include <rhei/layers/rescaling.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

TEMPLATE_TEST_CASE("Rescaling conforms", "[layer]", RHEI_TEST_SCALARS) {
  conforms([](Index dim) { return Rescaling<TestType>(dim); });
}

TEMPLATE_TEST_CASE("Rescaling multiplies the data", "[rescaling]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const Index rows = GENERATE(1, 2);  // one row has a path of its own
  Rescaling<S> layer(3);
  Matrix<S> x(2, 3);
  x << 1, 2, 3, -4, 5, -6;
  x.conservativeResize(rows, 3);
  CHECK(inverse_of(layer, x).out == x);

  layer.parameters().log_scale << std::log(S(2)), 0, std::log(S(8));
  Matrix<S> z(2, 3);
  z << 2, 2, 24, -8, 5, -48;
  z.conservativeResize(rows, 3);
  const auto inverse = inverse_of(layer, x), forward = forward_of(layer, z);
  CHECK(inverse.out.isApprox(z, 4 * std::numeric_limits<S>::epsilon()));
  CHECK(forward.out.isApprox(x, 4 * std::numeric_limits<S>::epsilon()));
  CHECK(double(inverse.log_det[rows - 1]) == Approx(4 * std::log(2.0)).epsilon(1e-6));
  CHECK(double(forward.log_det[rows - 1]) == Approx(-4 * std::log(2.0)).epsilon(1e-6));
}

TEST_CASE("Rescaling refuses to have no features", "[rescaling]") {
  CHECK(error_text<std::invalid_argument>([] { Rescaling<float>(0); }) == "Rescaling: dim is 0, expected at least 1");
}
