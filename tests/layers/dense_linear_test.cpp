// SPDX-License-Identifier: MIT

/// \file
/// DenseLinear against Eigen's own factors of the same matrix.

#include <Eigen/LU>
#include <rhei/layers/dense_linear.hpp>

#include "support/allocation_counter.hpp"
#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/evaluation.hpp"
#include "support/random_matrix.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

DenseLinear<double> random_dense(Index dim, Rng& rng) {
  DenseLinear<double> layer(dim);
  layer.parameters().matrix = random_matrix<double>(dim, dim, rng);
  rng.fill_normal(layer.parameters().bias);
  return layer;
}

}  // namespace

TEMPLATE_TEST_CASE("DenseLinear conforms", "[layer]", RHEI_TEST_SCALARS) {
  conforms([](Index dim, Rng& rng) { return DenseLinear<TestType>(dim, rng); }, {.dims = {1, 2, 3, 8, 20}});
}

TEST_CASE("DenseLinear agrees with its matrix at every size", "[dense_linear]") {
  Rng rng(1);
  for (const Index dim : {1, 2, 3, 7, 8, 9, 16, 17, 31, 40, 65, 150})
    for (const Index rows : {1, 3, 40}) {
      CAPTURE(dim, rows);
      const auto layer = random_dense(dim, rng);
      const auto& [w, bias] = layer.parameters();
      const Eigen::PartialPivLU<Matrix<double>> lu(w);
      const double log_det = lu.matrixLU().diagonal().cwiseAbs().array().log().sum();
      const Matrix<double> inverse = lu.inverse();
      const double condition = inverse.norm() * w.norm();
      CAPTURE(condition);
      const Matrix<double> x = random_matrix<double>(rows, dim, rng), d_out = random_matrix<double>(rows, dim, rng);
      const Matrix<double> z = (x * w.transpose()).rowwise() + bias;
      const Vector<double> d_log_det = random_matrix<double>(rows, 1, rng);

      DenseLinear<double>::Cache cache;
      Matrix<double> out(rows, dim), d_in(rows, dim);
      Batch<double> wanted(d_in);
      Vector<double> sum = Vector<double>::Zero(rows);
      auto gradient = layer.make_gradient();
      layer.inverse({}, x, out, sum, cache);
      CHECK(worst_error(out, z) < 1e-13);
      CHECK((sum.array() - log_det).abs().maxCoeff() < 1e-13 * condition);
      layer.inverse_pullback({}, x, out, cache, d_out, d_log_det, &wanted, nullptr, &gradient);
      CHECK(worst_error(d_in, d_out * w) < 1e-13);
      CHECK(worst_error(gradient.matrix, d_out.transpose() * x + d_log_det.sum() * inverse.transpose()) <
            1e-13 * condition);
      CHECK(worst_error(gradient.bias, d_out.colwise().sum()) < 1e-13);

      sum.setZero();
      set_zero(gradient);
      layer.forward({}, z, out, sum, cache);
      CHECK(worst_error(out, x) < 1e-14 * condition);
      CHECK((sum.array() + log_det).abs().maxCoeff() < 1e-13 * condition);
      layer.forward_pullback({}, z, out, cache, d_out, d_log_det, &wanted, nullptr, &gradient);
      const Matrix<double> d_z = d_out * inverse;
      CHECK(worst_error(d_in, d_z) < 1e-14 * condition);
      CHECK(worst_error(gradient.matrix, -d_z.transpose() * x - d_log_det.sum() * inverse.transpose()) <
            1e-13 * condition);
      CHECK(worst_error(gradient.bias, -d_z.colwise().sum()) < 1e-13 * condition);
    }
}

TEST_CASE("DenseLinear starts as a rotation", "[dense_linear]") {
  Rng rng(2), same(2);
  const DenseLinear<double> layer(30, rng);
  CHECK(layer.parameters().matrix == Rotation<double>::random(30, same).matrix());
  const Matrix<double> x = random_matrix<double>(10, 30, rng);
  CHECK(inverse_of(layer, x).log_det.cwiseAbs().maxCoeff() < 1e-13);
  CHECK(inverse_of(DenseLinear<double>(30), x).out == x);
  CHECK_THROWS_AS(DenseLinear<float>(0), std::invalid_argument);
  CHECK_THROWS_AS(DenseLinear<float>(0, rng), std::invalid_argument);
}

