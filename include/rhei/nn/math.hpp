// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Elementwise functions at the speed of the vector registers, in both scalars.
///
/// Eigen 3.4 has a vectorized exp and log for float and double, but tanh only for float; the double version, and those
/// of log1p and erf, are library calls of some 10 ns an element. Here they are made from exp and log, to a few units in
/// the last place. A function is written once, on `Lanes` (as many values as a register holds), and `elementwise` runs
/// it over contiguous ranges; the last, partial register goes through the same arithmetic, so that a value does not
/// depend on where in a batch it stands.
///
/// NaN gives NaN, and infinities give the limits; a limit of zero may come out as a number below the smallest normal
/// one.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <rhei/core/types.hpp>

namespace rhei {

namespace detail {

template <Real S>
constexpr bool has_vector_functions = Eigen::internal::packet_traits<S>::Vectorizable&&
    Eigen::internal::packet_traits<S>::HasExp&& Eigen::internal::packet_traits<S>::HasLog;
template <Real S, bool vectorized = has_vector_functions<S>>
struct Register {  // and not std::conditional_t, where g++ warns of a packet as a template argument
  using Packet = typename Eigen::internal::packet_traits<S>::type;
};
template <Real S>
struct Register<S, false> {
  using Packet = S;
};

}  // namespace detail

/// As many values as a vector register holds, with the arithmetic of one value.
template <Real S>
struct Lanes {
  /// The register.
  using Packet = typename detail::Register<S>::Packet;
  static constexpr Index size = Eigen::internal::unpacket_traits<Packet>::size;  ///< values in a register

  Packet p;  ///< the values

  Lanes() = default;
  /// The same value everywhere.
  Lanes(S value) : p(Eigen::internal::pset1<Packet>(value)) {}
  /// Of a register.
  static Lanes of(const Packet& packet) {
    Lanes lanes;
    lanes.p = packet;
    return lanes;
  }
  /// From `size` values in memory, aligned or not.
  static Lanes load(const S* from) { return of(Eigen::internal::ploadu<Packet>(from)); }
  /// To `size` values in memory, aligned or not.
  void store(S* to) const { Eigen::internal::pstoreu(to, p); }

  friend Lanes operator+(Lanes a, Lanes b) { return of(Eigen::internal::padd(a.p, b.p)); }
  friend Lanes operator-(Lanes a, Lanes b) { return of(Eigen::internal::psub(a.p, b.p)); }
  friend Lanes operator*(Lanes a, Lanes b) { return of(Eigen::internal::pmul(a.p, b.p)); }
  friend Lanes operator/(Lanes a, Lanes b) { return of(Eigen::internal::pdiv(a.p, b.p)); }
  friend Lanes operator-(Lanes a) { return of(Eigen::internal::pnegate(a.p)); }
  /// A mask for select(); a comparison with NaN is false.
  friend Lanes operator<(Lanes a, Lanes b) { return of(Eigen::internal::pcmp_lt(a.p, b.p)); }
  friend Lanes operator==(Lanes a, Lanes b) { return of(Eigen::internal::pcmp_eq(a.p, b.p)); }
};

/// out[i] = f(in[i]...) for n values; f takes and returns Lanes<S>. `out` may be one of the inputs.
template <class F, Real S, class... In>
void elementwise(Index n, F f, S* out, const In*... in) {
  static_assert((std::same_as<In, S> && ...), "one scalar");
  constexpr Index width = Lanes<S>::size;
  Index i = 0;
  for (; i + width <= n; i += width) f(Lanes<S>::load(in + i)...).store(out + i);
  if (i == n) return;
  const auto count = static_cast<std::size_t>(n - i);
  const auto load_part = [&](const S* from) {
    S part[width] = {};
    std::memcpy(part, from, count * sizeof(S));
    return Lanes<S>::load(part);
  };
  S part[width];
  f(load_part(in + i)...).store(part);
  std::memcpy(out + i, part, count * sizeof(S));
}

/// Consecutive values of a range that fill a register; the last ones of the range may fill it in part. (elementwise()
/// does without: what costs little would take half as long again.)
template <Real S>
struct Part {
  Index first;  ///< where in the range
  Index count;  ///< how many of the register's lanes

