// SPDX-License-Identifier: MIT

/// \file
/// Planar: its formula, its constraint where peers overflow or divide by zero, and an inverse that needs no cache.

#include <rhei/layers/planar.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"
#include "support/random_matrix.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

template <class S>
RowVector<S> row(std::initializer_list<double> values) {
  RowVector<S> result(static_cast<Index>(values.size()));
  Index i = 0;
  for (const double value : values) result[i++] = static_cast<S>(value);
  return result;
}

template <class S>
Planar<S> planar(const RowVector<S>& u, const RowVector<S>& w, S b) {
  Rng rng(1);
  Planar<S> layer(u.size(), rng);
  layer.parameters().u = u;
  layer.parameters().w = w;
  layer.parameters().b[0] = b;
  return layer;
}

template <class S>
double round_trip(const Planar<S>& layer, const Matrix<S>& z) {
  const auto x = forward_of(layer, z);
  const auto back = inverse_of(layer, x.out);
  CHECK((x.log_det + back.log_det).cwiseAbs().maxCoeff() < S(0.5));
  return static_cast<double>((back.out - z).cwiseAbs().maxCoeff() / std::max(S(1), z.cwiseAbs().maxCoeff()));
}

}  // namespace

TEMPLATE_TEST_CASE("Planar conforms", "[layer]", RHEI_TEST_SCALARS) {
  conforms([](Index dim, Rng& rng) { return Planar<TestType>(dim, rng); }, {.step = 1e-4});
}

TEMPLATE_TEST_CASE("Planar conforms far from the identity", "[layer]", RHEI_TEST_SCALARS) {
  conforms(
      [](Index dim, Rng& rng) {
        Planar<TestType> layer(dim, rng);
        rng.fill_normal(layer.parameters().u);
        rng.fill_normal(layer.parameters().w);
        return layer;
      },
      {.perturbation = 1, .step = 3e-4});
}

TEST_CASE("Planar is its formula", "[planar]") {
  const RowVector<double> u = row<double>({0.4, -1.3, 0.2}), w = row<double>({1.1, 0.7, -0.5});
  const double b = 0.3, s = u.dot(w), q = s - 1 + std::sqrt(1 + s * s);
  const RowVector<double> u_prime = u + (q - s) / w.squaredNorm() * w;
  const Matrix<double> z = normal_batch<double>(20, 3);
  const auto x = forward_of(planar(u, w, b), z);
  for (Index i = 0; i < z.rows(); ++i) {
    const double t = std::tanh(z.row(i).dot(w) + b);
    CHECK((x.out.row(i) - z.row(i) - t * u_prime).cwiseAbs().maxCoeff() < 1e-15);
    CHECK(x.log_det[i] == Approx(std::log(1 + q * (1 - t * t))).margin(1e-15));
  }
}

TEMPLATE_TEST_CASE("Planar begins close to the identity", "[planar]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(3);
  for (const Index dim : {1, 2, 50}) {
    const Planar<S> layer(dim, rng);
    const Matrix<S> z = normal_batch<S>(100, dim);
    const auto x = forward_of(layer, z);
    CHECK((x.out - z).cwiseAbs().maxCoeff() < 0.01);
    CHECK(x.log_det.cwiseAbs().maxCoeff() < 0.02);
    CHECK_FALSE(x.out == z);
  }
}

// normflows planar.py:54 overflows here in float: log(1 + e^{w.u}).
TEMPLATE_TEST_CASE("Planar keeps its digits for any w.u", "[planar]", RHEI_TEST_SCALARS) {
  using S = TestType;
  constexpr double epsilon = double(std::numeric_limits<S>::epsilon());
  const Matrix<S> z = normal_batch<S>(64, 2);
  for (const double s : {-1e6, -100.0, -10.0, -1.0, -1e-6, 0.0, 1e-6, 1.0, 100.0, 1e6}) {
    CAPTURE(s);
    const Planar<S> layer = planar<S>(row<S>({s, 0.5}), row<S>({1, 0}), S(0.25));
    const auto x = forward_of(layer, z);
    CHECK(x.out.allFinite());
    // The same in long double, without a difference: 1 + q h = t^2 + h (1 + q).
    const long double root = std::hypot(1.0L, s), above = s < 0 ? 1 / (root - s) : root + s;
    double worst = 0;
    for (Index i = 0; i < z.rows(); ++i) {
      const long double t = std::tanh(static_cast<long double>(z(i, 0)) + 0.25L);
      const long double want = std::log(t * t + (1 - t * t) * above);
      worst = std::max(worst, double(std::abs(x.log_det[i] - want) / std::max(1.0L, std::abs(want))));
    }
    CHECK(worst < 200 * epsilon);  // 2 / t times the rounding of t, where the slope is t^2 and t as small as 0.01
  }
}

