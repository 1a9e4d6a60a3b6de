// SPDX-License-Identifier: MIT

/// \file
/// Affine, with each scale map.

#include <cmath>
#include <rhei/transformers/affine.hpp>
#include <rhei/transformers/inverted_transformer.hpp>

#include "support/transformer_checks.hpp"

using namespace rhei;
using namespace rhei::testing;

TEST_CASE("Affine conforms with each scale map", "[transformer]") {
  Rng rng(1);
  Matrix<float> raw(41, 2);
  Vector<float> in(41);
  rng.fill_normal(raw);
  rng.fill_normal(in);
  for (const ScaleMap& map : {ScaleMap::exponential(), ScaleMap::tanh(2), ScaleMap::tanh(0.7), ScaleMap::softsign(3),
                              ScaleMap::sigmoid(1e-3), ScaleMap::softplus(1e-3)}) {
    CAPTURE(static_cast<int>(map.kind()), map.constant());
    transformer_conforms(Affine<double>(map), raw.cast<double>(), in.cast<double>());
    transformer_conforms(InvertedTransformer(Affine<double>(map)), raw.cast<double>(), in.cast<double>());
  }
}

TEMPLATE_TEST_CASE("Affine is the identity where all is zero", "[transformer]", RHEI_TEST_SCALARS) {
  starts_as_identity(Affine<TestType>());
  for (const ScaleMap& map : {ScaleMap::exponential(), ScaleMap::tanh(5), ScaleMap::softsign(5)})
    starts_as_identity(Affine<TestType>(map));
}

TEST_CASE("Affine scales, then shifts", "[transformer]") {
  const Affine<double> affine(ScaleMap::exponential());
  Matrix<double> raw(2, 2);
  raw << 10, std::log(4.0), -1, -std::log(2.0);
  Vector<double> z(2), x(2);
  z << 3, 8;
  x << 22, 3;
  const auto forward = transform(affine, true, raw, z), inverse = transform(affine, false, raw, x);
  CHECK(relative_error(forward.out, x) < 1e-15);
  CHECK(relative_error(inverse.out, z) < 1e-15);
  CHECK(relative_error(forward.log_slope, raw.col(1)) < 1e-15);
  CHECK(relative_error(inverse.log_slope, -raw.col(1)) < 1e-15);
}

TEST_CASE("Affine is described by its scale map", "[transformer]") {
  const Options options = Affine<float>(ScaleMap::softsign(3)).options();
  CHECK(options.type() == "affine");
  CHECK(options.get<std::string>("scale_map") == "softsign");
  CHECK(options.get<double>("constant") == 3);
  CHECK(Affine<float>().options() == Affine<float>(ScaleMap::tanh(2)).options());  // the default
}