  /// Those of the range that begins at `range`, and zeros beyond.
  [[nodiscard]] Lanes<S> load(const S* range) const {
    if (count == Lanes<S>::size) [[likely]]
      return Lanes<S>::load(range + first);
    S padded[Lanes<S>::size] = {};
    for (Index i = 0; i < count; ++i) padded[i] = range[first + i];
    return Lanes<S>::load(padded);
  }
  /// To the range that begins at `range`.
  void store(Lanes<S> lanes, S* range) const {
    if (count == Lanes<S>::size) [[likely]]
      return lanes.store(range + first);
    S padded[Lanes<S>::size];
    lanes.store(padded);
    for (Index i = 0; i < count; ++i) range[first + i] = padded[i];
  }
};

/// The number of parts of a range of n values.
template <Real S>
constexpr Index part_count(Index n) {
  return (n + Lanes<S>::size - 1) / Lanes<S>::size;
}

/// Calls f(part) for all parts of a range of n values.
template <Real S, class F>
void for_each_part(Index n, F&& f) {
  for (Index i = 0; i < n; i += Lanes<S>::size) f(Part<S>{i, std::min(Lanes<S>::size, n - i)});
}

/// Parts that take the steps of a long computation one after another: one alone would wait for its own results.
template <Real S>
struct PartGroup {
  Index first, count;  ///< of its values

