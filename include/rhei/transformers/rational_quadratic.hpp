// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Monotone rational-quadratic splines (Durkan et al. 2019, "Neural spline flows", section 3.1; Gregory & Delbourgo
/// 1982).
///
/// K bins divide [-B, B] on both sides; raw holds K widths, K heights, and the slopes at the knots. With span = 2B,
///
///   z_k = -B + span (k min_width + (1 - K min_width) sum_{j<k} softmax_j(widths))       x_k alike from the heights
///   slope_k = min_slope + softplus(raw_k + c),  c such that raw_k = 0 is the slope 1
///
/// or, as zuko has them (`SplineMap::clipped`), with clip_b(v) = v / (1 + |v / b|) and c = -log(min_slope), shares of
/// softmax_j(clip_{c/2}(widths)) above the least ones, and slope_k = exp(clip_c(raw_k)).
///
/// In the bin between the knots 0 and 1, of width w, height h, s = h / w, with the slopes there in units of s,
/// l = slope_0 / s and r = slope_1 / s (eq. 4 and 5 with theta = (z - z_0) / w, phi = 1 - theta):
///
///   lower = theta (theta + l phi),  upper = phi (phi + r theta),  D = lower + upper
///   x = x_0 + h lower / D = x_1 - h upper / D,   dx/dz = s N / D^2,   N = theta (phi + r theta) + phi (theta + l phi)
///
/// The inverse's quadratic equation (eq. 6-8) is solved without its discriminant b^2 - 4ac, which cancels. With
/// eta = (x - x_0) / h, zeta = 1 - eta, p = l zeta - r eta, m = |p| + sqrt(p^2 + 4 eta zeta):
///
///   theta : phi = 2 eta : m  where p >= 0,   m : 2 zeta  where p < 0
///
/// No term of these is negative, so that 0 <= theta <= 1 and no square root is NaN, whatever the parameters. A
/// derivative of z at a fixed x is -dx/dparameter / (dx/dz), by the implicit function theorem.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <rhei/nn/math.hpp>
#include <rhei/transformers/transformer.hpp>
#include <string>
#include <string_view>

namespace rhei {

/// What becomes of a number outside a spline's interval, and of the slopes at its two ends.
enum class Tails {
  linear,    ///< outside all stays as it is; the slopes at the ends are 1, so that the density has no step there
  circular,  ///< the interval is a circle: the ends are one knot, with one slope. Outside there is nothing: NaN
  none       ///< the interval is mapped onto itself, with free slopes at its ends. Outside there is nothing: NaN
};

/// How raw numbers become the widths, heights and slopes of a spline; see the file comment.
enum class SplineMap {
  floored,  ///< softmax and softplus, both above a least value (Durkan et al. 2019)
  clipped   ///< softmax and exp of softly clipped numbers: slopes lie in (min_slope, 1 / min_slope) (zuko 1.6)
};

/// What a rational-quadratic spline is made of.
struct SplineOptions {
  Index bins = 8;                      ///< K
  double bound = 5;                    ///< B: the spline maps [-B, B] onto itself (pi for angles)
  double min_width = 1e-3;             ///< of a bin, in units of 2B
  double min_height = 1e-3;            ///< likewise
  double min_slope = 1e-3;             ///< at a knot
  Tails tails = Tails::linear;         ///< what lies outside of the interval
  SplineMap map = SplineMap::floored;  ///< from raw numbers to bins

  bool operator==(const SplineOptions&) const = default;
};

/// x = spline(z). Where raw = 0 it is the identity (bit for bit where min_width = min_height).
///
/// An element whose input or one of whose parameters is NaN becomes NaN. A slope's raw parameter counts up to 1e8.
template <Real S>
class RationalQuadratic {
 public:
  using Scalar = S;
  struct Cache {
    /// Of the widths and heights of as many elements as a register holds, and of the last ones that fill none.
    Buffer<S> exponentials;
    Buffer<S> slopes;  ///< for each register of elements those at their left knots, and those at their right ones
  };
  static constexpr std::string_view type = "rational_quadratic";

