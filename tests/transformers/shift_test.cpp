// SPDX-License-Identifier: MIT

/// \file
/// Shift.

#include <rhei/transformers/shift.hpp>

#include "support/transformer_checks.hpp"

using namespace rhei;
using namespace rhei::testing;

TEST_CASE("Shift conforms", "[transformer]") {
  Rng rng(1);
  Matrix<float> raw(41, 1);
  Vector<float> in(41);
  rng.fill_normal(raw);
  rng.fill_normal(in);
  transformer_conforms(Shift<double>(), raw.cast<double>(), in.cast<double>());
  starts_as_identity(Shift<float>());
  starts_as_identity(Shift<double>());
}

TEST_CASE("Shift adds", "[transformer]") {
  Matrix<float> raw(3, 1);
  raw << 1, -2, 0.5f;
  Vector<float> in(3);
  in << 10, 20, -0.25f;
  const auto forward = transform(Shift<float>(), true, raw, in), inverse = transform(Shift<float>(), false, raw, in);
  CHECK((forward.out.array() == (in + raw.col(0)).array()).all());
  CHECK((inverse.out.array() == (in - raw.col(0)).array()).all());
  CHECK(forward.log_slope.isZero(0));
  CHECK(inverse.log_slope.isZero(0));
  CHECK(Shift<float>::options().type() == "shift");
}
