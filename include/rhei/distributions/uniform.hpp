// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The uniform base on a box: log p(z) = -sum_d log(upper_d - lower_d) for lower <= z <= upper, -infinity elsewhere.
/// Its gradient is zero everywhere.

#include <cmath>
#include <limits>
#include <rhei/core/distribution.hpp>
#include <stdexcept>
#include <string>
#include <utility>

namespace rhei {

/// The uniform distribution on the closed box [lower_1, upper_1] x ... x [lower_D, upper_D]. The bounds are state: a
/// file holds them, an optimizer does not move them.
template <Real S>
class Uniform {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "uniform";
  using Gradient = NoParameters;
  struct Cache {};

  /// The box between two corners.
  /// \param lower, upper  D bounds each, finite, with lower < upper and a finite distance between them.
  /// \throws std::invalid_argument if they are not.
  Uniform(RowVector<S> lower, RowVector<S> upper) : lower_(std::move(lower)), upper_(std::move(upper)) {
    detail::check_value("Uniform", "the number of features", dim(), dim() >= 1, "at least 1");
    detail::check_shape("Uniform", "upper", 1, upper_.size(), 1, dim());
    if (const std::string fault = find_fault(); !fault.empty()) detail::throw_invalid("Uniform", fault);
  }

  [[nodiscard]] Index dim() const { return lower_.size(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] Gradient make_gradient() const { return {}; }
  /// The lower ends of the box, D.
  [[nodiscard]] const RowVector<S>& lower() const { return lower_; }
  /// The upper ends of the box, D.
  [[nodiscard]] const RowVector<S>& upper() const { return upper_; }

  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()); }
  /// The unit box; a reader then sets the bounds.
  static Uniform from_options(const Options& options) {
    const Index dim = options.get_size("dim", 1);
    return Uniform(RowVector<S>::Zero(dim), RowVector<S>::Ones(dim));
  }
  /// \throws std::runtime_error if a reader has set bounds that the constructor would refuse.
  void check_state() const {
    if (const std::string fault = find_fault(); !fault.empty()) throw std::runtime_error("Uniform: " + fault);
  }

  void log_prob(const Call<S>& call, ConstBatch<S> z, Values<S> log_p, Cache&) const {
    detail::check_log_prob("Uniform::log_prob", *this, call, z, log_p.size());
    constexpr S infinity = std::numeric_limits<S>::infinity();
    for (Index d = 0; d < dim(); ++d) {
      const auto value = z.col(d).array();
      const S log_density = -std::log(upper_[d] - lower_[d]);
      log_p.array() += (value >= lower_[d] && value <= upper_[d])
                           .select(log_density, -infinity - value.abs());  // a NaN is outside, and remains a NaN
    }
  }

  void log_prob_pullback(const Call<S>&, ConstBatch<S> z, Cache&, ConstValues<S> d_log_p, Batch<S>* d_z, Batch<S>*,
                         Gradient*) const {
    detail::check_log_prob_pullback("Uniform::log_prob_pullback", *this, z, d_log_p.size(), d_z);
    if (d_z) d_z->setZero();
  }

  void sample(const Call<S>& call, Batch<S> z, Cache&) const {
    detail::check_sample("Uniform::sample", *this, call, z).fill_uniform(z);
    for (Index d = 0; d < dim(); ++d)  // rounding must not carry a draw over the edge
      z.col(d).array() = (lower_[d] + (upper_[d] - lower_[d]) * z.col(d).array()).min(upper_[d]);
  }

  /// The draws depend on no parameter: there is nothing to add.
  void sample_pullback(const Call<S>&, ConstBatch<S>, Cache&, ConstBatch<S>, Batch<S>*, Gradient*) const {}

  /// The same distribution in another scalar.
  /// \throws std::runtime_error if the bounds of a feature cannot be told apart in it.
  template <Real T>
  [[nodiscard]] Uniform<T> cast() const {
    auto other = cast_to<Uniform<T>>(*this);
    other.check_state();
    return other;
  }

  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("lower", self.lower_);
    f("upper", self.upper_);
  }

 private:
  /// What is wrong with the bounds; empty if nothing is.
  [[nodiscard]] std::string find_fault() const {
    for (Index d = 0; d < dim(); ++d)
      if (const S width = upper_[d] - lower_[d]; !(width > 0) || !std::isfinite(width))
        return "feature " + std::to_string(d) + " has bounds " + std::to_string(lower_[d]) + " and " +
               std::to_string(upper_[d]) + ", expected lower < upper, both finite, and their distance too";
    return {};
  }

  RowVector<S> lower_;
  RowVector<S> upper_;
};

}  // namespace rhei