  RationalQuadratic() : RationalQuadratic(SplineOptions{}) {}
  /// A spline of these bins.
  /// \throws std::invalid_argument unless bins >= 1, bound is from 1e-6 to 1e6, min_width and min_height are at least
  /// 1e-6 (where clipped 0) and less than 1 / bins, and min_slope is at least 1e-6 and less than 1.
  explicit RationalQuadratic(const SplineOptions& options) : options_(options) {
    const auto check = [](std::string_view what, double came, double least, double most, bool ok,
                          const std::string& expected) {
      detail::check_value("RationalQuadratic", what, came, came >= least && came <= most && ok, expected);
    };
    detail::check_value("RationalQuadratic", "bins", options.bins, options.bins >= 1, "1 or more");
    check("bound", options.bound, 1e-6, 1e6, true, "1e-6 to 1e6");
    const double most = 1 / static_cast<double>(options.bins);
    for (const auto& [name, value] : {std::pair("min_width", options.min_width), {"min_height", options.min_height}})
      check(
          name, value, is_clipped() ? 0 : 1e-6, most, value < most,
          "at least " + std::string(is_clipped() ? "0" : "1e-6") + " and less than 1 / bins = " + std::to_string(most));
    check("min_slope", options.min_slope, 1e-6, 1, options.min_slope < 1, "at least 1e-6 and less than 1");

    widths_ = side_of(options.min_width);
    heights_ = side_of(options.min_height);
    slope_clip_ = static_cast<S>(-std::log(options.min_slope));
    slope_shift_ = static_cast<S>(std::log(std::expm1(1 - options.min_slope)));
    S at_zero[L::size];
    softplus(L(slope_shift_)).store(at_zero);
    slope_offset_ = S(1) - at_zero[0];  // min_slope, rounded so that raw = 0 gives 1 and not a neighbour of it
  }

  /// What it is made of.
  [[nodiscard]] const SplineOptions& spline_options() const { return options_; }
  [[nodiscard]] Index parameter_count() const { return 2 * options_.bins + slope_count(); }

  [[nodiscard]] Options options() const {
    Options own(type);
    own.set("bins", std::int64_t{options_.bins})
        .set("bound", options_.bound)
        .set("min_width", options_.min_width)
        .set("min_height", options_.min_height)
        .set("min_slope", options_.min_slope)
        .set("tails", std::string(kTails[static_cast<std::size_t>(options_.tails)]));
    if (is_clipped()) own.set("map", std::string(kClipped));
    return own;
  }
  /// \throws std::runtime_error for tails or a map that are none of these, std::invalid_argument as the constructor
  /// does.
  static RationalQuadratic from_options(const Options& options) {
    const auto& tails = options.get<std::string>("tails");
    const auto found = std::find(kTails.begin(), kTails.end(), tails);
    if (found == kTails.end()) throw std::runtime_error("tails is '" + tails + "', expected linear, circular or none");
    if (options.has("map") && options.get<std::string>("map") != kClipped)
      throw std::runtime_error("map is '" + options.get<std::string>("map") + "', expected clipped or no such entry");
    return RationalQuadratic({.bins = options.get_size("bins", 1),
                              .bound = options.get_number("bound"),
                              .min_width = options.get_number("min_width"),
                              .min_height = options.get_number("min_height"),
                              .min_slope = options.get_number("min_slope"),
                              .tails = static_cast<Tails>(found - kTails.begin()),
                              .map = options.has("map") ? SplineMap::clipped : SplineMap::floored});
  }

