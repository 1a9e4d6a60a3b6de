// SPDX-License-Identifier: MIT

/// \file
/// RBIG: a flow that is built and not trained.

#include <rhei/models/rbig.hpp>

#include "support/errors.hpp"
#include "support/learning.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

template <class Flow>
std::size_t layer_count(const Flow& flow) {
  return std::get<0>(flow.transform().layers()).layers().size();
}

}  // namespace

TEMPLATE_TEST_CASE("rbig comes closer to the data with every few layers", "[models]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(5);
  const data::Toy& toy = data::toy("two_moons");
  const Matrix<S> x = toy.sample<S>(4000, rng);
  const Matrix<double> test = toy.sample<double>(4000, rng);
  double last = gaussian_divergence(test, toy.entropy);
  for (const int layers : {1, 4, 16}) {
    CAPTURE(layers);
    Rng own(2);
    const auto flow = models::rbig<S>(x, {.layers = layers, .kernels = 50}, own);
    const double divergence = -flow.template cast<double>().log_prob(test).mean() - toy.entropy;
    CHECK(divergence < 0.85 * last);
    CHECK(divergence > 0);
    last = divergence;
  }
  CHECK(last < 0.2);
}

TEST_CASE("rbig is a density, draws from it, and is trained further", "[models]") {
  Rng rng(5);
  const Matrix<float> x = data::toy("two_moons").sample<float>(4000, rng);
  learns(models::rbig<float>(x, {.layers = 5, .kernels = 20}, rng), "two_moons", 100, 0.4);
}

TEST_CASE("rbig by principal axes", "[models]") {
  Rng rng(5);
  Matrix<double> x(2000, 3);
  rng.fill_normal(x);
  x.col(0) = x.col(0).array().exp();
  x.col(1) += 2 * x.col(0);
  const auto flow =
      models::rbig<double>(x, {.layers = 12, .kernels = 50, .rotation = models::RbigRotation::principal}, rng);
  const Matrix<double> z = flow.inverse(x).z;
  const Matrix<double> covariance = z.transpose() * z / 2000.0;
  CHECK((covariance - Matrix<double>::Identity(3, 3)).cwiseAbs().maxCoeff() < 0.1);
}

TEST_CASE("rbig leaves normal data normal and ends soon", "[models]") {
  Rng rng(5);
  Matrix<double> x(2000, 2), test(2000, 2);
  rng.fill_normal(x);
  rng.fill_normal(test);
  const auto flow = models::rbig<double>(x, {.layers = 60, .kernels = 50}, rng);
  CHECK(layer_count(flow) < 20);
  const Vector<double> exact = (-0.5 * test.rowwise().squaredNorm().array() - std::log(2 * std::numbers::pi)).matrix();
  CHECK((exact - flow.log_prob(test)).mean() < 0.03);
}

TEST_CASE("rbig is repeated by its seed and copied by its values", "[models]") {
  Rng rng(5), first(3), second(3), third(4);
  const Matrix<float> x = data::toy("two_moons").sample<float>(500, rng);
  const auto flow = models::rbig<float>(x, {.layers = 3, .kernels = 10}, first);
  CHECK(models::rbig<float>(x, {.layers = 3, .kernels = 10}, second).log_prob(x) == flow.log_prob(x));
  auto other = models::rbig<float>(x, {.layers = 3, .kernels = 10}, third);
  REQUIRE(layer_count(other) == layer_count(flow));
  CHECK(other.log_prob(x) != flow.log_prob(x));
  copy_values(flow, other);
  CHECK(other.log_prob(x) == flow.log_prob(x));
}

TEST_CASE("rbig knows one dimension", "[models]") {
  Rng rng(5);
  Matrix<float> x(1000, 1);
  rng.fill_normal(x);
  x = x.array().exp().matrix();
  const auto flow = models::rbig<float>(x, {.layers = 2, .kernels = 50}, rng);
  CHECK(flow.inverse(x).z.squaredNorm() / 1000 == Approx(1).margin(0.1));
}

TEST_CASE("rbig refuses data that has no density", "[models]") {
  Rng rng(5);
  Matrix<double> x(100, 3);
  rng.fill_normal(x);
  const auto text = [&](const Matrix<double>& rows, const models::RbigOptions& options = {.layers = 2, .kernels = 5}) {
    return error_text<std::invalid_argument>([&] { (void)models::rbig<double>(rows, options, rng); });
  };
  CHECK(text(x).empty());
  Matrix<double> constant = x, twice = x, sum = x, bad = x;
  constant.col(1).setConstant(0.1);
  twice.col(2) = x.col(0);
  sum.col(2) = x.col(0) - 2 * x.col(1);
  bad(7, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK(text(constant).find("column 1 of x") != std::string::npos);
  CHECK(text(twice).find("smallest eigenvalue of the correlations") != std::string::npos);
  CHECK(text(sum).find("smallest eigenvalue of the correlations") != std::string::npos);
  CHECK(text(bad).find("column 1 of x") != std::string::npos);
  CHECK(text(x.topRows(15)).find("the number of rows of x is 15") != std::string::npos);
  CHECK(text(x, {.layers = 0}).find("layers is 0") != std::string::npos);
  CHECK(text(x, {.layers = 1, .kernels = 0}).find("kernels is 0") != std::string::npos);
}
