// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The radial flow (Rezende & Mohamed 2015, "Variational Inference with Normalizing Flows", section 4.1, equations 13
/// and 14, and appendix A.2): space expands from a centre or contracts to it.
///
///   forward  x = z + beta' (z - c) / (alpha + r),  r = |z - c|     log|det| =  (D - 1) log A + log B
///   inverse  z = c + (x - c) / A                                   log|det| = -(D - 1) log A - log B
///   A = (r + p) / (alpha + r)    B = (r^2 + 2 alpha r + alpha p) / (alpha + r)^2    p = alpha + beta'
///
/// for one sample: A stretches across the radius, B along it. With y = |x - c| = A r, the inverse finds r from
///
///   r^2 + (p - y) r - alpha y = 0
///
/// in the form that does not cancel. alpha and p must be positive: alpha = m(raw_alpha), p = m(raw_p) with
/// m(s) = s + sqrt(1 + s^2), where the paper has log(1 + e^s); so m(0) = 1, and no digit is lost for negative s.
///
/// At the centre itself the log-determinant has a kink (it contains r); its gradient there is taken as zero. Both
/// directions cost some 4 n D operations and two logarithms per sample.

#include <cmath>
#include <rhei/core/layer.hpp>
#include <rhei/nn/math.hpp>

namespace rhei {

/// A radial flow of `dim` features.
template <Real S>
class Radial {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "radial";

  struct Parameters {
    RowVector<S> centre;     ///< D, c
    RowVector<S> raw_alpha;  ///< 1
    RowVector<S> raw_p;      ///< 1

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("centre", self.centre);
      f("raw_alpha", self.raw_alpha);
      f("raw_p", self.raw_p);
    }
  };
  using Gradient = Parameters;
  struct Cache {
    Buffer<S> radius;   ///< n, r
    Buffer<S> across;   ///< n, A
    Buffer<S> along;    ///< n, B
    Buffer<S> pull;     ///< n, of a pullback: (z - c).d_out
    Buffer<S> stretch;  ///< n, of a pullback: the coefficient of z - c in d_in
  };

  /// The identity, around a centre drawn from the standard normal.
  /// \throws std::invalid_argument if dim < 1.
  Radial(Index dim, Rng& rng) : Radial(dim) { rng.fill_normal(parameters_.centre); }

