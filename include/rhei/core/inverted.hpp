// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// `Inverted<L>`: any layer with its two directions swapped. IAF is `Inverted<Maf>`.

#include <rhei/core/layer.hpp>

namespace rhei {

/// A layer whose forward is L's inverse and the other way round.
template <Layer L>
class Inverted {
 public:
  using Scalar = typename L::Scalar;
  using S = Scalar;
  using Gradient = typename L::Gradient;
  using Cache = typename L::Cache;
  static constexpr std::string_view type = "inverted";

  /// Of this layer, whose parameters keep their names.
  explicit Inverted(L layer) : layer_(std::move(layer)) {}

  [[nodiscard]] Index dim() const { return layer_.dim(); }
  [[nodiscard]] Index context_dim() const { return layer_.context_dim(); }
  [[nodiscard]] Traits traits() const {
    Traits own = layer_.traits();
    std::swap(own.forward_exact, own.inverse_exact);
    return own;
  }
  [[nodiscard]] Gradient make_gradient() const { return layer_.make_gradient(); }
  [[nodiscard]] Options options() const { return Options(type).set("layer", layer_.options()); }
  /// The layer whose directions are swapped.
  [[nodiscard]] L& layer() { return layer_; }
  [[nodiscard]] const L& layer() const { return layer_; }

  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    layer_.inverse(call, z, x, log_det, cache);
  }
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    layer_.forward(call, x, z, log_det, cache);
  }
  void forward_pullback(const Call<S>& call, ConstBatch<S> z, ConstBatch<S> x, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>* d_context, Gradient* gradient) const {
    layer_.inverse_pullback(call, z, x, cache, d_x, d_log_det, d_z, d_context, gradient);
  }
  void inverse_pullback(const Call<S>& call, ConstBatch<S> x, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>* d_context, Gradient* gradient) const {
    layer_.forward_pullback(call, x, z, cache, d_z, d_log_det, d_x, d_context, gradient);
  }

  /// See detail::replay_forward_pullback.
  void replay_forward_pullback(const Call<S>& call, Batch<S> z, ConstBatch<S> x, Cache& cache, ConstBatch<S> d_x,
                               ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>* d_context, Gradient* gradient,
                               detail::Replay<S>& replay) const {
    detail::replay_inverse_pullback(layer_, call, z, x, cache, d_x, d_log_det, d_z, d_context, gradient, replay);
  }
  void replay_inverse_pullback(const Call<S>& call, Batch<S> x, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                               ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>* d_context, Gradient* gradient,
                               detail::Replay<S>& replay) const {
    detail::replay_forward_pullback(layer_, call, x, z, cache, d_z, d_log_det, d_x, d_context, gradient, replay);
  }

  void update_state(Cache& cache) { rhei::update_state(layer_, cache); }
  template <class F>
  void visit_memory(Cache& cache, F&& f) const {
    for_each_memory(layer_, cache, f);
  }
  void check_state() { rhei::check_state(layer_); }

  template <Real T>
  requires detail::Castable<L, T>
  [[nodiscard]] auto cast() const {
    return rhei::Inverted<decltype(layer_.template cast<T>())>(layer_.template cast<T>());
  }
  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    f("", self.layer_);
  }
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("", self.layer_);
  }

 private:
  L layer_;
};
template <class L>
Inverted(L) -> Inverted<L>;

}  // namespace rhei
