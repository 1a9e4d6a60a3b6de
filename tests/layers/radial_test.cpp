// SPDX-License-Identifier: MIT

/// \file
/// Radial: its formula, its centre, and parameters and inputs of any size.

#include <rhei/layers/radial.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"
#include "support/random_matrix.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

template <class S>
Radial<S> radial(Index dim, double raw_alpha, double raw_p) {
  Rng rng(4);
  Radial<S> layer(dim, rng);
  layer.parameters().raw_alpha[0] = static_cast<S>(raw_alpha);
  layer.parameters().raw_p[0] = static_cast<S>(raw_p);
  return layer;
}

/// The gradient of the log-determinant has a kink where the latent point is at the centre.
constexpr auto distance_to_centre = [](const auto& layer, Direction direction, const auto& call, auto in) {
  using S = typename std::remove_cvref_t<decltype(layer)>::Scalar;
  Matrix<S> z = in;
  if (direction == Direction::inverse) {
    Vector<S> log_det = Vector<S>::Zero(in.rows());
    typename std::remove_cvref_t<decltype(layer)>::Cache cache;
    layer.inverse(call, in, z, log_det, cache);
  }
  return Vector<S>((z.rowwise() - layer.parameters().centre).rowwise().norm());
};

}  // namespace

TEMPLATE_TEST_CASE("Radial conforms", "[layer]", RHEI_TEST_SCALARS) {
  const auto make = [](Index dim, Rng& rng) { return Radial<TestType>(dim, rng); };
  // Near the identity the gradient of the centre is small, so that the steps must be long for the rounding of the
  // differences, and the kink as much farther away.
  conforms(make, {.kink_margin = 3e-2, .step = 1e-4}, distance_to_centre);
  conforms(make, {.perturbation = 1, .kink_margin = 3e-2, .step = 1e-4}, distance_to_centre);
}

TEST_CASE("Radial is its formula", "[radial]") {
  const Radial<double> layer = radial<double>(3, -0.4, 0.9);
  const RowVector<double> c = layer.parameters().centre;
  const double a = layer.alpha(), beta = layer.beta();
  CHECK(a == Approx(-0.4 + std::sqrt(1.16)));
  CHECK(a + beta == Approx(0.9 + std::sqrt(1.81)));
  const Matrix<double> z = normal_batch<double>(20, 3, 2);
  const auto x = forward_of(layer, z);
  for (Index i = 0; i < z.rows(); ++i) {
    const double r = (z.row(i) - c).norm(), h = 1 / (a + r);
    CHECK((x.out.row(i) - z.row(i) - beta * h * (z.row(i) - c)).cwiseAbs().maxCoeff() < 1e-14);
    // Equation 14: [1 + beta h]^(D-1) [1 + beta h + beta h' r]
    CHECK(x.log_det[i] == Approx(2 * std::log(1 + beta * h) + std::log(1 + beta * h - beta * h * h * r)).margin(1e-14));
  }
}

TEMPLATE_TEST_CASE("Radial begins as the identity", "[radial]", RHEI_TEST_SCALARS) {
  using S = TestType;
  constexpr S epsilon = std::numeric_limits<S>::epsilon();
  Rng rng(3), other(5);
  const Radial<S> layer(4, rng);
  CHECK_FALSE(layer.parameters().centre == Radial<S>(4, other).parameters().centre);
  CHECK(layer.alpha() == 1);
  CHECK(layer.beta() == 0);
  const Matrix<S> z = normal_batch<S>(50, 4);
  const auto x = forward_of(layer, z), back = inverse_of(layer, z);
  CHECK((x.out - z).cwiseAbs().maxCoeff() < 4 * epsilon);
  CHECK((back.out - z).cwiseAbs().maxCoeff() < 4 * epsilon);
  CHECK(x.log_det.cwiseAbs().maxCoeff() < 4 * epsilon);
}

TEMPLATE_TEST_CASE("Radial at its centre", "[radial]", RHEI_TEST_SCALARS) {
  using S = TestType;
  for (const Index dim : {1, 3}) {
    const Radial<S> layer = radial<S>(dim, 0.3, -0.8);
    Matrix<S> z(2, dim);
    z.row(0) = layer.parameters().centre;
    z.row(1) = (layer.parameters().centre.array() + std::sqrt(std::numeric_limits<S>::min())).matrix();
    const double p = layer.alpha() + layer.beta();
    for (const bool forward : {true, false}) {
      const auto x = forward ? forward_of(layer, z) : inverse_of(layer, z);
      CHECK(x.out.row(0) == z.row(0));
      for (Index i = 0; i < 2; ++i)
        CHECK(double(x.log_det[i]) == Approx((forward ? 1 : -1) * double(dim) * std::log(p / layer.alpha())));
      typename Radial<S>::Cache cache;
      Matrix<S> out(2, dim), d_in(2, dim);
      const Matrix<S> d_out = Matrix<S>::Ones(2, dim);
      Vector<S> log_det = Vector<S>::Zero(2);
      const Vector<S> d_log_det = Vector<S>::Ones(2);
      Batch<S> d_in_view(d_in);
      auto gradient = layer.make_gradient();
      if (forward) {
        layer.forward({}, z, out, log_det, cache);
        layer.forward_pullback({}, z, out, cache, d_out, d_log_det, &d_in_view, nullptr, &gradient);
      } else {
        layer.inverse({}, z, out, log_det, cache);
        layer.inverse_pullback({}, z, out, cache, d_out, d_log_det, &d_in_view, nullptr, &gradient);
      }
      const double slope = forward ? p / layer.alpha() : layer.alpha() / p;
      CHECK((d_in.row(0).array().template cast<double>() - slope).abs().maxCoeff() < 1e-5);
      CHECK(d_in.allFinite());
      for_each_parameter(gradient, [](std::string_view, Batch<S> values) { CHECK(values.allFinite()); });
    }
  }
}

TEMPLATE_TEST_CASE("Radial inverts to the last units", "[radial]", RHEI_TEST_SCALARS) {
  using S = TestType;
  constexpr double epsilon = double(std::numeric_limits<S>::epsilon());
  for (const double raw_alpha : {-100.0, -1.0, 0.0, 3.0, 100.0})
    for (const double raw_p : {-100.0, -1.0, 0.0, 3.0, 100.0}) {
      CAPTURE(raw_alpha, raw_p);
      const Radial<S> layer = radial<S>(3, raw_alpha, raw_p);
      for (const double scale : {1e-3, 1.0, 1e6}) {
        const Matrix<S> z = normal_batch<S>(200, 3, static_cast<S>(scale));
        const auto x = forward_of(layer, z);
        const auto back = inverse_of(layer, x.out);
        // Beside the centre, where x is nearly c, the rounding of x - c grows by 1 / A.
        const double a = double(layer.alpha()), p = a + double(layer.beta());
        const double condition = std::max(1.0, (a + 1) / (p + 1)) * std::max(1.0, raw_p);
        const double size = std::max(1.0, double(z.cwiseAbs().maxCoeff()));
        CHECK(double((back.out - z).cwiseAbs().maxCoeff()) / size < 16 * epsilon * condition);
        CHECK(x.log_det.allFinite());
      }
    }
}

TEST_CASE("Radial refuses a dimension of zero", "[radial]") {
  Rng rng(1);
  CHECK(error_text<std::invalid_argument>([&] { Radial<float>(0, rng); }) == "Radial: dim is 0, expected at least 1");
}
