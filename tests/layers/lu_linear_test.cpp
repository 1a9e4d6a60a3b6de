// SPDX-License-Identifier: MIT

/// \file
/// LuLinear against dense matrices: W put together from its factors and handed to Eigen.

#include <Eigen/LU>
#include <rhei/layers/lu_linear.hpp>

#include "support/allocation_counter.hpp"
#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"
#include "support/random_matrix.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// A layer away from its start: factors with entries of size 1 / sqrt(D), a diagonal of both signs.
LuLinear<double> random_lu(Index dim, Rng& rng) {
  LuLinear<double> layer(dim, rng);
  auto& [lu, log_diagonal, bias] = layer.parameters();
  rng.fill_normal(lu);  // its diagonal, too, which must not matter
  lu /= std::sqrt(static_cast<double>(dim));
  rng.fill_normal(log_diagonal);
  log_diagonal *= 0.3;
  rng.fill_normal(bias);
  for_each_state(layer, [&](std::string_view name, std::span<std::int64_t> state) {
    if (name == "signs")
      for (auto& sign : state) sign = rng.below(2) == 0 ? 1 : -1;
  });
  check_state(layer);
  return layer;
}

/// W = P L U as the file comment of lu_linear.hpp defines it.
Matrix<double> dense(const LuLinear<double>& layer) {
  const Index dim = layer.dim();
  Matrix<double> l = Matrix<double>::Identity(dim, dim), u = Matrix<double>::Zero(dim, dim), p = u;
  for (Index i = 0; i < dim; ++i) {
    const auto at = static_cast<std::size_t>(i);
    for (Index j = 0; j < i; ++j) l(i, j) = layer.parameters().lu(i, j);
    for (Index j = i + 1; j < dim; ++j) u(i, j) = layer.parameters().lu(i, j);
    u(i, i) = static_cast<double>(layer.signs()[at]) * std::exp(layer.parameters().log_diagonal[i]);
    p(i, layer.permutation()[at]) = 1;
  }
  return p * l * u;
}

double log_abs_det(const Matrix<double>& matrix) {
  return Eigen::PartialPivLU<Matrix<double>>(matrix).matrixLU().diagonal().cwiseAbs().array().log().sum();
}

Matrix<double> inverse_matrix(const Matrix<double>& matrix) {
  return Eigen::PartialPivLU<Matrix<double>>(matrix).inverse();
}

}  // namespace

TEMPLATE_TEST_CASE("LuLinear conforms", "[layer]", RHEI_TEST_SCALARS) {
  conforms([](Index dim, Rng& rng) { return LuLinear<TestType>(dim, rng); }, {.dims = {1, 2, 3, 8, 20}});
}

TEST_CASE("LuLinear agrees with its dense matrix at every size", "[lu_linear]") {
  Rng rng(11);
  for (Index dim = 1; dim <= 70; ++dim) {
    const auto layer = random_lu(dim, rng);
    const Matrix<double> w = dense(layer);
    const double log_det = log_abs_det(w);
    for (const Index rows : {1, 3, 9}) {  // a path each: one row, a few rows, columns
      CAPTURE(dim, rows);
      const Matrix<double> x = random_matrix<double>(rows, dim, rng);
      const Matrix<double> z = (x * w.transpose()).rowwise() + layer.parameters().bias;
      const auto inverse = inverse_of(layer, x), forward = forward_of(layer, z);
      CHECK(worst_error(inverse.out, z) < 1e-14);
      CHECK(worst_error(forward.out, x) < 1e-9);  // the condition number reaches 1e5
      CHECK(worst_error(forward.out * w.transpose(), z.rowwise() - layer.parameters().bias) < 1e-12);
      CHECK((inverse.log_det.array() - log_det).abs().maxCoeff() < 1e-10);
      CHECK((forward.log_det.array() + log_det).abs().maxCoeff() < 1e-10);
    }
  }
}

