// SPDX-License-Identifier: MIT

/// \file
/// BatchNorm: which statistics which call uses, the pullback through those of a batch, and how the stored ones move.

#include <rhei/layers/batch_norm.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// What the layer is outside of training, where no row influences another: so the suite checks everything.
template <Real S>
struct Evaluating : BatchNorm<S> {
  using BatchNorm<S>::BatchNorm;
  static constexpr Traits traits() { return {}; }
};

/// A batch whose columns have means -2, -1, 0, 1, 2, -2, ... and standard deviations 1, 1/2, 1/3, 1, ...
template <Real S>
Matrix<S> batch(Index rows, Index dim, Rng& rng) {
  Matrix<S> x(rows, dim);
  rng.fill_normal(x);
  for (Index d = 0; d < dim; ++d)
    x.col(d).array() = x.col(d).array() / static_cast<S>(d % 3 + 1) + static_cast<S>(d % 5 - 2);
  return x;
}

/// A layer with statistics of its own and parameters away from the start.
template <class L>
L layer_of(Index dim, Rng& rng) {
  using S = typename L::Scalar;
  L layer(dim);
  layer.set_statistics(batch<S>(5, dim, rng));
  rng.fill_normal(layer.parameters().gamma);
  rng.fill_normal(layer.parameters().beta);
  return layer;
}

template <Real S>
using Statistics = std::pair<RowVector<S>, RowVector<S>>;

/// Mean and biased variance of each column, straight from their definitions.
Statistics<double> statistics_of(const Matrix<double>& x) {
  const RowVector<double> mean = x.colwise().mean();
  return {mean, (x.rowwise() - mean).array().square().colwise().mean()};
}

/// z and log|det dz/dx| by the formula of the file comment.
Evaluation<double> formula(const BatchNorm<double>& layer, const Matrix<double>& x, const Statistics<double>& s,
                           double epsilon = 1e-5) {
  const auto& [gamma, beta] = layer.parameters();
  Evaluation<double> result{x, Vector<double>::Zero(x.rows())};
  for (Index d = 0; d < x.cols(); ++d) {
    const double v = s.second[d] + epsilon;
    result.out.col(d).array() = std::exp(gamma[d]) * (x.col(d).array() - s.first[d]) / std::sqrt(v) + beta[d];
    result.log_det.array() += gamma[d] - 0.5 * std::log(v);
  }
  return result;
}

template <Real S>
Evaluation<S> inverse_with(const BatchNorm<S>& layer, const Call<S>& call, const Matrix<S>& x,
                           typename BatchNorm<S>::Cache& cache) {
  Evaluation<S> result{Matrix<S>(x.rows(), x.cols()), Vector<S>::Zero(x.rows())};
  layer.inverse(call, x, result.out, result.log_det, cache);
  return result;
}
template <Real S>
Evaluation<S> forward_with(const BatchNorm<S>& layer, const Call<S>& call, const Matrix<S>& z,
                           typename BatchNorm<S>::Cache& cache) {
  Evaluation<S> result{Matrix<S>(z.rows(), z.cols()), Vector<S>::Zero(z.rows())};
  layer.forward(call, z, result.out, result.log_det, cache);
  return result;
}

bool close(const Evaluation<double>& a, const Evaluation<double>& b) {
  return (a.out - b.out).cwiseAbs().maxCoeff() < 1e-12 && (a.log_det - b.log_det).cwiseAbs().maxCoeff() < 1e-12;
}

const Call<double> training{.training = true};

}  // namespace

TEMPLATE_TEST_CASE("BatchNorm conforms", "[layer]", RHEI_TEST_SCALARS) {
  conforms([](Index dim, Rng& rng) { return layer_of<Evaluating<TestType>>(dim, rng); });
}

TEMPLATE_TEST_CASE("BatchNorm in training conforms", "[layer]", RHEI_TEST_SCALARS) {
  constexpr double any = std::numeric_limits<double>::infinity();
  conforms(
      [](Index dim, Rng& rng) { return layer_of<BatchNorm<TestType>>(dim, rng); },
      {.name = "batch_norm in training",
       .training = true,
       .in_double = {.round_trip = any},
       .in_float = {.round_trip = any, .gradient = 5e-3},
       .reason =
           "a fresh cache knows nothing of the batch: there is a way back with call.repeat only, see below; and of "
           "three in a row the next takes the scale of the one before away, so that its gradient is rounding"});
}

