// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// How an unconstrained number becomes the log-scale of an affine map: the named policies of affine transformers.
///
/// An exponential without a bound is the usual reason for divergence, hence the soft clamps. Derivatives are computed
/// from the raw number: at the flat ends of tanh and sigmoid the log-scale has rounded away what they depend on.

#include <array>
#include <cmath>
#include <rhei/core/options.hpp>
#include <rhei/nn/math.hpp>
#include <string_view>

namespace rhei {

/// A policy by name, with its constant c.
class ScaleMap {
 public:
  /// From a raw number r to the log-scale.
  enum class Kind {
    exponential,  ///< log-scale = r, unbounded (the paper's RealNVP)
    tanh,         ///< log-scale = c tanh(r / c), |log-scale| <= c
    softsign,     ///< log-scale = r / (1 + |r / c|), |log-scale| < c (zuko with c = ln 1000)
    sigmoid,      ///< scale = sigmoid(r + 2) + c (nflows' couplings; not 1 at r = 0)
    softplus      ///< scale = softplus(r) + c (nflows' MAF; not 1 at r = 0)
  };

  /// log-scale = r.
  static ScaleMap exponential() { return {Kind::exponential, 0}; }
  /// log-scale = bound tanh(r / bound).
  static ScaleMap tanh(double bound) { return {Kind::tanh, bound}; }
  /// log-scale = r / (1 + |r / bound|).
  static ScaleMap softsign(double bound) { return {Kind::softsign, bound}; }
  /// scale = sigmoid(r + 2) + smallest.
  static ScaleMap sigmoid(double smallest) { return {Kind::sigmoid, smallest}; }
  /// scale = softplus(r) + smallest.
  static ScaleMap softplus(double smallest) { return {Kind::softplus, smallest}; }

  /// Which policy it is.
  [[nodiscard]] Kind kind() const { return kind_; }
  /// c, the bound or the smallest scale.
  [[nodiscard]] double constant() const { return constant_; }

  /// Writes the log-scale of each raw value.
  template <Real S>
  void apply(ConstValues<S> raw, Values<S> log_scale) const {
    with_policy<S>(
        [&](auto log_scale_of, auto) { elementwise(raw.size(), log_scale_of, log_scale.data(), raw.data()); });
  }

  /// Multiplies each d_log_scale by d log-scale / d raw.
  template <Real S>
  void pull_back(ConstValues<S> raw, Values<S> d_log_scale) const {
    with_policy<S>([&](auto, auto slope_at) {
      const auto multiply = [slope_at](Lanes<S> d, Lanes<S> r) { return d * slope_at(r); };
      elementwise(raw.size(), multiply, d_log_scale.data(), d_log_scale.data(), raw.data());
    });
  }

  /// Adds its name and constant to the description of a transformer, for from_options().
  void describe(Options& options) const {
    options.set("scale_map", std::string(kNames[static_cast<std::size_t>(kind_)])).set("constant", constant_);
  }
  /// \throws std::runtime_error for a name that is none of the policies, std::invalid_argument for a constant that is
  /// no finite number above 0.
  static ScaleMap from_options(const Options& options) {
    const auto& name = options.get<std::string>("scale_map");
    for (std::size_t i = 0; i < kNames.size(); ++i)
      if (kNames[i] == name) return {static_cast<Kind>(i), options.get_number("constant")};
    throw std::runtime_error("scale_map is '" + name + "', expected exponential, tanh, softsign, sigmoid or softplus");
  }
  bool operator==(const ScaleMap&) const = default;

 private:
  ScaleMap(Kind kind, double constant) : kind_(kind), constant_(constant) {
    detail::check_value("ScaleMap", "the constant", constant,
                        kind == Kind::exponential || (constant > 0 && std::isfinite(constant)),
                        "a finite number above 0");
  }

  /// f(r -> log-scale s, r -> ds/dr), both on Lanes<S>.
  template <Real S, class F>
  void with_policy(F&& f) const {
    using L = Lanes<S>;
    const S c = static_cast<S>(constant_);
    const S inverse_c = S(1) / c;
    switch (kind_) {
      case Kind::exponential:
        return f([](L r) { return r; }, [](L) { return L(S(1)); });
      case Kind::tanh:
        return f([=](L r) { return c * rhei::tanh(inverse_c * r); },
                 [=](L r) { return S(4) * logistic_density<S>(S(2) * inverse_c * r); });
      case Kind::softsign:  // written so that the largest numbers do not overflow
        return f([=](L r) { return c * (r / (c + abs(r))); },
                 [=](L r) { return (c / (c + abs(r))) * (c / (c + abs(r))); });
      case Kind::sigmoid:
        return f([=](L r) { return log(rhei::sigmoid(r + S(2)) + c); },
                 [=](L r) { return logistic_density<S>(r + S(2)) / (rhei::sigmoid(r + S(2)) + c); });
      case Kind::softplus:
        return f([=](L r) { return log(rhei::softplus(r) + c); },
                 [=](L r) { return rhei::sigmoid(r) / (rhei::softplus(r) + c); });
    }
  }

  /// sigmoid(x) (1 - sigmoid(x)), accurate relative to itself.
  template <Real S>
  static Lanes<S> logistic_density(Lanes<S> x) {
    const Lanes<S> e = exp_negative(-abs(x));
    return e / ((e + S(1)) * (e + S(1)));
  }

  static constexpr std::array<std::string_view, 5> kNames{"exponential", "tanh", "softsign", "sigmoid", "softplus"};
  Kind kind_;
  double constant_;
};

}  // namespace rhei
