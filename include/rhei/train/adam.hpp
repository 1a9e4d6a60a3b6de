// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Adam (Kingma & Ba 2015, algorithm 1) and, with a weight decay, AdamW (Loshchilov & Hutter 2019, algorithm 2).

#include <algorithm>
#include <cmath>
#include <rhei/core/parameters.hpp>
#include <vector>

namespace rhei {

/// The constants of Adam, named as in the paper.
struct AdamOptions {
  double beta1 = 0.9;     ///< decay of the mean of gradients
  double beta2 = 0.999;   ///< decay of the mean of their squares
  double epsilon = 1e-8;  ///< added to the root of that mean
  /// Decoupled (AdamW): every step also shrinks the weights of nets, which are the tensors with "weight" in their name,
  /// by learning_rate * weight_decay. Biases, shifts and scales stay: shrinking a shift would move the data.
  double weight_decay = 0;
};

namespace detail {

/// Calls f(tensor, first, last, number) for the runs of values that have the numbers begin ... end - 1 in a list of
/// tensors: values first ... last - 1 of tensor number `tensor`, the first of which has the number `number`.
template <Real S, class F>
void for_each_run(const std::vector<ParameterView<S>>& tensors, Index begin, Index end, F&& f) {
  Index offset = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Index size = tensors[i].values.size();
    const Index first = std::clamp<Index>(begin - offset, 0, size), last = std::clamp<Index>(end - offset, 0, size);
    if (first < last) f(i, first, last, offset + first);
    offset += size;
  }
}

}  // namespace detail

/// The moments of one run over one list of parameters.
template <Real S>
class Adam {
 public:
  /// Moments of zero.
  /// \throws std::invalid_argument unless 0 <= beta1, beta2 < 1.
  explicit Adam(AdamOptions options = {}) : options_(options) {
    detail::check_value("Adam", "beta1", options.beta1, options.beta1 >= 0 && options.beta1 < 1, "0 <= beta1 < 1");
    detail::check_value("Adam", "beta2", options.beta2, options.beta2 >= 0 && options.beta2 < 1, "0 <= beta2 < 1");
  }

  /// Makes room for the moments of these parameters, all zero. The first step does it where this was not called.
  void start(const std::vector<ParameterView<S>>& parameters) {
    Index size = 0;
    for (const auto& p : parameters) size += p.values.size();
    first_.setZero(size);
    second_.setZero(size);
  }

  /// One step: moves `parameters` against `gradient`, which is first multiplied by gradient_scale (for clipping). The
  /// lists must be of the same trees, in the same order, at every step.
  void step(std::vector<ParameterView<S>>& parameters, const std::vector<ParameterView<S>>& gradient,
            double learning_rate, double gradient_scale = 1) {
    begin_step(parameters);
    move(parameters, gradient, 0, first_.size(), learning_rate, gradient_scale);
  }

  /// A step in parts, for several threads: begin_step(), then move() for each of them.
  void begin_step(const std::vector<ParameterView<S>>& parameters) {
    if (first_.size() == 0) start(parameters);
    ++steps_;
  }
  /// Moves those values of `parameters` that have the numbers begin ... end - 1, counted through the whole list.
  void move(std::vector<ParameterView<S>>& parameters, const std::vector<ParameterView<S>>& gradient, Index begin,
            Index end, double learning_rate, double gradient_scale) {
    const double t = static_cast<double>(steps_);
    const S correction = static_cast<S>(std::sqrt(1 - std::pow(options_.beta2, t)));
    const S rate = static_cast<S>(learning_rate / (1 - std::pow(options_.beta1, t))) * correction;
    const S epsilon = static_cast<S>(options_.epsilon) * correction;
    const S shrink = static_cast<S>(1 - learning_rate * options_.weight_decay);
    const S b1 = static_cast<S>(options_.beta1), b2 = static_cast<S>(options_.beta2);
    const S scale = static_cast<S>(gradient_scale);
    detail::for_each_run(parameters, begin, end, [&](std::size_t i, Index first, Index last, Index number) {
      const S keep = parameters[i].name.find("weight") == std::string::npos ? S(1) : shrink;
      for (Index at = first; at < last; at += kBlock) {  // in blocks that stay in the first-level cache
        const Index n = std::min(kBlock, last - at);
        const auto g = ConstValues<S>(gradient[i].values.data() + at, n).array() * scale;
        auto m = first_.segment(number + at - first, n).array();
        auto v = second_.segment(number + at - first, n).array();
        m = b1 * m + (S(1) - b1) * g;
        v = b2 * v + (S(1) - b2) * g.square();
        Values<S> p(parameters[i].values.data() + at, n);
        p.array() = keep * p.array() - rate * m / (v.sqrt() + epsilon);
      }
    });
  }

  /// How many steps it has taken.
  [[nodiscard]] std::int64_t steps() const { return steps_; }

  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("steps", self.steps_);
    f("first_moment", self.first_);
    f("second_moment", self.second_);
  }

 private:
  static constexpr Index kBlock = 2048;

  AdamOptions options_;
  std::int64_t steps_ = 0;
  Vector<S> first_, second_;
};

}  // namespace rhei
