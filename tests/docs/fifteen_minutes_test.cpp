// SPDX-License-Identifier: MIT

/// \file
/// The code of docs/fifteen-minutes.md, and the README's second block.

#include <unistd.h>
#include <rhei/core/flow.hpp>
#include <rhei/data/toys.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/io/csv.hpp>
#include <rhei/io/flow_file.hpp>
#include <rhei/layers/elementwise_affine.hpp>
#include <rhei/layers/lu_linear.hpp>
#include <rhei/models/realnvp.hpp>
#include <rhei/train/fit.hpp>

#include "support/catch.hpp"
#include "support/files.hpp"

TEST_CASE("One affine map", "[docs]") {
  rhei::ElementwiseAffine<double> affine(1);  // x = z exp(log_scale) + shift
  affine.parameters().log_scale << std::log(2.0);
  affine.parameters().shift << 3;
  rhei::Flow flow{rhei::StandardNormal<double>(1), affine};

  Eigen::MatrixXd x(3, 1);
  x << 1, 3, 5;
  auto [z, log_det] = flow.inverse(x);       // z = -1, 0, 1, and log|det dz/dx| = -log 2 for each
  Eigen::VectorXd log_p = flow.log_prob(x);  // log N(x; 3, 2^2)

  CHECK(z.isApprox((Eigen::MatrixXd(3, 1) << -1, 0, 1).finished()));
  CHECK(log_det.isApproxToConstant(-std::log(2.0)));
  for (Eigen::Index i = 0; i < 3; ++i)
    CHECK(log_p[i] == Approx(-0.5 * z(i, 0) * z(i, 0) - 0.5 * std::log(2 * std::numbers::pi) - std::log(2.0)));

  rhei::Rng rng(1);
  Eigen::MatrixXd draws = flow.sample(100'000, rng);  // mean 3, standard deviation 2

  CHECK(draws.mean() == Approx(3).margin(0.03));
  CHECK((draws.array() - draws.mean()).square().mean() == Approx(4).margin(0.1));
}

TEST_CASE("Two moons", "[docs][slow]") {
  rhei::Rng rng(7);
  Eigen::MatrixXf moons = rhei::data::two_moons<float>(10'000, rng);  // rows are samples: 10000 x 2

  const auto coupling = [&](int i) {  // the two features take turns
    return rhei::AffineCoupling<float>(2, {.transformed = {i % 2}, .net = {.hidden = {32, 32}}}, rng);
  };
  rhei::Flow flow{rhei::StandardNormal<float>(2), rhei::Repeat(8, coupling), rhei::ActNorm<float>(2)};

  rhei::Flow one{rhei::StandardNormal<float>(2), rhei::ActNorm<float>(2)};  // only shifts and scales
  rhei::fit(one, moons, {.epochs = 5}, rng);
  rhei::fit(flow, moons, {.epochs = 60, .learning_rate = 3e-3}, rng);

  Eigen::MatrixXf fresh = rhei::data::two_moons<float>(10'000, rng);
  const double entropy = rhei::data::toy("two_moons").entropy;  // no model has a smaller mean of -log p
  double kl_one = -one.log_prob(fresh).mean() - entropy;
  double kl_flow = -flow.log_prob(fresh).mean() - entropy;

  CAPTURE(kl_one, kl_flow);
  CHECK(kl_one > 0.9);
  CHECK(kl_flow < 0.1);
  CHECK(kl_flow > -0.05);

  Eigen::MatrixXf samples = flow.sample(1'000, rng);
  auto [latent, log_det] = flow.inverse(fresh);  // nearly normal
  auto [back, minus_log_det] = flow.forward(latent);

  CHECK(samples.allFinite());
  CHECK((back - fresh).cwiseAbs().maxCoeff() < 1e-3F);
  CHECK((log_det + minus_log_det).cwiseAbs().maxCoeff() < 1e-2F);
  CHECK(latent.colwise().mean().cwiseAbs().maxCoeff() < 0.2F);
}

TEST_CASE("A table of one's own", "[docs]") {
  rhei::testing::TemporaryFolder folder;
  const std::string input = folder / "table.csv", output = folder / "table.safetensors";
  rhei::Rng rng(3);
  rhei::write_csv(input, {rhei::data::pinwheel<double>(500, rng), {"first", "second"}});

  rhei::Table table = rhei::read_csv(input);  // numbers, and the names of the columns if there are any
  Eigen::MatrixXf rows = table.values.cast<float>();
  auto flow = rhei::models::realnvp<float>(rows.cols(), {.layers = 8}, rng);
  auto report = rhei::fit(flow, rows, {.epochs = 50, .validation_fraction = 0.2, .patience = 5}, rng);
  Eigen::VectorXf log_p = flow.log_prob(rows);  // the rows with the smallest are the odd ones
  rhei::save(flow, output);

  CHECK(report.history.back().validation_loss < report.history.front().validation_loss);
  CHECK(log_p.allFinite());
}

TEST_CASE("A flow composed by hand", "[docs]") {
  const Eigen::Index dim = 5;
  rhei::Rng rng(2);
  rhei::Flow flow{rhei::StandardNormal<float>(dim), rhei::Repeat(8, [&](int) {
                    return rhei::Chain{rhei::AffineCoupling<float>(dim, {.transformed = rhei::odd_features(dim)}, rng),
                                       rhei::LuLinear<float>(dim, rng), rhei::ActNorm<float>(dim)};
                  })};
  const Eigen::MatrixXf x = flow.sample(10, rng);
  CHECK(flow.log_prob(x).allFinite());
}
