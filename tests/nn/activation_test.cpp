// SPDX-License-Identifier: MIT

#include <cmath>
#include <rhei/nn/activation.hpp>
#include <stdexcept>
#include <vector>

#include "support/catch.hpp"

using namespace rhei;

namespace {

constexpr std::size_t activation_count = activation_names.size();

template <class S>
std::vector<S> grid() {  // without 0, where some have a kink
  std::vector<S> x;
  for (int i = -40; i < 40; ++i) x.push_back(static_cast<S>(0.2 * i + 0.1));
  return x;
}

template <class S>
std::vector<S> values(Activation a, const std::vector<S>& x) {
  std::vector<S> y(x.size());
  const auto n = static_cast<Index>(x.size());
  activate(a, ConstBatch<S>(x.data(), n, 1), Batch<S>(y.data(), n, 1));
  return y;
}

/// Derivative (order 1) or second derivative (order 2), as the functor gives it.
std::vector<double> derivatives(Activation a, int order, const std::vector<double>& x) {
  const std::vector<double> y = values(a, x);
  std::vector<double> d(x.size());
  visit_activation(a, [&](auto function) {
    const auto f = [&](Lanes<double> u, Lanes<double> v) {
      const auto from = function.from_output ? v : u;  // what it says it needs, and nothing else
      return order == 1 ? function.derivative(from, v) : function.second(from, v);
    };
    elementwise(static_cast<Index>(x.size()), f, d.data(), x.data(), y.data());
  });
  return d;
}

/// Six-point central difference.
template <class F>
double difference(F f, double x, double h) {
  return (45 * (f(x + h) - f(x - h)) - 9 * (f(x + 2 * h) - f(x - 2 * h)) + (f(x + 3 * h) - f(x - 3 * h))) / (60 * h);
}

}  // namespace

TEST_CASE("activations have names", "[activation]") {
  for (std::size_t i = 0; i < activation_count; ++i)
    CHECK(to_string(parse_activation(activation_names[i])) == activation_names[i]);
  CHECK(parse_activation("relu") == Activation::relu);
  CHECK(parse_activation("sigmoid") == Activation::sigmoid);
  try {
    (void)parse_activation("mish");
    FAIL("accepted");
  } catch (const std::invalid_argument& error) {
    const std::string text = error.what();
    CHECK(text.find("'mish'") != std::string::npos);
    for (const auto name : activation_names) CHECK(text.find(name) != std::string::npos);
  }
}

TEMPLATE_TEST_CASE("activations have the values of their formulas", "[activation]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const auto x = grid<S>();
  const auto check = [&](Activation a, auto formula) {
    const auto y = values(a, x);
    INFO(to_string(a));
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = formula(static_cast<double>(x[i]));
      CHECK(std::abs(static_cast<double>(y[i]) - expected) <=
            16 * std::numeric_limits<S>::epsilon() * std::max(std::abs(expected), 0.1));
    }
    const S nan = std::numeric_limits<S>::quiet_NaN();
    CHECK(std::isnan(values<S>(a, {nan, S(1)})[0]));
    CHECK(!std::isnan(values<S>(a, {nan, S(1)})[1]));
  };
  check(Activation::identity, [](double v) { return v; });
  check(Activation::relu, [](double v) { return v > 0 ? v : 0; });
  check(Activation::leaky_relu, [](double v) { return v > 0 ? v : 0.01 * v; });
  check(Activation::elu, [](double v) { return v > 0 ? v : std::expm1(v); });
  check(Activation::silu, [](double v) { return v / (1 + std::exp(-v)); });
  check(Activation::gelu, [](double v) { return v * std::erfc(-v / std::sqrt(2.0)) / 2; });
  check(Activation::softplus, [](double v) { return std::log1p(std::exp(v)); });
  check(Activation::tanh, [](double v) { return std::tanh(v); });
  check(Activation::sigmoid, [](double v) { return 1 / (1 + std::exp(-v)); });
}

TEST_CASE("derivatives of activations agree with finite differences", "[activation]") {
  const auto x = grid<double>();
  const double h = 2e-3;  // error h^6 and epsilon / h, and far from the kink at 0
  for (std::size_t k = 0; k < activation_count; ++k) {
    const auto a = static_cast<Activation>(k);
    INFO(to_string(a));
    const auto first = derivatives(a, 1, x), second = derivatives(a, 2, x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      CAPTURE(x[i]);
      CHECK(std::abs(first[i] - difference([&](double v) { return values<double>(a, {v})[0]; }, x[i], h)) < 1e-10);
      CHECK(std::abs(second[i] - difference([&](double v) { return derivatives(a, 1, {v})[0]; }, x[i], h)) < 1e-10);
    }
    std::vector<double> d(x.size(), 3.0), y = values(a, x);
    const auto n = static_cast<Index>(x.size());
    const ConstBatch<double> out(y.data(), n, 1);
    activate_pullback(a, derivative_from_output(a) ? out : ConstBatch<double>(x.data(), n, 1), out,
                      Batch<double>(d.data(), n, 1));
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(d[i] == ::Approx(3 * first[i]));
  }
}