TEMPLATE_TEST_CASE("Planar is finite and continuous where w vanishes", "[planar]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const Matrix<S> z = normal_batch<S>(16, 3);
  const RowVector<S> u = row<S>({0.4, -1.3, 0.2});
  const S b = S(0.7);
  const auto limit = forward_of(planar<S>(u, RowVector<S>::Zero(3), b), z);
  CHECK(limit.log_det == Vector<S>::Zero(16));
  for (Index i = 0; i < 16; ++i) CHECK((limit.out.row(i) - z.row(i) - std::tanh(b) * u).cwiseAbs().maxCoeff() < 1e-6);

  for (const double size : {1e-3, 1e-10, 1e-25, double(std::numeric_limits<S>::min())}) {
    const Planar<S> layer = planar<S>(u, RowVector<S>(static_cast<S>(size) * row<S>({1, -1, 1})), b);
    const auto x = forward_of(layer, z);
    CHECK((x.out - limit.out).cwiseAbs().maxCoeff() < 20 * size + 1e-6);
    CHECK(x.log_det.cwiseAbs().maxCoeff() < 20 * size);
    // Gradients stay finite, too.
    typename Planar<S>::Cache cache;
    Matrix<S> out(16, 3), d_in(16, 3);
    Vector<S> log_det = Vector<S>::Zero(16);
    Batch<S> d_in_view(d_in);
    auto gradient = layer.make_gradient();
    layer.forward({}, z, out, log_det, cache);
    layer.forward_pullback({}, z, out, cache, z, log_det, &d_in_view, nullptr, &gradient);
    layer.inverse({}, z, out, log_det, cache);
    layer.inverse_pullback({}, z, out, cache, z, log_det, &d_in_view, nullptr, &gradient);
    CHECK(cache.solve.failures == 0);
    CHECK(d_in.allFinite());
    for_each_parameter(gradient, [](std::string_view, Batch<S> values) {
      CHECK(values.allFinite());
      CHECK(values.cwiseAbs().maxCoeff() < 1000);
    });
  }
}

TEMPLATE_TEST_CASE("Planar inverts to the last units on fresh objects", "[planar]", RHEI_TEST_SCALARS) {
  using S = TestType;
  constexpr double epsilon = double(std::numeric_limits<S>::epsilon());
  const RowVector<S> w = row<S>({0.8, 0.6}), across = row<S>({-0.6, 0.8});
  // The slope at a = 0 is 1 + q, about 1 / (2 |s|): errors of x grow by its inverse.
  for (const double s : {-100.0, -3.0, -0.5, 0.0, 2.0, 100.0}) {
    CAPTURE(s);
    const Planar<S> layer = planar<S>(RowVector<S>(static_cast<S>(s) * w + S(0.3) * across), w, S(0.1));
    const double condition = std::max(1.0, -2 * s);
    CHECK(round_trip(layer, normal_batch<S>(500, 2)) < 8 * epsilon * condition * std::max(1.0, s));
    CHECK(round_trip(layer, normal_batch<S>(500, 2, S(30))) < 8 * epsilon * condition * std::max(1.0, s));
    CHECK(round_trip(layer, normal_batch<S>(50, 2, S(1e6))) < 8 * epsilon);  // tanh is saturated
  }
}

TEST_CASE("Planar takes any u' that can be inverted", "[planar]") {
  const Matrix<double> z = normal_batch<double>(10, 2);
  const RowVector<double> w = row<double>({0.9, -0.4});
  for (const double along : {-0.99, -0.5, 0.0, 4.0}) {
    const RowVector<double> u_prime = along / w.squaredNorm() * w + row<double>({0.4, 0.9});
    const auto x = forward_of(Planar<double>::from_u_prime(u_prime, w, -0.2), z);
    for (Index i = 0; i < 10; ++i)
      CHECK((x.out.row(i) - z.row(i) - std::tanh(z.row(i).dot(w) - 0.2) * u_prime).cwiseAbs().maxCoeff() < 1e-13);
  }
  const RowVector<double> zero = RowVector<double>::Zero(2);
  CHECK(Planar<double>::from_u_prime(w, zero, 0).parameters().u == w);
  CHECK_THROWS_AS(Planar<double>::from_u_prime(RowVector<double>(-2 * w), w, 0), std::invalid_argument);
  CHECK_THROWS_AS(Planar<double>::from_u_prime(w, RowVector<double>(3), 0), std::invalid_argument);
}

TEST_CASE("Planar counts rows without a solution", "[planar]") {
  Planar<double> layer = planar<double>(row<double>({1e154, 0}), row<double>({1e154, 0}), 0.0);
  const Matrix<double> x = normal_batch<double>(5, 2);  // q overflows
  Matrix<double> z(5, 2);
  Vector<double> log_det = Vector<double>::Zero(5);
  Planar<double>::Cache cache;
  layer.inverse({}, x, z, log_det, cache);
  CHECK(cache.solve.failures == 5);
  CHECK(z.col(0).array().isNaN().all());
  layer.parameters().u.setZero();
  layer.parameters().w.setOnes();
  layer.inverse({}, x, z, log_det, cache);
  CHECK(cache.solve.failures == 0);
  CHECK((z - x).cwiseAbs().maxCoeff() == 0);
}

TEST_CASE("Planar refuses a dimension of zero", "[planar]") {
  Rng rng(1);
  CHECK(error_text<std::invalid_argument>([&] { Planar<float>(0, rng); }) == "Planar: dim is 0, expected at least 1");
  CHECK_FALSE(Planar<float>::traits().inverse_exact);
}