  /// 2 K exponentials and a fraction per element. Unless the map is clipped, the exponentials take the place of the raw
  /// widths and heights of all elements but the last ones, which fill no register.
  void forward(Batch<S> raw, ConstValues<S> z, Values<S> x, Values<S> log_slope, Cache& cache) const {
    evaluate<true>(raw, z, x, log_slope, cache);
  }
  /// The same and a quadratic equation: as exact as forward.
  void inverse(Batch<S> raw, ConstValues<S> x, Values<S> z, Values<S> log_slope, Cache& cache) const {
    evaluate<false>(raw, x, z, log_slope, cache);
  }
  void forward_pullback(ConstBatch<S> raw, ConstValues<S> z, ConstValues<S>, Cache& cache, ConstValues<S> d_x,
                        ConstValues<S> d_log_slope, Values<S> d_z, Batch<S> d_raw) const {
    pull_back<true>(raw, z, cache, d_x, d_log_slope, d_z, d_raw);
  }
  void inverse_pullback(ConstBatch<S> raw, ConstValues<S> x, ConstValues<S>, Cache& cache, ConstValues<S> d_z,
                        ConstValues<S> d_log_slope, Values<S> d_x, Batch<S> d_raw) const {
    pull_back<false>(raw, x, cache, d_z, d_log_slope, d_x, d_raw);
  }

  template <Real T>
  [[nodiscard]] RationalQuadratic<T> cast() const {
    return RationalQuadratic<T>(options_);
  }

 private:
  using L = Lanes<S>;

  /// Registers of elements that take each step of the formulas one after another.
  static constexpr Index kTogether = 4;

  /// The knots of one side: z_k = -B + even * k + free * share * (sum of the first k exponentials).
  struct Side {
    S even, free;
  };
  /// Exponentials of one side: the element's own bin's, and the sums of those before and after it. None is taken from
  /// the others or from the knots: at the ends of the interval that would leave nothing but rounding.
  struct Sums {
    L before = L(0), own = L(0), after = L(0);

    void meet(L is_right_of_element, L sum_before, L exponential) {
      before = select(is_right_of_element, before, sum_before);
      own = select(is_right_of_element, own, exponential);
      after = select(is_right_of_element, after + exponential, L(0));
    }
  };
  /// The bin of each element: its number, the knots at its left (0) and right (1), and their raw slopes.
  struct Bin {
    L index = L(0);
    L z_0, z_1, x_0, x_1;
    L raw_0 = L(0), raw_1 = L(0);
    L width_share, height_share;  ///< 1 / the sum of the exponentials
    Sums width_sums, height_sums;
    L nan_or_zero;  ///< NaN where any parameter is
  };
  /// The place of each element in its bin, by the names of the file comment.
  struct Place {
    L w, h, s;
    L l, r, theta, phi;
    L left, right;  ///< theta + l phi and phi + r theta
    L lower, upper, D, N;
  };

  /// What raw slopes and the logarithms of softmax terms are raised to: less changes no knot and no slope, but leads to
  /// numbers so small that the processor is slow with them.
  static constexpr S kLeast = -60;
  /// What raw slopes are limited to, so that no square overflows.
  static constexpr S kMost = S(1e8);
  static constexpr std::array<std::string_view, 3> kTails{"linear", "circular", "none"};
  static constexpr std::string_view kClipped = "clipped";

  [[nodiscard]] bool is_clipped() const { return options_.map == SplineMap::clipped; }
  /// Of the logarithms of softmax terms.
  [[nodiscard]] S share_clip() const { return slope_clip_ / 2; }
  static L clip(L v, S bound) { return bound * (v / (bound + abs(v))); }  // so that the largest numbers do not overflow
  static L clip_derivative(L v, S bound) {
    const L part = bound / (bound + abs(v));
    return part * part;
  }

  [[nodiscard]] S bound() const { return static_cast<S>(options_.bound); }
  [[nodiscard]] Index slope_count() const {
    constexpr std::array<Index, 3> more{-1, 0, 1};  // by Tails
    return options_.bins + more[static_cast<std::size_t>(options_.tails)];
  }
  /// The knot whose slope comes first.
  [[nodiscard]] Index first_free_knot() const { return options_.tails == Tails::linear ? 1 : 0; }
  /// What is added outside the interval.
  [[nodiscard]] L outside() const {
    return options_.tails == Tails::linear ? S(0) : std::numeric_limits<S>::quiet_NaN();
  }

