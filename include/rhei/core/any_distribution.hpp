// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// `AnyDistribution<S>`: a base density whose type is known only at run time.

#include <rhei/core/distribution.hpp>
#include <rhei/core/erasure.hpp>

namespace rhei {

/// Holds any distribution over the scalar S by value.
template <Real S>
class AnyDistribution {
 public:
  using Scalar = S;
  using Gradient = detail::AnyGradient<S>;
  using Cache = detail::AnyCache;

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual std::unique_ptr<Interface> clone() const = 0;
    virtual Index dim() const = 0;
    virtual Index context_dim() const = 0;
    virtual Options options() const = 0;
    virtual Gradient make_gradient() const = 0;
    virtual void log_prob(const Call<S>&, ConstBatch<S>, Values<S>, Cache&) const = 0;
    virtual void log_prob_pullback(const Call<S>&, ConstBatch<S>, Cache&, ConstValues<S>, Batch<S>*, Batch<S>*,
                                   Gradient*) const = 0;
    virtual void sample(const Call<S>&, Batch<S>, Cache&) const = 0;
    virtual void check_state() = 0;
    virtual void visit_parameters(const detail::TensorVisitor<S>&, std::string_view) = 0;
    virtual void visit_parameters(const detail::ConstTensorVisitor<S>&, std::string_view) const = 0;
    virtual void visit_state(const detail::StateVisitor<S>&, std::string_view) = 0;
    virtual void visit_state(const detail::ConstStateVisitor<S>&, std::string_view) const = 0;
    virtual void cast(std::unique_ptr<AnyDistribution<float>>&) const = 0;
    virtual void cast(std::unique_ptr<AnyDistribution<double>>&) const = 0;
  };

  template <class D>
  struct Model final : Interface {
    using HeldCache = typename D::Cache;
    using HeldGradient = typename D::Gradient;
    explicit Model(D d) : held(std::move(d)) {}

    std::unique_ptr<Interface> clone() const override { return std::make_unique<Model>(held); }
    Index dim() const override { return held.dim(); }
    Index context_dim() const override { return held.context_dim(); }
    Options options() const override { return held.options(); }
    Gradient make_gradient() const override { return Gradient(held.make_gradient()); }
    void log_prob(const Call<S>& call, ConstBatch<S> z, Values<S> log_p, Cache& cache) const override {
      held.log_prob(call, z, log_p, cache.template as<HeldCache>());
    }
    void log_prob_pullback(const Call<S>& call, ConstBatch<S> z, Cache& cache, ConstValues<S> d_log_p, Batch<S>* d_z,
                           Batch<S>* d_context, Gradient* gradient) const override {
      held.log_prob_pullback(call, z, cache.template as<HeldCache>(), d_log_p, d_z, d_context,
                             detail::typed<HeldGradient>(gradient));
    }
    void sample(const Call<S>& call, Batch<S> z, Cache& cache) const override {
      held.sample(call, z, cache.template as<HeldCache>());
    }
    void check_state() override {
      if constexpr (requires { held.check_state(); }) held.check_state();
    }
    void visit_parameters(const detail::TensorVisitor<S>& f, std::string_view prefix) override {
      for_each_parameter(held, f, prefix);
    }
    void visit_parameters(const detail::ConstTensorVisitor<S>& f, std::string_view prefix) const override {
      for_each_parameter(held, f, prefix);
    }
    void visit_state(const detail::StateVisitor<S>& f, std::string_view prefix) override {
      for_each_state(held, f, prefix);
    }
    void visit_state(const detail::ConstStateVisitor<S>& f, std::string_view prefix) const override {
      for_each_state(held, f, prefix);
    }
    void cast(std::unique_ptr<AnyDistribution<float>>& to) const override {
      to = std::make_unique<AnyDistribution<float>>(held.template cast<float>());
    }
    void cast(std::unique_ptr<AnyDistribution<double>>& to) const override {
      to = std::make_unique<AnyDistribution<double>>(held.template cast<double>());
    }
    D held;
  };

 public:
  /// From any distribution (see AnyLayer on why the constraint asks for names only).
  template <class D, class Held = std::remove_cvref_t<D>>
  requires(!std::same_as<Held, AnyDistribution> && std::same_as<typename Held::Scalar, S> &&
           std::is_class_v<typename Held::Cache>) AnyDistribution(D&& distribution)
      : held_(std::make_unique<Model<Held>>(std::forward<D>(distribution))) {
    static_assert(Distribution<Held>);
  }
  AnyDistribution(const AnyDistribution& other) : held_(other.held_->clone()) {}
  AnyDistribution(AnyDistribution&&) noexcept = default;
  AnyDistribution& operator=(const AnyDistribution& other) {
    held_ = other.held_->clone();
    return *this;
  }
  AnyDistribution& operator=(AnyDistribution&&) noexcept = default;
  ~AnyDistribution() = default;

  [[nodiscard]] Index dim() const { return held_->dim(); }
  [[nodiscard]] Index context_dim() const { return held_->context_dim(); }
  [[nodiscard]] Options options() const { return held_->options(); }
  [[nodiscard]] Gradient make_gradient() const { return held_->make_gradient(); }

  void log_prob(const Call<S>& call, ConstBatch<S> z, Values<S> log_p, Cache& cache) const {
    held_->log_prob(call, z, log_p, cache);
  }
  void log_prob_pullback(const Call<S>& call, ConstBatch<S> z, Cache& cache, ConstValues<S> d_log_p, Batch<S>* d_z,
                         Batch<S>* d_context, Gradient* gradient) const {
    held_->log_prob_pullback(call, z, cache, d_log_p, d_z, d_context, gradient);
  }
  void sample(const Call<S>& call, Batch<S> z, Cache& cache) const { held_->sample(call, z, cache); }
  void check_state() { held_->check_state(); }

  template <Real T>
  [[nodiscard]] AnyDistribution<T> cast() const {
    std::unique_ptr<AnyDistribution<T>> other;
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
