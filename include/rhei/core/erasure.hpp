// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What AnyLayer and AnyDistribution share: a value behind virtual functions, its parameters and state, its gradient
/// and its cache. Little of it is a template over what is held: a program that loads files compiles that for every
/// layer.

#include <concepts>
#include <memory>
#include <rhei/core/options.hpp>
#include <rhei/core/parameters.hpp>
#include <type_traits>

namespace rhei::detail {

/// Refers to a function, which must outlive it, so that it can pass through a virtual one.
template <class... A>
class Visitor {
 public:
  template <class F>
  requires(!std::same_as<std::remove_const_t<F>, Visitor>) Visitor(F& f)
      : function_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* function, A... a) { (*static_cast<F*>(function))(a...); }) {}
  void operator()(A... a) const { call_(function_, a...); }

 private:
  void* function_;
  void (*call_)(void*, A...);
};

template <Real S>
using TensorVisitor = Visitor<std::string_view, Batch<S>>;

/// The same for state, which also holds integers.
template <Real S>
struct StateVisitor {
  Visitor<std::string_view, Batch<S>> tensor;
  Visitor<std::string_view, std::span<std::int64_t>> integers;

  template <class F>
  requires(!std::same_as<std::remove_const_t<F>, StateVisitor>) StateVisitor(F& f) : tensor(f), integers(f) {}
  void operator()(std::string_view name, Batch<S> values) const { tensor(name, values); }
  void operator()(std::string_view name, std::span<std::int64_t> values) const { integers(name, values); }
};

/// f for a tree that is const: only its root knows that it is, all behind that is visited as if it were not.
template <Real S, class F>
struct ReadOnly {
  F& f;
  void operator()(std::string_view name, Batch<S> values) const { f(name, ConstBatch<S>(values)); }
  void operator()(std::string_view name, std::span<std::int64_t> values) const {
    f(name, std::span<const std::int64_t>(values));
  }
};

/// An address that stands for a type.
template <class T>
inline constexpr char type_tag = 0;

/// A gradient of any type.
template <Real S>
class AnyGradient {
  struct Interface {
    explicit Interface(const void* t) : tag(t) {}
    virtual ~Interface() = default;
    virtual void visit_parameters(TensorVisitor<S>, std::string_view prefix) = 0;
    const void* tag;
  };
  template <class G>
  struct Model final : Interface {
    explicit Model(G g) : Interface(&type_tag<G>), gradient(std::move(g)) {}
    void visit_parameters(TensorVisitor<S> f, std::string_view prefix) override {
      for_each_parameter(gradient, f, prefix);
    }
    G gradient;
  };

 public:
  template <class G>
  requires(!std::same_as<G, AnyGradient>) explicit AnyGradient(G gradient)
      : held_(std::make_unique<Model<G>>(std::move(gradient))) {}

  template <class F>
  void visit_parameters(F&& f, std::string_view prefix) {
    held_->visit_parameters(f, prefix);
  }
  template <class F>
  void visit_parameters(F&& f, std::string_view prefix) const {
    const ReadOnly<S, std::remove_reference_t<F>> read{f};
    held_->visit_parameters(read, prefix);
  }

  /// The gradient that is held. \throws std::invalid_argument if it is not a G.
  template <class G>
  G& as() {
    if (held_->tag != &type_tag<G>) throw_invalid("AnyLayer", "gradient was made by a layer of another type");
    return static_cast<Model<G>&>(*held_).gradient;
  }

 private:
  std::unique_ptr<Interface> held_;
};

/// The G in `gradient`, or null if that is null. (Inverted<AnyLayer> has the gradient of the AnyLayer.)
template <class G, Real S>
G* typed(AnyGradient<S>* gradient) {
  if constexpr (std::same_as<G, AnyGradient<S>>)
    return gradient;
  else
    return gradient ? &gradient->template as<G>() : nullptr;
}

/// A cache of any type: one of each that was ever asked for, so that different layers may take turns.
class AnyCache {
  struct Interface {
    explicit Interface(const void* t) : tag(t) {}
    virtual ~Interface() = default;
    const void* tag;
  };
  template <class C>
  struct Model final : Interface {
    Model() : Interface(&type_tag<C>) {}
    C cache;
  };

