// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The layer that docs/writing-a-layer.md writes: the sinh-arcsinh map (Jones & Pewsey 2009, "Sinh-arcsinh
/// distributions", Biometrika 96:761), which gives each feature a skewness and heavier or lighter tails.
///
///   forward  x = sinh(t asinh(z) + skew)       t = exp(log_tail)
///   inverse  z = sinh((asinh(x) - skew) / t)
///
/// Both are y = sinh(a asinh(u) + b), with (a, b) = (t, skew) forward and (1/t, -skew/t) inverse, and
/// log dy/du = log a + log(1 + y^2)/2 - log(1 + u^2)/2.

#include <rhei/core/layer.hpp>

namespace mine {

using namespace rhei;

template <Real S>
class SinhArcsinh {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "sinh_arcsinh";

  struct Parameters {
    RowVector<S> log_tail;  ///< D, above 0: heavier tails than those of z
    RowVector<S> skew;      ///< D

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("log_tail", self.log_tail);
      f("skew", self.skew);
    }
  };
  using Gradient = Parameters;
  struct Cache {};

  explicit SinhArcsinh(Index dim) {
    detail::check_value("SinhArcsinh", "dim", dim, dim >= 1, "at least 1");
    p_ = {RowVector<S>::Zero(dim), RowVector<S>::Zero(dim)};
  }

  [[nodiscard]] Index dim() const { return p_.skew.size(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] static constexpr Traits traits() { return {}; }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(p_); }
  Parameters& parameters() { return p_; }

  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()); }
  static SinhArcsinh from_options(const Options& options) { return SinhArcsinh(options.get_size("dim", 1)); }
  template <Real T>
  [[nodiscard]] SinhArcsinh<T> cast() const {
    return cast_to<SinhArcsinh<T>>(*this);
  }
  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.p_, f);
  }

  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache&) const {
    detail::check_evaluation("SinhArcsinh::forward", *this, call, z, x, log_det.size());
    for (Index d = 0; d < dim(); ++d) apply(z.col(d).array(), p_.log_tail[d], p_.skew[d], x.col(d), log_det);
  }
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache&) const {
    detail::check_evaluation("SinhArcsinh::inverse", *this, call, x, z, log_det.size());
    for (Index d = 0; d < dim(); ++d) apply(x.col(d).array(), -p_.log_tail[d], inverse_skew(d), z.col(d), log_det);
  }

  void forward_pullback(const Call<S>&, ConstBatch<S> z, ConstBatch<S> x, Cache&, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>*, Gradient* gradient) const {
    for (Index d = 0; d < dim(); ++d) {
      const auto [d_log_a, d_b] = pull_back(z, x, d_x, d_log_det, d, p_.log_tail[d], d_z);
      if (!gradient) continue;
      gradient->log_tail[d] += d_log_a;
      gradient->skew[d] += d_b;
    }
  }
  void inverse_pullback(const Call<S>&, ConstBatch<S> x, ConstBatch<S> z, Cache&, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>*, Gradient* gradient) const {
    for (Index d = 0; d < dim(); ++d) {
      const auto [d_log_a, d_b] = pull_back(x, z, d_z, d_log_det, d, -p_.log_tail[d], d_x);
      if (!gradient) continue;
      gradient->log_tail[d] -= d_log_a + d_b * inverse_skew(d);  // b = -skew e^-log_tail
      gradient->skew[d] -= d_b * std::exp(-p_.log_tail[d]);
    }
  }

 private:
  S inverse_skew(Index d) const { return -p_.skew[d] * std::exp(-p_.log_tail[d]); }

  /// y = sinh(a asinh(u) + b) for one feature of every sample.
  static void apply(const auto& u, S log_a, S b, auto y, Values<S>& log_det) {
    y = (std::exp(log_a) * u.asinh() + b).sinh();
    log_det.array() += log_a + S(0.5) * (y.array().square().log1p() - u.square().log1p());
  }

  /// With v = a asinh(u) + b the loss reaches v as g = d_y sqrt(1 + y^2) + d_log_det y / sqrt(1 + y^2).
  static std::pair<S, S> pull_back(const auto& in, const auto& out, const auto& d_out, const auto& d_log_det, Index d,
                                   S log_a, Batch<S>* d_in) {
    const S a = std::exp(log_a);
    const auto u = in.col(d).array(), y = out.col(d).array();
    const auto weight = d_log_det.array();
    const auto slope_u = (S(1) + u.square()).sqrt(), slope_y = (S(1) + y.square()).sqrt();
    const auto g = d_out.col(d).array() * slope_y + weight * y / slope_y;
    if (d_in) d_in->col(d).array() = a * g / slope_u - weight * u / slope_u.square();
    return {(a * g * u.asinh() + weight).sum(), g.sum()};
  }

  Parameters p_;
};

}  // namespace mine
