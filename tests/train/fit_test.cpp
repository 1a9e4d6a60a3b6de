// SPDX-License-Identifier: MIT

/// \file
/// fit: what it learns, when it stops, what it refuses, and how it fails.

#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/coupling.hpp>
#include <rhei/train/fit.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"

namespace {

using namespace rhei;
using namespace rhei::testing;

template <Real S>
auto fresh_flow(std::uint64_t seed, Index context_dim = 0) {
  Rng rng(seed);
  return Flow{StandardNormal<S>(2),
              Repeat(2,
                     [&](int i) {
                       return AffineCoupling<S>(
                           2, {.transformed = {i % 2}, .net = {{16}, Activation::tanh}, .context_dim = context_dim},
                           rng);
                     }),
              ActNorm<S>(2)};
}

/// Correlated Gaussian rows: x1 ~ N(3, 2^2), x2 = x1 + N(0, 0.5^2).
template <Real S>
Matrix<S> gaussian_rows(Index n, Rng& rng) {
  Matrix<S> x(n, 2);
  for (Index i = 0; i < n; ++i) {
    const double a = 3 + 2 * rng.normal<double>();
    x(i, 0) = static_cast<S>(a);
    x(i, 1) = static_cast<S>(a + 0.5 * rng.normal<double>());
  }
  return x;
}
const double kGaussianEntropy = 1 + std::log(2 * std::numbers::pi) + std::log(2.0) + std::log(0.5);

template <class Flow>
std::vector<double> all_parameters(const Flow& flow) {
  std::vector<double> all;
  for_each_parameter(flow, [&](std::string_view, const auto& v) {
    for (Index i = 0; i < v.size(); ++i) all.push_back(static_cast<double>(v.data()[i]));
  });
  return all;
}

}  // namespace