  [[nodiscard]] Index dim() const { return parameters_.centre.size(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] static constexpr Traits traits() { return {}; }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }
  /// alpha > 0.
  [[nodiscard]] S alpha() const { return positive(parameters_.raw_alpha[0]); }
  /// beta' > -alpha.
  [[nodiscard]] S beta() const { return positive(parameters_.raw_p[0]) - alpha(); }

  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()); }
  static Radial from_options(const Options& options) { return Radial(options.get_size("dim", 1)); }

  /// x = z + beta' (z - c) / (alpha + r): some 4 n D operations, two logarithms per sample.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("Radial::forward", *this, call, z, x, log_det.size());
    measure(z, cache.radius.resize(z.rows()));
    stretch(S(1), log_det, cache);
    const auto across = std::as_const(cache.across).values().array();
    for (Index d = 0; d < dim(); ++d) {
      const S c = parameters_.centre[d];
      x.col(d).array() = c + across * (z.col(d).array() - c);
    }
  }

  /// z = c + (x - c) / A, a quadratic equation for r: as costly as forward.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("Radial::inverse", *this, call, x, z, log_det.size());
    const S a = alpha(), p = positive(parameters_.raw_p[0]);
    Values<S> distance = cache.along.resize(x.rows()), half = cache.across.resize(x.rows());
    measure(x, distance);
    half.array() = S(0.5) * (distance.array() - p);
    auto radius = cache.radius.resize(x.rows()).array();
    radius = half.array().abs() + (half.array().square() + a * distance.array()).sqrt();
    radius = (half.array() < S(0)).select(a * distance.array() / radius, radius);
    stretch(S(-1), log_det, cache);
    const auto across = std::as_const(cache.across).values().array();
    for (Index d = 0; d < dim(); ++d) {
      const S c = parameters_.centre[d];
      z.col(d).array() = c + (x.col(d).array() - c) / across;
    }
  }

  /// With e = (z - c) / r, b = beta' / (alpha + r)^2 and L = log|det|: the Jacobian is A I - b r e e^T, so
  /// d_z = A d_x + (d_L dL/dr - b (z - c).d_x) e.
  void forward_pullback(const Call<S>&, ConstBatch<S> z, ConstBatch<S>, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>*, Gradient* gradient) const {
    pull_back<true>(z, d_x, d_log_det, d_z, gradient, cache);
  }

  /// The cotangent of x is the inverse Jacobian, I / A + b r / (A B) e e^T, times that of z, d_z - d_L dL/dr e.
  void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>*, Gradient* gradient) const {
    pull_back<false>(z, d_z, d_log_det, d_x, gradient, cache);
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] Radial<T> cast() const {
    return cast_to<Radial<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }

 private:
  explicit Radial(Index dim) {
    detail::check_value("Radial", "dim", dim, dim >= 1, "at least 1");
    parameters_ = {RowVector<S>::Zero(dim), RowVector<S>::Zero(1), RowVector<S>::Zero(1)};
  }

  /// m(s) = s + sqrt(1 + s^2)
  static S positive(S s) {
    const S root = std::hypot(S(1), s);
    return s < 0 ? 1 / (root - s) : root + s;
  }
  /// m'(s)
  static S slope_of_positive(S s) { return positive(s) / std::hypot(S(1), s); }

  /// |in - c| of every sample.
  void measure(const ConstBatch<S>& in, Values<S> distance) const {
    distance.setZero();
    for (Index d = 0; d < dim(); ++d) distance.array() += (in.col(d).array() - parameters_.centre[d]).square();
    distance.array() = distance.array().sqrt();
  }

  /// From r to A, B and the log-determinant of the direction with the given sign.
  void stretch(S sign, Values<S> log_det, Cache& cache) const {
    const Lanes<S> a(alpha()), p(positive(parameters_.raw_p[0]));
    const Lanes<S> weight(sign * static_cast<S>(dim() - 1)), one(sign);
    const ConstValues<S> radius = std::as_const(cache.radius).values();
    Values<S> across = cache.across.resize(radius.size()), along = cache.along.resize(radius.size());
    elementwise(
        radius.size(), [a, p](Lanes<S> r) { return (r + p) / (a + r); }, across.data(), radius.data());
    elementwise(
        radius.size(),
        [a, p](Lanes<S> r) {
          const Lanes<S> share = a / (a + r);  // B = 1 - share^2 + share p / (a + r), a sum without cancellation
          return r / (a + r) * (S(1) + share) + share * (p / (a + r));
        },
        along.data(), radius.data());
    elementwise(
        radius.size(),
        [weight, one](Lanes<S> sum, Lanes<S> across_, Lanes<S> along_) {
          return multiply_add(weight, log(across_), multiply_add(one, log(along_), sum));
        },
        log_det.data(), log_det.data(), across.data(), along.data());
  }

  template <bool of_forward>
  void pull_back(const ConstBatch<S>& z, const ConstBatch<S>& d_out, const ConstValues<S>& d_log_det, Batch<S>* d_in,
                 Gradient* gradient, Cache& cache) const {
    const Index n = z.rows();
    const S a = alpha(), p = positive(parameters_.raw_p[0]), beta = p - a, others = static_cast<S>(dim() - 1);
    const auto r = std::as_const(cache.radius).values().array();
    const auto across = std::as_const(cache.across).values().array();
    const auto along = std::as_const(cache.along).values().array();
    auto pull = cache.pull.resize(n).array();
    auto stretch = cache.stretch.resize(n).array();
    pull.setZero();
    for (Index d = 0; d < dim(); ++d) pull += (z.col(d).array() - parameters_.centre[d]) * d_out.col(d).array();

    // log A = log(r + p) - log(a + r), log B = log(along (a + r)^2) - 2 log(a + r)
    const auto h = (a + r).inverse();
    const auto h2_by_along = h.square() / along;
    const auto by_r = others * ((r + p).inverse() - h) + 2 * (r + a) * h2_by_along - 2 * h;
    const auto e = (r > S(0)).select(r.inverse(), S(0));
    if (of_forward)
      stretch = e * (d_log_det.array() * by_r - beta * h.square() * pull);
    else
      stretch = e * (beta * h.square() * pull / across - d_log_det.array() * by_r) / along;
    const auto from_centre = [&](Index d) { return stretch * (z.col(d).array() - parameters_.centre[d]); };
    for (Index d = 0; d < (d_in ? dim() : 0); ++d) {
      if constexpr (of_forward)
        d_in->col(d).array() = across * d_out.col(d).array() + from_centre(d);
      else
        d_in->col(d).array() = d_out.col(d).array() / across + from_centre(d);
    }
    if (!gradient) return;

    // x - c is a function of z - c: what leaves x and does not reach z, d_out - d_in, reaches c. (A - 1 = beta h.)
    for (Index d = 0; d < dim(); ++d) {
      const auto moved = beta * h * d_out.col(d).array();
      gradient->centre[d] -= (of_forward ? moved.sum() : -(moved / across).sum()) + from_centre(d).sum();
    }
    // At fixed z, dx/dp = h (z - c) and dx/dalpha = -h A (z - c); of the inverse it is minus d_x that meets them, and
    // (z - c).d_x = (pull - r d_L dL/dr) / B.
    const S sign = of_forward ? S(1) : S(-1);
    if (!of_forward) pull = (pull - r * d_log_det.array() * by_r) / along;
    const auto p_slope = others * (r + p).inverse() + a * h2_by_along;
    const auto a_slope = (2 * r + p) * h2_by_along - (others + 2) * h;
    const S d_p = sign * (h * pull + d_log_det.array() * p_slope).sum();
    const S d_alpha = sign * (d_log_det.array() * a_slope - h * across * pull).sum();
    gradient->raw_p[0] += d_p * slope_of_positive(parameters_.raw_p[0]);
    gradient->raw_alpha[0] += d_alpha * slope_of_positive(parameters_.raw_alpha[0]);
  }

  Parameters parameters_;
};

}  // namespace rhei
