// SPDX-License-Identifier: MIT

/// \file
/// Fits flows of several lengths to the energy functions of Rezende & Mohamed 2015 (table 1) by reverse KL, without any
/// data, and draws what their figure 3 shows: the target, and planar flows of length 2, 8 and 32. The energies are
/// proper densities with a known log Z (see rhei/data/energies.hpp), so that every fit has an absolute zero:
/// KL(q || p) = E_q[log q(x) - log p~(x)] + log Z. The densities are evaluated on a grid, through the inverse.

#include <rhei/rhei.hpp>

#include "support/command_line.hpp"
#include "support/mean.hpp"
#include "support/models.hpp"
#include "support/plot.hpp"

namespace {

constexpr Eigen::Index kJudged = 100'000;  // fresh draws over which a fit is judged
constexpr Eigen::Index kGrid = 200;        // cells of a density's picture along each axis
const examples::Rectangle kShown{{-4, 4}, {-4, 4}};

struct Arguments : examples::CommonOptions {
  std::vector<std::string> energies;
  bool all = false;
  std::vector<int> lengths = {2, 8, 32};
  std::string model = "planar";
  int starts = 4;
  Eigen::Index steps = 40'000;  // of each start
};

struct LongModel {
  std::string name;
  examples::AnyFlow (*make)(int length, rhei::Rng& rng);
  double learning_rate;
};

/// The flows whose length can be chosen.
const std::vector<LongModel>& models() {
  namespace m = rhei::models;
  using rhei::Rng;
  static const std::vector<LongModel> table = {
      {"planar", [](int length, Rng& rng) { return rhei::erase(m::planar<float>(2, {.layers = length}, rng)); }, 5e-3},
      {"nsf", [](int length, Rng& rng) { return rhei::erase(m::nsf<float>(2, {.layers = length}, rng)); }, 1e-3},
  };
  return table;
}

const LongModel& model(const std::string& name) {
  return *std::find_if(models().begin(), models().end(), [&](const LongModel& m) { return m.name == name; });
}

struct Result {
  double kl = std::numeric_limits<double>::infinity(), kl_stderr = 0, seconds = 0;
  Eigen::Index steps = 0, parameters = 0;
  Eigen::MatrixXd density = {};  // on the cells of the picture
};

/// Trains a flow from one start and judges it by draws that it has not been trained on.
Result fit_once(const rhei::data::Energy& energy, int length, const Arguments& arguments, rhei::Rng& rng) {
  const LongModel& chosen = model(arguments.model);
  examples::AnyFlow flow = chosen.make(length, rng);
  // As in the paper (section 6.1) the energy rises to its full height by and by, in the first quarter of the run:
  // without it a flow settles on the first ridge that it meets.
  const rhei::Annealing annealing{.start = 0.01, .per_step = 4.0 / static_cast<double>(arguments.steps)};
  const rhei::FitReport report = rhei::fit_variational(flow, rhei::ReverseKl(energy, rhei::Estimator::total, annealing),
                                                       {.steps = arguments.steps,
                                                        .seconds = arguments.seconds / arguments.starts,
                                                        .batch_size = 256,
                                                        .learning_rate = chosen.learning_rate,
                                                        .threads = arguments.threads,
                                                        .progress = true},
                                                       rng);
  const auto drawn = flow.sample_and_log_prob(kJudged, rng);
  const rhei::Matrix<double> x = drawn.x.cast<double>();
  rhei::Vector<double> log_p(kJudged);
  rhei::Matrix<double> unused(kJudged, 2);
  energy(rhei::ConstBatch<double>(x), rhei::Values<double>(log_p), rhei::Batch<double>(unused));
  const examples::Mean excess = examples::mean_of(drawn.log_prob.cast<double>() - log_p);

  Result result;
  result.kl = excess.value + energy.log_z;
  result.kl_stderr = excess.stderr_;
  result.seconds = report.last().seconds;
  result.steps = report.last().step;
  result.parameters = rhei::count_parameters(flow);
  const Eigen::MatrixXf cells = examples::cell_centres(kShown, kGrid, kGrid).cast<float>();
  const Eigen::VectorXd density = flow.log_prob(cells).cast<double>().array().exp();
  result.density = Eigen::Map<const Eigen::MatrixXd>(density.data(), kGrid, kGrid);
  return result;
}

/// The best of several starts. The loss of planar flows has many local minima (a ridge is missed, or two are bridged),
/// and KL(q || p), which is known up to its sampling error, tells which start found a good one.
Result fit_energy(const rhei::data::Energy& energy, int length, const Arguments& arguments) {
  rhei::Rng rng(arguments.seed);
  Result best;
  Eigen::Index steps = 0;
  double seconds = 0;
  for (int i = 0; i < arguments.starts; ++i) {
    Result next = fit_once(energy, length, arguments, rng);
    steps += next.steps;
    seconds += next.seconds;
    if (next.kl < best.kl) best = std::move(next);
  }
  best.steps = steps;  // of all starts: what it took
  best.seconds = seconds;
  return best;
}

examples::Panel density_panel(std::string title, Eigen::MatrixXd density, double top) {
  return {.title = std::move(title),
          .x = {.range = kShown.x, .ticks = false},
          .y = {.range = kShown.y, .ticks = false},
          .map = examples::HeatMap{.values = std::move(density), .range = kShown, .top = top}};
}

/// One row of the picture: target | a density for each length | KL against length.
void add_row(std::vector<examples::Panel>& panels, const rhei::data::Energy& energy, const std::vector<int>& lengths,
             const std::vector<Result>& results, bool first) {
  const Eigen::MatrixXd cells = examples::cell_centres(kShown, kGrid, kGrid);
  const Eigen::VectorXd density = (energy.log_density_in_box(cells).array() - energy.log_z).exp();
  const Eigen::MatrixXd target = Eigen::Map<const Eigen::MatrixXd>(density.data(), kGrid, kGrid);
  const double top = examples::brightest_value(target);
  panels.push_back(density_panel(first ? "target" : "", target, top));
  panels.back().y.label = energy.name;
  examples::Curve kl;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    const std::string length = "K = " + std::to_string(lengths[i]);
    panels.push_back(density_panel(first ? length : "", results[i].density, top));
    kl.x.push_back(lengths[i]);
    kl.y.push_back(results[i].kl);
  }
  panels.push_back({.title = first ? "KL(q || p) in nats by K" : "",
                    .x = {.log = true},
                    .y = {.log = true},
                    .curves = {std::move(kl)}});
}

