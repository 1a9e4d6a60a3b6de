// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The quantile of the standard normal from logarithms of probabilities, so that no tail underflows and none cancels.
///
/// With the Mills ratio M(x) = (1 - Phi(x)) / phi(x), the logarithm of the upper tail and its derivatives are
///
///   log(1 - Phi(x)) = log M(x) - x^2 / 2 - log(2 pi) / 2,     d/dx = -1 / M(x),     M'(x) = x M(x) - 1
///
/// and the quantile Q(l), log(1 - Phi(Q)) = l, is found from the start of Hastings (Abramowitz & Stegun 1964, 26.2.23;
/// right to 4.5e-4) by steps of third order with the error e = log(1 - Phi(Q)) - l:
///
///   Q <- Q + M e (1 + M' e / 2)
///
/// M is a polynomial in (x - 4) / (x + 4), divided by 1 + x (the form of Shepherd & Laframboise 1981, Mathematics of
/// Computation 36:249; the coefficients are ours: Chebyshev interpolation in 50 digits, relative error 2e-18, for float
/// 2e-9).

#include <concepts>
#include <limits>
#include <rhei/nn/math.hpp>

namespace rhei {

namespace detail {

inline constexpr double kLogSqrtTwoPi = 0.91893853320467274178;

template <Real S>
Lanes<S> square_root(Lanes<S> x) {
  return Lanes<S>::of(Eigen::internal::psqrt(x.p));
}

}  // namespace detail

/// The Mills ratio (1 - Phi(x)) / phi(x) of the standard normal for x >= 0, to a few units in the last place: from
/// sqrt(pi / 2) at 0 down to 1 / x far out. It is dQ/d(-l) of normal_upper_quantile().
template <Real S>
Lanes<S> mills_ratio(Lanes<S> x) {
  const Lanes<S> t = S(1) - S(8) / (x + S(4));
  const auto scaled = [t] {
    if constexpr (std::same_as<S, float>)
      return polynomial(
          t, {1.95510407e-5, 3.14576459e-5, -2.04275056e-4, -2.11815837e-4, 1.73288633e-3, -7.30229401e-4,
              -1.25365794e-2, 4.4963193e-2, -8.07083194e-2, 7.16899799e-2, 3.50918912e-2, -2.42399653e-1, 1.18326191});
    else
      return polynomial(
          t, {4.93498442726148746e-10, 4.4802333820991688e-10,  -4.779664948926488e-9,   -6.5624402369464742e-9,
              2.2205063936815333e-8,   5.07784412233204786e-8,  -5.8443261863679255e-8,  -2.86929996520794238e-7,
              1.06339804700229233e-8,  1.390762707984928e-6,    1.01014924352448505e-6,  -6.55335445525825048e-6,
              -8.60188663234563929e-6, 3.41588143318382063e-5,  5.32656396009637743e-5,  -2.20215575695751598e-4,
              -2.36701489622878692e-4, 1.74184877373258508e-3,  -7.15950938934342579e-4, -1.25391036203981396e-2,
              4.49591290794253452e-2,  -8.07080096790522992e-2, 7.1690481201360952e-2,   3.50918802347480072e-2,
              -2.4239967052180738e-1,  1.18326191456780335});
  };
  return scaled() / (x + S(1));
}

/// log(1 - Phi(x)) for x >= 0.
template <Real S>
Lanes<S> normal_log_upper_tail(Lanes<S> x) {
  return multiply_add(S(-0.5) * x, x, log(mills_ratio(x)) - S(detail::kLogSqrtTwoPi));
}

/// The x >= 0 that a standard normal exceeds with probability exp(log_p), for log_p <= log(1/2), which may be half
/// as far down as numbers go; infinity for -infinity. The derivative by log_p is -mills_ratio(x).
template <Real S>
Lanes<S> normal_upper_quantile(Lanes<S> log_p) {
  constexpr int steps = std::same_as<S, float> ? 1 : 2;
  const Lanes<S> r = detail::square_root(S(-2) * log_p);
  const Lanes<S> near = select(r < S(1e6), r, S(1e6));  // its powers must not overflow
  Lanes<S> x =
      r - polynomial(near, {0.010328, 0.802853, 2.515517}) / polynomial(near, {0.001308, 0.189269, 1.432788, 1.0});
  for (int step = 0; step < steps; ++step) {
    const Lanes<S> m = mills_ratio(x);
    const Lanes<S> error = multiply_add(S(-0.5) * x, x, -log_p) + (log(m) - S(detail::kLogSqrtTwoPi));
    const Lanes<S> bend = S(0.5) * multiply_add(x, m, S(-1)) * error;
    // Far out M' is nothing but rounding, and the error that it is multiplied with is large.
    x = x + multiply_add(m * error, select(abs(bend) < S(1), bend, S(0)), m * error);
  }
  constexpr S infinity = std::numeric_limits<S>::infinity();
  return select(log_p == Lanes<S>(-infinity), Lanes<S>(infinity), x);
}

/// Phi^-1(F), given where F < 1/2 (a mask), and there log F, elsewhere log(1 - F): accurate to a few units in the last
/// place of max(1, |z|) everywhere. Its derivative is mills_ratio(|z|) by log F, and -mills_ratio(|z|) by log(1 - F).
template <Real S>
Lanes<S> normal_quantile_of_tail(Lanes<S> is_lower, Lanes<S> log_p) {
  const Lanes<S> x = normal_upper_quantile(log_p);
  return select(log_p == log_p, select(is_lower, -x, x), log_p);  // a NaN stays
}

/// The same from log F and log(1 - F), of which the smaller alone is used.
template <Real S>
Lanes<S> normal_quantile(Lanes<S> log_cdf, Lanes<S> log_survival) {
  const auto is_lower = log_cdf < log_survival;
  const Lanes<S> z = normal_quantile_of_tail(is_lower, select(is_lower, log_cdf, log_survival));
  return select(log_cdf == log_cdf, z, log_cdf);
}

/// log(Phi(z) / (1 - Phi(z))): odd, and accurate to a few units in the last place of max(1, |itself|) everywhere.
template <Real S>
Lanes<S> normal_log_odds(Lanes<S> z) {
  const Lanes<S> log_p = normal_log_upper_tail(abs(z));
  const Lanes<S> odds = log1p(-exp(log_p)) - log_p;
  return select(z < S(0), -odds, odds);
}

}  // namespace rhei
