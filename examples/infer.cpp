// SPDX-License-Identifier: MIT

/// \file
/// Simulation-based inference: what the parameters theta of a simulator may have been, given what it put out. One
/// conditional flow learns the posterior of every observation at once from pairs (theta, x), without a likelihood
/// (neural posterior estimation: Papamakarios & Murray 2016; Greenberg et al. 2019).
///
/// The simulator is "two moons" (Greenberg et al. 2019, appendix A; Lueckmann et al. 2021, "Benchmarking
/// simulation-based inference", task T.8): theta is uniform on [-1, 1]^2, a on (-pi/2, pi/2), r is N(0.1, 0.01^2), and
///
///   x = (r cos a + 0.25 - |theta_1 + theta_2| / sqrt 2,  r sin a + (theta_2 - theta_1) / sqrt 2).
///
/// Its likelihood is known, so the posterior, two thin crescents, is found on a grid and the flow judged by it:
/// KL(exact || flow) over fresh observations. Then by simulation-based calibration (Talts et al. 2018): the rank of the
/// true theta among draws from the flow's posterior must be uniform.

#include <chrono>
#include <rhei/rhei.hpp>
#include <utility>
#include <vector>

#include "support/command_line.hpp"
#include "support/mean.hpp"
#include "support/plot.hpp"