// <A, d out> for the two directions, by the textbook: with z = W x + bias, d_x = W^T d_z and d_W = d_z x^T; backwards
// d_z = W^-T d_x. The gradients of the factors follow from d_W.
TEST_CASE("LuLinear's pullbacks agree with the dense matrix beyond one block", "[lu_linear]") {
  Rng rng(12);
  const Index dim = GENERATE(17, 40, 70), rows = GENERATE(1, 3, 9, 300);
  CAPTURE(dim, rows);
  const auto layer = random_lu(dim, rng);
  const Matrix<double> w = dense(layer);
  const Matrix<double> x = random_matrix<double>(rows, dim, rng), weight = random_matrix<double>(rows, dim, rng);
  const Vector<double> d_log_det = random_matrix<double>(rows, 1, rng);
  const Matrix<double> z = inverse_of(layer, x).out;
  const bool to_latent = GENERATE(true, false);
  Matrix<double> out(rows, dim), d_in(rows, dim);
  Vector<double> log_det = Vector<double>::Zero(rows);
  LuLinear<double>::Cache cache;
  auto gradient = layer.make_gradient();
  Batch<double> wanted(d_in);
  Matrix<double> d_w;  // by hand, without the log-determinant
  if (to_latent) {
    layer.inverse({}, x, out, log_det, cache);
    layer.inverse_pullback({}, x, out, cache, weight, d_log_det, &wanted, nullptr, &gradient);
    CHECK(worst_error(d_in, weight * w) < 1e-13);
    CHECK(worst_error(gradient.bias, weight.colwise().sum()) < 1e-13);
    d_w = weight.transpose() * x;
  } else {
    layer.forward({}, z, out, log_det, cache);
    layer.forward_pullback({}, z, out, cache, weight, d_log_det, &wanted, nullptr, &gradient);
    const Matrix<double> d_z = weight * inverse_matrix(w);
    CHECK(worst_error(d_in, d_z) < 1e-9);
    CHECK(worst_error(gradient.bias, -d_z.colwise().sum()) < 1e-9);
    d_w = -d_z.transpose() * out;
  }
  // W = P L U: d_L = P^T d_W U^T below the diagonal, d_U = L^T P^T d_W on it and above
  Matrix<double> l = Matrix<double>::Identity(dim, dim), p = Matrix<double>::Zero(dim, dim);
  l.triangularView<Eigen::StrictlyLower>() = layer.parameters().lu;
  for (Index i = 0; i < dim; ++i) p(i, layer.permutation()[static_cast<std::size_t>(i)]) = 1;
  const Matrix<double> u = inverse_matrix(l) * p.transpose() * w;
  const Matrix<double> d_l = p.transpose() * d_w * u.transpose(), d_u = l.transpose() * p.transpose() * d_w;
  Matrix<double> expected = Matrix<double>::Zero(dim, dim);
  expected.triangularView<Eigen::StrictlyLower>() = d_l;
  expected.triangularView<Eigen::StrictlyUpper>() = d_u;
  CHECK(worst_error(gradient.lu, expected) < 1e-9);
  CHECK(gradient.lu.diagonal() == Vector<double>::Zero(dim));
  const double d_sum = (to_latent ? 1 : -1) * d_log_det.sum();
  const RowVector<double> d_log = (d_u.diagonal().array() * u.diagonal().array() + d_sum).matrix().transpose();
  CHECK(worst_error(gradient.log_diagonal, d_log) < 1e-9);
}

TEST_CASE("LuLinear starts as a random permutation", "[lu_linear]") {
  Rng rng(13), same(13);
  const LuLinear<float> layer(6, rng);
  Matrix<float> x(2, 6);
  x << 0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15;
  CHECK(inverse_of(layer, x).out == inverse_of(Permutation<float>::random(6, same), x).out);
  CHECK(forward_of(layer, inverse_of(layer, x).out).out == x);
  CHECK(inverse_of(LuLinear<float>(6), x).out == x);
}

TEST_CASE("LuLinear takes the factors of a matrix", "[lu_linear]") {
  Rng rng(14);
  for (const Index dim : {1, 2, 3, 8, 33, 70}) {
    CAPTURE(dim);
    const Matrix<double> w = random_matrix<double>(dim, dim, rng);
    const auto layer = LuLinear<double>::from_matrix(w);
    CHECK(worst_error(dense(layer), w) < 1e-13);
    const Matrix<double> identity = Matrix<double>::Identity(dim, dim);
    const auto z = inverse_of(layer, identity);
    CHECK(worst_error(z.out.transpose(), w) < 1e-13);
    CHECK(z.log_det[0] == Approx(log_abs_det(w)));
    for (Index j = 0; j < dim; ++j)
      CHECK((layer.parameters().lu.col(j).tail(dim - j - 1).array().abs() <= 1).all());  // partial pivoting
  }
  SECTION("a rotation keeps volumes") {
    Matrix<double> q = Matrix<double>::Identity(20, 20);
    for (int i = 0; i < 20; ++i) {  // a product of reflections
      const Matrix<double> v = random_matrix<double>(20, 1, rng).normalized();
      q -= 2 * v * (v.transpose() * q);
    }
    const auto layer = LuLinear<double>::from_matrix(q);
    CHECK(std::abs(layer.parameters().log_diagonal.sum()) < 1e-12);
  }
  SECTION("a zero first pivot") {
    Matrix<double> w(2, 2);
    w << 0, 2, -3, 0;
    CHECK(dense(LuLinear<double>::from_matrix(w)).isApprox(w, 1e-15));
  }
}

