// SPDX-License-Identifier: MIT

/// \file
/// Sylvester: its formula, its kinship with Planar, and an inverse that needs no cache.

#include <rhei/layers/sylvester.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"
#include "support/random_matrix.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// With every parameter drawn from a normal distribution of the given deviation.
template <class S>
Sylvester<S> sylvester(Index dim, Index count, double deviation) {
  Rng rng(6);
  Sylvester<S> layer(dim, count, rng);
  for_each_parameter(layer, [&](std::string_view, Batch<S> values) {
    rng.fill_normal(values);
    values *= static_cast<S>(deviation);
  });
  return layer;
}

/// The first columns of the product of the reflections.
template <class S>
Matrix<S> orthonormal(const Matrix<S>& vectors) {
  Matrix<S> q = Matrix<S>::Identity(vectors.rows(), vectors.rows());
  for (Index k = 0; k < vectors.cols(); ++k)
    q -= 2 / vectors.col(k).squaredNorm() * (q * vectors.col(k)) * vectors.col(k).transpose();
  return q.leftCols(vectors.cols());
}

}  // namespace

TEMPLATE_TEST_CASE("Sylvester conforms", "[layer]", RHEI_TEST_SCALARS) {
  conforms([](Index dim, Rng& rng) { return Sylvester<TestType>(dim, (dim + 1) / 2, rng); }, {.step = 1e-4});
  conforms([](Index dim, Rng& rng) { return Sylvester<TestType>(dim, dim, rng); }, {.dims = {2, 8}, .perturbation = 1});
}

TEST_CASE("Sylvester is its formula", "[sylvester]") {
  const auto layer = sylvester<double>(5, 3, 0.8);
  const auto& p = layer.parameters();
  const Matrix<double> q = orthonormal(p.vectors);
  CHECK((q.transpose() * q - Matrix<double>::Identity(3, 3)).cwiseAbs().maxCoeff() < 1e-14);
  Matrix<double> r = p.r.triangularView<Eigen::Upper>(), w = p.w.triangularView<Eigen::Upper>();
  for (Index i = 0; i < 3; ++i) {
    const double s = r(i, i) * w(i, i);
    r(i, i) = (s - 1 + std::sqrt(1 + s * s)) / w(i, i);
  }
  const Matrix<double> z = normal_batch<double>(20, 5);
  const auto x = forward_of(layer, z);
  for (Index i = 0; i < z.rows(); ++i) {
    const Vector<double> t = (w * q.transpose() * z.row(i).transpose() + p.b.transpose()).array().tanh();
    CHECK((x.out.row(i).transpose() - z.row(i).transpose() - q * r * t).cwiseAbs().maxCoeff() < 1e-14);
    double log_det = 0;
    for (Index k = 0; k < 3; ++k) log_det += std::log(1 + (1 - t[k] * t[k]) * r(k, k) * w(k, k));
    CHECK(x.log_det[i] == Approx(log_det).margin(1e-14));
  }
}

TEST_CASE("Sylvester with one direction is a planar flow", "[sylvester]") {
  const auto layer = sylvester<double>(4, 1, 1.2);
  const auto& p = layer.parameters();
  const RowVector<double> q = orthonormal(p.vectors).transpose();
  Rng rng(1);
  Planar<double> planar(4, rng);
  planar.parameters().u = p.r(0, 0) * q;
  planar.parameters().w = p.w(0, 0) * q;
  planar.parameters().b = p.b;
  const Matrix<double> z = normal_batch<double>(20, 4);
  const auto a = forward_of(layer, z), b = forward_of(planar, z);
  CHECK((a.out - b.out).cwiseAbs().maxCoeff() < 1e-14);
  CHECK((a.log_det - b.log_det).cwiseAbs().maxCoeff() < 1e-14);
}

