// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What AnyLayer and AnyDistribution share: visitors, gradients and caches behind a virtual function.

#include <functional>
#include <memory>
#include <rhei/core/parameters.hpp>

namespace rhei::detail {

/// Visitors that can pass through a virtual function: of parameters, and of parameters in a tree that is const.
template <Real S>
using TensorVisitor = std::function<void(std::string_view, Batch<S>)>;
template <Real S>
using ConstTensorVisitor = std::function<void(std::string_view, ConstBatch<S>)>;

/// The same for state, which also holds integers.
template <class View, class Integer>
struct ErasedStateVisitor {
  std::function<void(std::string_view, View)> tensor;
  std::function<void(std::string_view, std::span<Integer>)> integers;

  template <class F>
  explicit ErasedStateVisitor(F& f)
      : tensor([&f](std::string_view name, View values) { f(name, values); }),
        integers([&f](std::string_view name, std::span<Integer> values) { f(name, values); }) {}
  void operator()(std::string_view name, View values) const { tensor(name, values); }
  void operator()(std::string_view name, std::span<Integer> values) const { integers(name, values); }
};
template <Real S>
using StateVisitor = ErasedStateVisitor<Batch<S>, std::int64_t>;
template <Real S>
using ConstStateVisitor = ErasedStateVisitor<ConstBatch<S>, const std::int64_t>;

/// An address that stands for a type.
template <class T>
inline constexpr char type_tag = 0;

/// A gradient of any type.
template <Real S>
class AnyGradient {
  struct Interface {
    virtual ~Interface() = default;
    virtual void visit(const TensorVisitor<S>&, std::string_view prefix) = 0;
    virtual void visit(const ConstTensorVisitor<S>&, std::string_view prefix) const = 0;
  };
  template <class G>
  struct Model final : Interface {
    explicit Model(G g) : gradient(std::move(g)) {}
    void visit(const TensorVisitor<S>& f, std::string_view prefix) override { for_each_parameter(gradient, f, prefix); }
    void visit(const ConstTensorVisitor<S>& f, std::string_view prefix) const override {
      for_each_parameter(gradient, f, prefix);
    }
    G gradient;
  };

 public:
  template <class G>
  requires(!std::same_as<G, AnyGradient>) explicit AnyGradient(G gradient)
      : tag_(&type_tag<G>), held_(std::make_unique<Model<G>>(std::move(gradient))) {}

  template <class F>
  void visit_parameters(F&& f, std::string_view prefix) {
    held_->visit(TensorVisitor<S>(std::ref(f)), prefix);
  }
  template <class F>
  void visit_parameters(F&& f, std::string_view prefix) const {
    std::as_const(*held_).visit(ConstTensorVisitor<S>(std::ref(f)), prefix);
  }

  /// The gradient that is held. \throws std::invalid_argument if it is not a G.
  template <class G>
  G& as() {
    if (tag_ != &type_tag<G>) throw_invalid("AnyLayer", "gradient was made by a layer of another type");
    return static_cast<Model<G>&>(*held_).gradient;
  }

 private:
  const void* tag_;
  std::unique_ptr<Interface> held_;
};

/// The G in `gradient`, or null if that is null.
template <class G, Real S>
G* typed(AnyGradient<S>* gradient) {
  return gradient ? &gradient->template as<G>() : nullptr;
}

/// A cache of any type, made anew when another type is asked for.
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
    if (!held_ || held_->tag != &type_tag<C>) held_ = std::make_unique<Model<C>>();
    return static_cast<Model<C>&>(*held_).cache;
  }

 private:
  std::unique_ptr<Interface> held_;
};

}  // namespace rhei::detail
