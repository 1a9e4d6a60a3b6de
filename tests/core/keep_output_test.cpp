// SPDX-License-Identifier: MIT

/// \file
/// Keep::output: pullbacks that rebuild every input from the output, in memory that does not grow with the depth; what
/// layers must remember for that, and the state that follows it. (That it holds of each layer the conformance suite
/// checks.)

#include <malloc.h>
#include <cmath>
#include <limits>
#include <rhei/core/any_layer.hpp>
#include <rhei/core/flow.hpp>
#include <rhei/core/inverted.hpp>
#include <rhei/distributions/diagonal_normal.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/coupling.hpp>
#include <rhei/layers/lu_linear.hpp>

#include "support/allocation_counter.hpp"
#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// x = z exp(w t), t drawn anew by every evaluation for each element: n x D values to remember. Its state counts the
/// evaluations and sums up their t.
template <Real S>
class Jitter {
 public:
  using Scalar = S;
  struct Parameters {
    RowVector<S> w;

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("w", self.w);
    }
  };
  using Gradient = Parameters;
  struct Cache {
    Buffer<S> t;
  };

  Jitter(Index dim, Rng& rng) : parameters_{RowVector<S>(dim)} { rng.fill_normal(parameters_.w); }
  Index dim() const { return parameters_.w.size(); }
  Index context_dim() const { return 0; }
  Traits traits() const { return {}; }
  Options options() const { return Options("jitter"); }
  Gradient make_gradient() const { return zeros_like(parameters_); }
  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    f("", self.parameters_);
  }
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("updates", self.updates_);
    f("sum", self.sum_);
  }
  static void each_memory(Cache& cache, auto&& f) { f(cache.t); }
  void update_state(Cache& cache) {
    ++updates_;
    sum_.array() += cache.t.view().sum();
  }

  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    apply(call, z, x, log_det, cache, 1);
  }
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    apply(call, x, z, log_det, cache, -1);
  }
  void forward_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S> x, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>*, Gradient* gradient) const {
    pull(x, cache, d_x, d_log_det, d_z, gradient, 1);
  }
  void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>*, Gradient* gradient) const {
    pull(z, cache, d_z, d_log_det, d_x, gradient, -1);
  }

 private:
  void apply(const Call<S>& call, ConstBatch<S> in, Batch<S> out, Values<S> log_det, Cache& cache, S sign) const {
    Batch<S> t = call.repeat ? cache.t.view() : cache.t.resize(in.rows(), dim());
    if (t.rows() != in.rows()) throw std::logic_error("Jitter: the memory is that of another batch");
    if (!call.repeat)
      for (Index e = 0; e < t.size(); ++e) t.data()[e] = call.rng->template uniform<S>();
    for (Index j = 0; j < dim(); ++j) {
      out.col(j).array() = in.col(j).array() * (sign * parameters_.w[j] * t.col(j).array()).exp();
      log_det += sign * parameters_.w[j] * t.col(j);
    }
  }
  void pull(ConstBatch<S> out, Cache& cache, ConstBatch<S> d_out, ConstValues<S> d_log_det, Batch<S>* d_in,
            Gradient* gradient, S sign) const {
    const ConstBatch<S> t = cache.t.view();
    for (Index j = 0; j < dim(); ++j) {
      if (gradient)
        gradient->w[j] += sign * ((d_out.col(j).cwiseProduct(out.col(j)) + d_log_det).cwiseProduct(t.col(j))).sum();
      if (d_in) d_in->col(j).array() = d_out.col(j).array() * (sign * parameters_.w[j] * t.col(j).array()).exp();
    }
  }

  Parameters parameters_;
  std::int64_t updates_ = 0;
  Vector<S> sum_ = Vector<S>::Zero(1);
};

constexpr Index dim = 3;

template <class S>
auto coupling(Index i, Index context, Rng& rng) {
  return AffineCoupling<S>(dim,
                           {.transformed = i % 2 == 0 ? odd_features(dim) : even_features(dim),
                            .net = {{8}, Activation::tanh},
                            .context_dim = context},
                           rng);
}

