// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// `AnyLayer<S>`: a layer whose type is known only at run time (read from a file, chosen on a command line).
/// `Repeat<AnyLayer<S>>` is a run-time sequence of different layers. (In another scalar there is no such layer:
/// `load<T>(to_safetensors(flow))` makes one from the registry.)

#include <rhei/core/erasure.hpp>
#include <rhei/core/layer.hpp>

namespace rhei {
namespace detail {

template <Real S>
struct LayerInterface : ErasedInterface<LayerInterface<S>, S> {
  using Gradient = AnyGradient<S>;
  virtual Traits traits() const = 0;
  virtual void forward(const Call<S>&, ConstBatch<S>, Batch<S>, Values<S>, AnyCache&) const = 0;
  virtual void inverse(const Call<S>&, ConstBatch<S>, Batch<S>, Values<S>, AnyCache&) const = 0;
  virtual void forward_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S>, AnyCache&, ConstBatch<S>, ConstValues<S>,
                                Batch<S>*, Batch<S>*, Gradient*) const = 0;
  virtual void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S>, AnyCache&, ConstBatch<S>, ConstValues<S>,
                                Batch<S>*, Batch<S>*, Gradient*) const = 0;
  virtual void replay_forward_pullback(const Call<S>&, Batch<S>, ConstBatch<S>, AnyCache&, ConstBatch<S>,
                                       ConstValues<S>, Batch<S>*, Batch<S>*, Gradient*, Replay<S>&) const = 0;
  virtual void replay_inverse_pullback(const Call<S>&, Batch<S>, ConstBatch<S>, AnyCache&, ConstBatch<S>,
                                       ConstValues<S>, Batch<S>*, Batch<S>*, Gradient*, Replay<S>&) const = 0;
  virtual void initialize(const Call<S>&, ConstBatch<S>) = 0;
  virtual void update_state(AnyCache&) = 0;
  virtual void visit_memory(AnyCache&, Visitor<Buffer<S>&>) const = 0;
};

template <class L>
struct LayerModel final : ErasedModel<LayerModel<L>, LayerInterface<typename L::Scalar>, L> {
  using S = typename L::Scalar;
  using Gradient = AnyGradient<S>;
  using OwnGradient = typename L::Gradient;
  using LayerModel::ErasedModel::ErasedModel;
  using LayerModel::ErasedModel::held;
  static typename L::Cache& own(AnyCache& cache) { return cache.template as<typename L::Cache>(); }

  Traits traits() const override { return held.traits(); }
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, AnyCache& cache) const override {
    held.forward(call, z, x, log_det, own(cache));
  }
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, AnyCache& cache) const override {
    held.inverse(call, x, z, log_det, own(cache));
  }
  void forward_pullback(const Call<S>& call, ConstBatch<S> z, ConstBatch<S> x, AnyCache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>* d_context,
                        Gradient* gradient) const override {
    held.forward_pullback(call, z, x, own(cache), d_x, d_log_det, d_z, d_context, typed<OwnGradient>(gradient));
  }
  void inverse_pullback(const Call<S>& call, ConstBatch<S> x, ConstBatch<S> z, AnyCache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>* d_context,
                        Gradient* gradient) const override {
    held.inverse_pullback(call, x, z, own(cache), d_z, d_log_det, d_x, d_context, typed<OwnGradient>(gradient));
  }
  void replay_forward_pullback(const Call<S>& call, Batch<S> z, ConstBatch<S> x, AnyCache& cache, ConstBatch<S> d_x,
                               ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>* d_context, Gradient* gradient,
                               Replay<S>& replay) const override {
    detail::replay_forward_pullback(held, call, z, x, own(cache), d_x, d_log_det, d_z, d_context,
                                    typed<OwnGradient>(gradient), replay);
  }
  void replay_inverse_pullback(const Call<S>& call, Batch<S> x, ConstBatch<S> z, AnyCache& cache, ConstBatch<S> d_z,
                               ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>* d_context, Gradient* gradient,
                               Replay<S>& replay) const override {
    detail::replay_inverse_pullback(held, call, x, z, own(cache), d_z, d_log_det, d_x, d_context,
                                    typed<OwnGradient>(gradient), replay);
  }
  void initialize(const Call<S>& call, ConstBatch<S> x) override { rhei::initialize(held, call, x); }
  void update_state(AnyCache& cache) override { rhei::update_state(held, own(cache)); }
  void visit_memory(AnyCache& cache, Visitor<Buffer<S>&> f) const override { for_each_memory(held, own(cache), f); }
};

}  // namespace detail

/// Holds any layer over the scalar S by value.
template <Real S>
class AnyLayer : public detail::Erased<detail::LayerInterface<S>, S> {
  using Base = detail::Erased<detail::LayerInterface<S>, S>;
  using Base::held_;

 public:
  using typename Base::Cache;
  using typename Base::Gradient;

  /// From any layer. (The constraint asks for names only: asking for Layer<L> here would ask whether L can be copied,
  /// which for a composition of AnyLayers leads back to this constructor.)
  template <class L, class Held = std::remove_cvref_t<L>>
  requires(!std::same_as<Held, AnyLayer> && std::same_as<typename Held::Scalar, S> &&
           std::is_class_v<typename Held::Cache>) AnyLayer(L&& layer)
      : Base(std::make_unique<detail::LayerModel<Held>>(std::forward<L>(layer))) {
    static_assert(Layer<Held>);
  }

  /// The layer that is held, if it is an L; null if it is not.
  template <class L>
  [[nodiscard]] const L* get_if() const {
    if (held_->tag() != &detail::type_tag<L>) return nullptr;
    return &static_cast<const detail::LayerModel<L>&>(*held_).held;
  }

  [[nodiscard]] Traits traits() const { return held_->traits(); }
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    held_->forward(call, z, x, log_det, cache);
  }
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    held_->inverse(call, x, z, log_det, cache);
  }
  /// `gradient` must come from this layer's make_gradient(), or from that of a layer of the same type.
  void forward_pullback(const Call<S>& call, ConstBatch<S> z, ConstBatch<S> x, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>* d_context, Gradient* gradient) const {
    held_->forward_pullback(call, z, x, cache, d_x, d_log_det, d_z, d_context, gradient);
  }
  void inverse_pullback(const Call<S>& call, ConstBatch<S> x, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>* d_context, Gradient* gradient) const {
    held_->inverse_pullback(call, x, z, cache, d_z, d_log_det, d_x, d_context, gradient);
  }
  /// See detail::replay_forward_pullback.
  void replay_forward_pullback(const Call<S>& call, Batch<S> z, ConstBatch<S> x, Cache& cache, ConstBatch<S> d_x,
                               ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>* d_context, Gradient* gradient,
                               detail::Replay<S>& replay) const {
    held_->replay_forward_pullback(call, z, x, cache, d_x, d_log_det, d_z, d_context, gradient, replay);
  }
  void replay_inverse_pullback(const Call<S>& call, Batch<S> x, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                               ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>* d_context, Gradient* gradient,
                               detail::Replay<S>& replay) const {
    held_->replay_inverse_pullback(call, x, z, cache, d_z, d_log_det, d_x, d_context, gradient, replay);
  }

  void initialize(const Call<S>& call, ConstBatch<S> x) { held_->initialize(call, x); }
  void update_state(Cache& cache) { held_->update_state(cache); }
  template <class F>
  void visit_memory(Cache& cache, F&& f) const {
    held_->visit_memory(cache, f);
  }
};

}  // namespace rhei
