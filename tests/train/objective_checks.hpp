// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What the tests of the objectives share: small flows, targets, and gradients by finite differences with fixed draws.

#include <rhei/distributions/diagonal_normal.hpp>
#include <rhei/layers/coupling.hpp>
#include <rhei/layers/lu_linear.hpp>
#include <rhei/train/fit_variational.hpp>
#include <string>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/finite_difference.hpp"

namespace rhei::testing {

/// A base with parameters, two couplings and a linear layer, all away from the identity.
template <Real S>
auto small_flow(std::uint64_t seed, Index context_dim = 0, double away = 0.3) {
  Rng rng(seed);
  Flow flow{DiagonalNormal<S>(2),
            Repeat(2,
                   [&](int i) {
                     return AffineCoupling<S>(
                         2, {.transformed = {i % 2}, .net = {{6}, Activation::tanh}, .context_dim = context_dim}, rng);
                   }),
            LuLinear<S>(2)};
  for_each_parameter(flow, [&](std::string_view, Batch<S> values) {
    for (Index i = 0; i < values.size(); ++i) values.data()[i] += static_cast<S>(away * rng.normal<double>());
  });
  flow.initialize(Matrix<S>::Zero(4, 2), Matrix<S>::Zero(context_dim > 0 ? 4 : 0, context_dim));
  return flow;
}

/// log p~ = -(x - m)' A (x - m) / 2, a normal density without its normaliser; with a context c, m + c (1, ..., 1).
template <Real S>
struct NormalTarget {
  Matrix<S> precision = Matrix<S>{{2, S(-0.7)}, {S(-0.7), S(0.8)}};
  RowVector<S> mean = RowVector<S>{{1, -2}};

  void operator()(ConstBatch<S> x, ConstBatch<S> context, Values<S> log_p, Batch<S> d_x) const {
    Matrix<S> centred = x.rowwise() - mean;
    if (context.cols() > 0)
      for (Index i = 0; i < x.rows(); ++i) centred.row(i).array() -= context(context.rows() == 1 ? 0 : i, 0);
    d_x = -centred * precision;
    log_p = S(0.5) * (centred.array() * d_x.array()).rowwise().sum();
  }
  [[nodiscard]] double log_z() const {
    return std::log(2 * std::acos(-1.0)) -
           0.5 * std::log(static_cast<double>(precision(0, 0) * precision(1, 1) - precision(0, 1) * precision(1, 0)));
  }
};

/// The generator that a part of a step draws from when the step is given Rng(seed) and there is one thread.
inline Rng generator_of_step(std::uint64_t seed) {
  Rng rng(seed);
  return rng.split().split();
}

/// The gradient of a step with one thread and Rng(seed).
template <class Model, class Objective>
struct Evaluated {
  double loss = 0;
  std::vector<std::string> names;
  std::vector<Matrix<typename Model::Scalar>> gradient;

  Evaluated(Model& flow, const Objective& objective, const DrawView<typename Model::Scalar>& batch,
            std::uint64_t seed) {
    Trainer trainer(flow, objective);
    Rng rng(seed);
    loss = trainer.differentiate(batch, rng).loss;
    for (const auto& tensor : trainer.gradient()) {
      names.push_back(tensor.name);
      gradient.push_back(tensor.values);
    }
  }
};
template <class Model, class Objective>
Evaluated(Model&, const Objective&, const DrawView<typename Model::Scalar>&, std::uint64_t)
    -> Evaluated<Model, Objective>;

/// The derivatives of f() by every parameter of a flow, tensor by tensor.
template <class Model, class F>
std::vector<Matrix<double>> numeric_gradient(Model& flow, F&& f) {
  std::vector<Matrix<double>> all;
  for (auto& tensor : parameter_list<double>(flow)) {
    Matrix<double> derivative(tensor.values.rows(), tensor.values.cols());
    for (Index i = 0; i < derivative.size(); ++i) derivative.data()[i] = differentiate(tensor.values.data()[i], f);
    all.push_back(derivative);
  }
  return all;
}

/// Checks a gradient against another, tensor by tensor.
template <class Evaluation>
void check_gradient(const Evaluation& seen, const std::vector<Matrix<double>>& expected, double tolerance = 1e-8) {
  REQUIRE(seen.gradient.size() == expected.size());
  double largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CAPTURE(seen.names[i]);
    CHECK(relative_error(seen.gradient[i], expected[i]) < tolerance);
    largest = std::max(largest, expected[i].cwiseAbs().maxCoeff());
  }
  CHECK(largest > 1e-3);  // or there was nothing to see
}

}  // namespace rhei::testing
