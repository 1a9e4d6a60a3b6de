// SPDX-License-Identifier: MIT

/// \file
/// Rotation: by its matrix, where random ones come from, and which matrices it refuses.

#include <Eigen/Eigenvalues>
#include <rhei/layers/rotation.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

TEMPLATE_TEST_CASE("Rotation conforms", "[layer]", RHEI_TEST_SCALARS) {
  conforms([](Index dim, Rng& rng) { return Rotation<TestType>::random(dim, rng); }, {.dims = {1, 2, 3, 8, 20}});
}

TEST_CASE("Rotation multiplies by its matrix", "[rotation]") {
  const double c = std::cos(0.3), s = std::sin(0.3);
  Matrix<double> q(2, 2), x(3, 2);
  q << c, -s, s, c;
  x << 1, 0, 0, 1, 2, 3;
  const auto layer = Rotation<double>::from_matrix(q);
  CHECK(layer.matrix() == q);
  const auto z = inverse_of(layer, x);
  for (Index i = 0; i < 3; ++i) CHECK(z.out.row(i).transpose().isApprox(q * x.row(i).transpose(), 1e-15));
  CHECK(z.log_det == Vector<double>::Zero(3));
  CHECK(forward_of(layer, z.out).out.isApprox(x, 1e-15));
}

TEST_CASE("Rotation takes the axes of a principal component analysis", "[rotation]") {
  Rng rng(1);
  Matrix<float> x(500, 6), mixing(6, 6);
  rng.fill_normal(x);
  rng.fill_normal(mixing);
  x = (x * mixing).eval();
  const Eigen::SelfAdjointEigenSolver<Matrix<float>> axes(x.transpose() * x);
  const auto layer = Rotation<float>::from_matrix(Matrix<float>(axes.eigenvectors().transpose()));
  const Matrix<float> z = inverse_of(layer, x).out;
  const Matrix<float> products = z.transpose() * z;
  for (Index i = 0; i < 6; ++i) {
    CHECK(double(products(i, i)) == Approx(double(axes.eigenvalues()[i])).epsilon(1e-3));
    for (Index j = 0; j < i; ++j) CHECK(std::abs(products(i, j)) < 1e-5f * axes.eigenvalues()[5]);
  }
}

// Moments of the Haar measure on O(D): entries have mean 0, variance 1 / D and fourth moment 3 / (D (D + 2)); traces of
// powers have mean 0 and (D > 2) E tr^2 = 1, E tr Q^2 = 1. A QR decomposition without the signs fails the first.
TEST_CASE("Rotation's random matrices are uniform", "[rotation]") {
  Rng rng(2);
  const Index dim = GENERATE(1, 2, 3, 5);
  CAPTURE(dim);
  const int count = 20'000;
  Matrix<double> mean = Matrix<double>::Zero(dim, dim), second = mean, fourth = mean;
  double trace = 0, squared_trace = 0, trace_of_square = 0, determinants = 0;
  for (int i = 0; i < count; ++i) {
    const Matrix<double> q = Rotation<double>::random(dim, rng).matrix();
    mean += q / count;
    second.array() += q.array().square() / count;
    fourth.array() += q.array().square().square() / count;
    trace += q.trace() / count;
    squared_trace += q.trace() * q.trace() / count;
    trace_of_square += (q * q).trace() / count;
    if (dim == 2) determinants += (q(0, 0) * q(1, 1) - q(0, 1) * q(1, 0)) / count;
  }
  const double d = static_cast<double>(dim), deviation = 5 / std::sqrt(double(count));  // five of them
  CHECK(mean.cwiseAbs().maxCoeff() < deviation / std::sqrt(d));
  CHECK((second.array() - 1 / d).abs().maxCoeff() < deviation);
  CHECK((fourth.array() - 3 / (d * (d + 2))).abs().maxCoeff() < deviation);
  CHECK(std::abs(trace) < deviation);
  CHECK(std::abs(squared_trace - 1) < 2 * deviation);
  CHECK(std::abs(trace_of_square - 1) < 2 * deviation);
  CHECK(std::abs(determinants) < deviation);
}

TEST_CASE("Rotation stays orthogonal at every size", "[rotation]") {
  Rng rng(3), same(3);
  for (const Index dim : {1, 2, 10, 300}) {
    CAPTURE(dim);
    const auto layer = Rotation<double>::random(dim, rng);
    CHECK(rhei::detail::orthogonality_defect(layer.matrix()) < 1e-14);
    CHECK(Rotation<double>::random(dim, same).matrix() == layer.matrix());
    CHECK(Rotation<double>::from_matrix(layer.matrix()).matrix() == layer.matrix());
    const auto in_float = layer.cast<float>();
    CHECK_NOTHROW(Rotation<float>::from_matrix(in_float.matrix()));
    CHECK_NOTHROW(in_float.cast<double>().check_state());
  }
}

TEST_CASE("Rotation refuses what is not orthogonal", "[rotation]") {
  const auto text = [](const Matrix<double>& matrix) {
    return error_text<std::invalid_argument>([&] { (void)Rotation<double>::from_matrix(matrix); });
  };
  Matrix<double> q(2, 2);
  q << 1, 0, 0, 1 + 1e-6;
  CHECK(text(q).find("Rotation::from_matrix: the largest entry of |Q Q^T - 1| is 0.000002") == 0);
  q << 1, 1, 0, 1;
  CHECK_FALSE(text(q).empty());
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    q << 1, 0, 0, bad;
    CHECK_FALSE(text(q).empty());
    q << bad, 0, 0, 1;
    CHECK_FALSE(text(q).empty());
  }
  q << 0, -1, 1, 0;
  CHECK(text(q).empty());
  CHECK(text(Matrix<double>(2, 3)) == "Rotation::from_matrix: matrix is 2 x 3 (rows x columns), expected 2 x 2");
  CHECK(text(Matrix<double>(0, 0)) == "Rotation::from_matrix: the number of rows of matrix is 0, expected at least 1");
  Rng rng(4);
  CHECK_THROWS_AS(Rotation<float>::random(0, rng), std::invalid_argument);

  SECTION("nor from a file") {
    auto layer = Rotation<double>::random(3, rng);
    CHECK_NOTHROW(check_state(layer));
    for_each_state(layer, [](std::string_view, auto state) {
      if constexpr (requires { state.rows(); }) state(1, 1) += 1e-3;
    });
    CHECK(error_text<std::runtime_error>([&] { check_state(layer); }).find("Rotation: the largest entry") == 0);
    Options options = layer.options();
    options.limit_sizes(8);
    CHECK_THROWS_AS(Rotation<double>::from_options(options), std::runtime_error);
  }
}
