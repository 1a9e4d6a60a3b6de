// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Activations by name, with value, first and second derivative.
///
/// A net chooses its activation at run time, once a call: `visit_activation` hands the chosen function to a generic
/// lambda, so that the loop over elements is compiled for it.

#include <array>
#include <rhei/core/errors.hpp>
#include <rhei/nn/math.hpp>
#include <string>
#include <string_view>

namespace rhei {

/// What a net bends its hidden layers by; the functions themselves are in `activations`.
enum class Activation { identity, relu, leaky_relu, elu, silu, gelu, softplus, tanh, sigmoid };

/// The names of activations in files, in the order of the enumeration.
inline constexpr std::array<std::string_view, 9> activation_names = {
    "identity", "relu", "leaky_relu", "elu", "silu", "gelu", "softplus", "tanh", "sigmoid"};

/// Its name in files.
[[nodiscard]] inline std::string to_string(Activation activation) {
  return std::string(activation_names[static_cast<std::size_t>(activation)]);
}

/// The activation of that name.
/// \throws std::invalid_argument naming the valid ones.
[[nodiscard]] inline Activation parse_activation(std::string_view name) {
  std::string known;
  for (std::size_t i = 0; i < activation_names.size(); ++i) {
    if (activation_names[i] == name) return static_cast<Activation>(i);
    if (i > 0) known.append(", ");
    known.append(activation_names[i]);
  }
  detail::throw_invalid("parse_activation",
                        "'" + std::string(name) + "' is not an activation, expected one of " + known);
}

/// The functions themselves. Each has value(x) and, at an x where y = value(x), derivative(x, y) and second(x, y).
/// Where `from_output` is set the derivatives use y alone, so that x need not be kept. At a kink the derivative is that
/// of the left side.
namespace activations {

/// x.
struct Identity {
  static constexpr bool from_output = true;
  template <Real S>
  static Lanes<S> value(Lanes<S> x) {
    return x;
  }
  template <Real S>
  static Lanes<S> derivative(Lanes<S>, Lanes<S>) {
    return S(1);
  }
  template <Real S>
  static Lanes<S> second(Lanes<S>, Lanes<S>) {
    return S(0);
  }
};

/// max(x, 0).
struct Relu {
  static constexpr bool from_output = true;
  template <Real S>
  static Lanes<S> value(Lanes<S> x) {
    return select(x < S(0), Lanes<S>(0), x);  // and not max, which may lose a NaN
  }
  template <Real S>
  static Lanes<S> derivative(Lanes<S>, Lanes<S> y) {
    return select(Lanes<S>(0) < y, Lanes<S>(1), S(0));
  }
  template <Real S>
  static Lanes<S> second(Lanes<S>, Lanes<S>) {
    return S(0);
  }
};

/// x, or 0.01 x where x is negative.
struct LeakyRelu {
  static constexpr bool from_output = true;
  static constexpr double slope = 0.01;  ///< where x is negative
  template <Real S>
  static Lanes<S> value(Lanes<S> x) {
    return select(x < S(0), S(slope) * x, x);
  }
  template <Real S>
  static Lanes<S> derivative(Lanes<S>, Lanes<S> y) {
    return select(Lanes<S>(0) < y, Lanes<S>(1), S(slope));
  }
  template <Real S>
  static Lanes<S> second(Lanes<S>, Lanes<S>) {
    return S(0);
  }
};

/// x, or exp(x) - 1 where x is negative (Clevert et al. 2016).
struct Elu {
  static constexpr bool from_output = true;
  template <Real S>
  static Lanes<S> value(Lanes<S> x) {
    return select(x < S(0), expm1_negative(x), x);
  }
  template <Real S>
  static Lanes<S> derivative(Lanes<S>, Lanes<S> y) {
    return select(y < S(0), y + S(1), S(1));
  }
  template <Real S>
  static Lanes<S> second(Lanes<S>, Lanes<S> y) {
    return select(y < S(0), y + S(1), S(0));
  }
};

/// x sigmoid(x), also called swish.
struct Silu {
  static constexpr bool from_output = false;
  template <Real S>
  static Lanes<S> value(Lanes<S> x) {
    return x * rhei::sigmoid(x);
  }
  template <Real S>
  static Lanes<S> derivative(Lanes<S> x, Lanes<S> y) {
    const Lanes<S> s = rhei::sigmoid(x);
    return s + y * (S(1) - s);
  }
  template <Real S>
  static Lanes<S> second(Lanes<S> x, Lanes<S>) {
    const Lanes<S> s = rhei::sigmoid(x);
    return s * (S(1) - s) * (S(2) + x * (S(1) - (s + s)));
  }
};

/// x Phi(x) with the normal distribution function Phi: the exact form, not the one by tanh.
struct Gelu {
  static constexpr bool from_output = false;
  template <Real S>
  static Lanes<S> value(Lanes<S> x) {
    return x * normal_cdf(x);
  }
  template <Real S>
  static Lanes<S> derivative(Lanes<S> x, Lanes<S>) {
    return normal_cdf(x) + x * normal_density(x);
  }
  template <Real S>
  static Lanes<S> second(Lanes<S> x, Lanes<S>) {
    return (S(2) - x * x) * normal_density(x);
  }
};

/// log(1 + exp(x)).
struct Softplus {
  static constexpr bool from_output = false;
  template <Real S>
  static Lanes<S> value(Lanes<S> x) {
    return rhei::softplus(x);
  }
  template <Real S>
  static Lanes<S> derivative(Lanes<S> x, Lanes<S>) {
    return rhei::sigmoid(x);
  }
  template <Real S>
  static Lanes<S> second(Lanes<S> x, Lanes<S>) {
    const Lanes<S> s = rhei::sigmoid(x);
    return s * (S(1) - s);
  }
};

/// tanh(x).
struct Tanh {
  static constexpr bool from_output = true;
  template <Real S>
  static Lanes<S> value(Lanes<S> x) {
    return rhei::tanh(x);
  }
  template <Real S>
  static Lanes<S> derivative(Lanes<S>, Lanes<S> y) {
    return S(1) - y * y;
  }
  template <Real S>
  static Lanes<S> second(Lanes<S>, Lanes<S> y) {
    return S(-2) * y * (S(1) - y * y);
  }
};

/// 1 / (1 + exp(-x)).
struct Sigmoid {
  static constexpr bool from_output = true;
  template <Real S>
  static Lanes<S> value(Lanes<S> x) {
    return rhei::sigmoid(x);
  }
  template <Real S>
  static Lanes<S> derivative(Lanes<S>, Lanes<S> y) {
    return y * (S(1) - y);
  }
  template <Real S>
  static Lanes<S> second(Lanes<S>, Lanes<S> y) {
    return y * (S(1) - y) * (S(1) - (y + y));
  }
};

}  // namespace activations

/// Calls f with the function object (of namespace activations) that `activation` names; returns what it returns.
template <class F>
decltype(auto) visit_activation(Activation activation, F&& f) {
  switch (activation) {
    case Activation::relu:
      return f(activations::Relu{});
    case Activation::leaky_relu:
      return f(activations::LeakyRelu{});
    case Activation::elu:
      return f(activations::Elu{});
    case Activation::silu:
      return f(activations::Silu{});
    case Activation::gelu:
      return f(activations::Gelu{});
    case Activation::softplus:
      return f(activations::Softplus{});
    case Activation::tanh:
      return f(activations::Tanh{});
    case Activation::sigmoid:
      return f(activations::Sigmoid{});
    case Activation::identity:
      break;
  }
  return f(activations::Identity{});
}

/// Whether the derivative follows from the output alone.
[[nodiscard]] inline bool derivative_from_output(Activation activation) {
  return visit_activation(activation, [](auto function) { return function.from_output; });
}

/// y = activation(x), for batches of one shape; y may be x.
template <Real S>
void activate(Activation activation, std::type_identity_t<ConstBatch<S>> x, Batch<S> y) {
  visit_activation(activation, [&](auto function) {
    elementwise(
        x.size(), [function](Lanes<S> v) { return function.value(v); }, y.data(), x.data());
  });
}

/// d *= activation'(x), where y = activation(x); x may be y where derivative_from_output().
template <Real S>
void activate_pullback(Activation activation, std::type_identity_t<ConstBatch<S>> x,
                       std::type_identity_t<ConstBatch<S>> y, Batch<S> d) {
  visit_activation(activation, [&](auto function) {
    if constexpr (function.from_output) {
      const auto pull = [function](Lanes<S> v, Lanes<S> out) { return v * function.derivative(out, out); };
      elementwise(d.size(), pull, d.data(), d.data(), y.data());
    } else {
      const auto pull = [function](Lanes<S> v, Lanes<S> in, Lanes<S> out) { return v * function.derivative(in, out); };
      elementwise(d.size(), pull, d.data(), d.data(), x.data(), y.data());
    }
  });
}

}  // namespace rhei
