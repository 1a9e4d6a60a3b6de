// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The standard logistic base (Dinh, Krueger & Bengio 2014, "NICE", section 3.4), whose gradient is bounded:
///
///   log p(z) = sum_d -log(1 + e^z_d) - log(1 + e^-z_d),    d log p / dz_d = -tanh(z_d / 2)

#include <rhei/distributions/iid.hpp>

namespace rhei {

/// The univariate standard logistic density; see Iid.
struct LogisticDensity {
  static constexpr std::string_view type = "logistic";
  static constexpr std::string_view name = "Logistic";

  /// -|z| - 2 log(1 + e^-|z|), where nothing overflows. log1p would not help: the sum is never above -log 4, and
  /// log(1 + e) is exact to the rounding of that.
  template <class Array>
  static auto log_density(const Array& z) {
    using S = typename Array::Scalar;
    return -z.abs() - S(2) * (S(1) + (-z.abs()).exp()).log();
  }
  /// -tanh(z / 2) written with exp, which vectorizes in both scalars and keeps a NaN; right to an ulp of 1.
  template <class Array>
  static auto derivative(const Array& z) {
    using S = typename Array::Scalar;
    return S(2) / (S(1) + z.exp()) - S(1);
  }
  /// The quantile function log(u / (1 - u)) of uniform draws.
  template <Real S>
  static void draw(Rng& rng, Batch<S> z) {
    rng.fill_uniform(z);
    z.array() = (z.array() / (S(1) - z.array())).log();
  }
};

/// Independent standard logistic features (mean 0, variance pi^2 / 3): `Logistic<float>(dim)`.
template <Real S>
using Logistic = Iid<S, LogisticDensity>;

}  // namespace rhei