/// Layers of several types, among them sequences, as many as `depth`.
template <class S>
Repeat<AnyLayer<S>> mixture(int depth, Index context, Rng& rng) {
  std::vector<AnyLayer<S>> layers;
  for (int i = 0; i < depth; ++i) {
    AnyLayer<S> made[] = {coupling<S>(i, context, rng),
                          Jitter<S>(dim, rng),
                          LuLinear<S>(dim, rng),
                          Repeat<AnyLayer<S>>({Jitter<S>(dim, rng), coupling<S>(i, context, rng)}),
                          ActNorm<S>(dim),
                          Inverted{Chain{Jitter<S>(dim, rng), coupling<S>(i, 0, rng),
                                         Inverted{Repeat(3, [&](int) { return Jitter<S>(dim, rng); })}}},
                          Repeat<AnyLayer<S>>({ActNorm<S>(dim), Jitter<S>(dim, rng), Jitter<S>(dim, rng)})};
    layers.push_back(made[i % 7]);
  }
  return Repeat<AnyLayer<S>>(std::move(layers));
}

/// A layer, one evaluation and pullback of it, and what they gave.
template <Real S>
struct Run {
  AnyLayer<S> layer;
  Direction direction;
  Matrix<S> in, context, d_out;
  Vector<S> d_log_det;
  typename AnyLayer<S>::Cache cache;
  typename AnyLayer<S>::Gradient gradient;
  Matrix<S> out, d_in, d_context;
  Vector<S> log_det;

  Run(AnyLayer<S> of, Direction d, Index n, std::uint64_t seed = 3)
      : layer(std::move(of)),
        direction(d),
        in(n, dim),
        context(n, layer.context_dim()),
        d_out(n, dim),
        d_log_det(n),
        gradient(layer.make_gradient()),
        out(n, dim),
        d_in(n, dim),
        d_context(n, context.cols()),
        log_det(n) {
    Rng rng(seed);
    for (Matrix<S>* m : {&in, &context, &d_out}) rng.fill_normal(*m);
    rng.fill_normal(d_log_det);
  }

  Call<S> call(Rng& rng, Keep keep) const { return {.context = context, .keep = keep, .rng = &rng}; }
  void evaluate(Keep keep) {
    Rng rng(9);
    log_det.setZero();
    if (direction == Direction::forward)
      layer.forward(call(rng, keep), in, out, log_det, cache);
    else
      layer.inverse(call(rng, keep), in, out, log_det, cache);
  }
  void pull() {
    Rng rng(10);
    d_context.setZero();
    set_zero(gradient);
    Batch<S> to_in(d_in), to_context(d_context);
    const Call<S> own = call(rng, Keep::everything);
    if (direction == Direction::forward)
      layer.forward_pullback(own, in, out, cache, d_out, d_log_det, &to_in, &to_context, &gradient);
    else
      layer.inverse_pullback(own, in, out, cache, d_out, d_log_det, &to_in, &to_context, &gradient);
  }
  void both(Keep keep) {
    evaluate(keep);
    pull();
  }
};

/// The worst error of a tensor: max |a - b| / max(max |b|, 1e-3).
template <Real S>
double difference(const Run<S>& got, const Run<S>& want) {
  double worst =
      std::max(relative_error(got.d_in, want.d_in, 1e-3), relative_error(got.d_context, want.d_context, 1e-3));
  std::vector<Matrix<S>> tensors;
  for_each_parameter(want.gradient, [&](std::string_view, ConstBatch<S> values) { tensors.emplace_back(values); });
  std::size_t next = 0;
  for_each_parameter(got.gradient, [&](std::string_view, ConstBatch<S> values) {
    worst = std::max(worst, relative_error(Matrix<S>(values), tensors[next++], 1e-3));
  });
  return worst;
}

/// All bits of a layer's state.
template <class L>
std::vector<double> state_of(const L& layer) {
  std::vector<double> all;
  for_each_state(layer, [&](std::string_view, const auto& values) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(values.size()); ++i)
      all.push_back(static_cast<double>(values.data()[i]));
  });
  return all;
}

std::size_t bytes_in_use() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

}  // namespace

TEMPLATE_TEST_CASE("pullbacks from the output give the gradients of stored inputs", "[keep_output]",
                   RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(1);
  const Direction direction = GENERATE(Direction::forward, Direction::inverse);
  const int depth = GENERATE(1, 2, 7, 14);
  for (const Index context : {0, 2}) {
    CAPTURE(depth, context, static_cast<int>(direction));
    AnyLayer<S> layer = mixture<S>(depth, context, rng);
    perturb(layer, 0.3, rng);
    Run<S> want(layer, direction, 20), got(layer, direction, 20);
    want.both(Keep::everything);
    got.both(Keep::output);
    CHECK(got.out == want.out);
    CHECK(got.log_det == want.log_det);
    const double tolerance = std::same_as<S, double> ? 1e-9 : 1e-4;
    CHECK(difference(got, want) < tolerance);
    got.pull();  // a second one, after the cache has been used by the first
    CHECK(difference(got, want) < tolerance);
    got.both(Keep::everything);  // and back to what it was
    CHECK(difference(got, want) == 0);
  }
}

