// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The planar flow (Rezende & Mohamed 2015, "Variational Inference with Normalizing Flows", section 4.1, equations 10
/// to 12, and appendix A.1): space is moved along u' by a sigmoid of the distance to a plane.
///
///   forward  x = z + u' tanh(a),  a = w.z + b              log|det| =  log(1 + q (1 - tanh(a)^2)),  q = w.u'
///   inverse  z = x - u' tanh(a),  a + q tanh(a) = w.x + b  log|det| = -log(1 + q (1 - tanh(a)^2))
///
/// for one sample. The map is invertible where q > -1, so u' is u, moved along w until q = m(w.u) with
///
///   m(s) = s - 1 + sqrt(1 + s^2) > -1        u' = u + (m(s) - s) w / |w|^2 = u + w (u.w/|w|)^2 / (1 + sqrt(1 + s^2))
///
/// in place of the paper's m(s) = -1 + log(1 + e^s): with that, m(0) is not 0 and u' grows as 1/|w| where w vanishes,
/// so that layers which start small are far from the identity; nor does it leave a digit of 1 + q at s = -100. Here
/// m(s) - s is of second order, u' tends to u as w tends to 0 (nothing is divided by |w|), and 1 + q falls as 1/(2|s|).
/// Every u' with w.u' > -1 has its u: see from_u_prime().
///
/// The inverse solves a scalar equation per sample, to the last few units; its pullback is that of the implicit
/// function. Both directions cost 2 n D multiply-adds and a tanh per sample, or some ten for the inverse.

#include <cmath>
#include <rhei/core/layer.hpp>
#include <rhei/nn/math.hpp>
#include <rhei/nn/monotone_root.hpp>
#include <rhei/nn/product.hpp>
#include <utility>

namespace rhei {
namespace detail {

/// 1 - tanh(a)^2, accurate relative to itself where tanh saturates.
template <Real S>
Lanes<S> tanh_slope(Lanes<S> a) {
  const Lanes<S> e = exp_negative(S(-2) * abs(a));
  return S(4) * e / ((e + S(1)) * (e + S(1)));
}

/// The increasing function a + q tanh(a) where q = m(s) = s - 1 + sqrt(1 + s^2) > -1.
template <Real S>
struct TanhBend {
  S root = 1;   ///< sqrt(1 + s^2)
  S above = 1;  ///< 1 + q, to its own last digits however small
  S q = 0;

  TanhBend() = default;
  explicit TanhBend(S s)
      : root(std::hypot(S(1), s)), above(s < 0 ? 1 / (root - s) : root + s), q(s * ((1 + above) / (1 + root))) {}

  /// m'(s)
  [[nodiscard]] S slope_of_m() const { return above / root; }

  /// Takes n values of a and writes tanh(a) over them, h = 1 - tanh(a)^2 and the derivative k = 1 + q h (as a sum
  /// without cancellation); adds sign * log(k) to log_det.
  void apply(Index n, S sign, S* t, S* h, S* k, S* log_det) const {
    const Lanes<S> q_(q), above_(above), sign_(sign);
    elementwise(
        n, [](Lanes<S> a) { return tanh_slope(a); }, h, t);
    elementwise(
        n, [](Lanes<S> a) { return rhei::tanh(a); }, t, t);
    elementwise(
        n, [=](Lanes<S> t_, Lanes<S> h_) { return t_ * t_ + h_ * above_; }, k, t, h);
    elementwise(
        n,
        [=](Lanes<S> sum, Lanes<S> h_, Lanes<S> k_) {
          return multiply_add(sign_, select(abs(h_ * q_) < S(0.5), log1p(h_ * q_), log(k_)), sum);
        },
        log_det, log_det, h, k);
  }

  /// What reaches a: from what reaches tanh(a), in place, and log(k).
  void pull_back_forward(Index n, S* d, const S* t, const S* h, const S* k, const S* d_log_det) const {
    const Lanes<S> two_q(2 * q);
    elementwise(
        n,
        [=](Lanes<S> d_, Lanes<S> t_, Lanes<S> h_, Lanes<S> k_, Lanes<S> d_log) {
          return h_ * (d_ - two_q * t_ * d_log / k_);
        },
        d, d, t, h, k, d_log_det);
  }
  /// The same where a is the solution of a + q tanh(a) = ..., and the log-determinant -log(k).
  void pull_back_inverse(Index n, S* d, const S* t, const S* h, const S* k, const S* d_log_det) const {
    const Lanes<S> two_q(2 * q);
    elementwise(
        n,
        [=](Lanes<S> d_, Lanes<S> t_, Lanes<S> h_, Lanes<S> k_, Lanes<S> d_log) {
          return h_ * (two_q * t_ * d_log / k_ - d_) / k_;
        },
        d, d, t, h, k, d_log_det);
  }

