// SPDX-License-Identifier: MIT

/// \file
/// Householder against the product of its reflections, put together one by one.

#include <rhei/layers/householder.hpp>

#include "support/allocation_counter.hpp"
#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"
#include "support/random_matrix.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// At D = 1 no output depends on the vectors: what differences find there is rounding, which a longer step lessens.
constexpr double smooth_step = 0x1p-11;

Matrix<double> reflection(const Vector<double>& v) {
  return Matrix<double>::Identity(v.size(), v.size()) - 2 * v * v.transpose() / v.squaredNorm();
}

/// Q = H_1 H_2 ... H_K.
Matrix<double> dense(const Matrix<double>& vectors) {
  Matrix<double> q = Matrix<double>::Identity(vectors.rows(), vectors.rows());
  for (Index k = 0; k < vectors.cols(); ++k) q *= reflection(vectors.col(k));
  return q;
}

}  // namespace

TEMPLATE_TEST_CASE("Householder conforms", "[layer]", RHEI_TEST_SCALARS) {
  conforms([](Index dim, Rng& rng) { return Householder<TestType>(dim, rng); },
           {.dims = {1, 2, 3, 8, 20}, .step = smooth_step});
}

TEMPLATE_TEST_CASE("Householder of one or of too many reflections conforms", "[layer]", RHEI_TEST_SCALARS) {
  conforms([](Index dim, Rng& rng) { return Householder<TestType>(dim, 1, rng); },
           {.name = "householder, one", .step = smooth_step});
  conforms([](Index dim, Rng& rng) { return Householder<TestType>(dim, 2 * dim + 1, rng); },
           {.name = "householder, 2 D + 1", .step = smooth_step});
}

TEST_CASE("Householder multiplies by its reflections, whichever path a batch takes", "[householder]") {
  Rng rng(1);
  for (const Index dim : {1, 2, 5, 17, 64})
    for (const Index count : {Index(1), Index(2), dim, Index(200)}) {
      auto layer = Householder<double>(dim, count, rng);
      layer.parameters().vectors.col(0) *= 1e-3;  // lengths must not matter
      const Matrix<double> q = dense(layer.parameters().vectors);
      for (const Index rows : {1, 3, 7, 8, 12, 13, 100}) {  // one by one below max(8, count / 16)
        CAPTURE(dim, count, rows);
        const Matrix<double> x = random_matrix<double>(rows, dim, rng);
        const auto z = inverse_of(layer, x);
        CHECK(worst_error(z.out, x * q) < 1e-12);
        CHECK(worst_error(forward_of(layer, x).out, x * q.transpose()) < 1e-12);
        CHECK(worst_error(forward_of(layer, z.out).out, x) < 1e-12);
        CHECK(z.log_det == Vector<double>::Zero(rows));
        CHECK((z.out.rowwise().norm() - x.rowwise().norm()).cwiseAbs().maxCoeff() < 1e-11);
      }
    }
}

// By the chain rule through one reflection after the other: for y = x - 2 (x.v) v / |v|^2 and a cotangent g of y,
// d_v = -(2 / |v|^2) ((x.v) g + (g.v) x) + (4 / |v|^4) (x.v) (g.v) v, summed over the rows.
TEST_CASE("Householder's gradient is that of its reflections one by one", "[householder]") {
  Rng rng(2);
  const Index dim = GENERATE(2, 3, 20), count = GENERATE(1, 4, 20, 150), rows = GENERATE(1, 7, 9, 60);
  const bool to_latent = GENERATE(true, false);
  CAPTURE(dim, count, rows, to_latent);
  const Householder<double> layer(dim, count, rng);
  const Matrix<double>& vectors = layer.parameters().vectors;
  const Matrix<double> in = random_matrix<double>(rows, dim, rng), d_out = random_matrix<double>(rows, dim, rng);

  std::vector<Matrix<double>> states{in};
  const auto nth = [&](Index k) { return to_latent ? k : count - 1 - k; };
  for (Index k = 0; k < count; ++k) states.push_back(states.back() * reflection(vectors.col(nth(k))));
  Matrix<double> g = d_out, expected(dim, count);
  for (Index k = count - 1; k >= 0; --k) {
    const Matrix<double>& x = states[static_cast<std::size_t>(k)];
    const Vector<double> v = vectors.col(nth(k)), xv = x * v, gv = g * v;
    const double n = v.squaredNorm();
    expected.col(nth(k)) = -2 / n * (g.transpose() * xv + x.transpose() * gv) + 4 / (n * n) * xv.dot(gv) * v;
    g = g * reflection(v);
  }

  Matrix<double> out(rows, dim), d_in(rows, dim);
  Vector<double> log_det = Vector<double>::Zero(rows);
  Householder<double>::Cache cache;
  auto gradient = layer.make_gradient();
  Batch<double> wanted(d_in);
  if (to_latent) {
    layer.inverse({}, in, out, log_det, cache);
    layer.inverse_pullback({}, in, out, cache, d_out, log_det, &wanted, nullptr, &gradient);
  } else {
    layer.forward({}, in, out, log_det, cache);
    layer.forward_pullback({}, in, out, cache, d_out, log_det, &wanted, nullptr, &gradient);
  }
  CHECK(worst_error(out, states.back()) < 1e-12);
  CHECK(worst_error(d_in, g) < 1e-12);
  CHECK(worst_error(gradient.vectors, expected) < 1e-11);
  for (Index k = 0; k < count; ++k)  // lengths do not matter
    CHECK(std::abs(gradient.vectors.col(k).dot(vectors.col(k))) < 1e-10 * std::max(1.0, expected.norm()));
}

