// SPDX-License-Identifier: MIT

/// \file
/// Fits flows to 2-D toy densities whose log-density is known, so that every fit has an absolute zero:
/// KL(truth || model) = E[log p(x)] - E[log q(x)]. Draws data, model and samples side by side.

#include <chrono>
#include <rhei/rhei.hpp>

#include "support/command_line.hpp"
#include "support/mean.hpp"
#include "support/models.hpp"
#include "support/plot.hpp"

namespace {

constexpr Eigen::Index kJudged = 100'000;  // fresh points over which a fit is judged
constexpr Eigen::Index kDrawn = 50'000;    // points in the pictures
constexpr Eigen::Index kGrid = 200;        // cells of a density's picture along each axis
constexpr Eigen::Index kFirst = 20'000;    // points from which a flow is made, before any training

struct Arguments : examples::CommonOptions {
  std::vector<std::string> toys;
  bool all = false;
  std::string model = "realnvp";
};

struct Result {
  rhei::Json json;
  examples::DensityRow picture;
};

void draw_curve(const std::filesystem::path& path, const rhei::data::Toy& toy, const rhei::FitReport& report) {
  examples::Curve training;
  for (const auto& epoch : report.history) {
    training.x.push_back(epoch.seconds);
    training.y.push_back(epoch.train_loss);
  }
  examples::draw_training_curve(path, std::string(toy.name), training, {},
                                examples::Reference{toy.entropy, "entropy of the data"}, "seconds");
}

/// Trains a flow on fresh draws from a toy, judges it on others, and draws it.
Result fit_toy(const rhei::data::Toy& toy, const Arguments& arguments, rhei::Rng& rng) {
  const examples::NamedModel& model = examples::model(arguments.model);
  const auto start = std::chrono::steady_clock::now();
  examples::AnyFlow flow = model.make(toy.sample<float>(kFirst, rng), rng);
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  Eigen::Index steps = 0;
  const std::string stem = std::string(toy.name) + "_" + arguments.model;
  if (model.trained) {
    const auto draw = [&toy](Eigen::Index n, rhei::Rng& g) { return toy.sample<float>(n, g); };
    const rhei::FitReport report = rhei::fit(flow, draw,
                                             {.seconds = arguments.seconds,
                                              .batch_size = 256,
                                              .learning_rate = model.learning_rate,
                                              .threads = arguments.threads,
                                              .progress = true},
                                             rng);
    seconds = report.last().seconds;
    steps = report.last().step;
    draw_curve(arguments.out / (stem + "_training.png"), toy, report);
  }

  const Eigen::MatrixXd x = toy.sample<double>(kJudged, rng);
  const Eigen::VectorXd log_q = flow.log_prob(x.cast<float>()).cast<double>();
  const examples::Mean kl = examples::mean_of(toy.log_density(x) - log_q);

  Result result;
  result.json = rhei::Json::Object{
      {"toy", std::string(toy.name)}, {"model", arguments.model}, {"seed", arguments.seed},
      {"seconds", seconds},           {"steps", steps},           {"parameters", rhei::count_parameters(flow)},
      {"entropy", toy.entropy},       {"nll", -log_q.mean()},     {"kl", kl.value},
      {"kl_stderr", kl.stderr_}};
  auto& picture = result.picture;
  picture.name = toy.name;
  picture.data = x.topRows(kDrawn);
  picture.range = examples::square_around(picture.data);
  picture.samples = flow.sample(kDrawn, rng).cast<double>();
  const Eigen::MatrixXf cells = examples::cell_centres(picture.range, kGrid, kGrid).cast<float>();
  const Eigen::VectorXd density = flow.log_prob(cells).cast<double>().array().exp();
  picture.density = Eigen::Map<const Eigen::MatrixXd>(density.data(), kGrid, kGrid);

  examples::draw_density_comparison(arguments.out / (stem + ".png"), "", {picture});
  return result;
}

void run(const Arguments& arguments) {
  std::vector<std::string> names = arguments.toys;
  if (arguments.all) {
    names.clear();
    for (const auto& toy : rhei::data::toys()) names.emplace_back(toy.name);
  }
  std::filesystem::create_directories(arguments.out);
  rhei::Json results = rhei::Json::Array{};
  std::vector<examples::DensityRow> pictures;
  std::printf("%-16s %-15s %8s %8s %8s %8s %8s\n", "toy", "model", "entropy", "NLL", "KL", "+-", "seconds");
  for (const std::string& name : names) {
    rhei::Rng rng(arguments.seed);
    Result result = fit_toy(rhei::data::toy(name), arguments, rng);
    const auto number = [&](const char* key) { return result.json.get<double>(key); };
    std::printf("%-16s %-15s %8.4f %8.4f %8.4f %8.4f %8.1f\n", name.c_str(), arguments.model.c_str(), number("entropy"),
                number("nll"), number("kl"), number("kl_stderr"), number("seconds"));
    std::fflush(stdout);
    results.push_back(std::move(result.json));
    pictures.push_back(std::move(result.picture));
    rhei::write_json((arguments.out / "results.json").string(), results);
  }
  if (pictures.size() > 1)
    examples::draw_density_comparison(arguments.out / ("toys_" + arguments.model + ".png"), "", pictures, true);
  std::printf("pictures and results.json are in %s\n", arguments.out.string().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Fits a flow to 2-D toy densities and draws data, model density and samples.", "fit_2d");
  Arguments arguments;
  std::vector<std::string> toy_names;
  for (const auto& toy : rhei::data::toys()) toy_names.emplace_back(toy.name);
  auto* toys =
      app.add_option("--toy,toys", arguments.toys, "one or more toy densities")->check(CLI::IsMember(toy_names));
  auto* all = app.add_flag("--all", arguments.all, "every toy density")->excludes(toys);
  app.add_option("--model", arguments.model, "the flow to fit")
      ->check(CLI::IsMember(examples::model_names()))
      ->capture_default_str();
  examples::add_common_options(app, arguments);
  app.callback([&] {
    if (toys->empty() && all->empty()) throw CLI::RequiredError("--toy NAME or --all");
  });
  return examples::run(app, argc, argv, [&] { run(arguments); });
}