TEST_CASE("LuLinear refuses matrices that are not invertible", "[lu_linear]") {
  const auto text = [](const Matrix<double>& matrix) {
    return error_text<std::invalid_argument>([&] { (void)LuLinear<double>::from_matrix(matrix); });
  };
  Matrix<double> w(3, 3);
  w << 1, 2, 3, 4, 5, 6, 7, 8, 9;
  CHECK(text(w).find("the pivot of column 2 of matrix") != std::string::npos);
  w << 1, 0, 3, 4, 0, 6, 7, 0, 1;
  CHECK(text(w).find("the pivot of column 1 of matrix is 0") != std::string::npos);
  w << 1, 2, 3, 4, std::numeric_limits<double>::quiet_NaN(), 6, 7, 8, 1;
  CHECK(text(w).find("the pivot of column 1 of matrix") != std::string::npos);
  w.resize(2, 3);
  CHECK(text(w) == "LuLinear::from_matrix: matrix is 2 x 3 (rows x columns), expected 2 x 2");
  CHECK(text(Matrix<double>(0, 0)) == "LuLinear: dim is 0, expected at least 1");
}

// Round trips err by the condition number times a few units of rounding, not more: here 1e10 from the diagonal alone.
TEST_CASE("LuLinear inverts ill-conditioned factors as far as they can be", "[lu_linear]") {
  Rng rng(15);
  for (const Index dim : {2, 10, 50}) {
    CAPTURE(dim);
    auto layer = random_lu(dim, rng);
    auto& [lu, log_diagonal, bias] = layer.parameters();
    for (Index d = 0; d < dim; ++d) {  // whole rows of U, or its condition would grow exponentially with D
      log_diagonal[d] = std::log(1e10) * (static_cast<double>(d) / static_cast<double>(dim - 1) - 0.5);
      lu.row(d).tail(dim - d - 1) *= std::exp(log_diagonal[d]);
    }
    const Matrix<double> w = dense(layer), x = random_matrix<double>(9, dim, rng);
    const double condition = w.norm() * inverse_matrix(w).norm();
    CAPTURE(condition);
    CHECK(condition > 1e9);
    CHECK(condition < 1e13);
    CHECK(worst_error(forward_of(layer, inverse_of(layer, x).out).out, x) <
          10 * condition * std::numeric_limits<double>::epsilon());
  }
}

TEMPLATE_TEST_CASE("LuLinear allocates nothing in steady state", "[lu_linear]", RHEI_TEST_SCALARS) {
  using S = TestType;
  if (!testing::counts_allocations()) return;
  Rng rng(17);
  for (const Index dim : {3, 300})
    for (const Index rows : {1, 3, 256}) {
      CAPTURE(dim, rows);
      const LuLinear<S> layer(dim, rng);
      Matrix<S> x(rows, dim), z(rows, dim), d_in(rows, dim);
      rng.fill_normal(x);
      Vector<S> log_det = Vector<S>::Zero(rows);
      typename LuLinear<S>::Cache cache;
      auto gradient = layer.make_gradient();
      Batch<S> wanted(d_in);
      const auto step = [&] {
        layer.inverse({}, x, z, log_det, cache);
        layer.inverse_pullback({}, x, z, cache, z, log_det, &wanted, nullptr, &gradient);
        layer.forward({}, z, x, log_det, cache);
        layer.forward_pullback({}, z, x, cache, x, log_det, &wanted, nullptr, &gradient);
      };
      step();
      CHECK(testing::allocations_in(step) == 0);
    }
}

TEST_CASE("LuLinear checks the state that a reader wrote", "[lu_linear]") {
  Rng rng(16);
  LuLinear<double> layer(3, rng);
  const auto write = [&](std::string_view tensor, std::int64_t value) {
    for_each_state(layer, [&](std::string_view name, std::span<std::int64_t> state) {
      if (name == tensor) state[1] = value;
    });
    return error_text<std::runtime_error>([&] { check_state(layer); });
  };
  CHECK(write("signs", -1).empty());
  CHECK(write("signs", 0) == "LuLinear: a sign is 0, expected 1 or -1");
  CHECK(write("permutation", 3) == "LuLinear: permutation: indices[1] is 3, expected 0 to 2");
}
