// SPDX-License-Identifier: MIT

/// \file
/// Flow: the change of variables, chunks, contexts, gradients, errors. The layers are tested elsewhere.

#include <rhei/core/flow.hpp>
#include <rhei/core/parallel_flow.hpp>
#include <rhei/distributions/diagonal_normal.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/coupling.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"

namespace {

using namespace rhei;
using namespace rhei::testing;

/// A flow away from the identity, over 3 features, with a context of `context_dim` columns.
template <Real S>
auto make_flow(Index context_dim, std::uint64_t seed = 5) {
  Rng rng(seed);
  Flow flow{DiagonalNormal<S>(3),
            Repeat(3,
                   [&](int i) {
                     return AffineCoupling<S>(3,
                                              {.transformed = i % 2 == 0 ? odd_features(3) : even_features(3),
                                               .net = {{8}, Activation::tanh},
                                               .context_dim = context_dim},
                                              rng);
                   }),
            ActNorm<S>(3)};
  for_each_parameter(flow, [&](std::string_view, Batch<S> values) {
    for (Index i = 0; i < values.size(); ++i) values.data()[i] += S(0.3) * rng.normal<S>();
  });
  return flow;
}

template <class S>
Matrix<S> normal_rows(Index n, Index cols, std::uint64_t seed) {
  Rng rng(seed);
  Matrix<S> m(n, cols);
  rng.fill_normal(m);
  return m;
}

static_assert(Distribution<Flow<StandardNormal<float>, ActNorm<float>>>);
static_assert(std::same_as<decltype(Flow{StandardNormal<float>(1), ActNorm<float>(1)}),
                           Flow<StandardNormal<float>, ActNorm<float>>>);

}  // namespace

TEST_CASE("log_prob is the base density plus the log-determinant", "[flow]") {
  const auto flow = make_flow<double>(0);
  const Matrix<double> x = normal_rows<double>(11, 3, 1);
  const auto [z, log_det] = flow.inverse(x);
  const auto& [mean, log_scale] = flow.base().parameters();
  for (Index i = 0; i < x.rows(); ++i) {
    double expected = log_det[i];
    for (Index d = 0; d < 3; ++d) {
      const double u = (z(i, d) - mean[d]) / std::exp(log_scale[d]);
      expected += -0.5 * u * u - log_scale[d] - 0.5 * std::log(2 * std::numbers::pi);
    }
    CHECK(flow.log_prob(x)[i] == Approx(expected).epsilon(1e-12));
  }
  const auto [back, forward_log_det] = flow.forward(z);
  CHECK((back - x).cwiseAbs().maxCoeff() < 1e-12);
  CHECK((forward_log_det + log_det).cwiseAbs().maxCoeff() < 1e-12);
}

TEST_CASE("log_prob in double is the sum in long double", "[flow][regression]") {
  // a float somewhere in the sum (as in a peer's accumulator) would show as 1e-7
  Rng rng(1);
  std::vector<ActNorm<double>> layers(50, ActNorm<double>(4));
  long double log_det = 0;
  for (auto& layer : layers)
    for (Index d = 0; d < 4; ++d) log_det -= layer.parameters().log_scale[d] = rng.normal<double>();
  const Flow flow{StandardNormal<double>(4), Repeat(std::move(layers))};
  const double at_zero = flow.log_prob(Matrix<double>::Zero(1, 4))[0];
  CHECK(at_zero ==
        Approx(static_cast<double>(log_det - 2 * std::log(2 * std::numbers::pi_v<long double>))).epsilon(1e-14));
}