  [[nodiscard]] Side side_of(double least) const {
    const double span = 2 * options_.bound;
    return {static_cast<S>(span * least), static_cast<S>(span * (1 - static_cast<double>(options_.bins) * least))};
  }
  /// exp(raw_j - max) of the K columns of `raw`, `stride` apart.
  void exponentiate(const S* raw, Index stride, const Part<S>& part, S* exponentials) const {
    const Index bins = options_.bins;
    const bool clipped = is_clipped();
    const auto exponent_of = [&](Index j) {
      const L value = part.load(raw + j * stride);
      return clipped ? clip(value, share_clip()) : value;
    };
    L largest = exponent_of(0);
    for (Index j = 0; j < bins; ++j) {
      const L value = exponent_of(j);
      value.store(exponentials + j * L::size);
      largest = larger(largest, value);
    }
    for (Index j = 0; j < bins; ++j)
      exp_negative(L::load(exponentials + j * L::size) - largest, kLeast).store(exponentials + j * L::size);
  }
  /// The same for widths and heights.
  void exponentiate(const ConstBatch<S>& raw, const Part<S>& part, S* exponentials) const {
    const Index bins = options_.bins, n = raw.rows();
    exponentiate(raw.data(), n, part, exponentials);
    exponentiate(raw.data() + bins * n, n, part, exponentials + bins * L::size);
  }
  /// Where those of a part are.
  S* exponentials_of(const Part<S>& part, Cache& cache) const {
    return cache.exponentials.view().data() + (part.count == L::size ? 0 : 2 * options_.bins * L::size);
  }

  template <bool is_forward>
  Bin find_bin(const ConstBatch<S>& raw, const Part<S>& part, L in, const S* exponentials) const {
    const Index bins = options_.bins;
    const S* const of_heights = exponentials + bins * L::size;
    L all_widths(0), all_heights(0);
    for (Index j = 0; j < bins; ++j) {
      all_widths = all_widths + L::load(exponentials + j * L::size);
      all_heights = all_heights + L::load(of_heights + j * L::size);
    }
    Bin bin;
    bin.width_share = S(1) / all_widths;
    bin.height_share = S(1) / all_heights;

    const Side& side = is_forward ? widths_ : heights_;
    const L step = side.free * (is_forward ? bin.width_share : bin.height_share);
    const bool is_linear = options_.tails == Tails::linear, is_circular = options_.tails == Tails::circular;
    const Index stride = raw.rows();
    const S* const raw_slopes = raw.data() + (2 * bins - first_free_knot()) * stride;
    const L last_slope = is_linear ? L(0) : part.load(raw_slopes + (is_circular ? 0 : bins * stride));
    L width_sum(0), height_sum(0), knot(-bound()), slope = is_linear ? L(0) : part.load(raw_slopes);
    bin.nan_or_zero = multiply_add(bin.width_share + bin.height_share, L(0), slope * S(0));
    for (Index j = 0; j < bins; ++j) {
      const L width = L::load(exponentials + j * L::size), height = L::load(of_heights + j * L::size);
      const L is_left = in < knot;
      bin.width_sums.meet(is_left, width_sum, width);
      bin.height_sums.meet(is_left, height_sum, height);
      width_sum = width_sum + width;
      height_sum = height_sum + height;
      knot = knot_at(side.even, step, static_cast<S>(j + 1), is_forward ? width_sum : height_sum);
      const L slope_next = j + 1 == bins ? last_slope : part.load(raw_slopes + (j + 1) * stride);
      bin.nan_or_zero = multiply_add(slope_next, L(0), bin.nan_or_zero);
      bin.index = select(is_left, bin.index, static_cast<S>(j));
      bin.raw_0 = select(is_left, bin.raw_0, slope);
      bin.raw_1 = select(is_left, bin.raw_1, slope_next);
      slope = slope_next;
    }
    const L is_last = bin.index == L(static_cast<S>(bins - 1));  // whose right end is B, and not B up to rounding
    const auto place = [&](const Side& of, L share, const Sums& sums, L& left, L& right) {
      left = knot_at(of.even, of.free * share, bin.index, sums.before);
      right = select(is_last, L(bound()), knot_at(of.even, of.free * share, bin.index + S(1), sums.before + sums.own));
    };
    place(widths_, bin.width_share, bin.width_sums, bin.z_0, bin.z_1);
    place(heights_, bin.height_share, bin.height_sums, bin.x_0, bin.x_1);
    return bin;
  }

