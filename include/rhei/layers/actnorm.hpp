// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Activation normalization (Kingma & Dhariwal 2018, "Glow", section 3.1): a scale and a shift per feature, set from
/// data once and trained from there.
///
///   forward  x = z * exp(log_scale) + shift        log|det| =  sum_d log_scale_d
///   inverse  z = (x - shift) * exp(-log_scale)     log|det| = -sum_d log_scale_d
///
/// The log-determinant does not depend on the sample; both directions cost n * D multiply-adds. As the last layer of a
/// flow it standardises the data, so that densities stay in the data's own units.

#include <cmath>
#include <rhei/layers/elementwise_affine.hpp>

namespace rhei {

/// ActNorm over `dim` features; the identity until `initialize` has seen data.
template <Real S>
class ActNorm : public detail::FeatureAffine<ActNorm<S>, S> {
  using Base = detail::FeatureAffine<ActNorm<S>, S>;

 public:
  static constexpr std::string_view type = "actnorm";
  static constexpr std::string_view forward_name = "ActNorm::forward";
  static constexpr std::string_view inverse_name = "ActNorm::inverse";

  /// The identity.
  /// \throws std::invalid_argument if dim < 1.
  explicit ActNorm(Index dim) : Base(dim) {}

  /// Whether `initialize` has seen data, here or before the layer was saved.
  [[nodiscard]] bool initialized() const { return initialized_ != 0; }

  static ActNorm from_options(const Options& options) { return ActNorm(options.get_size("dim", 1)); }

  /// Sets shift and log_scale to the mean and log standard deviation of each column of x (n x D), unless that has been
  /// done before. A column that does not vary (so also each column of a batch of one row) gets log_scale 0.
  /// \throws std::invalid_argument if x has no rows, not D columns, or a column whose variance is not finite.
  void initialize(const Call<S>&, ConstBatch<S> x) {
    if (initialized()) return;
    detail::check_shape("ActNorm::initialize", "x", x.rows(), x.cols(), -1, this->dim());
    detail::check_value("ActNorm::initialize", "the number of rows", x.rows(), x.rows() > 0, "at least 1");
    for (Index d = 0; d < this->dim(); ++d) {
      // In double: a mean over 10^6 floats keeps 24 bits only then. Relative to the first row: a constant column has
      // exactly no variance only then.
      const auto column = x.col(d).template cast<double>().array();
      const double first = column[0];
      const double mean = first + (column - first).mean();
      const double variance = (column - mean).square().mean();
      detail::check_value("ActNorm::initialize", "the variance of column " + std::to_string(d) + " of x", variance,
                          std::isfinite(variance), "a finite value");
      this->parameters_.shift[d] = static_cast<S>(mean);
      this->parameters_.log_scale[d] = variance > 0 ? static_cast<S>(0.5 * std::log(variance)) : S(0);
    }
    initialized_ = 1;
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] ActNorm<T> cast() const {
    return cast_to<ActNorm<T>>(*this);
  }

  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("initialized", self.initialized_);
  }

 private:
  std::int64_t initialized_ = 0;
};

}  // namespace rhei