void run(const Arguments& arguments) {
  std::vector<std::string> names = arguments.energies;
  if (arguments.all) {
    names.clear();
    for (const auto& energy : rhei::data::energies()) names.emplace_back(energy.name);
  }
  std::filesystem::create_directories(arguments.out);
  rhei::Json json = rhei::Json::Array{};
  std::vector<examples::Panel> panels;
  std::printf("%-8s %-10s %8s %10s %8s %8s %10s %8s\n", "energy", "model", "length", "parameters", "KL", "+-", "steps",
              "seconds");
  for (const std::string& name : names) {
    const rhei::data::Energy& energy = rhei::data::energy(name);
    std::vector<Result> results;
    for (const int length : arguments.lengths) {
      results.push_back(fit_energy(energy, length, arguments));
      const Result& r = results.back();
      std::printf("%-8s %-10s %8d %10lld %8.4f %8.4f %10lld %8.1f\n", name.c_str(), arguments.model.c_str(), length,
                  static_cast<long long>(r.parameters), r.kl, r.kl_stderr, static_cast<long long>(r.steps), r.seconds);
      std::fflush(stdout);
      json.push_back(rhei::Json::Object{{"energy", name},
                                        {"model", arguments.model},
                                        {"length", length},
                                        {"starts", arguments.starts},
                                        {"seed", arguments.seed},
                                        {"seconds", r.seconds},
                                        {"steps", r.steps},
                                        {"parameters", r.parameters},
                                        {"log_z", energy.log_z},
                                        {"kl", r.kl},
                                        {"kl_stderr", r.kl_stderr}});
      rhei::write_json((arguments.out / "results.json").string(), json);
    }
    add_row(panels, energy, arguments.lengths, results, panels.empty());
  }
  examples::Figure{.title = arguments.model + " flows of length K; the energies as in Rezende & Mohamed 2015, figure 3",
                   .panels = std::move(panels),
                   .columns = static_cast<int>(arguments.lengths.size()) + 2}
      .save_png(arguments.out / ("energies_" + arguments.model + ".png"));
  std::printf("the picture and results.json are in %s\n", arguments.out.string().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Fits flows of several lengths to an energy function by reverse KL and draws their densities.",
               "fit_energy");
  Arguments arguments;
  std::vector<std::string> energy_names, model_names;
  for (const auto& energy : rhei::data::energies()) energy_names.emplace_back(energy.name);
  for (const auto& known : models()) model_names.push_back(known.name);
  auto* energies = app.add_option("--energy,energies", arguments.energies, "one or more energy functions")
                       ->check(CLI::IsMember(energy_names));
  auto* all = app.add_flag("--all", arguments.all, "every energy function")->excludes(energies);
  app.add_option("--lengths", arguments.lengths, "numbers of layers, a flow for each")
      ->delimiter(',')
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--model", arguments.model, "the flow to fit")
      ->check(CLI::IsMember(model_names))
      ->capture_default_str();
  app.add_option("--starts", arguments.starts, "random starts for each length; the best is kept")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_option("--steps", arguments.steps, "steps from each start, unless the starts' share of --seconds ends them")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  arguments.seconds = 300;
  examples::add_common_options(app, arguments);
  app.callback([&] {
    if (energies->empty() && all->empty()) throw CLI::RequiredError("--energy NAME or --all");
  });
  return examples::run(app, argc, argv, [&] { run(arguments); });
}
