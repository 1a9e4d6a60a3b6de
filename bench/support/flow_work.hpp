// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A case at work, behind one interface for all types of flow, so that each family is compiled in a file of its own.

#include <memory>
#include <rhei/core/parallel_flow.hpp>
#include <rhei/nn/made.hpp>
#include <rhei/nn/mlp.hpp>
#include <rhei/train/trainer.hpp>
#include <utility>
#include <vector>

#include "support/cases.hpp"
#include "support/cost.hpp"

namespace bench {

/// What flow_steps times. All calls reuse their memory: the first one of each grows it.
class FlowWork {
 public:
  virtual ~FlowWork() = default;
  /// Loss, gradient and an Adam step for the case's batch.
  virtual void train_step() = 0;
  /// Log-densities of the case's batch.
  virtual void log_prob() = 0;
  /// As many draws as the batch has rows.
  virtual void sample() = 0;
  [[nodiscard]] virtual Index parameters() const = 0;
  /// What one call of an operation must cost at least.
  [[nodiscard]] virtual Cost cost(Op op) const = 0;
};

/// Makes a case whose work is split between so many threads.
using MakeFlowWork = std::unique_ptr<FlowWork> (*)(const Case&, int threads);

std::unique_ptr<FlowWork> make_realnvp(const Case&, int threads);
std::unique_ptr<FlowWork> make_maf(const Case&, int threads);
std::unique_ptr<FlowWork> make_nsf(const Case&, int threads);
std::unique_ptr<FlowWork> make_gaussianization(const Case&, int threads);

/// In the order of Family.
inline std::unique_ptr<FlowWork> make_flow_work(const Case& c, int threads) {
  constexpr std::array<MakeFlowWork, family_names.size()> makers = {make_realnvp, make_maf, make_nsf,
                                                                    make_gaussianization};
  return makers[static_cast<std::size_t>(c.family)](c, threads);
}

/// What one row costs.
struct RowCost {
  Cost evaluation;  ///< log_prob: the layers and the base
  Cost pullback;    ///< of that
  Cost sampling;
};

/// Multiply-adds of each map of a net for one row, without those that a mask takes away.
inline std::vector<double> multiply_adds(const rhei::Mlp<float>& net) {
  std::vector<double> maps;
  for (const auto& weight : net.parameters().weight) maps.push_back(static_cast<double>(weight.size()));
  return maps;
}
inline std::vector<double> multiply_adds(const rhei::Made<float>& net) {
  std::vector<std::vector<std::int64_t>> levels = net.degrees();  // plain: one list a hidden layer
  std::vector<std::int64_t> inputs, outputs;
  for (std::int64_t i = 0; i < net.features(); ++i) {
    inputs.push_back(i + 1);
    for (Index j = 0; j < net.outputs_per_feature(); ++j) outputs.push_back(i);
  }
  levels.insert(levels.begin(), std::move(inputs));
  levels.push_back(std::move(outputs));
  std::vector<double> maps;
  for (std::size_t l = 0; l + 1 < levels.size(); ++l) {
    double count = 0;
    for (const std::int64_t from : levels[l])
      for (const std::int64_t to : levels[l + 1]) count += from <= to ? 1 : 0;
    maps.push_back(count);
  }
  return maps;
}

/// What nets cost for one row: products, and for each unit of a hidden layer bias and ReLU, for each output a bias. On
/// the way back each map has two products, of the same size, and each unit a pass for the ReLU and one for the bias's
/// gradient. (None can be left out: the actnorm next to the data is trained, and asks the last net for what it read.)
template <class Layers>
RowCost cost_of_nets(const Layers& layers) {
  RowCost cost;
  for (const auto& layer : layers) {
    const std::vector<double> maps = multiply_adds(layer.net());
    for (std::size_t l = 0; l < maps.size(); ++l) {
      cost.evaluation.multiply_adds += maps[l];
      cost.pullback.multiply_adds += 2 * maps[l];
      const auto units = static_cast<double>(layer.net().parameters().bias[l].size());
      cost.evaluation.passes += units;
      cost.pullback.passes += (l + 1 < maps.size() ? 2 : 1) * units;
    }
  }
  cost.sampling = cost.evaluation;
  return cost;
}

/// The standard normal base of `dim` features, and the actnorm next to the data: a pass each, either way.
inline RowCost cost_of_ends(double dim) {
  return {
      .evaluation = {.passes = 2 * dim}, .pullback = {.passes = 2 * dim}, .sampling = {.passes = dim, .normals = dim}};
}

inline RowCost operator+(const RowCost& a, const RowCost& b) {
  return {a.evaluation + b.evaluation, a.pullback + b.pullback, a.sampling + b.sampling};
}

/// The work of a flow. Batches are split between the threads of rhei::Trainer in training, and of rhei::ParallelFlow in
/// the other operations.
template <class Flow>
class FlowWorkOf final : public FlowWork {
 public:
  /// `row` is what one row costs with this flow.
  FlowWorkOf(const Case& c, Flow flow, const RowCost& row, int threads)
      : flow_(std::move(flow)), row_(row), trainer_(flow_, {}, threads), parallel_(flow_, threads), x_(c.rows, c.dim) {
    rhei::Rng rng(1);
    rng.fill_normal(x_);
    drawn_.resize(c.rows, c.dim);
    log_p_.resize(c.rows);
    // away from the start, where last layers are zero; not so far that a flow would be a strange one
    rhei::for_each_parameter(flow_, [&](std::string_view, rhei::Batch<float> values) {
      for (Index i = 0; i < values.size(); ++i) values.data()[i] += 0.02f * rng.normal<float>();
    });
  }

  void train_step() override { trainer_.step({.x = x_}, 1e-5); }
  void log_prob() override { parallel_.log_prob(x_, no_context_, log_p_); }
  void sample() override { parallel_.sample(rng_, no_context_, drawn_); }

  [[nodiscard]] Index parameters() const override { return rhei::count_parameters(flow_); }
  [[nodiscard]] Cost cost(Op op) const override {
    const auto rows = static_cast<double>(x_.rows());
    if (op == Op::sample) return rows * row_.sampling;
    if (op == Op::log_prob) return rows * row_.evaluation;
    return rows * (row_.evaluation + row_.pullback) + Cost{.adam = static_cast<double>(parameters())};
  }

 private:
  Flow flow_;
  RowCost row_;
  rhei::Trainer<Flow> trainer_;
  rhei::ParallelFlow<Flow> parallel_;
  rhei::Rng rng_{2};
  rhei::Matrix<float> x_, drawn_, no_context_;
  rhei::Vector<float> log_p_;
};

/// The layers of a ready-made flow, whose last but one element is a Repeat.
template <class Flow>
const auto& layers_of(const Flow& flow) {
  return std::get<0>(flow.transform().layers()).layers();
}

template <class Flow>
std::unique_ptr<FlowWork> flow_work(const Case& c, Flow flow, const RowCost& row, int threads) {
  return std::make_unique<FlowWorkOf<Flow>>(c, std::move(flow), row, threads);
}

}  // namespace bench