  /// Knot k, given the sum of the exponentials before it. The search and the bin that it found must have the same knots
  /// bit for bit, or an element would lie outside its bin.
  [[nodiscard]] L knot_at(S even, L step, L k, L sum) const {
    return multiply_add(sum, step, multiply_add(k, L(even), L(-bound())));
  }

  static L limited(L value, S least, S most) {
    return select(value < least, L(least), select(L(most) < value, L(most), value));
  }
  [[nodiscard]] L slope(L raw) const {
    if (is_clipped()) return exp(clip(raw, slope_clip_));
    const L kept = limited(raw, kLeast, kMost), curved = limited(raw, kLeast, -kLeast);
    return softplus(curved + slope_shift_) + slope_offset_ + (kept - curved);  // softplus is straight beyond
  }
  [[nodiscard]] L slope_derivative(L raw) const {
    if (is_clipped()) return exp(clip(raw, slope_clip_)) * clip_derivative(raw, slope_clip_);
    return select(raw == limited(raw, kLeast, kMost), sigmoid(limited(raw, kLeast, -kLeast) + slope_shift_), L(0));
  }

  template <bool is_forward>
  Place find_place(const Bin& bin, L slope_0, L slope_1, L in) const {
    Place at;
    // not z_1 - z_0: knots are near B and round as B does, which a narrow bin would feel in every derivative
    at.w = multiply_add(widths_.free * bin.width_share, bin.width_sums.own, widths_.even);
    at.h = multiply_add(heights_.free * bin.height_share, bin.height_sums.own, heights_.even);
    at.s = at.h / at.w;
    at.l = slope_0 / at.s;
    at.r = slope_1 / at.s;
    if constexpr (is_forward) {
      const L between = bin.z_1 - bin.z_0;
      at.theta = (in - bin.z_0) / between;
      at.phi = (bin.z_1 - in) / between;
    } else {
      const L between = bin.x_1 - bin.x_0;
      const L eta = (in - bin.x_0) / between, zeta = (bin.x_1 - in) / between;
      const L p = at.l * zeta - at.r * eta;
      const L m = abs(p) + sqrt(p * p + S(4) * eta * zeta);
      const L other = select(p < S(0), zeta + zeta, eta + eta);
      const L larger = m / (m + other), smaller = other / (m + other);
      at.theta = select(p < S(0), larger, smaller);
      at.phi = select(p < S(0), smaller, larger);
    }
    at.left = at.theta + at.l * at.phi;
    at.right = at.phi + at.r * at.theta;
    at.lower = at.theta * at.left;
    at.upper = at.phi * at.right;
    at.D = at.lower + at.upper;
    at.N = at.theta * at.right + at.phi * at.left;
    return at;
  }

  /// The place between two knots, so that rounding does not lead out of the bin.
  static L from_nearer_end(L knot_0, L knot_1, L part_0, L part_1) {
    const L between = knot_1 - knot_0;
    return select(part_0 < part_1, knot_0 + between * part_0, knot_1 - between * part_1);
  }