  /// The a where a + q tanh(a) = target.
  [[nodiscard]] S solve(S target, SolveReport& report) const {
    const auto value_and_slope = [this](S a) {
      const S t = std::tanh(a);
      return std::pair<S, S>{a + q * t, t * t + (1 - t) * (1 + t) * above};
    };
    const S size = std::abs(q);
    const S start = std::abs(target) < 1 + size ? target / above : target - std::copysign(q, q * target);
    return solve_increasing(value_and_slope, target, target - size, target + size, start, report);
  }
};

}  // namespace detail

/// A planar flow of `dim` features.
template <Real S>
class Planar {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "planar";

  struct Parameters {
    RowVector<S> u;  ///< D
    RowVector<S> w;  ///< D
    RowVector<S> b;  ///< 1

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("u", self.u);
      f("w", self.w);
      f("b", self.b);
    }
  };
  using Gradient = Parameters;
  struct Cache {
    SolveReport solve;         ///< of the last inverse
    detail::TanhBend<S> bend;  ///< q
    RowVector<S> u_prime;      ///< D, u'
    RowVector<S> normal;       ///< D, w / |w|, or 0 where w = 0
    S along = 0;               ///< u.w / |w|
    Buffer<S> tanh;            ///< n, tanh(a)
    Buffer<S> h;               ///< n, 1 - tanh(a)^2
    Buffer<S> slope;           ///< n, k = 1 + q h
    Buffer<S> d_a;             ///< n, the derivatives with respect to a
    RowVector<S> d_u_prime;    ///< D, the derivatives with respect to u'
  };

  /// All parameters uniform in (-0.01, 0.01): close to the identity.
  /// \throws std::invalid_argument if dim < 1.
  Planar(Index dim, Rng& rng) : Planar(dim) {
    for_each_parameter(*this, [&](std::string_view, Batch<S> values) {
      rng.fill_uniform(values);
      values.array() = S(0.02) * values.array() - S(0.01);
    });
  }

  /// The layer x = z + u_prime tanh(w.z + b), as other programs' weights may give it.
  /// \throws std::invalid_argument if w has not the size of u_prime, or unless w.u_prime > -1.
  static Planar from_u_prime(const RowVector<S>& u_prime, const RowVector<S>& w, S b) {
    detail::check_shape("Planar::from_u_prime", "w", 1, w.size(), 1, u_prime.size());
    const S q = w.dot(u_prime), square = w.squaredNorm();
    detail::check_value("Planar::from_u_prime", "w.u_prime", q, q > -1, "more than -1");
    Planar layer(u_prime.size());
    const S s = q * (q + 2) / (2 * (q + 1));  // m(s) = q
    layer.parameters_.u = square > 0 ? RowVector<S>(u_prime + (s - q) / square * w) : u_prime;
    layer.parameters_.w = w;
    layer.parameters_.b[0] = b;
    return layer;
  }