TEST_CASE("Householder's special cases", "[householder]") {
  Rng rng(3);
  SECTION("one feature: nothing depends on the vectors, however short") {
    Householder<float> layer(1, 3, rng);
    layer.parameters().vectors(0, 1) = 1e-3f;
    const Matrix<float> x = random_matrix<double>(300, 1, rng).cast<float>();
    Matrix<float> z(300, 1);
    Vector<float> log_det = Vector<float>::Zero(300);
    Householder<float>::Cache cache;
    auto gradient = layer.make_gradient();
    layer.inverse({}, x, z, log_det, cache);
    layer.inverse_pullback({}, x, z, cache, x, log_det, nullptr, nullptr, &gradient);
    CHECK(gradient.vectors.cwiseAbs().maxCoeff() < 1e-6f);  // of terms of the size 1e5
  }
  SECTION("one feature: each reflection changes the sign") {
    Matrix<double> x(2, 1);
    x << 1.5, -2;
    CHECK(inverse_of(Householder<double>(1, 1, rng), x).out.isApprox(-x, 1e-15));
    CHECK(inverse_of(Householder<double>(1, 2, rng), x).out.isApprox(x, 1e-15));
  }
  SECTION("the same vector twice is the identity") {
    Householder<double> layer(6, 2, rng);
    layer.parameters().vectors.col(1) = -3 * layer.parameters().vectors.col(0);
    const Matrix<double> x = random_matrix<double>(20, 6, rng);
    CHECK(inverse_of(layer, x).out.isApprox(x, 1e-13));
  }
  SECTION("a vector of zeros gives NaN and does not throw") {
    Householder<double> layer(3, 2, rng);
    layer.parameters().vectors.col(1).setZero();
    for (const Index rows : {2, 20})
      CHECK(inverse_of(layer, random_matrix<double>(rows, 3, rng)).out.array().isNaN().all());
  }
  SECTION("long and short vectors in float") {
    for (const float length : {1e-15f, 1e15f}) {
      Householder<float> layer(4, rng);
      const Matrix<float> x = random_matrix<double>(9, 4, rng).cast<float>();
      const auto before = inverse_of(layer, x).out;
      layer.parameters().vectors *= length;
      CHECK(inverse_of(layer, x).out.isApprox(before, 1e-5f));
    }
  }
}

TEST_CASE("Householder starts from normal vectors of the generator", "[householder]") {
  Rng rng(4), same(4);
  Matrix<float> vectors(5, 3);
  same.fill_normal(vectors);
  CHECK(Householder<float>(5, 3, rng).parameters().vectors == vectors);
  CHECK(Householder<float>(5, rng).count() == 5);
  const auto text = [&](Index dim, Index count) {
    return error_text<std::invalid_argument>([&] { Householder<float>(dim, count, rng); });
  };
  CHECK(text(0, 1) == "Householder: dim is 0, expected at least 1");
  CHECK(text(3, 0) == "Householder: count is 0, expected at least 1");
}

TEMPLATE_TEST_CASE("Householder allocates nothing in steady state", "[householder]", RHEI_TEST_SCALARS) {
  using S = TestType;
  if (!testing::counts_allocations()) return;
  Rng rng(5);
  for (const Index rows : {1, 7, 300}) {
    CAPTURE(rows);
    const Householder<S> layer(200, rng);
    Matrix<S> x(rows, 200), z(rows, 200), d_in(rows, 200);
    rng.fill_normal(x);
    Vector<S> log_det = Vector<S>::Zero(rows);
    typename Householder<S>::Cache cache;
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

TEST_CASE("Householder refuses a description larger than its file", "[householder]") {
  Rng rng(6);
  Options options = Householder<double>(3, 2, rng).options();
  CHECK(Householder<double>::from_options(options).count() == 2);
  options.limit_sizes(5);
  CHECK_THROWS_AS(Householder<double>::from_options(options), std::runtime_error);
}
