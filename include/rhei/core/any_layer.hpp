// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// `AnyLayer<S>`: a layer whose type is known only at run time (read from a file, chosen on a command line).
/// `Repeat<AnyLayer<S>>` is a run-time sequence of different layers.

#include <rhei/core/erasure.hpp>
#include <rhei/core/layer.hpp>

namespace rhei {

/// Holds any layer over the scalar S by value.
template <Real S>
class AnyLayer {
 public:
  using Scalar = S;
  /// The gradient of whatever layer made it.
  using Gradient = detail::AnyGradient<S>;
  /// The cache of whatever layer was last evaluated with it; made anew when a layer of another type comes.
  using Cache = detail::AnyCache;

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual std::unique_ptr<Interface> clone() const = 0;
    virtual Index dim() const = 0;
    virtual Index context_dim() const = 0;
    virtual Traits traits() const = 0;
    virtual Options options() const = 0;
    virtual Gradient make_gradient() const = 0;
    virtual void forward(const Call<S>&, ConstBatch<S>, Batch<S>, Values<S>, Cache&) const = 0;
    virtual void inverse(const Call<S>&, ConstBatch<S>, Batch<S>, Values<S>, Cache&) const = 0;
    virtual void forward_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S>, Cache&, ConstBatch<S>, ConstValues<S>,
                                  Batch<S>*, Batch<S>*, Gradient*) const = 0;
    virtual void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S>, Cache&, ConstBatch<S>, ConstValues<S>,
                                  Batch<S>*, Batch<S>*, Gradient*) const = 0;
    virtual void initialize(const Call<S>&, ConstBatch<S>) = 0;
    virtual void check_state() = 0;
    virtual void visit_parameters(const detail::TensorVisitor<S>&, std::string_view) = 0;
    virtual void visit_parameters(const detail::ConstTensorVisitor<S>&, std::string_view) const = 0;
    virtual void visit_state(const detail::StateVisitor<S>&, std::string_view) = 0;
    virtual void visit_state(const detail::ConstStateVisitor<S>&, std::string_view) const = 0;
    virtual void cast(std::unique_ptr<AnyLayer<float>>&) const = 0;
    virtual void cast(std::unique_ptr<AnyLayer<double>>&) const = 0;
  };

  template <class L>
  struct Model final : Interface {
    using LayerCache = typename L::Cache;
    using LayerGradient = typename L::Gradient;
    explicit Model(L l) : layer(std::move(l)) {}

    std::unique_ptr<Interface> clone() const override { return std::make_unique<Model>(layer); }
    Index dim() const override { return layer.dim(); }
    Index context_dim() const override { return layer.context_dim(); }
    Traits traits() const override { return layer.traits(); }
    Options options() const override { return layer.options(); }
    Gradient make_gradient() const override { return Gradient(layer.make_gradient()); }
    void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const override {
      layer.forward(call, z, x, log_det, cache.template as<LayerCache>());
    }
    void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const override {
      layer.inverse(call, x, z, log_det, cache.template as<LayerCache>());
    }
    void forward_pullback(const Call<S>& call, ConstBatch<S> z, ConstBatch<S> x, Cache& cache, ConstBatch<S> d_x,
                          ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>* d_context,
                          Gradient* gradient) const override {
      layer.forward_pullback(call, z, x, cache.template as<LayerCache>(), d_x, d_log_det, d_z, d_context,
                             detail::typed<LayerGradient>(gradient));
    }
    void inverse_pullback(const Call<S>& call, ConstBatch<S> x, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                          ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>* d_context,
                          Gradient* gradient) const override {
      layer.inverse_pullback(call, x, z, cache.template as<LayerCache>(), d_z, d_log_det, d_x, d_context,
                             detail::typed<LayerGradient>(gradient));
    }
    void initialize(const Call<S>& call, ConstBatch<S> x) override { rhei::initialize(layer, call, x); }
    void check_state() override { rhei::check_state(layer); }
    void visit_parameters(const detail::TensorVisitor<S>& f, std::string_view prefix) override {
      for_each_parameter(layer, f, prefix);
    }
    void visit_parameters(const detail::ConstTensorVisitor<S>& f, std::string_view prefix) const override {
      for_each_parameter(layer, f, prefix);
    }
    void visit_state(const detail::StateVisitor<S>& f, std::string_view prefix) override {
      for_each_state(layer, f, prefix);
    }
    void visit_state(const detail::ConstStateVisitor<S>& f, std::string_view prefix) const override {
      for_each_state(layer, f, prefix);
    }
    void cast(std::unique_ptr<AnyLayer<float>>& to) const override {
      to = std::make_unique<AnyLayer<float>>(layer.template cast<float>());
    }
    void cast(std::unique_ptr<AnyLayer<double>>& to) const override {
      to = std::make_unique<AnyLayer<double>>(layer.template cast<double>());
    }

    L layer;
  };

 public:
  /// From any layer. (The constraint asks for names only: asking for Layer<L> here would ask whether L can be copied,
  /// which for a composition of AnyLayers leads back to this constructor.)
  template <class L, class Held = std::remove_cvref_t<L>>
  requires(!std::same_as<Held, AnyLayer> && std::same_as<typename Held::Scalar, S> &&
           std::is_class_v<typename Held::Cache>) AnyLayer(L&& layer)
      : held_(std::make_unique<Model<Held>>(std::forward<L>(layer))) {
    static_assert(Layer<Held>);
  }
  AnyLayer(const AnyLayer& other) : held_(other.held_->clone()) {}
  AnyLayer(AnyLayer&&) noexcept = default;
  AnyLayer& operator=(const AnyLayer& other) {
    held_ = other.held_->clone();
    return *this;
  }
  AnyLayer& operator=(AnyLayer&&) noexcept = default;
  ~AnyLayer() = default;

  [[nodiscard]] Index dim() const { return held_->dim(); }
  [[nodiscard]] Index context_dim() const { return held_->context_dim(); }
  [[nodiscard]] Traits traits() const { return held_->traits(); }
  [[nodiscard]] Options options() const { return held_->options(); }
  [[nodiscard]] Gradient make_gradient() const { return held_->make_gradient(); }

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

  void initialize(const Call<S>& call, ConstBatch<S> x) { held_->initialize(call, x); }
  void check_state() { held_->check_state(); }

  template <Real T>
  [[nodiscard]] AnyLayer<T> cast() const {
    std::unique_ptr<AnyLayer<T>> other;
    held_->cast(other);
    return std::move(*other);
  }

  template <class F>
  void visit_parameters(F&& f, std::string_view prefix) {
    held_->visit_parameters(detail::TensorVisitor<S>(std::ref(f)), prefix);
  }
  template <class F>
  void visit_parameters(F&& f, std::string_view prefix) const {
    std::as_const(*held_).visit_parameters(detail::ConstTensorVisitor<S>(std::ref(f)), prefix);
  }
  template <class F>
  void visit_state(F&& f, std::string_view prefix) {
    held_->visit_state(detail::StateVisitor<S>(f), prefix);
  }
  template <class F>
  void visit_state(F&& f, std::string_view prefix) const {
    std::as_const(*held_).visit_state(detail::ConstStateVisitor<S>(f), prefix);
  }

 private:
  std::unique_ptr<Interface> held_;
};

}  // namespace rhei