  /// Calls step(number in the group, part) for each of its parts.
  template <class F>
  void for_each(F&& step) const {
    for (Index i = 0; i < count; i += Lanes<S>::size)
      step(static_cast<std::size_t>(i / Lanes<S>::size), Part<S>{first + i, std::min(Lanes<S>::size, count - i)});
  }
};

/// Calls f(group) for groups of `parts` parts of a range of n values; the last one may have less.
template <Real S, class F>
void for_each_group(Index n, Index parts, F&& f) {
  const Index most = parts * Lanes<S>::size;
  for (Index i = 0; i < n; i += most) f(PartGroup<S>{i, std::min(most, n - i)});
}

/// Where `mask` is set a, elsewhere b.
template <Real S>
Lanes<S> select(Lanes<S> mask, Lanes<S> a, std::type_identity_t<Lanes<S>> b) {
  return Lanes<S>::of(Eigen::internal::pselect(mask.p, a.p, b.p));
}

/// Whether a mask is set in some lane.
template <Real S>
bool any_lane(Lanes<S> mask) {
  return Eigen::internal::predux_any(mask.p);
}
/// Whether a mask is set in every lane.
template <Real S>
bool all_lanes(Lanes<S> mask) {
  return !Eigen::internal::predux_any(Eigen::internal::pandnot(Eigen::internal::ptrue(mask.p), mask.p));
}

/// a * b + c.
template <Real S>
Lanes<S> multiply_add(Lanes<S> a, Lanes<S> b, std::type_identity_t<Lanes<S>> c) {
  return Lanes<S>::of(Eigen::internal::pmadd(a.p, b.p, c.p));
}

/// |x|.
template <Real S>
Lanes<S> abs(Lanes<S> x) {
  return Lanes<S>::of(Eigen::internal::pabs(x.p));
}

/// The larger of a and b; of a number and NaN it may be either.
template <Real S>
Lanes<S> larger(Lanes<S> a, std::type_identity_t<Lanes<S>> b) {
  return Lanes<S>::of(Eigen::internal::pmax(a.p, b.p));
}

/// The square root.
template <Real S>
Lanes<S> sqrt(Lanes<S> x) {
  return Lanes<S>::of(Eigen::internal::psqrt(x.p));
}

/// e^x.
template <Real S>
Lanes<S> exp(Lanes<S> x) {
  return Lanes<S>::of(Eigen::internal::pexp(x.p));
}

/// The polynomial with the given coefficients, that of the highest power first.
template <Real S, std::size_t count>
Lanes<S> polynomial(Lanes<S> x, const double (&coefficients)[count]) {
  Lanes<S> sum(static_cast<S>(coefficients[0]));
  for (std::size_t i = 1; i < count; ++i) sum = multiply_add(sum, x, static_cast<S>(coefficients[i]));
  return sum;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"  // of a packet as a template argument, which is Eigen's way
/// e^x for x <= 0, or e^least where x < least: in float with half the operations of exp. Without `least` the least
/// value is just below the smallest normal number.
template <Real S>
Lanes<S> exp_negative(Lanes<S> x, S least = std::same_as<S, float> ? S(-87.3366) : S(-708.4)) {
  const Lanes<S> kept = select(x < Lanes<S>(least), Lanes<S>(least), x);
  if constexpr (detail::has_vector_functions<S> && std::same_as<S, float>) {
    // x = n log 2 + r. Added to `magic`, n + 127 is in the last bits of a float: where an exponent's are, moved by 23.
    constexpr float magic = 12582912 + 127, log_2_high = 0.693359375f, log_2_low = -2.12194440e-4f;
    const Lanes<S> sum = multiply_add(kept, Lanes<S>(1.44269504088896341f), magic), n = sum - magic;
    const Lanes<S> r = multiply_add(n, Lanes<S>(-log_2_low), multiply_add(n, Lanes<S>(-log_2_high), kept));
    // interpolates e^r at the Chebyshev points of |r| <= log(2) / 2: to 1e-8, and exactly at 0
    const Lanes<S> mantissa =
        polynomial(r, {1.39263256181e-3, 8.36329275303e-3, 4.16665537626e-2, 1.66665763056e-1, 0.5, 1.0, 1.0});
    namespace e = Eigen::internal;
    using Packet = typename Lanes<S>::Packet;
    using Bits = typename e::unpacket_traits<Packet>::integer_packet;
    const Packet power = e::preinterpret<Packet>(Bits(e::plogical_shift_left<23>(e::preinterpret<Bits>(sum.p))));
    return mantissa * Lanes<S>::of(power);
  } else {
    return exp(kept);
  }
}

/// The natural logarithm; NaN where x < 0. For numbers above 0 but below the smallest normal one it may be that of
/// this. In float in two thirds of the time of Eigen's, which treats each value as if it might be none of the usual
/// ones.
template <Real S>
Lanes<S> log(Lanes<S> x) {
  if constexpr (detail::has_vector_functions<S> && std::same_as<S, float>) {
    // x = 2^n (1 + f), 1/2 <= (1 + f)^2 < 2: the bits of sqrt(1/2) are taken from those of x, and n is in the exponent.
    namespace e = Eigen::internal;
    using Packet = typename Lanes<S>::Packet;
    using Bits = typename e::unpacket_traits<Packet>::integer_packet;
    const Bits bits = e::preinterpret<Bits>(x.p);
    const Bits power = e::parithmetic_shift_right<23>(e::psub(bits, e::pset1<Bits>(0x3f3504f3)));
    const Lanes<S> n = Lanes<S>::of(e::pcast<Bits, Packet>(power));
    const Packet mantissa = e::preinterpret<Packet>(Bits(e::psub(bits, Bits(e::plogical_shift_left<23>(power)))));
    const Lanes<S> f = Lanes<S>::of(mantissa) - S(1), square = f * f;
    // interpolates (log(1 + f) - f + f^2 / 2) / f^3 at the Chebyshev points: the logarithm to 2e-8 of itself
    const Lanes<S> odd = polynomial(square, {-0.0790274377239, -0.129981837637, -0.166412814631, -0.250003064226});
    const Lanes<S> even = polynomial(square, {0.126223198492, 0.142144959239, 0.200010450942, 0.333333307282});
    const Lanes<S> rest = multiply_add(odd, f, even);
    const Lanes<S> of_mantissa = f + multiply_add(S(-0.5) * f, f, rest * square * f);
    const Lanes<S> y = multiply_add(n, Lanes<S>(S(0.69314718055994530942)), of_mantissa);
    // infinite, NaN, less than the smallest normal number
    const auto unusual = Lanes<S>::of(e::por(e::pcmp_lt_or_nan(x.p, e::pset1<Packet>(std::numeric_limits<S>::min())),
                                             e::pcmp_lt_or_nan(e::pset1<Packet>(std::numeric_limits<S>::max()), x.p)));
    if (!any_lane(unusual)) [[likely]]
      return y;
    return select(unusual, Lanes<S>::of(e::plog(x.p)), y);
  } else {
    return Lanes<S>::of(Eigen::internal::plog(x.p));
  }
}
#pragma GCC diagnostic pop

/// tanh. In double a rational function near zero and exp elsewhere (Moshier, Cephes, tanh.c).
template <Real S>
Lanes<S> tanh(Lanes<S> x) {
  if constexpr (detail::has_vector_functions<S> && std::same_as<S, float>) {  // Eigen 5 has it in double to 8 ulp
    return Lanes<S>::of(Eigen::internal::ptanh(x.p));
  } else {
    const Lanes<S> square = x * x;
    const Lanes<S> near =
        polynomial(square, {-9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3}) /
        polynomial(square, {1.0, 1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3});
    const Lanes<S> magnitude = abs(x);
    const Lanes<S> far = S(1) - Lanes<S>(2) / (exp(magnitude + magnitude) + S(1));
    return select(magnitude < S(0.625), multiply_add(x * square, near, x), select(x < S(0), -far, far));
  }
}

/// The logistic function 1 / (1 + exp(-x)), accurate relative to itself in both tails.
template <Real S>
Lanes<S> sigmoid(Lanes<S> x) {
  const Lanes<S> e = exp_negative(-abs(x));
  return select(x < S(0), e, S(1)) / (e + S(1));
}

namespace detail {

/// log(1 + e) for e in [0, 1], accurate relative to itself: 2 artanh(s), s = e / (2 + e) <= 1/3, by its power series.
template <Real S>
Lanes<S> log1p_unit(Lanes<S> e) {
  constexpr int terms = std::same_as<S, float> ? 8 : 17;  // (1/3)^(2 terms) / (2 terms + 1) < epsilon / 8
  const Lanes<S> s = e / (e + S(2));
  constexpr S small = std::numeric_limits<S>::epsilon();
  const Lanes<S> kept = select(s < S(small), Lanes<S>(small), s);  // smaller squares are slow: they are denormal
  const Lanes<S> square = kept * kept;
  Lanes<S> sum(S(1) / S(2 * terms - 1));
  for (int k = terms - 2; k > 0; --k) sum = multiply_add(sum, square, S(1) / S(2 * k + 1));
  return multiply_add(sum * square, s + s, s + s);
}

}  // namespace detail

/// log(1 + exp(x)).
template <Real S>
Lanes<S> softplus(Lanes<S> x) {
  return select(x < S(0), Lanes<S>(0), x) + detail::log1p_unit(exp_negative(-abs(x)));
}

/// log(sigmoid(x)) = -softplus(-x).
template <Real S>
Lanes<S> log_sigmoid(Lanes<S> x) {
  return -softplus(-x);
}

/// log(1 + x), accurate relative to itself (Kahan; Goldberg 1991, ACM Computing Surveys 23:1, theorem 4).
template <Real S>
Lanes<S> log1p(Lanes<S> x) {
  const Lanes<S> u = x + S(1);
  const Lanes<S> far = log(u);
  const Lanes<S> near = far * (x / (u - S(1)));  // the rounding of u cancels
  return select(u == Lanes<S>(1), x,
                select(u == Lanes<S>(std::numeric_limits<S>::infinity()), u, select(x == Lanes<S>(-1), far, near)));
}

/// exp(x) - 1 for x <= 0, accurate relative to itself.
template <Real S>
Lanes<S> expm1_negative(Lanes<S> x) {
  const Lanes<S> t = tanh(S(0.5) * x);
  return (t + t) / (S(1) - t);
}

/// The density of the standard normal.
template <Real S>
Lanes<S> normal_density(Lanes<S> x) {
  return S(0.39894228040143267794) * exp(S(-0.5) * x * x);
}

/// The distribution function of the standard normal, (1 + erf(x / sqrt 2)) / 2, by rational functions (Moshier, Cephes,
/// ndtr.c). Below -11 its relative error grows; its value is then less than 1e-28.
template <Real S>
Lanes<S> normal_cdf(Lanes<S> x) {
  const Lanes<S> u = S(0.70710678118654752440) * x;
  const Lanes<S> square = u * u;
  const Lanes<S> large = select(S(16) < abs(u), Lanes<S>(16), abs(u));
  const auto inner = abs(u) < S(1);
  const Lanes<S> numerator =
      select(inner,
             u * polynomial(square, {9.60497373987051638749e0, 9.00260197203842689217e1, 2.23200534594684319226e3,
                                     7.00332514112805075473e3, 5.55923013010394962768e4}),
             polynomial(large, {2.46196981473530512524e-10, 5.64189564831068821977e-1, 7.46321056442269912687e0,
                                4.86371970985681366614e1, 1.96520832956077098242e2, 5.26445194995477358631e2,
                                9.34528527171957607540e2, 1.02755188689515710272e3, 5.57535335369399327526e2}));
  const Lanes<S> denominator =
      select(inner,
             polynomial(square, {1.0, 3.35617141647503099647e1, 5.21357949780152679795e2, 4.59432382970980127987e3,
                                 2.26290000613890934246e4, 4.92673942608635921086e4}),
             polynomial(large, {1.0, 1.32281951154744992508e1, 8.67072140885989742329e1, 3.54937778887819891062e2,
                                9.75708501743205489753e2, 1.82390916687909736289e3, 2.24633760818710981792e3,
                                1.65666309194161350182e3, 5.57535340817727675546e2}));
  const Lanes<S> ratio = S(0.5) * (numerator / denominator);
  const Lanes<S> tail = ratio * exp(-square);  // of erfc(|u|) / 2
  return select(inner, S(0.5) + ratio, select(u < S(0), tail, S(1) - tail));
}

}  // namespace rhei
