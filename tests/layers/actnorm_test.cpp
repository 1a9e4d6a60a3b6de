// SPDX-License-Identifier: MIT

/// \file
/// ActNorm: what data-dependent initialisation promises. The arithmetic is tested with ElementwiseAffine.

#include <rhei/layers/actnorm.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

TEMPLATE_TEST_CASE("ActNorm conforms", "[layer]", RHEI_TEST_SCALARS) {
  conforms([](Index dim) { return ActNorm<TestType>(dim); });
}

TEMPLATE_TEST_CASE("ActNorm standardises the batch that initialises it", "[actnorm]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(5);
  Matrix<S> x(1000, 3);
  rng.fill_normal(x);
  x.col(0) = x.col(0) * S(20) + Vector<S>::Constant(1000, S(-700));
  x.col(2) *= S(1e-6);
  ActNorm<S> layer(3);
  layer.initialize({}, x);
  const auto z = inverse_of(layer, x);
  for (Index d = 0; d < 3; ++d) {
    CHECK(double(z.out.col(d).mean()) == Approx(0).margin(1e-4));
    CHECK(double(z.out.col(d).squaredNorm() / 1000) == Approx(1).epsilon(1e-4));
  }
}

// Two values half a power of two from their mean: mean and standard deviation are exact. A product of 200 standard
// deviations would underflow where their logarithms do not.
TEMPLATE_TEST_CASE("ActNorm of 200 narrow columns has the exact log-determinant", "[actnorm]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Matrix<S> x(4, 200);
  for (Index d = 0; d < 200; ++d) {
    const S mean = static_cast<S>(d) / 8, deviation = S(0x1p-10);
    x.col(d) << mean + deviation, mean - deviation, mean - deviation, mean + deviation;
  }
  ActNorm<S> layer(200);
  layer.initialize({}, x);
  const auto z = inverse_of(layer, x);
  CHECK((z.out.array().abs() - S(1)).abs().maxCoeff() < 4 * std::numeric_limits<S>::epsilon());
  for (Index i = 0; i < 4; ++i)
    CHECK(double(z.log_det[i]) ==
          Approx(2000 * std::log(2.0)).epsilon(100 * double(std::numeric_limits<S>::epsilon())));
}

TEMPLATE_TEST_CASE("ActNorm keeps the scale of a constant column", "[actnorm]", RHEI_TEST_SCALARS) {
  using S = TestType;
  ActNorm<S> layer(3);
  SECTION("seven rows, whose mean would not be exact") {
    Matrix<S> x(7, 3);
    x.col(0).setConstant(S(0.1));
    x.col(1).setConstant(S(-1e6) / 3);
    x.col(2).setZero();
    layer.initialize({}, x);
    const auto z = inverse_of(layer, x);
    CHECK(z.out == Matrix<S>::Zero(7, 3));
    CHECK(z.log_det == Vector<S>::Zero(7));
  }
  SECTION("one row") {
    Matrix<S> x(1, 3);
    x << S(0.1), S(4), S(-7);
    layer.initialize({}, x);
    CHECK(layer.parameters().shift == x.row(0));
    CHECK(inverse_of(layer, x).out == Matrix<S>::Zero(1, 3));
  }
  CHECK(layer.initialized());
  CHECK(layer.parameters().log_scale == RowVector<S>::Zero(3));
}

TEST_CASE("ActNorm initialises once and never by being evaluated", "[actnorm]") {
  Rng rng(1);
  Matrix<double> first(50, 2), second(50, 2);
  rng.fill_normal(first);
  second = (first.array() * 3 + 5).matrix();
  ActNorm<double> layer(2);

  const auto untouched = inverse_of(layer, first);
  CHECK(forward_of(layer, first).out == first);
  CHECK(untouched.out == first);
  CHECK_FALSE(layer.initialized());

  layer.initialize({}, first);
  CHECK(layer.initialized());
  const auto once = layer.parameters();
  layer.initialize({}, second);
  CHECK(layer.parameters().shift == once.shift);
  CHECK(layer.parameters().log_scale == once.log_scale);

  SECTION("a cast or a copied state does not forget it") {
    CHECK(layer.cast<float>().initialized());
    ActNorm<double> loaded = ActNorm<double>::from_options(layer.options());
    CHECK_FALSE(loaded.initialized());
    copy_values(layer, loaded);
    loaded.initialize({}, second);
    CHECK(loaded.parameters().shift == once.shift);
  }
}

TEST_CASE("ActNorm refuses what it cannot be initialised from", "[actnorm]") {
  ActNorm<float> layer(2);
  const auto text = [&](const Matrix<float>& x) {
    return error_text<std::invalid_argument>([&] { layer.initialize({}, x); });
  };
  CHECK(text(Matrix<float>(0, 2)) == "ActNorm::initialize: the number of rows is 0, expected at least 1");
  CHECK(text(Matrix<float>::Zero(4, 3)) == "ActNorm::initialize: x is 4 x 3 (rows x columns), expected any x 2");
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const Index row : {0, 2}) {
      Matrix<float> x = Matrix<float>::Zero(4, 2);
      x(row, 1) = bad;
      CHECK(text(x).find("column 1 of x") != std::string::npos);
    }
  CHECK_FALSE(layer.initialized());
  CHECK_THROWS_AS(ActNorm<float>(0), std::invalid_argument);
}