  template <bool is_forward>
  void evaluate(Batch<S> raw, ConstValues<S> in, Values<S> out, Values<S> log_slope, Cache& cache) const {
    cache.exponentials.resize(L::size, 4 * options_.bins);
    S* slopes = cache.slopes.resize(2 * L::size, part_count<S>(in.size())).data();
    std::array<Bin, kTogether> bins;
    std::array<L, kTogether> ratios;
    for_each_group<S>(in.size(), kTogether, [&](const PartGroup<S>& group) {
      group.for_each([&](std::size_t i, const Part<S>& part) {
        S* const exponentials = exponentials_of(part, cache);
        exponentiate(raw, part, exponentials);
        bins[i] = find_bin<is_forward>(raw, part, limited(part.load(in.data()), -bound(), bound()), exponentials);
        if (part.count < L::size || is_clipped()) return;  // a clipped raw number is needed on the way back
        const Index columns = 2 * options_.bins, stride = raw.rows();
        S* const to = raw.data() + part.first;
        for (Index j = 0; j < columns; ++j) L::load(exponentials + j * L::size).store(to + j * stride);
      });
      group.for_each([&](std::size_t i, const Part<S>&) {
        slope(bins[i].raw_0).store(slopes + 2 * L::size * i);
        slope(bins[i].raw_1).store(slopes + 2 * L::size * i + L::size);
      });
      group.for_each([&](std::size_t i, const Part<S>& part) {
        const Bin& bin = bins[i];
        const L slope_0 = L::load(slopes + 2 * L::size * i), slope_1 = L::load(slopes + 2 * L::size * i + L::size);
        const L given = part.load(in.data());
        const Place at = find_place<is_forward>(bin, slope_0, slope_1, limited(given, -bound(), bound()));
        L mapped;
        if constexpr (is_forward)
          mapped = from_nearer_end(bin.x_0, bin.x_1, at.lower / at.D, at.upper / at.D);
        else
          mapped = from_nearer_end(bin.z_0, bin.z_1, at.theta, at.phi);
        const L deviation = abs(bin.z_0 - bin.x_0) + abs(bin.z_1 - bin.x_1) + abs(slope_0 - S(1)) + abs(slope_1 - S(1));
        const L is_identity = deviation == L(0);  // where the formulas would round
        const L is_outside = L(bound()) < abs(given);
        part.store(select(is_outside, given + outside(), select(is_identity, given, mapped)) + bin.nan_or_zero,
                   out.data());
        ratios[i] = select(is_identity, L(1), at.s * at.N / (at.D * at.D));
      });
      group.for_each([&](std::size_t i, const Part<S>& part) {
        const L log_forward = log(ratios[i]), is_outside = L(bound()) < abs(part.load(in.data()));
        part.store(select(is_outside, outside(), is_forward ? log_forward : -log_forward) + bins[i].nan_or_zero,
                   log_slope.data());
      });
      slopes += 2 * L::size * kTogether;
    });
  }