  [[nodiscard]] Index dim() const { return parameters_.u.size(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] static constexpr Traits traits() { return {.inverse_exact = false}; }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }

  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()); }
  static Planar from_options(const Options& options) { return Planar(options.get_size("dim", 1)); }

  /// x = z + u' tanh(w.z + b): 2 n D multiply-adds, a tanh per sample.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("Planar::forward", *this, call, z, x, log_det.size());
    constrain(cache);
    Batch<S> t = cache.tanh.resize(z.rows(), 1);
    set_product_transposed(t, z, parameters_.w);
    t.array() += parameters_.b[0];
    bend(S(1), t, log_det, cache);
    x = z;
    add_product(x, t, cache.u_prime);
  }

  /// A scalar equation per sample, by bracketed Newton steps; how it went is in Cache::report.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("Planar::inverse", *this, call, x, z, log_det.size());
    constrain(cache);
    cache.solve = {};
    Batch<S> t = cache.tanh.resize(x.rows(), 1);
    set_product_transposed(t, x, parameters_.w);
    for (Index i = 0; i < t.size(); ++i) t.data()[i] = cache.bend.solve(t.data()[i] + parameters_.b[0], cache.solve);
    bend(S(-1), t, log_det, cache);
    t = -t;
    z = x;
    add_product(z, t, cache.u_prime);
    t = -t;
  }

  /// With h = 1 - t^2 = tanh'(a) and k = 1 + q h: d_a = h u'.d_x - 2 t h q / k d_log_det, d_z = d_x + d_a w,
  /// d_u' = sum t d_x, and d_q = sum h / k d_log_det of the log-determinant's own q.
  void forward_pullback(const Call<S>&, ConstBatch<S> z, ConstBatch<S>, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>*, Gradient* gradient) const {
    Batch<S> d_a = cache.d_a.resize(z.rows(), 1);
    set_product_transposed(d_a, d_x, cache.u_prime);
    cache.bend.pull_back_forward(d_a.rows(), d_a.data(), cache.tanh.view().data(), cache.h.view().data(),
                                 cache.slope.view().data(), d_log_det.data());
    pull_back(S(1), z, d_x, d_log_det, d_z, gradient, cache);
  }

  /// x = f(z) with the Jacobian I + h u' w^T. The cotangent of x is the transposed inverse (Sherman-Morrison) of that
  /// of z, which is d_z + c w, c = 2 t h q / k d_log_det:  d_x = d_z + d_a w with d_a = (c - h u'.d_z) / k, and d_a is
  /// also what reaches a. The cotangent of u' is -sum t d_x.
  void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>*, Gradient* gradient) const {
    Batch<S> d_a = cache.d_a.resize(z.rows(), 1);
    set_product_transposed(d_a, d_z, cache.u_prime);
    cache.bend.pull_back_inverse(d_a.rows(), d_a.data(), cache.tanh.view().data(), cache.h.view().data(),
                                 cache.slope.view().data(), d_log_det.data());
    pull_back(S(-1), z, d_z, d_log_det, d_x, gradient, cache);
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] Planar<T> cast() const {
    return cast_to<Planar<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }

 private:
  explicit Planar(Index dim) {
    detail::check_value("Planar", "dim", dim, dim >= 1, "at least 1");
    parameters_ = {RowVector<S>::Zero(dim), RowVector<S>::Zero(dim), RowVector<S>::Zero(1)};
  }

  /// u' and q of the parameters.
  void constrain(Cache& cache) const {
    const auto& [u, w, b] = parameters_;
    const S length = w.stableNorm();
    cache.normal = w;
    if (length > 0) cache.normal /= length;
    cache.along = cache.normal.dot(u);
    cache.bend = detail::TanhBend<S>(length * cache.along);
    cache.u_prime = u + cache.along * cache.along / (1 + cache.bend.root) * w;
  }

  /// From a in t to tanh(a), the slope and the log-determinant of the direction with the given sign.
  static void bend(S sign, Batch<S> t, Values<S> log_det, Cache& cache) {
    Batch<S> h = cache.h.resize(t.rows(), 1), slope = cache.slope.resize(t.rows(), 1);
    cache.bend.apply(t.rows(), sign, t.data(), h.data(), slope.data(), log_det.data());
  }

  /// What both pullbacks do with d_a: d_in = d_out + d_a w, and the gradient.
  void pull_back(S sign, ConstBatch<S> z, ConstBatch<S> d_out, ConstValues<S> d_log_det, Batch<S>* d_in,
                 Gradient* gradient, Cache& cache) const {
    const auto& [u, w, b] = parameters_;
    const ConstBatch<S> t = std::as_const(cache.tanh).view(), d_a = std::as_const(cache.d_a).view();
    if (d_in) {
      *d_in = d_out;
      add_product(*d_in, d_a, w);
    }
    if (!gradient) return;
    gradient->b[0] += d_a.sum();
    add_transposed_product(gradient->w, d_a, z);

    // Of u' = u + f w, f = along^2 / (1 + root), where along = u.normal and root = sqrt(1 + s^2) follow from u and w.
    const S f = cache.along * cache.along / (1 + cache.bend.root);
    const auto h = std::as_const(cache.h).view().col(0).array(), k = std::as_const(cache.slope).view().col(0).array();
    const S d_q = sign * (d_log_det.array() * h / k).sum();
    RowVector<S>& d_u_prime = cache.d_u_prime;
    d_u_prime.setZero(dim());
    add_transposed_product(d_u_prime, t, d_out);
    if (sign < 0) d_u_prime = -d_u_prime - t.col(0).dot(d_a.col(0)) * w;
    const S s = u.dot(w);
    const S d_f = d_u_prime.dot(w), d_normal = d_u_prime.dot(cache.normal);
    const S d_s = d_q * cache.bend.slope_of_m() - d_f * f * (s / cache.bend.root) / (1 + cache.bend.root);
    const S d_along = 2 * cache.along / (1 + cache.bend.root);
    gradient->u += d_u_prime + d_f * d_along * cache.normal + d_s * w;
    gradient->w += f * d_u_prime + d_normal * d_along * (u - cache.along * cache.normal) + d_s * u;
  }

  Parameters parameters_;
};

}  // namespace rhei
