// SPDX-License-Identifier: MIT

/// \file
/// OnFeatures: a layer on some features is that layer, and nothing to the others.

#include <rhei/layers/on_features.hpp>

#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/coupling.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

TEMPLATE_TEST_CASE("OnFeatures conforms", "[layer]", RHEI_TEST_SCALARS) {
  using S = TestType;
  conforms(
      [](Index dim) {
        const auto chosen = even_features(dim);
        return OnFeatures(dim, chosen, ActNorm<S>(static_cast<Index>(chosen.size())));
      },
      {.name = "OnFeatures, ActNorm"});
  conforms([](Index dim) { return OnFeatures<ActNorm<S>>(dim, {}, [](Index count) { return ActNorm<S>(count); }); },
           {.name = "OnFeatures, none", .dims = {1, 3}});
  conforms(
      [](Index dim, Index context, Rng& rng) {
        AffineCoupling<S> coupling(2, {.transformed = {1}, .net = {{6}, Activation::tanh}, .context_dim = context},
                                   rng);
        return OnFeatures(dim, feature_range(dim - 2, 2), std::move(coupling));  // in place, not gathered
      },
      {.name = "OnFeatures, coupling", .dims = {2, 3}, .contexts = {0, 2}, .batches = {1, 7}, .step = 0x1p-12});
}

TEMPLATE_TEST_CASE("OnFeatures is its layer on those features", "[on_features]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(1);
  ElementwiseAffine<S> affine(2);
  affine.parameters().shift << 10, 20;
  affine.parameters().log_scale << std::log(S(2)), 0;
  const OnFeatures<ElementwiseAffine<S>> layer(4, {3, 1}, affine);
  CHECK(layer.features() == std::vector<Index>{1, 3});
  Matrix<S> z(5, 4);
  rng.fill_normal(z);
  const auto [x, log_det] = forward_of(layer, z);
  for (const Index d : {0, 2}) CHECK(bool(x.col(d) == z.col(d)));
  CHECK((x.col(1).array() - (S(2) * z.col(1).array() + S(10))).abs().maxCoeff() < S(1e-5));
  CHECK(bool(x.col(3) == Vector<S>(z.col(3).array() + S(20))));
  CHECK(double(log_det[4]) == Approx(std::log(2.0)));
}

TEST_CASE("OnFeatures initialises its layer from its features", "[on_features]") {
  Rng rng(2);
  Matrix<double> x(500, 3);
  rng.fill_normal(x);
  x.col(0) *= 7;
  x.col(2).array() += 30;
  OnFeatures<ActNorm<double>> layer(3, {0, 2}, ActNorm<double>(2));
  layer.initialize({}, x);
  CHECK(layer.layer()->initialized());
  CHECK(layer.layer()->parameters().shift[1] == Approx(30).epsilon(0.01));
  const Matrix<double> z = inverse_of(layer, x).out;
  for (const Index d : {0, 2}) CHECK(z.col(d).squaredNorm() / 500 == Approx(1));
  CHECK(bool(z.col(1) == x.col(1)));

  auto rebuilt = OnFeatures<ActNorm<double>>::from_options(layer.options());
  copy_values(layer, rebuilt);
  CHECK(rebuilt.options() == layer.options());
  CHECK(bool(inverse_of(rebuilt, x).out == z));
  CHECK(layer.cast<float>().options() == layer.options());
}

TEST_CASE("OnFeatures of no features is the identity and has no layer", "[on_features]") {
  const OnFeatures<ActNorm<double>> layer(3, {}, [](Index count) { return ActNorm<double>(count); });
  CHECK(count_parameters(layer) == 0);
  CHECK(!layer.layer());
  CHECK(OnFeatures<ActNorm<double>>::from_options(layer.options()).options() == layer.options());
  CHECK(layer.cast<float>().options() == layer.options());
  const Matrix<double> z = Matrix<double>::Random(4, 3);
  CHECK(bool(forward_of(layer, z).out == z));
}

TEST_CASE("OnFeatures refuses features that do not fit", "[on_features]") {
  const auto said = [](Index dim, std::vector<Index> features) {
    return error_text<std::invalid_argument>([&] { (void)OnFeatures(dim, features, ActNorm<float>(2)); });
  };
  CHECK(said(4, {1, 3}).empty());
  CHECK(said(4, {1}) == "OnFeatures: the dimension of the layer is 2, expected 1, the number of features");
  CHECK(said(4, {1, 4}) == "OnFeatures: a feature of features is 4, expected 0 to 3");
  CHECK(said(4, {1, 1}) == "OnFeatures: features names feature 1 twice");
  CHECK(said(4, {}) == "OnFeatures: the dimension of the layer is 2, expected 0, the number of features");
  CHECK(said(0, {}) == "OnFeatures: dim is 0, expected at least 1");
}