TEST_CASE("BatchNorm takes the statistics of the batch in training and the stored ones elsewhere", "[batch_norm]") {
  Rng rng(1);
  const Index dim = GENERATE(1, 2, 40), rows = GENERATE(1, 2, 7, 1000);
  CAPTURE(dim, rows);
  const auto layer = layer_of<BatchNorm<double>>(dim, rng);
  const Matrix<double> x = batch<double>(rows, dim, rng);
  const Statistics<double> stored{layer.running_mean(), layer.running_variance()};
  const auto by_batch = formula(layer, x, statistics_of(x)), by_stored = formula(layer, x, stored);

  // any order of calls, with one cache
  BatchNorm<double>::Cache cache;
  CHECK(close(inverse_with(layer, {}, x, cache), by_stored));
  const auto z = inverse_with(layer, training, x, cache);
  CHECK(close(z, by_batch));
  const auto back = forward_with(layer, {}, by_stored.out, cache);
  CHECK(close(back, {x, -by_stored.log_det}));
  CHECK(close(forward_with(layer, training, by_stored.out, cache), back));
  CHECK(close(inverse_with(layer, training, x, cache), by_batch));
  CHECK(close(inverse_with(layer, {}, x, cache), by_stored));

  if (rows == 1) return;
  const auto [mean, variance] = statistics_of(z.out);
  CHECK((mean - layer.parameters().beta).cwiseAbs().maxCoeff() < 1e-12);
}

TEMPLATE_TEST_CASE("BatchNorm rebuilds the batch of a training evaluation", "[batch_norm]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(2);
  const Index rows = GENERATE(1, 2, 300);
  const auto layer = layer_of<BatchNorm<S>>(5, rng);
  const Matrix<S> x = batch<S>(rows, 5, rng);
  const Call<S> first{.training = true}, again{.training = true, .repeat = true};
  typename BatchNorm<S>::Cache cache;
  const auto z = inverse_with<S>(layer, first, x, cache);

  const auto back = forward_with<S>(layer, again, z.out, cache);
  const auto relative = ((back.out - x).array() / x.array().abs().max(S(1))).abs().maxCoeff();
  CHECK(double(relative) < 20 * double(std::numeric_limits<S>::epsilon()));
  CHECK(back.log_det == -z.log_det);
  CHECK(double((forward_with<S>(layer, first, z.out, cache).out - x).cwiseAbs().maxCoeff()) > 0.1);  // not without

  // A cache that served another layer in between, and one that is new, given what must be kept: the same bits.
  std::vector<Matrix<S>> kept;
  inverse_with<S>(layer, first, x, cache);
  BatchNorm<S>::each_memory(cache, [&](Buffer<S>& memory) { kept.emplace_back(memory.view()); });
  REQUIRE(kept.size() == 2);
  inverse_with<S>(layer_of<BatchNorm<S>>(5, rng), first, batch<S>(4, 5, rng), cache);
  typename BatchNorm<S>::Cache fresh;
  for (auto* other : {&cache, &fresh}) {
    std::size_t next = 0;
    BatchNorm<S>::each_memory(*other, [&](Buffer<S>& memory) {
      const Matrix<S>& values = kept[next++];
      memory.resize(values.rows(), values.cols()) = values;
    });
    CHECK(forward_with<S>(layer, again, z.out, *other).out == back.out);
    const auto repeated = inverse_with<S>(layer, again, x, *other);
    CHECK(repeated.out == z.out);
    CHECK(repeated.log_det == z.log_det);

    // its pullback goes through the statistics as the first one does
    Matrix<S> want(rows, 5), got(rows, 5);
    Batch<S> d_x(want), d_x_again(got);
    typename BatchNorm<S>::Cache original;
    inverse_with<S>(layer, first, x, original);
    layer.inverse_pullback(first, x, z.out, original, x, z.log_det, &d_x, nullptr, nullptr);
    layer.inverse_pullback(again, x, z.out, *other, x, z.log_det, &d_x_again, nullptr, nullptr);
    CHECK(got == want);
  }
}

// What the suite's gradient check does not see is an error that it makes too: here the derivative along one direction
// of the whole batch, of a loss by the formula.
TEST_CASE("BatchNorm's pullback in training goes through mean and variance", "[batch_norm]") {
  Rng rng(3);
  const auto layer = layer_of<BatchNorm<double>>(3, rng);
  const Matrix<double> x = batch<double>(11, 3, rng), along = batch<double>(11, 3, rng);
  Matrix<double> weight(11, 3), d_x(11, 3);
  Vector<double> d_log_det(11);
  rng.fill_normal(weight);
  rng.fill_normal(d_log_det);
  const double slope = central_difference([&](double t) {
    const Matrix<double> moved = x + t * along;
    const auto z = formula(layer, moved, statistics_of(moved));
    return z.out.cwiseProduct(weight).sum() + z.log_det.dot(d_log_det);
  });
  BatchNorm<double>::Cache cache;
  const auto z = inverse_with(layer, training, x, cache);
  Batch<double> wanted(d_x);
  layer.inverse_pullback(training, x, z.out, cache, weight, d_log_det, &wanted, nullptr, nullptr);
  CHECK(d_x.cwiseProduct(along).sum() == Approx(slope).epsilon(1e-8));
  CHECK(d_x.colwise().sum().cwiseAbs().maxCoeff() < 1e-12);  // a shift of the batch changes nothing
}

