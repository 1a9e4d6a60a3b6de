// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The affine map of RealNVP and MAF (Dinh et al. 2016, eq. 4): x = z exp(s) + t with t = raw_0, s = map(raw_1).
///
///   forward  x = z e^s + t      log slope =  s
///   inverse  z = (x - t) e^-s   log slope = -s

#include <rhei/transformers/scale_map.hpp>
#include <rhei/transformers/transformer.hpp>

namespace rhei {

/// x = z exp(s) + t; the scale map keeps s in bounds.
template <Real S>
class Affine {
 public:
  using Scalar = S;
  struct Cache {
    Buffer<S> slope;  ///< e^s
  };
  static constexpr std::string_view type = "affine";

  Affine() = default;
  /// s = scale_map(raw_1); without an argument it is ScaleMap::tanh(2).
  explicit Affine(ScaleMap scale_map) : map_(scale_map) {}

  [[nodiscard]] static Index parameter_count() { return 2; }
  [[nodiscard]] Options options() const {
    Options own(type);
    map_.describe(own);
    return own;
  }
  static Affine from_options(const Options& options) { return Affine(ScaleMap::from_options(options)); }

  /// x = z e^s + t.
  void forward(ConstBatch<S> raw, ConstValues<S> z, Values<S> x, Values<S> log_slope, Cache& cache) const {
    Values<S> slope = cache.slope.resize(z.size());
    map_.apply(column(raw, 1), log_slope);
    slope.array() = log_slope.array().exp();
    x.array() = z.array() * slope.array() + raw.col(0).array();
  }

  /// z = (x - t) e^-s.
  void inverse(ConstBatch<S> raw, ConstValues<S> x, Values<S> z, Values<S> log_slope, Cache& cache) const {
    Values<S> slope = cache.slope.resize(x.size());
    map_.apply(column(raw, 1), log_slope);
    slope.array() = log_slope.array().exp();
    log_slope = -log_slope;
    z.array() = (x.array() - raw.col(0).array()) / slope.array();  // the number that forward multiplied by
  }

  /// d_z = e^s d_x, d_t = d_x, d_s = z d_z + d_log_slope, d_raw_1 = d_s ds/draw_1.
  void forward_pullback(ConstBatch<S> raw, ConstValues<S> z, ConstValues<S>, Cache& cache, ConstValues<S> d_x,
                        ConstValues<S> d_log_slope, Values<S> d_z, Batch<S> d_raw) const {
    Values<S> d_s = column(d_raw, 1);
    d_z.array() = d_x.array() * cache.slope.values().array();
    d_s.array() = d_z.array() * z.array() + d_log_slope.array();
    map_.pull_back(column(raw, 1), d_s);
    d_raw.col(0) = d_x;
  }

  /// d_x = e^-s d_z, d_t = -d_x, d_s = -z d_z - d_log_slope, d_raw_1 = d_s ds/draw_1.
  void inverse_pullback(ConstBatch<S> raw, ConstValues<S>, ConstValues<S> z, Cache& cache, ConstValues<S> d_z,
                        ConstValues<S> d_log_slope, Values<S> d_x, Batch<S> d_raw) const {
    Values<S> d_s = column(d_raw, 1);
    d_x.array() = d_z.array() / cache.slope.values().array();
    d_s.array() = -d_z.array() * z.array() - d_log_slope.array();
    map_.pull_back(column(raw, 1), d_s);
    d_raw.col(0) = -d_x;
  }

  template <Real T>
  [[nodiscard]] Affine<T> cast() const {
    return Affine<T>(map_);
  }

 private:
  static ConstValues<S> column(const ConstBatch<S>& raw, Index j) { return {raw.data() + j * raw.rows(), raw.rows()}; }
  static Values<S> column(Batch<S>& raw, Index j) { return {raw.data() + j * raw.rows(), raw.rows()}; }

  ScaleMap map_ = ScaleMap::tanh(2);
};

}  // namespace rhei
