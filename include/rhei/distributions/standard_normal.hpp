// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The standard normal base:
///
///   log p(z) = sum_d -z_d^2 / 2 - log(2 pi) / 2,    d log p / dz_d = -z_d

#include <rhei/distributions/iid.hpp>

namespace rhei {

/// The univariate standard normal density; see Iid.
struct StandardNormalDensity {
  static constexpr std::string_view type = "standard_normal";
  static constexpr std::string_view name = "StandardNormal";

  template <class Array>
  static auto log_density(const Array& z) {
    using S = typename Array::Scalar;
    return S(-0.5) * z.square() - S(detail::half_log_two_pi);
  }
  template <class Array>
  static auto derivative(const Array& z) {
    return -z;
  }
  template <Real S>
  static void draw(Rng& rng, Batch<S> z) {
    rng.fill_normal(z);
  }
};

/// Independent standard normal features: `StandardNormal<float>(dim)`.
template <Real S>
using StandardNormal = Iid<S, StandardNormalDensity>;

}  // namespace rhei
