// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What must hold for every transformer, in both directions. A test hands over a transformer in double and elements to
/// try it on, away from its kinks.

#include <rhei/core/random.hpp>
#include <rhei/transformers/transformer.hpp>

#include "support/catch.hpp"
#include "support/finite_difference.hpp"

namespace rhei::testing {

/// What an evaluation gives, and what a pullback does.
template <Real S>
struct Transformed {
  Vector<S> out, log_slope;
};
template <Real S>
struct TransformerDerivatives {
  Vector<S> d_in;
  Matrix<S> d_raw;  ///< N x m
};

template <class T, class S = typename T::Scalar>
Transformed<S> transform(const T& t, bool forward, Matrix<S>& raw, const Vector<S>& in, typename T::Cache& cache) {
  constexpr S unwritten = std::numeric_limits<S>::quiet_NaN();
  const Index n = in.size();
  Transformed<S> result{Vector<S>::Constant(n, unwritten), Vector<S>::Constant(n, unwritten)};
  if (forward)
    t.forward(raw, in, result.out, result.log_slope, cache);
  else
    t.inverse(raw, in, result.out, result.log_slope, cache);
  return result;
}
template <class T, class S = typename T::Scalar>
Transformed<S> transform(const T& t, bool forward, const Matrix<S>& raw, const Vector<S>& in) {
  typename T::Cache cache;
  Matrix<S> own_raw = raw;
  return transform(t, forward, own_raw, in, cache);
}

/// The derivatives of sum_i (d_out_i out_i + d_log_slope_i log_slope_i).
template <class T, class S = typename T::Scalar>
TransformerDerivatives<S> pull_back(const T& t, bool forward, const Matrix<S>& raw, const Vector<S>& in,
                                    const Vector<S>& d_out, const Vector<S>& d_log_slope) {
  constexpr S unwritten = std::numeric_limits<S>::quiet_NaN();
  typename T::Cache cache;
  Matrix<S> left = raw;  // where a transformer may leave what its pullback is to see
  const auto [out, log_slope] = transform(t, forward, left, in, cache);
  TransformerDerivatives<S> result{Vector<S>::Constant(in.size(), unwritten),
                                   Matrix<S>::Constant(raw.rows(), raw.cols(), unwritten)};
  for (int pass = 0; pass < 2; ++pass)  // a cache serves any number of pullbacks
    if (forward)
      t.forward_pullback(left, in, out, cache, d_out, d_log_slope, result.d_in, result.d_raw);
    else
      t.inverse_pullback(left, in, out, cache, d_out, d_log_slope, result.d_in, result.d_raw);
  return result;
}

/// Every check that needs no knowledge of the formula. `raw` (N x m) and `in` (N) must be representable in float.
template <class T>
void transformer_conforms(const T& t, const Matrix<double>& raw, const Vector<double>& in) {
  static_assert(std::same_as<typename T::Scalar, double>);
  static_assert(Transformer<T>);
  const Index n = in.size();
  REQUIRE(raw.cols() == t.parameter_count());
  Rng rng(17);
  Vector<double> d_out(n), d_log_slope(n);
  rng.fill_normal(d_out);
  rng.fill_normal(d_log_slope);
  d_out = d_out.cast<float>().cast<double>();
  d_log_slope = d_log_slope.cast<float>().cast<double>();

  for (const bool forward : {true, false}) {
    CAPTURE(forward);
    const Transformed<double> result = transform(t, forward, raw, in);
    const Transformed<double> back = transform(t, !forward, raw, result.out);
    CHECK(relative_error(back.out, in, 1) < 1e-13);
    CHECK(relative_error(back.log_slope, -result.log_slope, 1) < 1e-13);

    // elements do not meet, so one difference moves them all
    const auto slope = [&](auto&& evaluate) {
      return central_difference([&](double h) -> Vector<double> { return evaluate(h); });
    };
    const Vector<double> numeric =
        slope([&](double h) { return transform(t, forward, raw, Vector<double>(in.array() + h)).out; });
    CHECK(relative_error(result.log_slope.array().exp().matrix(), numeric) < 1e-8);

    const TransformerDerivatives<double> got = pull_back(t, forward, raw, in, d_out, d_log_slope);
    const auto loss = [&](const Matrix<double>& at_raw, const Vector<double>& at) -> Vector<double> {
      const Transformed<double> now = transform(t, forward, at_raw, at);
      return d_out.cwiseProduct(now.out) + d_log_slope.cwiseProduct(now.log_slope);
    };
    CHECK(relative_error(got.d_in, slope([&](double h) { return loss(raw, Vector<double>(in.array() + h)); })) < 1e-8);
    for (Index j = 0; j < raw.cols(); ++j) {
      CAPTURE(j);
      const Vector<double> d_raw = slope([&](double h) {
        Matrix<double> moved = raw;
        moved.col(j).array() += h;
        return loss(moved, in);
      });
      CHECK(relative_error(got.d_raw.col(j), d_raw) < 1e-8);
    }

    const auto narrow = t.template cast<float>();
    const Matrix<float> narrow_raw = raw.cast<float>();
    const Vector<float> narrow_in = in.cast<float>();
    const Transformed<float> narrow_result = transform(narrow, forward, narrow_raw, narrow_in);
    CHECK(relative_error(narrow_result.out, result.out, 1) < 1e-5);
    CHECK(relative_error(narrow_result.log_slope, result.log_slope, 1) < 1e-5);
    const TransformerDerivatives<float> narrow_got =
        pull_back(narrow, forward, narrow_raw, narrow_in, Vector<float>(d_out.cast<float>()),
                  Vector<float>(d_log_slope.cast<float>()));
    CHECK(relative_error(narrow_got.d_in, got.d_in) < 1e-5);
    CHECK(relative_error(narrow_got.d_raw, got.d_raw) < 1e-5);

    for (const Index count : {Index(0), Index(1), n - 1}) {  // the first elements alone
      CAPTURE(count);
      const Transformed<double> few =
          transform(t, forward, Matrix<double>(raw.topRows(count)), Vector<double>(in.head(count)));
      CHECK(relative_error(few.out, result.out.head(count), 1) < 1e-15);
      CHECK(relative_error(few.log_slope, result.log_slope.head(count), 1) < 1e-15);
      const auto few_got = pull_back(t, forward, Matrix<double>(raw.topRows(count)), Vector<double>(in.head(count)),
                                     Vector<double>(d_out.head(count)), Vector<double>(d_log_slope.head(count)));
      CHECK(relative_error(few_got.d_raw, got.d_raw.topRows(count), 1) < 1e-14);
    }

    for (Index j = -1; j < raw.cols(); ++j) {  // NaN in the input (j = -1) or in a parameter
      CAPTURE(j);
      const Index row = n / 2;
      Matrix<double> bad_raw = raw;
      Vector<double> bad_in = in;
      (j < 0 ? bad_in[row] : bad_raw(row, j)) = std::numeric_limits<double>::quiet_NaN();
      Transformed<double> bad = transform(t, forward, bad_raw, bad_in);
      CHECK(std::isnan(bad.out[row]));
      bad.out[row] = result.out[row];
      bad.log_slope[row] = result.log_slope[row];
      CHECK((bad.out.array() == result.out.array()).all());
      CHECK((bad.log_slope.array() == result.log_slope.array()).all());
    }
  }

  const T rebuilt = T::from_options(t.options());
  CHECK(rebuilt.options() == t.options());
  CHECK(t.template cast<float>().options() == t.options());
  CHECK((transform(rebuilt, true, raw, in).out.array() == transform(t, true, raw, in).out.array()).all());
}

/// A fresh net gives raw parameters of zero: then a transformer is the identity, bit for bit.
template <class T, class S = typename T::Scalar>
void starts_as_identity(const T& t) {
  const Index n = 37;
  Rng rng(3);
  Vector<S> in(n);
  rng.fill_normal(in);
  for (const bool forward : {true, false}) {
    const Transformed<S> result = transform(t, forward, Matrix<S>(Matrix<S>::Zero(n, t.parameter_count())), in);
    CHECK((result.out.array() == in.array()).all());
    CHECK((result.log_slope.array() == S(0)).all());
  }
}

}  // namespace rhei::testing