TEST_CASE("BatchNorm's running averages move in update_state and nowhere else", "[batch_norm]") {
  Rng rng(4);
  BatchNorm<double> layer(2, {.momentum = 0.25});
  const Matrix<double> first = batch<double>(50, 2, rng), second = 3 * batch<double>(20, 2, rng);
  BatchNorm<double>::Cache cache;
  inverse_with(layer, training, first, cache);
  CHECK(layer.running_mean() == RowVector<double>::Zero(2));
  CHECK(layer.running_variance() == RowVector<double>::Ones(2));

  const auto near = [&](const RowVector<double>& mean, const RowVector<double>& variance) {
    return layer.running_mean().isApprox(mean, 1e-13) && layer.running_variance().isApprox(variance, 1e-13);
  };
  const auto [mean1, variance1] = statistics_of(first);
  const auto [mean2, variance2] = statistics_of(second);
  SECTION("the first batch is taken as it is, the next by the momentum") {
    layer.update_state(cache);
    CHECK(near(mean1, variance1));
    CHECK(layer.batches_seen() == 1);
    inverse_with(layer, training, second, cache);
    layer.update_state(cache);
    CHECK(near(0.75 * mean1 + 0.25 * mean2, 0.75 * variance1 + 0.25 * variance2));
    CHECK(layer.batches_seen() == 2);
  }
  SECTION("after initialize the first batch is one of many") {
    layer.initialize({}, second);
    CHECK(near(mean2, variance2));
    CHECK(layer.batches_seen() == 1);
    layer.initialize({}, first);  // once only
    CHECK(near(mean2, variance2));
    layer.update_state(cache);
    CHECK(near(0.25 * mean1 + 0.75 * mean2, 0.25 * variance1 + 0.75 * variance2));
  }
  SECTION("set_statistics replaces what was there") {
    layer.update_state(cache);
    layer.update_state(cache);
    layer.set_statistics(second);
    CHECK(near(mean2, variance2));
    CHECK(layer.batches_seen() == 2);
  }
  SECTION("an evaluation, a sample or an empty batch gives nothing to move towards") {
    inverse_with(layer, {}, second, cache);
    layer.update_state(cache);
    forward_with(layer, training, second, cache);
    layer.update_state(cache);
    inverse_with(layer, training, Matrix<double>(0, 2), cache);
    layer.update_state(cache);
    layer.update_state(BatchNorm<double>::Cache());
    CHECK(layer.batches_seen() == 0);
    CHECK(layer.running_mean() == RowVector<double>::Zero(2));
  }
  SECTION("a cast and a copy of the state remember") {
    layer.update_state(cache);
    CHECK(layer.cast<float>().batches_seen() == 1);
    CHECK(layer.cast<float>().running_mean() == layer.running_mean().cast<float>());
    auto loaded = BatchNorm<double>::from_options(layer.options());
    copy_values(layer, loaded);
    loaded.initialize({}, second);
    CHECK(loaded.running_variance() == layer.running_variance());
  }
}

TEMPLATE_TEST_CASE("BatchNorm survives constant columns and single rows", "[batch_norm]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(5);
  const Index rows = GENERATE(1, 2, 7, 1000);  // the mean of seven times 0.1 would not be exact
  Matrix<S> x(rows, 3), d_x(rows, 3);
  x.col(0).setConstant(S(0.1));
  x.col(1).setConstant(S(-1e6) / 3);
  x.col(2).setZero();
  BatchNorm<S> layer(3);
  typename BatchNorm<S>::Cache cache;
  const auto z = inverse_with<S>(layer, {.training = true}, x, cache);
  CHECK(z.out == Matrix<S>::Zero(rows, 3));
  CHECK(double(z.log_det[0]) == Approx(-1.5 * std::log(1e-5)));
  Matrix<S> weight(rows, 3);
  rng.fill_normal(weight);
  Batch<S> wanted(d_x);
  auto gradient = layer.make_gradient();
  layer.inverse_pullback({.training = true}, x, z.out, cache, weight, z.log_det, &wanted, nullptr, &gradient);
  CHECK(d_x.allFinite());
  if (rows == 1) CHECK(d_x == Matrix<S>::Zero(1, 3));
  CHECK(gradient.gamma.allFinite());
  layer.update_state(cache);
  CHECK(layer.running_variance() == RowVector<S>::Zero(3));
  CHECK(inverse_of<BatchNorm<S>>(layer, x).out == Matrix<S>::Zero(rows, 3));
}