  template <bool is_forward>
  void pull_back(const ConstBatch<S>& raw, ConstValues<S> in, Cache& cache, ConstValues<S> d_out,
                 ConstValues<S> d_log_slope, Values<S> d_in, Batch<S> d_raw) const {
    const S* const slopes = cache.slopes.view().data();
    for_each_part<S>(in.size(), [&](const Part<S>& part) {
      const L given = part.load(in.data()), inner = limited(given, -bound(), bound());
      const Index bins = options_.bins, stride = in.size();
      S* const exponentials = exponentials_of(part, cache);
      if (is_clipped())
        exponentiate(raw, part, exponentials);
      else if (part.count == L::size)
        for (Index j = 0; j < 2 * bins; ++j)
          L::load(raw.data() + part.first + j * stride).store(exponentials + j * L::size);
      const Bin bin = find_bin<is_forward>(raw, part, inner, exponentials);
      const S* const slope_0 = slopes + 2 * part.first;
      const Place at = find_place<is_forward>(bin, L::load(slope_0), L::load(slope_0 + L::size), inner);

      const L is_outside = L(bound()) < abs(given);
      const L given_d = part.load(d_out.data());
      const L d = select(is_outside, outside(), given_d);
      const L d_log = select(is_outside, outside(), part.load(d_log_slope.data()));

      // by theta at fixed parameters: of lower / D, and of log(s N / D^2)
      const L by_d = S(1) / at.D, by_n = S(1) / at.N;
      const L slope_theta = at.N * by_d * by_d;
      const L log_theta = S(2) * ((at.right - at.left) * by_n - (at.phi - at.theta) * (at.l + at.r - S(2)) * by_d);
      // the loss's derivatives by x at fixed z, by log dx/dz at fixed theta, and by theta
      L d_x, d_log_x, d_theta, moved_in;
      if constexpr (is_forward) {
        d_x = d;
        d_log_x = d_log;
        d_theta = d * at.h * slope_theta + d_log * log_theta;
        moved_in = d_theta / at.w;
      } else {
        moved_in = (d * at.w - d_log * log_theta) / (at.h * slope_theta);
        d_x = -moved_in;
        d_log_x = -d_log;
        d_theta = -(d * at.w);
      }
      part.store(select(is_outside, given_d + outside(), moved_in) + bin.nan_or_zero, d_in.data());

      // by l and r, by log s, and by the bin's width and height
      const L both = at.theta * at.phi * by_d;
      const L d_x_h = d_x * at.h;
      const L d_l = both * (d_x_h * at.upper * by_d - S(2) * d_log_x) + d_log_x * at.phi * at.phi * by_n;
      const L d_r = -both * (d_x_h * at.lower * by_d + S(2) * d_log_x) + d_log_x * at.theta * at.theta * by_n;
      const L d_log_s = d_log_x - at.l * d_l - at.r * d_r;
      const L d_slope_0 = d_l / at.s * slope_derivative(bin.raw_0);
      const L d_slope_1 = d_r / at.s * slope_derivative(bin.raw_1);
      const L d_w = -(d_log_s + at.theta * d_theta) / at.w, d_h = d_x * at.lower * by_d + d_log_s / at.h;

      const SideGradient widths(widths_, bin.width_share, bin.width_sums, -d_theta / at.w, d_w);
      const SideGradient heights(heights_, bin.height_share, bin.height_sums, d_x, d_h);
      // local variables: members would be read again after each store of a register, which may alias anything
      const Index slope_count = this->slope_count();
      const bool clipped = is_clipped();
      S* to = d_raw.data();
      for (const auto& [side, first] : {std::pair(&widths, Index(0)), std::pair(&heights, bins)})
        for (Index j = 0; j < bins; ++j, to += stride) {
          const L here(static_cast<S>(j));
          L exponential = L::load(exponentials + (first + j) * L::size);
          if (clipped)
            exponential = exponential * clip_derivative(part.load(raw.data() + (first + j) * stride), share_clip());
          const L there = select(here == bin.index, side->at, side->after);
          part.store(exponential * select(here < bin.index, side->before, there), to);
        }
      const Index first_knot = first_free_knot(),
                  bin_before_first = options_.tails == Tails::circular ? bins - 1 : first_knot - 1;
      for (Index c = 0; c < slope_count; ++c, to += stride) {
        const L knot(static_cast<S>(c + first_knot)),
            bin_before(static_cast<S>(c == 0 ? bin_before_first : c + first_knot - 1));
        part.store(select(bin.index == knot, d_slope_0, L(0)) + select(bin.index == bin_before, d_slope_1, L(0)), to);
      }
    });
  }

  /// How the derivatives by the place of an element's bin (`d_place`, its width as it is) and by its width (`d_width`,
  /// its left knot as it is) reach the raw parameters of all bins of that side: each softmax term e_j / sum by
  /// `before`, `at` or `after`, as bin j lies before the element's, is it, or lies after it. Place and width, and not
  /// the two knots, whose derivatives nearly cancel where a bin is narrow.
  struct SideGradient {
    L before, at, after;

    SideGradient(const Side& side, L share, const Sums& sums, L d_place, L d_width) {
      const L scale = side.free * share * share;
      before = scale * (d_place * (sums.own + sums.after) - d_width * sums.own);
      at = scale * (d_width * (sums.before + sums.after) - d_place * sums.before);
      after = -scale * (d_place * sums.before + d_width * sums.own);
    }
  };

  SplineOptions options_;
  Side widths_, heights_;
  S slope_shift_ = 0, slope_offset_ = 0;
  S slope_clip_ = 0;
};

}  // namespace rhei
