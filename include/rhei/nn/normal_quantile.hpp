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
/// the last of which carries M along to where it leads: with the quantile comes its derivative.
///
/// M is a polynomial in (x - 4) / (x + 4), divided by 1 + x (the form of Shepherd & Laframboise 1981, Mathematics of
/// Computation 36:249; the coefficients are ours: Chebyshev interpolation in 50 digits, relative error 2e-18, for float
/// 2e-9).

#include <array>
#include <concepts>
#include <limits>
#include <rhei/nn/math.hpp>

namespace rhei {

namespace detail {

inline constexpr double kLogSqrtTwoPi = 0.91893853320467274178;

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

/// A quantile, and the Mills ratio at its absolute value: but for the sign its derivative by the logarithm.
template <Real S>
struct NormalQuantile {
  Lanes<S> value;  ///< the quantile
  Lanes<S> mills;  ///< the Mills ratio there
};

/// The x >= 0 that a standard normal exceeds with probability exp(log_p), for log_p <= log(1/2), which may be half
/// as far down as numbers go; infinity for -infinity. The derivative by log_p is -mills. For `count` registers, step by
/// step: one alone is a chain of a hundred operations that wait for each other.
template <Real S, std::size_t n>
void normal_upper_quantiles(std::size_t count, const std::array<Lanes<S>, n>& log_p,
                            std::array<NormalQuantile<S>, n>& quantiles) {
  constexpr int steps = std::same_as<S, float> ? 1 : 2;
  constexpr S infinity = std::numeric_limits<S>::infinity();
  std::array<Lanes<S>, n> log_mills;
  for (std::size_t i = 0; i < count; ++i) {
    const Lanes<S> r = sqrt(S(-2) * log_p[i]);
    const Lanes<S> near = select(r < S(1e6), r, S(1e6));  // its powers must not overflow
    quantiles[i].value =
        r - polynomial(near, {0.010328, 0.802853, 2.515517}) / polynomial(near, {0.001308, 0.189269, 1.432788, 1.0});
  }
  for (int step = 0; step < steps; ++step) {
    for (std::size_t i = 0; i < count; ++i) quantiles[i].mills = mills_ratio(quantiles[i].value);
    for (std::size_t i = 0; i < count; ++i) log_mills[i] = log(quantiles[i].mills);
    for (std::size_t i = 0; i < count; ++i) {
      auto& [x, m] = quantiles[i];
      // M' = x M - 1 and M'' = M + x M', which far out are nothing but rounding: there M is 1 / x - 1 / x^3 + ...
      const auto near = x < S(1e3);
      const Lanes<S> slope = select(near, multiply_add(x, m, S(-1)), -(m * m));
      const Lanes<S> bend = select(near, multiply_add(x, slope, m), S(0));
      const Lanes<S> error = multiply_add(S(-0.5) * x, x, -log_p[i]) + (log_mills[i] - S(detail::kLogSqrtTwoPi));
      const Lanes<S> next = x + multiply_add(m * error, S(0.5) * slope * error, m * error);
      // M by Taylor's series. Near, the last step is below 5e-4 and its third power nothing; far, it rounds x.
      const Lanes<S> moved = next - x;
      m = multiply_add(moved, multiply_add(S(0.5) * moved, bend, slope), m);
      x = next;
    }
  }
  for (std::size_t i = 0; i < count; ++i) {
    const auto unlimited = log_p[i] == Lanes<S>(-infinity);
    quantiles[i] = {select(unlimited, Lanes<S>(infinity), quantiles[i].value),
                    select(unlimited, Lanes<S>(0), quantiles[i].mills)};
  }
}

/// The same for one register.
template <Real S>
NormalQuantile<S> normal_upper_quantile(Lanes<S> log_p) {
  std::array<NormalQuantile<S>, 1> quantile;
  normal_upper_quantiles<S, 1>(1, {log_p}, quantile);
  return quantile[0];
}

/// Phi^-1(F) from log F and log(1 - F), of which the smaller alone is used: accurate to a few units in the last place
/// of max(1, |z|) everywhere.
template <Real S>
Lanes<S> normal_quantile(Lanes<S> log_cdf, Lanes<S> log_survival) {
  const auto is_lower = log_cdf < log_survival;
  const Lanes<S> x = normal_upper_quantile(select(is_lower, log_cdf, log_survival)).value;
  return select(log_cdf == log_cdf, select(log_survival == log_survival, select(is_lower, -x, x), log_survival),
                log_cdf);
}

/// log(Phi(z) / (1 - Phi(z))): odd, and accurate to a few units in the last place of max(1, |itself|) everywhere.
template <Real S>
Lanes<S> normal_log_odds(Lanes<S> z) {
  const Lanes<S> log_p = normal_log_upper_tail(abs(z));
  const Lanes<S> odds = log1p(-exp(log_p)) - log_p;
  return select(z < S(0), -odds, odds);
}

}  // namespace rhei