// A product of 200 standard deviations is 1e-600.
TEMPLATE_TEST_CASE("BatchNorm of 200 narrow columns has a finite log-determinant", "[batch_norm]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Matrix<S> x(4, 200);
  for (Index d = 0; d < 200; ++d) {
    const S mean = static_cast<S>(d) / 8, deviation = S(0x1p-10);
    x.col(d) << mean + deviation, mean - deviation, mean - deviation, mean + deviation;
  }
  BatchNorm<S> layer(200, {.epsilon = 1e-12});
  layer.initialize({}, x);
  const auto z = inverse_of(layer, x);
  CHECK(double((z.out.array().abs() - S(1)).abs().maxCoeff()) < 1e-6);
  CHECK(double(z.log_det[0]) == Approx(2000 * std::log(2.0)).epsilon(1e-6));
}

// In float: columns far from zero, and more rows than a float can count one by one in a sum.
TEST_CASE("BatchNorm's statistics keep their digits", "[batch_norm]") {
  Rng rng(6);
  Matrix<double> x(200'000, 2);
  rng.fill_normal(x);
  x.col(0).array() += 1e4;
  x.col(1) = (x.col(1).array() * 3 - 40).matrix();
  const Matrix<float> rounded = x.cast<float>();
  const auto [mean, variance] = statistics_of(rounded.cast<double>());
  BatchNorm<float> layer(2);
  layer.set_statistics(rounded);
  CHECK((layer.running_mean().cast<double>() - mean).cwiseQuotient(mean).cwiseAbs().maxCoeff() < 1e-7);
  CHECK((layer.running_variance().cast<double>() - variance).cwiseQuotient(variance).cwiseAbs().maxCoeff() < 2e-6);
}

TEST_CASE("BatchNorm refuses what it cannot use", "[batch_norm]") {
  CHECK_THROWS_AS(BatchNorm<float>(0), std::invalid_argument);
  const auto refused = [](const BatchNormOptions& options) {
    return error_text<std::invalid_argument>([&] { BatchNorm<float>(2, options); });
  };
  CHECK(refused({.momentum = 0}).find("BatchNorm: momentum is 0.0") == 0);
  CHECK(refused({.momentum = 1.5}).find("expected more than 0 and at most 1") != std::string::npos);
  CHECK(refused({.epsilon = 0}).find("BatchNorm: epsilon is 0.0") == 0);
  CHECK(refused({.epsilon = 1e-60}).find("BatchNorm: epsilon is 0.0") == 0);  // nothing in float
  CHECK(refused({.epsilon = std::numeric_limits<double>::infinity()}).find("epsilon is inf") != std::string::npos);

  BatchNorm<float> layer(2);
  const auto text = [&](const Matrix<float>& x) {
    return error_text<std::invalid_argument>([&] { layer.initialize({}, x); });
  };
  CHECK(text(Matrix<float>(0, 2)) == "BatchNorm::set_statistics: the number of rows is 0, expected at least 1");
  CHECK(text(Matrix<float>::Zero(4, 3)) == "BatchNorm::set_statistics: x is 4 x 3 (rows x columns), expected any x 2");
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e30f}) {
    Matrix<float> x = Matrix<float>::Zero(4, 2);
    x(2, 1) = bad;
    CHECK(text(x).find("column 1 of x") != std::string::npos);
  }
  CHECK(layer.batches_seen() == 0);
  CHECK(layer.running_variance() == RowVector<float>::Ones(2));
}

TEST_CASE("BatchNorm checks the state that a reader wrote", "[batch_norm]") {
  BatchNorm<double> layer(2);
  const auto write_variance = [&](double value) {
    for_each_state(layer, [&](std::string_view name, auto state) {
      if constexpr (requires { state.rows(); })
        if (name == "running_variance") state(0, 1) = value;
    });
    return error_text<std::runtime_error>([&] { check_state(layer); });
  };
  CHECK(write_variance(0).empty());
  CHECK(write_variance(-1).find("BatchNorm: running_variance[1] is -1") == 0);
  CHECK_FALSE(write_variance(std::numeric_limits<double>::quiet_NaN()).empty());
  CHECK(write_variance(1).empty());
  for_each_state(layer, [&](std::string_view, auto state) {
    if constexpr (!requires { state.rows(); }) state[0] = -1;
  });
  CHECK(error_text<std::runtime_error>([&] { check_state(layer); }) ==
        "BatchNorm: batches_seen is -1, expected at least 0");
}