TEMPLATE_TEST_CASE("Sylvester begins close to the identity", "[sylvester]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(3);
  const Sylvester<S> layer(30, 10, rng);
  const Matrix<S> z = normal_batch<S>(100, 30);
  const auto x = forward_of(layer, z);
  CHECK((x.out - z).cwiseAbs().maxCoeff() < 0.01);
  CHECK(x.log_det.cwiseAbs().maxCoeff() < 0.02);
  CHECK_FALSE(x.out == z);
}

TEMPLATE_TEST_CASE("Sylvester inverts to the last units on fresh objects", "[sylvester]", RHEI_TEST_SCALARS) {
  using S = TestType;
  constexpr double epsilon = double(std::numeric_limits<S>::epsilon());
  for (const Index count : {1, 2, 6}) {
    const auto layer = sylvester<S>(6, count, 0.5);
    // The Jacobian is bounded below by the product of 1 + q_i and the triangles beside it: here by some 1/50.
    for (const double scale : {1e-3, 1.0, 30.0, 1e6}) {
      const Matrix<S> z = normal_batch<S>(300, 6, static_cast<S>(scale));
      const auto x = forward_of(layer, z);
      const auto back = inverse_of(layer, x.out);
      const double size = std::max(1.0, double(z.cwiseAbs().maxCoeff()));
      CAPTURE(count, scale);
      CHECK(double((back.out - z).cwiseAbs().maxCoeff()) / size < 200 * epsilon);
      CHECK(double((back.log_det + x.log_det).cwiseAbs().maxCoeff()) < 1000 * epsilon * std::max(1.0, size));
    }
  }
}

// R_ii and q_i at products u_i W_ii that leave nothing of 1 + log(1 + e^s).
TEMPLATE_TEST_CASE("Sylvester stays invertible for any diagonal", "[sylvester]", RHEI_TEST_SCALARS) {
  using S = TestType;
  for (const double s : {-1e4, -100.0, 0.0, 100.0, 1e4}) {
    auto layer = sylvester<S>(3, 2, 0.3);
    layer.parameters().r.diagonal().setConstant(static_cast<S>(s));
    layer.parameters().w.diagonal().setOnes();
    const Matrix<S> z = normal_batch<S>(100, 3);
    const auto x = forward_of(layer, z);
    CHECK(x.out.allFinite());
    CHECK(x.log_det.allFinite());
    typename Sylvester<S>::Cache cache;
    Matrix<S> back(100, 3);
    Vector<S> log_det = Vector<S>::Zero(100);
    layer.inverse({}, x.out, back, log_det, cache);
    CHECK(cache.solve.failures == 0);
    CHECK(back.allFinite());
  }
}

TEST_CASE("Sylvester counts rows without a solution", "[sylvester]") {
  auto layer = sylvester<double>(3, 2, 0.3);
  const Matrix<double> x = normal_batch<double>(5, 3);
  Matrix<double> z(5, 3);
  Vector<double> log_det = Vector<double>::Zero(5);
  Sylvester<double>::Cache cache;
  layer.parameters().r(1, 1) = 1e308;
  layer.parameters().w(1, 1) = 1;  // so that q overflows
  layer.inverse({}, x, z, log_det, cache);
  CHECK(cache.solve.failures == 5);
  CHECK(z.array().isNaN().all());
  layer.parameters().r.setZero();
  layer.inverse({}, x, z, log_det, cache);
  CHECK(cache.solve.failures == 0);
  CHECK((z - x).cwiseAbs().maxCoeff() == 0);
}

TEST_CASE("Sylvester refuses impossible sizes", "[sylvester]") {
  Rng rng(1);
  const auto text = [&](Index dim, Index count) {
    return error_text<std::invalid_argument>([&] { Sylvester<float>(dim, count, rng); });
  };
  CHECK(text(0, 0) == "Sylvester: dim is 0, expected at least 1");
  CHECK(text(3, 0) == "Sylvester: count is 0, expected 1 to dim");
  CHECK(text(3, 4) == "Sylvester: count is 4, expected 1 to dim");
  CHECK_THROWS_AS(Sylvester<float>::from_options(Options("sylvester").set("dim", Index(2)).set("count", Index(3))),
                  std::runtime_error);
}