TEMPLATE_TEST_CASE("Rows are evaluated alike in any number", "[flow]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const auto flow = make_flow<S>(2);
  const Matrix<S> x = normal_rows<S>(600, 3, 2);
  const Matrix<S> context = normal_rows<S>(600, 2, 3);
  const Vector<S> log_p = flow.log_prob(x, context);
  const S tolerance = std::same_as<S, float> ? S(1e-4) : S(1e-12);
  for (const Index i : {0, 255, 256, 599})
    CHECK(std::abs(flow.log_prob(x.middleRows(i, 1), context.middleRows(i, 1))[0] - log_p[i]) < tolerance);

  SECTION("one row of context serves all") {
    const Matrix<S> repeated = context.row(7).replicate(600, 1);
    CHECK((flow.log_prob(x, context.middleRows(7, 1)) - flow.log_prob(x, repeated)).cwiseAbs().maxCoeff() < tolerance);
  }
  SECTION("a block of a larger matrix") {
    Matrix<S> wide(700, 5);
    wide.setConstant(S(99));
    wide.block(50, 1, 600, 3) = x;
    CHECK(flow.log_prob(wide.block(50, 1, 600, 3), context) == log_p);
  }
  SECTION("a NaN stays in its row") {
    Matrix<S> broken = x;
    broken(300, 1) = std::numeric_limits<S>::quiet_NaN();
    const Vector<S> other = flow.log_prob(broken, context);
    CHECK(std::isnan(other[300]));
    for (Index i = 0; i < 600; ++i)
      if (i != 300) REQUIRE(other[i] == log_p[i]);
  }
  SECTION("no rows") {
    CHECK(flow.log_prob(Matrix<S>(0, 3), Matrix<S>(0, 2)).size() == 0);
    CHECK(flow.inverse(Matrix<S>(0, 3), Matrix<S>(0, 2)).z.cols() == 3);
    Rng rng(1);
    CHECK(flow.sample(0, rng, context.middleRows(0, 1)).rows() == 0);
  }
  SECTION("workspaces are reused") {
    typename decltype(make_flow<S>(2))::Cache cache;
    Vector<S> out(600);
    flow.log_prob(x, context, out, cache);
    CHECK(out == log_p);
    Vector<S> few(3);
    flow.log_prob(x.topRows(3), context.topRows(3), few, cache);
    CHECK((few - log_p.head(3)).cwiseAbs().maxCoeff() < tolerance);
  }
}

TEST_CASE("Samples come with their log-density", "[flow]") {
  const auto flow = make_flow<double>(2);
  const Matrix<double> context = normal_rows<double>(400, 2, 4);
  Rng a(9), b(9);
  const auto [x, log_p] = flow.sample_and_log_prob(400, a, context);
  CHECK((flow.log_prob(x, context) - log_p).cwiseAbs().maxCoeff() < 1e-10);
  CHECK(flow.sample(400, b, context) == x);  // same seed, same bits
  CHECK(a == b);
}

TEST_CASE("The gradient of log_prob with respect to the data", "[flow]") {
  const auto flow = make_flow<double>(0);
  const Matrix<double> x = normal_rows<double>(300, 3, 6);
  const auto [log_p, gradient] = flow.log_prob_gradient(x);
  CHECK((log_p - flow.log_prob(x)).cwiseAbs().maxCoeff() < 1e-12);
  const double h = 1e-5;
  for (Index d = 0; d < 3; ++d) {
    Matrix<double> ahead = x, behind = x;
    ahead.col(d).array() += h;
    behind.col(d).array() -= h;
    const Vector<double> numeric = (flow.log_prob(ahead) - flow.log_prob(behind)) / (2 * h);
    CHECK((numeric - gradient.col(d)).cwiseAbs().maxCoeff() < 1e-6);
  }
}

TEST_CASE("The gradient of the mean negative log-likelihood", "[flow]") {
  auto flow = make_flow<double>(2);
  const Matrix<double> x = normal_rows<double>(300, 3, 7);
  const Matrix<double> context = normal_rows<double>(300, 2, 8);
  auto gradient = flow.make_gradient();
  decltype(flow)::Cache cache;
  const double loss = flow.mean_negative_log_likelihood(x, gradient, cache, context);
  CHECK(loss == Approx(-flow.log_prob(x, context).mean()).epsilon(1e-12));
  auto parameters = parameter_list<double>(flow);
  const auto gradients = parameter_list<double>(gradient);
  REQUIRE(parameters.size() == gradients.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    CAPTURE(parameters[i].name);
    CHECK(parameters[i].name == gradients[i].name);
    if (parameters[i].values.size() == 0) continue;
    double& value = *parameters[i].values.data();
    const double at = value, h = 1e-5;
    value = at + h;
    const double ahead = -flow.log_prob(x, context).mean();
    value = at - h;
    const double behind = -flow.log_prob(x, context).mean();
    value = at;
    CHECK(*gradients[i].values.data() == Approx((ahead - behind) / (2 * h)).margin(1e-8).epsilon(1e-6));
  }
}

