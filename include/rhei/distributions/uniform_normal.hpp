// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The base for features some of which are angles: the others follow a standard normal, the angles are uniform
/// (normflows calls it UniformGaussian).
///
///   log p(z) = -(number of circles) log(2 pi) + sum_(lines d) -z_d^2 / 2 - log(2 pi) / 2
///
/// An angle beyond [-pi, pi) is the point that it comes round to, so that the density is the same there. It integrates
/// to 1 over one turn of each circle.

#include <cmath>
#include <numbers>
#include <rhei/core/features.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <utility>
#include <vector>

namespace rhei {

/// Independent features: uniform on the circle those that `circles` names, standard normal all others.
template <Real S>
class UniformNormal {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "uniform_normal";
  using Gradient = NoParameters;
  struct Cache {};

  /// Of `dim` features.
  /// \param circles  the features that are angles, in any order; may be empty.
  /// \throws std::invalid_argument if dim < 1, or if a circle is out of 0..dim-1 or named twice.
  UniformNormal(Index dim, std::vector<Index> circles) : dim_(dim) {
    detail::check_value("UniformNormal", "dim", dim, dim >= 1, "at least 1");
    if (circles.empty()) return;
    circles_ = detail::Subset("UniformNormal", "circles", dim, std::move(circles)).features();
  }

  [[nodiscard]] Index dim() const { return dim_; }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] Gradient make_gradient() const { return {}; }
  /// The features that are angles, ascending.
  [[nodiscard]] const std::vector<Index>& circles() const { return circles_; }

  [[nodiscard]] Options options() const {
    return Options(type).set("dim", dim_).set("circles", Options::Integers(circles_.begin(), circles_.end()));
  }
  static UniformNormal from_options(const Options& options) {
    return UniformNormal(options.get_size("dim", 1), options.get_sizes("circles"));
  }

  void log_prob(const Call<S>& call, ConstBatch<S> z, Values<S> log_p, Cache&) const {
    detail::check_log_prob("UniformNormal::log_prob", *this, call, z, log_p.size());
    for_each_feature([&](Index d, bool is_circle) {
      const auto value = z.col(d).array();
      if (is_circle)
        log_p.array() += S(0) * value - S(2 * detail::half_log_two_pi);  // a NaN remains one
      else
        log_p.array() += StandardNormalDensity::log_density(value);
    });
  }

  void log_prob_pullback(const Call<S>&, ConstBatch<S> z, Cache&, ConstValues<S> d_log_p, Batch<S>* d_z, Batch<S>*,
                         Gradient*) const {
    detail::check_log_prob_pullback("UniformNormal::log_prob_pullback", *this, z, d_log_p.size(), d_z);
    if (!d_z) return;
    for_each_feature([&](Index d, bool is_circle) {
      const S slope = is_circle ? S(0) : S(-1);
      d_z->col(d).array() = d_log_p.array() * (slope * z.col(d).array());
    });
  }

  /// Angles are drawn in [-pi, pi).
  void sample(const Call<S>& call, Batch<S> z, Cache&) const {
    Rng& rng = detail::check_sample("UniformNormal::sample", *this, call, z);
    for_each_feature([&](Index d, bool is_circle) {
      constexpr S pi = std::numbers::pi_v<S>;
      if (is_circle) {
        rng.fill_uniform(z.col(d));
        z.col(d).array() = (z.col(d).array() * (2 * pi) - pi).min(std::nextafter(pi, S(0)));
      } else {
        rng.fill_normal(z.col(d));
      }
    });
  }

  /// The draws depend on no parameter: there is nothing to add.
  void sample_pullback(const Call<S>&, ConstBatch<S>, Cache&, ConstBatch<S>, Batch<S>*, Gradient*) const {}

  /// The same distribution in another scalar.
  template <Real T>
  [[nodiscard]] UniformNormal<T> cast() const {
    return UniformNormal<T>(dim_, circles_);
  }

 private:
  /// Calls f(d, whether d is a circle) for every feature.
  template <class F>
  void for_each_feature(F&& f) const {
    std::size_t next = 0;
    for (Index d = 0; d < dim_; ++d) {
      const bool is_circle = next < circles_.size() && circles_[next] == d;
      if (is_circle) ++next;
      f(d, is_circle);
    }
  }

  Index dim_;
  std::vector<Index> circles_;
};

}  // namespace rhei
