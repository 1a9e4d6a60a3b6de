// SPDX-License-Identifier: MIT

/// \file
/// CircularShift: rotation by hand-computed angles, and what happens at the seam.

#include <rhei/layers/circular_shift.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

TEMPLATE_TEST_CASE("CircularShift conforms", "[layer]", RHEI_TEST_SCALARS) {
  // within (-2, 2): shifts of deviation 0.3 do not reach the seam, where the output jumps
  conforms([](Index dim) { return CircularShift<TestType>(dim); },
           {.domain = [](Direction, double v) { return 2 * v / (1 + std::abs(v)); }});
}

TEMPLATE_TEST_CASE("CircularShift turns across the seam and back", "[circular_shift]", RHEI_TEST_SCALARS) {
  using S = TestType;
  constexpr S pi = std::numbers::pi_v<S>, eps = std::numeric_limits<S>::epsilon();
  const Index rows = GENERATE(1, 3);
  CircularShift<S> layer(2);
  Matrix<S> z(3, 2);
  z << 3, -1, -3, S(-3.1), 0, -pi;
  z.conservativeResize(rows, 2);
  CHECK(bool(forward_of(layer, z).out == z));
  layer.parameters().shift << 1, S(-0.5);
  Matrix<S> x(3, 2);
  x << 4 - 2 * pi, S(-1.5), -2, S(-3.6) + 2 * pi, 1, pi - S(0.5);
  x.conservativeResize(rows, 2);
  const auto forward = forward_of(layer, z);
  CHECK((forward.out - x).cwiseAbs().maxCoeff() < 8 * eps);
  CHECK((inverse_of(layer, forward.out).out - z).cwiseAbs().maxCoeff() < 8 * eps);
  CHECK(forward.log_det.isZero(0));
  CHECK(inverse_of(layer, x).log_det.isZero(0));
}

TEMPLATE_TEST_CASE("CircularShift stays between -pi and pi whatever the shift", "[circular_shift]", RHEI_TEST_SCALARS) {
  using S = TestType;
  constexpr S pi = std::numbers::pi_v<S>;
  Matrix<S> z(2001, 1);
  for (Index i = 0; i < 2001; ++i) z(i, 0) = std::min(pi, pi * static_cast<S>(i - 1000) / 1000);
  for (const S by : {S(0), S(1e-9), S(-1e-9), pi, -pi, 2 * pi, S(100), S(-1e4)}) {
    CAPTURE(by);
    CircularShift<S> layer(1);
    layer.parameters().shift << by;
    for (const Matrix<S>& out : {forward_of(layer, z).out, inverse_of(layer, z).out})
      CHECK(bool((out.array() >= -pi && out.array() < pi).all()));
    const Matrix<S> moved = forward_of(layer, z).out;  // the same points as their cos and sin have it
    CHECK(((z.array() + by).cos() - moved.array().cos()).abs().maxCoeff() < 4e3 * std::numeric_limits<S>::epsilon());
    CHECK(((z.array() + by).sin() - moved.array().sin()).abs().maxCoeff() < 4e3 * std::numeric_limits<S>::epsilon());
  }
  Matrix<S> bad(1, 1);
  bad << std::numeric_limits<S>::infinity();
  CHECK(std::isnan(forward_of(CircularShift<S>(1), bad).out(0, 0)));
}

TEST_CASE("CircularShift refuses to have no features", "[circular_shift]") {
  CHECK(error_text<std::invalid_argument>([] { CircularShift<float>(0); }) ==
        "CircularShift: dim is 0, expected at least 1");
}