TEST_CASE("A flow says what it was given and what it wanted", "[flow]") {
  const auto flow = make_flow<float>(2);
  const Matrix<float> x(4, 3), context(4, 2);
  Rng rng(1);
  CHECK(contains(error_text([&] { (void)flow.log_prob(Matrix<float>(4, 2), context); }),
                 "Flow::log_prob: the input is 4 x 2 (rows x columns), expected any x 3"));
  CHECK(contains(error_text([&] { (void)flow.log_prob(x); }), "context is 0 x 0, expected 4 x 2 or 1 x 2"));
  CHECK(contains(error_text([&] { (void)flow.sample(4, rng, Matrix<float>(3, 2)); }), "context is 3 x 2"));
  CHECK(contains(error_text([&] { (void)flow.inverse(x, Matrix<float>(4, 1)); }), "Flow::inverse: context is 4 x 1"));
  CHECK(contains(error_text([] {
                   (void)Flow{StandardNormal<float>(2), ActNorm<float>(3)};
                 }),
                 "the dimension of the base is 2, expected 3"));
  auto gradient = flow.make_gradient();
  decltype(make_flow<float>(2))::Cache cache;
  CHECK(contains(
      error_text([&] { flow.mean_negative_log_likelihood(Matrix<float>(0, 3), gradient, cache, Matrix<float>(0, 2)); }),
      "the number of rows is 0"));
}

TEST_CASE("A flow can be the base of another, and be cast", "[flow]") {
  const auto inner = make_flow<float>(0);
  const Flow outer{inner, ActNorm<float>(3)};
  const Matrix<float> x = normal_rows<float>(9, 3, 3);
  CHECK((outer.log_prob(x) - inner.log_prob(x)).cwiseAbs().maxCoeff() < 1e-5f);
  const auto precise = inner.cast<double>();
  CHECK((precise.log_prob(x.cast<double>()) - inner.log_prob(x).cast<double>()).cwiseAbs().maxCoeff() < 1e-4);
}

TEST_CASE("Data-dependent initialisation happens once", "[flow]") {
  Flow flow{StandardNormal<double>(2), ActNorm<double>(2), ActNorm<double>(2)};
  Matrix<double> x = normal_rows<double>(40'000, 2, 12);
  x.col(0) = x.col(0) * 3.0 + Vector<double>::Constant(x.rows(), 100.0);
  flow.initialize(x);
  const Matrix<double> z = flow.inverse(x).z;
  CHECK(std::abs(z.col(0).mean()) < 0.03);
  CHECK(z.col(0).squaredNorm() / 40'000 == Approx(1).epsilon(0.05));
  const Matrix<double> before = flow.inverse(x).z;
  flow.initialize(x * 7.0);
  CHECK(flow.inverse(x).z == before);
}

TEST_CASE("ParallelFlow: each row is what the flow makes of it, whatever the number of threads", "[flow]") {
  const auto flow = make_flow<double>(2);
  const Index n = GENERATE(0, 1, 2, 700);
  const int threads = GENERATE(1, 2, 3);
  CAPTURE(n, threads);
  ParallelFlow parallel(flow, threads);
  CHECK(parallel.threads() == threads);
  const Matrix<double> x = normal_rows<double>(n, 3, 1), own = normal_rows<double>(n, 2, 2);
  const Matrix<double> shared = normal_rows<double>(1, 2, 3);
  for (const Matrix<double>* context : {&own, &shared}) {
    CHECK(parallel.log_prob(x, *context).isApprox(flow.log_prob(x, *context), 1e-12));
    Rng rng(7), same(7);
    Matrix<double> drawn(n, 3);
    Vector<double> log_p(n);
    parallel.sample_and_log_prob(rng, *context, drawn, log_p);
    CHECK(log_p.isApprox(flow.log_prob(drawn, *context), 1e-9));
    CHECK(parallel.sample(n, same, *context) == drawn);
    if (n == 700) CHECK((drawn.topRows(10) - drawn.bottomRows(10)).cwiseAbs().minCoeff() > 0);  // threads draw apart
  }
}

TEST_CASE("ParallelFlow refuses what a flow refuses", "[flow]") {
  const auto flow = make_flow<double>(2);
  CHECK_THROWS_AS(ParallelFlow(flow, 0), std::invalid_argument);
  ParallelFlow parallel(flow, 2);
  const Matrix<double> x = normal_rows<double>(9, 3, 1), context = normal_rows<double>(9, 2, 2);
  Vector<double> short_of_one(8);
  CHECK_THROWS_AS(parallel.log_prob(x, context, short_of_one), std::invalid_argument);
  CHECK_THROWS_AS(parallel.log_prob(x, context.topRows(8)), std::invalid_argument);
  CHECK_THROWS_AS(parallel.log_prob(x), std::invalid_argument);
  CHECK_THROWS_AS(parallel.log_prob(x.leftCols(2), context), std::invalid_argument);
}
