// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A transformer with its two directions swapped. An autoregressive layer reads the data in either direction, so that
/// z_i = x_i e^s(x_<i) + t(x_<i), which is how zuko and nflows have it, is a layer of the inverse of Affine and of no
/// Affine: `Inverted` swaps the directions of a layer, and with them what its net reads.

#include <rhei/transformers/transformer.hpp>
#include <utility>

namespace rhei {

/// The inverse of transformer T, of the same raw parameters.
template <Transformer T>
class InvertedTransformer {
 public:
  using Scalar = typename T::Scalar;
  using S = Scalar;
  using Cache = typename T::Cache;
  static constexpr std::string_view type = "inverted";

  InvertedTransformer() = default;
  /// Of this transformer, with its parameters.
  explicit InvertedTransformer(T transformer) : transformer_(std::move(transformer)) {}

  /// The one whose directions are swapped.
  [[nodiscard]] const T& transformer() const { return transformer_; }
  [[nodiscard]] Index parameter_count() const { return transformer_.parameter_count(); }
  [[nodiscard]] Options options() const { return Options(type).set("transformer", transformer_.options()); }
  static InvertedTransformer from_options(const Options& options) {
    return InvertedTransformer(T::from_options(options.get<Options>("transformer")));
  }

  void forward(Batch<S> raw, ConstValues<S> z, Values<S> x, Values<S> log_slope, Cache& cache) const {
    transformer_.inverse(raw, z, x, log_slope, cache);
  }
  void inverse(Batch<S> raw, ConstValues<S> x, Values<S> z, Values<S> log_slope, Cache& cache) const {
    transformer_.forward(raw, x, z, log_slope, cache);
  }
  void forward_pullback(ConstBatch<S> raw, ConstValues<S> z, ConstValues<S> x, Cache& cache, ConstValues<S> d_x,
                        ConstValues<S> d_log_slope, Values<S> d_z, Batch<S> d_raw) const {
    transformer_.inverse_pullback(raw, z, x, cache, d_x, d_log_slope, d_z, d_raw);
  }
  void inverse_pullback(ConstBatch<S> raw, ConstValues<S> x, ConstValues<S> z, Cache& cache, ConstValues<S> d_z,
                        ConstValues<S> d_log_slope, Values<S> d_x, Batch<S> d_raw) const {
    transformer_.forward_pullback(raw, x, z, cache, d_z, d_log_slope, d_x, d_raw);
  }

  template <Real U>
  [[nodiscard]] auto cast() const {
    return rhei::InvertedTransformer<decltype(transformer_.template cast<U>())>(transformer_.template cast<U>());
  }

 private:
  T transformer_;
};

}  // namespace rhei