TEMPLATE_TEST_CASE("static chains rebuild their inputs", "[keep_output]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(2);
  const Direction direction = GENERATE(Direction::forward, Direction::inverse);
  AnyLayer<S> layer = Chain{coupling<S>(0, 2, rng),
                            Repeat(5,
                                   [&](int i) {
                                     return Chain{coupling<S>(i, 2, rng), Jitter<S>(dim, rng)};
                                   }),
                            LuLinear<S>(dim, rng)};
  perturb(layer, 0.3, rng);
  Run<S> want(layer, direction, 20), got(layer, direction, 20);
  want.both(Keep::everything);
  got.both(Keep::output);
  CHECK(difference(got, want) < (std::same_as<S, double> ? 1e-9 : 1e-4));
}

TEST_CASE("a chain says how well its input came back", "[keep_output]") {
  // 1e-9 (z + 1e-9) keeps 7 of 16 digits
  ActNorm<double> layer(1);
  layer.parameters().log_scale[0] = std::log(1e-9);
  layer.parameters().shift[0] = 1;
  const Chain chain{layer};
  Matrix<double> z(4, 1), x(4, 1), d(4, 1);
  z << 0.1, 0.7, -1.3, 50;
  Vector<double> log_det = Vector<double>::Zero(4);
  decltype(chain)::Cache cache;
  Batch<double> d_z(d);
  chain.forward({.keep = Keep::output}, z, x, log_det, cache);
  chain.forward_pullback({}, z, x, cache, x, log_det, &d_z, nullptr, nullptr);
  CHECK(cache.round_trip > 1e-9);
  CHECK(cache.round_trip < 1e-6);
  const Matrix<double> other = z.array() + 1;  // not what forward was given: 1.7 / 1.7, 51 / 51
  chain.forward_pullback({}, other, x, cache, x, log_det, &d_z, nullptr, nullptr);
  CHECK(cache.round_trip == Approx(1).epsilon(1e-6));
  Matrix<double> broken = z;
  broken(1, 0) = std::numeric_limits<double>::quiet_NaN();
  chain.forward_pullback({}, broken, x, cache, x, log_det, &d_z, nullptr, nullptr);
  CHECK(cache.round_trip < 1e-6);  // a sample that is none has nothing to come back
  x(2, 0) = std::numeric_limits<double>::quiet_NaN();
  chain.forward_pullback({}, z, x, cache, x, log_det, &d_z, nullptr, nullptr);
  CHECK(cache.round_trip == std::numeric_limits<double>::infinity());
}

TEST_CASE("with Keep::output memory does not grow with the depth", "[keep_output]") {
  if (!testing::counts_allocations()) return;
  Rng rng(4);
  const auto taken = [&](int depth, Keep keep) {
    const Repeat layer(depth, [&](int i) { return Chain{coupling<float>(i, 0, rng), ActNorm<float>(dim)}; });
    Run<float> run(layer, Direction::inverse, 500);
    const std::size_t before = bytes_in_use();
    run.both(keep);
    return bytes_in_use() - before;
  };
  const std::size_t shallow = taken(4, Keep::output), deep = taken(64, Keep::output), all = taken(64, Keep::everything);
  CAPTURE(shallow, deep, all);
  CHECK(shallow > 500 * 8 * sizeof(float));  // counted at all
  CHECK(deep < shallow + 64 * 64);           // a few words for a layer
  CHECK(all > 10 * deep);
}

TEST_CASE("nothing is allocated in steady state", "[keep_output]") {
  if (!testing::counts_allocations()) return;
  Rng rng(5);
  for (const Direction direction : {Direction::forward, Direction::inverse}) {
    Run<float> run(mixture<float>(14, 2, rng), direction, 30);
    run.both(Keep::output);
    run.both(Keep::output);
    CHECK(testing::allocations_in([&] { run.evaluate(Keep::output); }) == 0);
    const std::size_t of_clearing = testing::allocations_in([&] { set_zero(run.gradient); });  // names are built
    CHECK(testing::allocations_in([&] { run.pull(); }) == of_clearing);
    run.evaluate(Keep::nothing);  // here layers of different types take turns with one cache, too
    CHECK(testing::allocations_in([&] { run.evaluate(Keep::nothing); }) == 0);
  }
}