TEMPLATE_TEST_CASE("fit reaches the entropy of a Gaussian", "[fit]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(3);
  const Matrix<S> x = gaussian_rows<S>(4000, rng);
  const Matrix<S> fresh = gaussian_rows<S>(20'000, rng);
  auto flow = fresh_flow<S>(1);
  const FitReport report = fit(flow, x, {.epochs = 40, .batch_size = 128, .learning_rate = 5e-3}, rng);
  CHECK(report.stop == Stop::epochs);
  CHECK(report.history.size() == 40);
  CHECK(report.last().step == 40 * 32);
  CHECK(report.last().fraction == 1);
  CHECK(-flow.log_prob(fresh).template cast<double>().mean() == Approx(kGaussianEntropy).margin(0.02));
}

TEST_CASE("Same seed, same bits; threads change rounding only", "[fit]") {
  const auto run = [](int threads) {
    Rng rng(7);
    const Matrix<double> x = gaussian_rows<double>(1000, rng);
    auto flow = fresh_flow<double>(2);
    fit(flow, x, {.steps = 40, .batch_size = 100, .threads = threads}, rng);
    return all_parameters(flow);
  };
  const auto one = run(1), two = run(2), three = run(3);
  CHECK(one == run(1));
  CHECK(two == run(2));
  CHECK(three == run(3));
  for (std::size_t i = 0; i < one.size(); ++i) {
    CHECK(two[i] == Approx(one[i]).margin(1e-9));
    CHECK(three[i] == Approx(one[i]).margin(1e-9));
  }
}

TEST_CASE("The last, smaller batch of an epoch counts", "[fit]") {
  Rng rng(7);
  const Matrix<double> x = gaussian_rows<double>(10, rng);
  auto flow = fresh_flow<double>(2);
  const auto report = fit(flow, x, {.epochs = 3, .batch_size = 4, .threads = 4}, rng);
  CHECK(report.last().step == 9);
}

TEST_CASE("A weight counts as so many rows", "[fit]") {
  Rng rng(4);
  const Matrix<double> x = gaussian_rows<double>(6, rng);
  Vector<double> weights(6);
  weights << 1, 2, 0, 3, 1, 1;
  Matrix<double> repeated(8, 2);
  repeated << x.row(0), x.row(1), x.row(1), x.row(3), x.row(3), x.row(3), x.row(4), x.row(5);

  auto flow = fresh_flow<double>(5);
  Trainer weighted(flow), plain(flow);
  const Vector<double> scaled = weights * (6.0 / 8.0);  // a mean of 1, as fit makes them
  const auto a = weighted.differentiate({.x = x, .weights = scaled});
  const auto b = plain.differentiate({.x = repeated});
  CHECK(a.loss == Approx(b.loss));
  for (std::size_t i = 0; i < weighted.gradient().size(); ++i)
    CHECK((weighted.gradient()[i].values - plain.gradient()[i].values).norm() < 1e-12);
}

TEST_CASE("The best epoch is restored", "[fit]") {
  Rng rng(8);
  const Matrix<double> x = gaussian_rows<double>(60, rng);  // few rows: it will overfit
  const Matrix<double> validation = gaussian_rows<double>(60, rng);
  auto flow = fresh_flow<double>(1);
  const auto report = fit(
      flow, FitData<double>{.x = x}, FitData<double>{.x = validation},
      {.epochs = 400, .batch_size = 20, .learning_rate = 2e-2, .schedule = Schedule::constant, .patience = 30}, rng);
  CHECK(report.stop == Stop::patience);
  REQUIRE(report.best_epoch > 0);
  REQUIRE(report.best_epoch < static_cast<Index>(report.history.size()));
  const double best = report.history[static_cast<std::size_t>(report.best_epoch - 1)].validation_loss;
  for (const auto& epoch : report.history) CHECK(epoch.validation_loss >= best);
  CHECK(-flow.log_prob(validation).mean() == Approx(best).epsilon(1e-12));
}

TEST_CASE("validation_fraction holds rows out", "[fit]") {
  Rng rng(8);
  const Matrix<float> x = gaussian_rows<float>(100, rng);
  auto flow = fresh_flow<float>(1);
  const auto report = fit(flow, x, {.epochs = 2, .batch_size = 10, .validation_fraction = 0.25}, rng);
  CHECK(report.last().step == 2 * 8);  // 75 rows
  CHECK(std::isfinite(report.last().validation_loss));
  CHECK(contains(error_text([&] { fit(flow, x, {.epochs = 1, .validation_fraction = 0.001}, rng); }),
                 "validation_fraction"));
}

TEST_CASE("fit ends when it is told", "[fit]") {
  Rng rng(8);
  const Matrix<float> x = gaussian_rows<float>(1000, rng);
  auto flow = fresh_flow<float>(1);
  CHECK(fit(flow, x, {.steps = 5}, rng).last().step == 5);
  const auto timed = fit(flow, x, {.seconds = 0.1}, rng);
  CHECK(timed.stop == Stop::seconds);
  CHECK(timed.last().seconds >= 0.1);
  Index epochs = 0;
  const auto stopped =
      fit(flow, x, {.epochs = 100, .callback = [&](const FitProgress& p) { return (epochs = p.epoch) == 3; }}, rng);
  CHECK(stopped.stop == Stop::callback);
  CHECK(epochs == 3);
}

TEST_CASE("fit learns from a callable, with context", "[fit]") {
  Rng rng(2);
  // x ~ N((c, -c), 0.1^2): only a conditional flow can reach its entropy
  const auto draw = [](Index n, Rng& g) {
    Minibatch<float> batch{Matrix<float>(n, 2), Matrix<float>(n, 1), {}};
    for (Index i = 0; i < n; ++i) {
      const float c = batch.context(i, 0) = g.normal<float>();
      batch.x(i, 0) = c + 0.1f * g.normal<float>();
      batch.x(i, 1) = -c + 0.1f * g.normal<float>();
    }
    return batch;
  };
  auto flow = fresh_flow<float>(4, 1);
  const auto report = fit(flow, draw, {.steps = 1500, .batch_size = 64, .learning_rate = 1e-2}, rng);
  CHECK(report.history.size() == 15);
  const double entropy = 1 + std::log(2 * std::numbers::pi) + 2 * std::log(0.1);
  CHECK(report.last().train_loss == Approx(entropy).margin(0.1));
}

TEST_CASE("fit says what is wrong with its input", "[fit]") {
  Rng rng(1);
  auto flow = fresh_flow<float>(1);
  Matrix<float> x = gaussian_rows<float>(10, rng);
  const auto refused = [&](const FitOptions& options) { return error_text([&] { fit(flow, x, options, rng); }); };
  CHECK(contains(refused({}), "epochs, steps and seconds are all 0"));
  CHECK(contains(refused({.epochs = 1, .batch_size = 0}), "batch_size is 0, expected at least 1"));
  CHECK(contains(refused({.epochs = 1, .learning_rate = -1}), "learning_rate"));
  CHECK(contains(refused({.epochs = 1, .patience = 3}), "patience is 3, expected 0 where nothing is held out"));
  CHECK(contains(refused({.epochs = 1, .threads = 0}), "the number of threads is 0"));
  x(7, 1) = std::numeric_limits<float>::quiet_NaN();
  CHECK(contains(refused({.epochs = 1}), "x is nan at row 7, column 1"));
  CHECK(contains(error_text([&] { fit(flow, Matrix<float>(0, 2), {.epochs = 1}, rng); }), "number of rows is 0"));
  CHECK(contains(error_text([&] { fit(flow, Matrix<float>(4, 3), {.epochs = 1}, rng); }), "x is 4 x 3"));
  x(7, 1) = 0;
  Vector<float> weights = Vector<float>::Ones(10);
  weights[4] = -1;
  CHECK(contains(error_text([&] { fit(flow, FitData<float>{.x = x, .weights = weights}, {.epochs = 1}, rng); }),
                 "weight of row 4 is -1"));
  const auto broken = [](Index n, Rng&) -> Matrix<float> { return Matrix<float>::Constant(n, 2, NAN); };
  CHECK(contains(error_text([&] { fit(flow, broken, {.steps = 1}, rng); }), "a drawn batch is nan at row 0, column 0"));
}

TEST_CASE("A loss that is not finite names the place and restores the best parameters", "[fit]") {
  Rng rng(1);
  auto flow = fresh_flow<float>(1);
  const Matrix<float> x = gaussian_rows<float>(64, rng);
  fit(flow, x, {.epochs = 2}, rng);
  const auto good = all_parameters(flow);
  const std::string text = error_text<std::runtime_error>([&] {
    fit(flow, x, {.epochs = 50, .learning_rate = 1e30, .schedule = Schedule::constant, .clip_norm = 0}, rng);
  });
  CAPTURE(text);
  CHECK(contains(text, "in epoch"));
  CHECK(contains(text, "batch 0"));
  CHECK(contains(text, "first not finite: layers."));
  CHECK(all_parameters(flow) == good);  // no epoch of this run was any better
}
