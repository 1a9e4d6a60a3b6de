// SPDX-License-Identifier: MIT

#include <rhei/core/parameters.hpp>
#include <sstream>
#include <string>

#include "support/catch.hpp"
#include "support/errors.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// One of each kind of node.
template <class S>
struct Leaf {
  RowVector<S> bias;
  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    f("bias", self.bias);
  }
};
template <class S>
struct Tree {
  using Scalar = S;
  Matrix<S> weight;
  std::vector<Leaf<S>> leaves;
  std::tuple<Leaf<S>, Vector<S>> pair;
  Leaf<S> merged;
  std::int64_t flag = 0;
  std::vector<std::int64_t> order;
  RowVector<S> mean;

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    f("weight", self.weight);
    f("leaves", self.leaves);
    f("pair", self.pair);
    f("", self.merged);
  }
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("flag", self.flag);
    f("order", self.order);
    f("mean", self.mean);
  }
};

/// A tree that ends with what may be missing.
struct Root {
  using Scalar = float;
  Leaf<float> leaf;
  std::vector<Leaf<float>> more;
  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    f("leaf", self.leaf);
    f("more", self.more);
  }
};

template <class S>
Tree<S> tree() {
  Tree<S> t;
  t.weight = Matrix<S>::Constant(2, 3, S(0.5));
  t.leaves = {{RowVector<S>::Constant(2, 1)}, {RowVector<S>::Constant(1, 2)}};
  t.pair = {Leaf<S>{RowVector<S>::Constant(1, 3)}, Vector<S>::Constant(2, 4)};
  t.merged.bias = RowVector<S>::Constant(1, 5);
  t.flag = 1;
  t.order = {2, 0, 1};
  t.mean = RowVector<S>::Constant(2, S(0.25));
  return t;
}

/// "name rows x cols" of all parameters.
template <class Node>
std::string describe(Node& node, std::string_view prefix = {}) {
  std::ostringstream out;
  for_each_parameter(
      node,
      [&](std::string_view name, const auto& values) {
        out << name << " " << values.rows() << "x" << values.cols() << ", ";
      },
      prefix);
  return out.str();
}

}  // namespace

TEST_CASE("a tree of parameters is walked in order under dotted names", "[parameters]") {
  Tree<float> t = tree<float>();
  const std::string expected =
      "weight 2x3, leaves.0.bias 1x2, leaves.1.bias 1x1, pair.0.bias 1x1, pair.1 2x1, bias 1x1, ";
  CHECK(describe(t) == expected);
  CHECK(describe(std::as_const(t)) == expected);
  CHECK(describe(t.leaves[0], "layer.3") == "layer.3.bias 1x2, ");
  NoParameters none;
  CHECK(describe(none).empty());
  CHECK(count_parameters(t) == 6 + 2 + 1 + 1 + 2 + 1);
  CHECK(count_parameters(none) == 0);
}

TEST_CASE("state is walked with its integers", "[parameters]") {
  Tree<double> t = tree<double>();
  std::ostringstream out;
  const auto show = [&](std::string_view name, const auto& values) { out << name << " " << values.size() << ", "; };
  for_each_state(t, show, "layer");
  CHECK(out.str() == "layer.flag 1, layer.order 3, layer.mean 2, ");
  for_each_state(t, [](std::string_view, auto values) {
    if constexpr (std::same_as<decltype(values), std::span<std::int64_t>>)
      for (auto& value : values) value += 10;
    else
      values *= 2;
  });
  CHECK(t.flag == 11);
  CHECK(t.order == std::vector<std::int64_t>{12, 10, 11});
  CHECK(t.mean[1] == 0.5);
}

TEST_CASE("what is visited can be written", "[parameters]") {
  Tree<double> t = tree<double>();
  for_each_parameter(t, [](std::string_view, Batch<double> values) { values.array() += 1; });
  CHECK(t.weight(1, 2) == 1.5);
  CHECK(std::get<1>(t.pair)[1] == 5);
  for (auto& parameter : parameter_list<double>(t)) parameter.values *= 2;
  CHECK(t.weight(1, 2) == 3);
  CHECK(t.leaves[1].bias[0] == 6);
  CHECK(parameter_list<double>(t)[1].name == "leaves.0.bias");

  const Tree<double> zero = zeros_like(t);
  CHECK(describe(zero) == describe(t));
  double sum = 0;
  for_each_parameter(zero, [&](std::string_view, ConstBatch<double> values) { sum += values.cwiseAbs().sum(); });
  CHECK(sum == 0);
  CHECK(t.weight(1, 2) == 3);
  set_zero(t);
  CHECK(t.leaves[1].bias[0] == 0);
  CHECK(t.mean[0] == 0.25);  // state is not touched
}

TEST_CASE("values are copied between scalars", "[parameters]") {
  const Tree<float> from = tree<float>();
  Tree<double> to = tree<double>();
  set_zero(to);
  to.flag = 0;
  to.order = {0, 0, 0};
  to.mean.setZero();
  copy_values(from, to);
  CHECK(to.weight == from.weight.cast<double>());
  CHECK(std::get<0>(to.pair).bias[0] == 3);
  CHECK(to.merged.bias[0] == 5);
  CHECK(to.flag == 1);
  CHECK(to.order == from.order);
  CHECK(to.mean == from.mean.cast<double>());
}

TEST_CASE("trees that differ are refused by name", "[parameters]") {
  const Tree<float> from = tree<float>();
  const auto copied_to = [&](auto&& change) {
    Tree<float> to = tree<float>();
    change(to);
    return error_text([&] { copy_values(from, to); });
  };
  CHECK(copied_to([](auto&) {}).empty());
  CHECK(contains(copied_to([](auto& to) { to.weight.resize(3, 2); }), "'weight'"));
  CHECK(contains(copied_to([](auto& to) { to.leaves.emplace_back(); }), "'leaves.2.bias'"));
  CHECK(contains(copied_to([](auto& to) { to.leaves.pop_back(); }), "'pair.0.bias'"));
  CHECK(contains(copied_to([](auto& to) { to.merged.bias.resize(2); }), "'bias'"));
  CHECK(contains(copied_to([](auto& to) { to.order.push_back(3); }), "'order'"));
  CHECK(contains(copied_to([](auto& to) { to.mean.resize(1); }), "'mean'"));

  const Leaf<float> leaf{RowVector<float>::Zero(2)};
  const Root longer{leaf, {leaf}};
  Root shorter{leaf, {}};
  CHECK(contains(error_text([&] { copy_values(longer, shorter); }), "'more.0.bias' has no counterpart"));
}