TEST_CASE("DenseLinear needs its pivots", "[dense_linear]") {
  DenseLinear<double> layer(3);
  layer.parameters().matrix << 0, 2, 0, 1e-20, 1, 5, -4, 0, 1;
  Matrix<double> x(1, 3);
  x << 1, 2, 3;
  const auto z = inverse_of(layer, x);
  CHECK(z.log_det[0] == Approx(std::log(40.0)));  // 2 * (-4) * 5
  CHECK(forward_of(layer, z.out).out.isApprox(x, 1e-15));
}

TEST_CASE("DenseLinear of a singular matrix gives NaN and does not throw", "[dense_linear]") {
  Rng rng(3);
  const Index dim = GENERATE(1, 2, 20), zero = GENERATE(0, 1, 19);
  if (zero >= dim) return;
  CAPTURE(dim, zero);
  auto layer = random_dense(dim, rng);
  const Matrix<double> x = random_matrix<double>(4, dim, rng);
  const auto spoil = GENERATE(0, 1, 2);
  auto& w = layer.parameters().matrix;
  if (spoil == 0) w.col(zero).setZero();
  if (spoil == 1) w.setZero();
  if (spoil == 2) w(zero, zero) = std::numeric_limits<double>::quiet_NaN();
  const auto z = inverse_of(layer, x), back = forward_of(layer, x);
  CHECK(z.log_det.array().isNaN().all());
  CHECK(back.log_det.array().isNaN().all());
  for (Index i = 0; i < 4; ++i) CHECK(back.out.row(i).hasNaN());
  if (spoil != 2) CHECK(z.out == x * w.transpose() + layer.parameters().bias.replicate(4, 1));
}

TEST_CASE("DenseLinear's determinant neither underflows nor overflows", "[dense_linear]") {
  Rng rng(4);
  for (const float scale : {1e-3f, 1e3f}) {
    DenseLinear<float> layer(200, rng);
    layer.parameters().matrix *= scale;
    const Matrix<float> x = random_matrix<double>(8, 200, rng).cast<float>();
    const auto z = inverse_of(layer, x);
    CHECK(double(z.log_det[0]) == Approx(200 * std::log(double(scale))).epsilon(1e-5));
    CHECK(forward_of(layer, z.out).out.isApprox(x, 1e-4f));
  }
}

TEMPLATE_TEST_CASE("DenseLinear allocates nothing in steady state", "[dense_linear]", RHEI_TEST_SCALARS) {
  using S = TestType;
  if (!testing::counts_allocations()) return;
  Rng rng(5);
  for (const Index rows : {1, 3, 300}) {
    CAPTURE(rows);
    const DenseLinear<S> layer(200, rng);
    Matrix<S> x(rows, 200), z(rows, 200), d_in(rows, 200);
    rng.fill_normal(x);
    Vector<S> log_det = Vector<S>::Zero(rows);
    typename DenseLinear<S>::Cache cache;
    auto gradient = layer.make_gradient();
    Batch<S> wanted(d_in);
    const auto step = [&] {
      layer.inverse({}, x, z, log_det, cache);
      layer.inverse_pullback({}, x, z, cache, z, log_det, &wanted, nullptr, &gradient);
      layer.forward({}, z, x, log_det, cache);
      layer.forward_pullback({}, z, x, cache, x, log_det, nullptr, nullptr, &gradient);
    };
    step();
    CHECK(testing::allocations_in(step) == 0);
  }
}

TEST_CASE("DenseLinear refuses a description larger than its file", "[dense_linear]") {
  Options options = DenseLinear<double>(3).options();
  CHECK(DenseLinear<double>::from_options(options).dim() == 3);
  options.limit_sizes(8);
  CHECK_THROWS_AS(DenseLinear<double>::from_options(options), std::runtime_error);
}
