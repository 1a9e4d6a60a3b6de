// SPDX-License-Identifier: MIT

/// \file
/// The code of docs/training.md.

#include <filesystem>
#include <rhei/data/toys.hpp>
#include <rhei/io/checkpoint.hpp>
#include <rhei/models/planar.hpp>
#include <rhei/train/fit.hpp>
#include <rhei/train/fit_variational.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

using rhei::testing::contains;
using rhei::testing::error_text;

namespace {

auto small_flow(std::uint64_t seed) {
  rhei::Rng rng(seed);
  return rhei::models::planar<double>(2, {.layers = 4}, rng);
}

}  // namespace

TEST_CASE("Fit with validation", "[docs]") {
  auto flow = small_flow(1);
  rhei::Rng rng(7);
  const Eigen::MatrixXd x = rhei::data::two_moons<double>(2'000, rng);

  rhei::FitReport report = rhei::fit(flow, x,
                                     {.epochs = 40,
                                      .batch_size = 256,
                                      .learning_rate = 5e-3,
                                      .validation_fraction = 0.1,
                                      .patience = 10,
                                      .threads = 2},
                                     rng);
  const rhei::FitProgress& best = report.history[static_cast<std::size_t>(report.best_epoch - 1)];

  CHECK(best.validation_loss <= report.history.front().validation_loss);
}

TEST_CASE("Fit from batches", "[docs]") {
  auto flow = small_flow(1);
  rhei::Rng rng(7);

  rhei::fit(
      flow, [](Eigen::Index n, rhei::Rng& r) { return rhei::data::two_moons<double>(n, r); },
      {.steps = 300, .learning_rate = 5e-3}, rng);

  CHECK(-flow.log_prob(rhei::data::two_moons<double>(2'000, rng)).mean() < 3.5);
}

TEST_CASE("Fit with weights", "[docs]") {
  auto flow = small_flow(1);
  rhei::Rng rng(7);
  const Eigen::MatrixXd x = rhei::data::two_moons<double>(500, rng);
  const Eigen::VectorXd w = (x.col(0).array() > 0).cast<double>();

  rhei::fit(flow, rhei::FitData<double>{.x = x, .weights = w}, {.epochs = 30, .learning_rate = 1e-2}, rng);

  CHECK(flow.sample(1'000, rng).col(0).mean() > 0.5);
}

TEST_CASE("Checkpoints", "[docs]") {
  rhei::testing::TemporaryFolder folder;
  const std::string path = folder / "run.checkpoint";
  auto flow = small_flow(1);
  rhei::Rng rng(7);
  const Eigen::MatrixXd x = rhei::data::two_moons<double>(500, rng);

  rhei::FitOptions options{.epochs = 4, .checkpoint = rhei::checkpoint_to(path)};
  if (std::filesystem::exists(path)) options.resume = rhei::resume_from(path);
  rhei::fit(flow, x, options, rng);

  CHECK(std::filesystem::exists(path));
}

TEST_CASE("Learning from a density", "[docs]") {
  rhei::Rng rng(7);
  auto flow = small_flow(2);

  const auto target = [](rhei::ConstBatch<double> x, rhei::Values<double> log_p, rhei::Batch<double> d_x) {
    log_p = -0.5 * (x.array() - 2).square().rowwise().sum();  // log p~ of each row, up to a constant
    d_x = 2 - x.array();                                      // and its derivative
  };
  rhei::fit_variational(flow, rhei::ReverseKl(target), {.steps = 1'500, .learning_rate = 1e-2}, rng);

  CHECK(flow.sample(4'000, rng).mean() == Approx(2).margin(0.1));
}

TEST_CASE("A loop of one's own", "[docs]") {
  rhei::Rng rng(7);
  auto flow = small_flow(1);
  const Eigen::MatrixXd x = rhei::data::two_moons<double>(256, rng);

  flow.initialize(x);
  rhei::Trainer trainer(flow);
  double loss = 0;
  for (int i = 0; i < 200; ++i) loss = trainer.step({.x = x}, 5e-3).loss;

  CHECK(loss < 3.5);
}

TEST_CASE("What a fit says when it diverges", "[docs]") {
  auto flow = small_flow(1);
  rhei::Rng rng(7);
  Eigen::MatrixXd x = rhei::data::two_moons<double>(500, rng);
  std::string text;
  try {
    rhei::fit(flow, x, {.epochs = 20, .learning_rate = 1e200, .clip_norm = 0}, rng);
  } catch (const std::runtime_error& error) {
    text = error.what();
  }
  CAPTURE(text);
  CHECK(contains(text, "first not finite"));

  x(17, 1) = std::numeric_limits<double>::quiet_NaN();
  text = error_text<std::invalid_argument>([&] { rhei::fit(flow, x, {.epochs = 1}, rng); });
  CAPTURE(text);
  CHECK(contains(text, "17"));
}