TEST_CASE("state follows the evaluation whatever was kept", "[keep_output]") {
  Rng rng(6);
  const AnyLayer<double> layer = mixture<double>(14, 0, rng);
  const std::vector<double> before = state_of(layer);
  std::vector<double> after;
  for (const Keep keep : {Keep::everything, Keep::output})
    for (const bool pulled : {false, true}) {
      Run<double> run(layer, Direction::inverse, 10);
      run.evaluate(keep);
      if (pulled) run.pull();
      update_state(run.layer, run.cache);
      if (after.empty()) after = state_of(run.layer);
      CHECK(state_of(run.layer) == after);
    }
  REQUIRE(after.size() == before.size());
  CHECK(after != before);
  Run<double> run(layer, Direction::inverse, 10);
  run.evaluate(Keep::nothing);
  CHECK(error_text<std::invalid_argument>([&] { update_state(run.layer, run.cache); }).find("Keep::nothing") !=
        std::string::npos);
}

TEST_CASE("a call with repeat makes no new draws", "[keep_output]") {
  Rng rng(7);
  for (const Keep first : {Keep::everything, Keep::output})
    for (const Keep second : {Keep::everything, Keep::output, Keep::nothing}) {
      Run<double> run(mixture<double>(14, 0, rng), Direction::inverse, 10);
      run.evaluate(first);
      Matrix<double> back(10, dim);
      Vector<double> log_det = run.log_det;
      run.layer.forward({.repeat = true, .keep = second}, run.out, back, log_det, run.cache);
      CHECK((back - run.in).cwiseAbs().maxCoeff() < 1e-9);
      CHECK(log_det.cwiseAbs().maxCoeff() < 1e-9);
      const Matrix<double> was = run.out;
      run.layer.inverse({.repeat = true, .keep = first}, run.in, run.out, log_det, run.cache);
      CHECK(run.out == was);
    }
}

TEST_CASE("a flow trains and updates from its latent", "[keep_output]") {
  Rng rng(8);
  const Index n = 15;
  Flow<DiagonalNormal<double>, AnyLayer<double>> flow{DiagonalNormal<double>(dim), mixture<double>(7, 2, rng)};
  Matrix<double> x(n, dim), context(n, 2), d_x[2] = {x, x};
  rng.fill_normal(x);
  rng.fill_normal(context);
  Vector<double> log_p[2] = {Vector<double>::Zero(n), Vector<double>::Zero(n)};
  decltype(flow)::Cache cache[2];
  std::vector<decltype(flow)::Gradient> gradient;
  std::vector<double> state[2];
  for (const int i : {0, 1}) {
    Rng draws(3);
    const Call<double> call{.context = context, .keep = i == 0 ? Keep::everything : Keep::output, .rng = &draws};
    gradient.push_back(flow.make_gradient());
    Batch<double> to_x(d_x[i]);
    flow.log_prob(call, x, log_p[i], cache[i]);
    flow.log_prob_pullback(call, x, cache[i], Vector<double>::Ones(n).eval(), &to_x, nullptr, &gradient.back());
    auto copy = flow;
    copy.update_state(cache[i]);
    state[i] = state_of(copy);
  }
  CHECK(log_p[0] == log_p[1]);
  CHECK(relative_error(d_x[1], d_x[0], 1e-3) < 1e-9);
  std::vector<Matrix<double>> want;
  for_each_parameter(gradient[0], [&](std::string_view, Batch<double> values) { want.emplace_back(values); });
  std::size_t next = 0;
  for_each_parameter(gradient[1], [&](std::string_view name, Batch<double> values) {
    CAPTURE(std::string(name));
    CHECK(relative_error(Matrix<double>(values), want[next++], 1e-3) < 1e-9);
  });
  CHECK(state[0] == state[1]);
  CHECK(state[0] != state_of(flow));
  CHECK(cache[0].round_trip == 0);
  CHECK(cache[1].round_trip > 0);
  CHECK(cache[1].round_trip < 1e-12);
}
