// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The shift of additive couplings (Dinh et al. 2014, "NICE", section 3.2): x = z + t, slope 1.

#include <rhei/transformers/transformer.hpp>

namespace rhei {

/// x = z + raw_0.
template <Real S>
class Shift {
 public:
  using Scalar = S;
  struct Cache {};
  static constexpr std::string_view type = "shift";

  [[nodiscard]] static Index parameter_count() { return 1; }
  [[nodiscard]] static Options options() { return Options(type); }
  static Shift from_options(const Options&) { return {}; }

  /// x = z + t; log slope 0.
  void forward(ConstBatch<S> raw, ConstValues<S> z, Values<S> x, Values<S> log_slope, Cache&) const {
    x = z + raw.col(0);
    log_slope.setZero();
  }
  /// z = x - t; log slope 0.
  void inverse(ConstBatch<S> raw, ConstValues<S> x, Values<S> z, Values<S> log_slope, Cache&) const {
    z = x - raw.col(0);
    log_slope.setZero();
  }
  /// d_z = d_t = d_x.
  void forward_pullback(ConstBatch<S>, ConstValues<S>, ConstValues<S>, Cache&, ConstValues<S> d_x, ConstValues<S>,
                        Values<S> d_z, Batch<S> d_raw) const {
    d_z = d_x;
    d_raw.col(0) = d_x;
  }
  /// d_x = d_z, d_t = -d_z.
  void inverse_pullback(ConstBatch<S>, ConstValues<S>, ConstValues<S>, Cache&, ConstValues<S> d_z, ConstValues<S>,
                        Values<S> d_x, Batch<S> d_raw) const {
    d_x = d_z;
    d_raw.col(0) = -d_z;
  }

  template <Real T>
  [[nodiscard]] Shift<T> cast() const {
    return {};
  }
};

}  // namespace rhei