namespace {

using Eigen::Index;
using rhei::Matrix;
using rhei::Vector;
using Point = Eigen::RowVector2d;

const rhei::models::MixedNsfOptions kShape{
    .blocks = 4, .hidden = {128, 128}, .activation = rhei::Activation::relu, .bins = 16, .context_dim = 2};
constexpr Index kCells = 500;            // of the quadrature along each axis, 0.4 standard deviations of r wide
constexpr Index kObservations = 50;      // over which the divergence is averaged
constexpr Index kDraws = 10'000;         // from the posterior of one observation
constexpr Index kShown = 3000;           // of them in the picture
constexpr Index kGrid = 300;             // cells of a density's picture along each axis
constexpr Index kCalibrations = 1000;    // simulations whose theta is ranked
constexpr Index kRanked = 99;            // draws among which it is
constexpr Index kBins = 20;              // of the ranks 0 ... 99
constexpr double kChiSquare99 = 36.191;  // 99 % quantile of chi-square with kBins - 1 degrees of freedom

// --- the simulator -----------------------------------------------------------------------------------------------

constexpr double kRadius = 0.1, kNoise = 0.01, kOffset = 0.25;

Point centre(const Point& theta) {
  return {kOffset - std::abs(theta[0] + theta[1]) / std::numbers::sqrt2, (theta[1] - theta[0]) / std::numbers::sqrt2};
}

Point draw_theta(rhei::Rng& rng) {
  Point theta;
  for (double& t : theta) t = 1.9999 * (rng.uniform<double>() - 0.5);  // no float of it is an end of the interval
  return theta;
}

Point simulate(const Point& theta, rhei::Rng& rng) {
  const double a = std::numbers::pi * (rng.uniform<double>() - 0.5), r = kRadius + kNoise * rng.normal<double>();
  return centre(theta) + r * Point(std::cos(a), std::sin(a));
}

/// p(x | theta), where r and a are polar coordinates around the centre.
double likelihood(const Point& x, const Point& theta) {
  const Point d = x - centre(theta);
  const double r = d.norm(), s = (r - kRadius) / kNoise;
  if (d[0] < 0 || std::abs(s) > 6) return 0;
  return std::exp(-0.5 * s * s) / (std::sqrt(2 * std::numbers::pi) * kNoise * r * std::numbers::pi);
}

/// Pairs to learn from: theta, and as its context x.
rhei::Minibatch<float> draw_pairs(Index n, rhei::Rng& rng) {
  rhei::Minibatch<float> pairs{Matrix<float>(n, 2), Matrix<float>(n, 2)};
  for (Index i = 0; i < n; ++i) {
    const Point theta = draw_theta(rng);
    pairs.x.row(i) = theta.cast<float>();
    pairs.context.row(i) = simulate(theta, rng).cast<float>();
  }
  return pairs;
}

// --- the exact posterior -----------------------------------------------------------------------------------------

/// Where the posterior is not negligible: the centres of cells of [-1, 1]^2, and the density there.
struct Posterior {
  Matrix<double> theta;
  Vector<double> density;
  double cell, evidence;  // area of a cell, integral of the likelihood over [-1, 1]^2
};

Posterior exact_posterior(const Point& x) {
  static const Matrix<double> cells = examples::cell_centres({{-1, 1}, {-1, 1}}, kCells, kCells);
  std::vector<Index> kept;
  std::vector<double> values;
  for (Index i = 0; i < cells.rows(); ++i)
    if (const double value = likelihood(x, cells.row(i)); value > 0) {
      kept.push_back(i);
      values.push_back(value);
    }
  const auto count = static_cast<Index>(kept.size());
  Matrix<double> points(count, 2);
  for (Index i = 0; i < count; ++i) points.row(i) = cells.row(kept[static_cast<std::size_t>(i)]);
  Posterior posterior{std::move(points), Vector<double>::Map(values.data(), count), 4.0 / (kCells * kCells), 0};
  posterior.evidence = posterior.density.sum() * posterior.cell;
  posterior.density /= posterior.evidence;
  return posterior;
}

/// KL(exact || flow) for one observation, by quadrature.
template <class Flow>
double divergence(const Flow& flow, const Point& x) {
  const Posterior exact = exact_posterior(x);
  const Matrix<float> context = x.cast<float>();
  const Vector<double> log_q = flow.log_prob(exact.theta.cast<float>(), context).template cast<double>();
  return exact.cell * (exact.density.array() * (exact.density.array().log() - log_q.array())).sum();
}

template <class Flow>
examples::Mean mean_divergence(const Flow& flow, rhei::Rng& rng) {
  Eigen::ArrayXd kl(kObservations);
  for (double& value : kl) value = divergence(flow, simulate(draw_theta(rng), rng));
  return examples::mean_of(kl);
}

// --- calibration -------------------------------------------------------------------------------------------------

/// How often the rank of the true theta fell into each bin: kBins x 2.
template <class Flow>
Matrix<double> rank_histogram(const Flow& flow, rhei::Rng& rng) {
  Matrix<double> counts = Matrix<double>::Zero(kBins, 2);
  for (Index i = 0; i < kCalibrations; ++i) {
    const Point theta = draw_theta(rng);
    const Matrix<float> x = simulate(theta, rng).cast<float>();
    const Matrix<float> draws = flow.sample(kRanked, rng, x);
    for (Index d = 0; d < 2; ++d) {
      const Index rank = (draws.col(d).array() < static_cast<float>(theta[d])).count();
      counts(rank * kBins / (kRanked + 1), d) += 1;
    }
  }
  return counts;
}

double chi_square(const Eigen::Ref<const Vector<double>>& counts) {
  const double expected = static_cast<double>(kCalibrations) / kBins;
  return (counts.array() - expected).square().sum() / expected;
}

// --- pictures ----------------------------------------------------------------------------------------------------

/// The smallest square that holds the posterior, and some air.
examples::Rectangle square_around(const Matrix<double>& theta) {
  const Point low = theta.colwise().minCoeff(), high = theta.colwise().maxCoeff();
  const Point middle = (low + high) / 2;
  const double half = 0.55 * (high - low).maxCoeff();
  return {{middle[0] - half, middle[0] + half}, {middle[1] - half, middle[1] + half}};
}

/// A row of the picture: exact posterior | the flow's | draws from it.
template <class Flow>
void add_row(std::vector<examples::Panel>& panels, const Flow& flow, const Point& x, const Matrix<float>& draws) {
  const Posterior posterior = exact_posterior(x);
  const examples::Rectangle range = square_around(posterior.theta);
  const Matrix<double> cells = examples::cell_centres(range, kGrid, kGrid);
  Matrix<double> exact(kGrid, kGrid), learnt(kGrid, kGrid);
  const Matrix<float> context = x.cast<float>();
  Vector<double>::Map(learnt.data(), learnt.size()) =
      flow.log_prob(cells.cast<float>(), context).template cast<double>().array().exp();
  for (Index i = 0; i < cells.rows(); ++i)
    exact.data()[i] = cells.row(i).cwiseAbs().maxCoeff() < 1 ? likelihood(x, cells.row(i)) / posterior.evidence : 0;
  learnt = learnt.unaryExpr([](double v) { return std::isnan(v) ? 0 : v; });  // outside of the prior

  const double top = examples::brightest_value(exact);
  const bool first = panels.empty();
  const auto add = [&](const char* title) -> examples::Panel& {
    return panels.emplace_back(
        examples::Panel{.title = first ? title : "", .x = {.range = range.x}, .y = {.range = range.y}});
  };
  char label[64];
  std::snprintf(label, sizeof label, "x = (%g, %g)", x[0], x[1]);
  examples::Panel& left = add("exact posterior");
  left.map = examples::HeatMap{.values = exact, .range = range, .top = top};
  left.y.label = label;
  add("flow").map = examples::HeatMap{.values = learnt, .range = range, .top = top};
  add("draws from the flow").dots = examples::Dots{.points = draws.topRows(kShown).cast<double>()};
}

/// The counts as steps.
examples::Curve steps(const std::string& name, const Eigen::Ref<const Vector<double>>& counts, examples::Color color) {
  examples::Curve curve{.name = name, .color = color};
  for (Index i = 0; i < kBins; ++i)
    for (const Index edge : {i, i + 1}) {
      curve.x.push_back(static_cast<double>(edge * (kRanked + 1) / kBins));
      curve.y.push_back(counts[i]);
    }
  return curve;
}

void draw_ranks(const std::filesystem::path& path, const Matrix<double>& counts) {
  const double expected = static_cast<double>(kCalibrations) / kBins;
  examples::Figure{.title = "Ranks of the true theta among 99 draws",
                   .panels = {{.x = {.label = "rank", .range = {0, kRanked + 1}},
                               .y = {.label = "simulations", .range = {0, 2 * expected}},
                               .curves = {steps("theta_1", counts.col(0), examples::kBlue),
                                          steps("theta_2", counts.col(1), examples::kOrange)},
                               .reference = examples::Reference{expected, "uniform"}}},
                   .width = 900,
                   .aspect = 0.5}
      .save_png(path);
}

void run(const examples::CommonOptions& arguments) {
  std::filesystem::create_directories(arguments.out);
  rhei::Rng rng(arguments.seed);
  const rhei::Domain prior = rhei::Domain::interval(-1, 1);  // no posterior leaves it
  auto flow = rhei::models::mixed_nsf<float>({prior, prior}, kShape, rng);
  const rhei::FitReport report =
      rhei::fit(flow, draw_pairs,
                {.seconds = arguments.seconds, .batch_size = 256, .threads = arguments.threads, .progress = true}, rng);
  const double simulations = 256.0 * static_cast<double>(report.last().step);

  const examples::Mean kl = mean_divergence(flow, rng);
  const Matrix<double> counts = rank_histogram(flow, rng);
  const double chi_square_1 = chi_square(counts.col(0)), chi_square_2 = chi_square(counts.col(1));

  rhei::Json json = rhei::Json::Object{{"seed", arguments.seed},
                                       {"seconds", report.last().seconds},
                                       {"steps", report.last().step},
                                       {"simulations", simulations},
                                       {"parameters", rhei::count_parameters(flow)},
                                       {"kl", kl.value},
                                       {"kl_stderr", kl.stderr_},
                                       {"chi_square_theta_1", chi_square_1},
                                       {"chi_square_theta_2", chi_square_2},
                                       {"chi_square_99_percent", kChiSquare99}};
  std::printf("%.0f simulations in %.1f s\n", simulations, report.last().seconds);
  std::printf("KL(exact || flow) over %lld observations: %.4f +- %.4f nats\n", static_cast<long long>(kObservations),
              kl.value, kl.stderr_);
  std::printf("calibration: chi-square %.1f and %.1f (99 %% of calibrated posteriors stay below %.1f)\n", chi_square_1,
              chi_square_2, kChiSquare99);

  std::printf("%-16s %8s %12s\n", "observation", "KL", "us a draw");
  rhei::Json observations = rhei::Json::Array{};
  std::vector<examples::Panel> panels;
  for (const Point& x : {Point(0, 0), Point(0.25, -0.5), Point(-0.75, 0.3)}) {
    const auto start = std::chrono::steady_clock::now();
    // One row of context serves all draws: what the nets' first layers make of it is computed once.
    const Matrix<float> context = x.cast<float>();
    const Matrix<float> draws = flow.sample(kDraws, rng, context);
    const std::chrono::duration<double, std::micro> taken = std::chrono::steady_clock::now() - start;
    const double each = taken.count() / kDraws, own_kl = divergence(flow, x);
    std::printf("(%5.2f, %5.2f)   %8.4f %12.2f\n", x[0], x[1], own_kl, each);
    observations.push_back(
        rhei::Json::Object{{"x", rhei::Json::Array{x[0], x[1]}}, {"kl", own_kl}, {"microseconds_a_draw", each}});
    add_row(panels, flow, x, draws);
  }
  json["observations"] = std::move(observations);
  rhei::write_json((arguments.out / "results.json").string(), json);
  examples::Figure{.panels = std::move(panels), .columns = 3}.save_png(arguments.out / "posteriors.png");
  draw_ranks(arguments.out / "ranks.png", counts);
  std::printf("pictures and results.json are in %s\n", arguments.out.string().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Learns the posterior of a simulator's parameters for all observations at once and judges it.", "infer");
  examples::CommonOptions arguments;
  examples::add_common_options(app, arguments);
  return examples::run(app, argc, argv, [&] { run(arguments); });
}