 public:
  template <class C>
  C& as() {
    for (const auto& held : held_)
      if (held->tag == &type_tag<C>) return static_cast<Model<C>&>(*held).cache;
    held_.push_back(std::make_unique<Model<C>>());
    return static_cast<Model<C>&>(*held_.back()).cache;
  }

 private:
  std::vector<std::unique_ptr<Interface>> held_;
};

/// The virtual functions of all that is erased; `Derived` adds those of a layer or a distribution.
template <class Derived, Real S>
struct ErasedInterface {
  virtual ~ErasedInterface() = default;
  virtual const void* tag() const = 0;
  virtual std::unique_ptr<Derived> clone() const = 0;
  virtual Index dim() const = 0;
  virtual Index context_dim() const = 0;
  virtual Options options() const = 0;
  virtual AnyGradient<S> make_gradient() const = 0;
  virtual void check_state() = 0;
  virtual void visit_parameters(TensorVisitor<S>, std::string_view prefix) = 0;
  virtual void visit_state(StateVisitor<S>, std::string_view prefix) = 0;
};

/// These functions of a T. `Model` is the final class.
template <class Model, class Interface, class T>
struct ErasedModel : Interface {
  using S = typename T::Scalar;
  explicit ErasedModel(T t) : held(std::move(t)) {}
  const void* tag() const override { return &type_tag<T>; }
  std::unique_ptr<Interface> clone() const override { return std::make_unique<Model>(held); }
  Index dim() const override { return held.dim(); }
  Index context_dim() const override { return held.context_dim(); }
  Options options() const override { return held.options(); }
  AnyGradient<S> make_gradient() const override { return AnyGradient<S>(held.make_gradient()); }
  void check_state() override {
    if constexpr (requires { held.check_state(); }) held.check_state();
  }
  void visit_parameters(TensorVisitor<S> f, std::string_view prefix) override { for_each_parameter(held, f, prefix); }
  void visit_state(StateVisitor<S> f, std::string_view prefix) override { for_each_state(held, f, prefix); }

  T held;
};

/// What AnyLayer and AnyDistribution are by what they hold: copies, parameters, state.
template <class Interface, Real S>
class Erased {
 public:
  using Scalar = S;
  /// The gradient of whatever made it.
  using Gradient = AnyGradient<S>;
  /// The cache of whatever is evaluated with it.
  using Cache = AnyCache;

  [[nodiscard]] Index dim() const { return held_->dim(); }
  [[nodiscard]] Index context_dim() const { return held_->context_dim(); }
  [[nodiscard]] Options options() const { return held_->options(); }
  [[nodiscard]] Gradient make_gradient() const { return held_->make_gradient(); }
  void check_state() { held_->check_state(); }

  /// Calls f(name, Batch<S>) for each parameter of what is held, ConstBatch<S> where it is const.
  template <class F>
  void visit_parameters(F&& f, std::string_view prefix) {
    held_->visit_parameters(f, prefix);
  }
  /// The same, to read.
  template <class F>
  void visit_parameters(F&& f, std::string_view prefix) const {
    const ReadOnly<S, std::remove_reference_t<F>> read{f};
    held_->visit_parameters(read, prefix);
  }
  /// Calls f(name, Batch<S>) or f(name, std::span<std::int64_t>) for each piece of state of what is held.
  template <class F>
  void visit_state(F&& f, std::string_view prefix) {
    held_->visit_state(f, prefix);
  }
  /// The same, to read.
  template <class F>
  void visit_state(F&& f, std::string_view prefix) const {
    const ReadOnly<S, std::remove_reference_t<F>> read{f};
    held_->visit_state(read, prefix);
  }

 protected:
  explicit Erased(std::unique_ptr<Interface> held) : held_(std::move(held)) {}
  Erased(const Erased& other) : held_(other.held_->clone()) {}
  Erased(Erased&&) noexcept = default;
  Erased& operator=(const Erased& other) {
    held_ = other.held_->clone();
    return *this;
  }
  Erased& operator=(Erased&&) noexcept = default;
  ~Erased() = default;

  std::unique_ptr<Interface> held_;
};

}  // namespace rhei::detail
