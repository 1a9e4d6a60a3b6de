// SPDX-License-Identifier: MIT

/// \file
/// Probability density distillation (van den Oord et al. 2018, "Parallel WaveNet"): a masked autoregressive flow, the
/// teacher, learns a toy density from draws; an inverse autoregressive flow, the student, then learns from the teacher
/// alone, whose density it asks at its own draws. The loss is KL(student || teacher).
///
/// That divergence says little of a mode that the student misses. So the draws of the teacher are asked as well: the
/// share of them that the student finds a hundred times less likely than the teacher does is what it has dropped.
/// Left to itself a student may settle where the teacher's ridges are first met, give one moon too much and lose parts
/// of the other. Here it begins by maximum likelihood on draws of the teacher, which leaves no mode out; both
/// directions of an autoregressive flow cost the same, so that an IAF can learn that way, too. Distillation then takes
/// away what lies between the modes, where the teacher has almost nothing. How far that goes is mostly decided by the
/// first part: give it some minutes.

#include <rhei/rhei.hpp>

#include "support/command_line.hpp"
#include "support/mean.hpp"
#include "support/plot.hpp"

namespace {

constexpr double kWarm = 0.5;               // part of the student's time
constexpr double kDistillationRate = 1e-4;  // what the student knows already must not be lost in the first steps
constexpr Eigen::Index kDistillationBatch = 2048;
constexpr Eigen::Index kJudged = 100'000;  // fresh draws over which a divergence is judged
constexpr Eigen::Index kDrawn = 50'000;    // points in the picture
constexpr Eigen::Index kGrid = 200;        // cells of a density's picture along each axis

struct Arguments : examples::CommonOptions {
  std::string toy = "two_moons";
};

/// The mean of log p - log q.
template <class P, class Q>
examples::Mean divergence(const Eigen::MatrixBase<P>& log_p, const Eigen::MatrixBase<Q>& log_q) {
  return examples::mean_of(log_p.template cast<double>() - log_q.template cast<double>());
}

template <class Flow>
Eigen::MatrixXd density_on_grid(const Flow& flow, const examples::Rectangle& range) {
  const Eigen::MatrixXf cells = examples::cell_centres(range, kGrid, kGrid).cast<float>();
  const Eigen::VectorXd density = flow.log_prob(cells).template cast<double>().array().exp();
  return Eigen::Map<const Eigen::MatrixXd>(density.data(), kGrid, kGrid);
}

examples::Panel map_panel(std::string title, Eigen::MatrixXd density, const examples::Rectangle& range, double top) {
  return {.title = std::move(title),
          .x = {.range = range.x, .ticks = false},
          .y = {.range = range.y, .ticks = false},
          .map = examples::HeatMap{.values = std::move(density), .range = range, .top = top}};
}

void run(const Arguments& arguments) {
  const rhei::data::Toy& toy = rhei::data::toy(arguments.toy);
  std::filesystem::create_directories(arguments.out);
  rhei::Rng rng(arguments.seed);

  auto teacher = rhei::models::maf<float>(2, {}, rng);
  const auto draw = [&toy](Eigen::Index n, rhei::Rng& g) { return toy.sample<float>(n, g); };
  const rhei::FitReport taught =
      rhei::fit(teacher, draw,
                {.seconds = arguments.seconds, .batch_size = 256, .threads = arguments.threads, .progress = true}, rng);
  const Eigen::MatrixXd x = toy.sample<double>(kJudged, rng);
  const examples::Mean of_teacher = divergence(toy.log_density(x), teacher.log_prob(x.cast<float>()));

  // First maximum likelihood on draws of the teacher, then distillation from where that leads.
  auto student = rhei::models::iaf<float>(
      2, {.layers = 8, .net = {.hidden = {128, 128}}, .scale_map = rhei::ScaleMap::tanh(2)}, rng);
  const auto draw_teacher = [&teacher](Eigen::Index n, rhei::Rng& g) { return teacher.sample(n, g); };
  const rhei::FitReport warmed = rhei::fit(
      student, draw_teacher,
      {.seconds = kWarm * arguments.seconds, .batch_size = 512, .threads = arguments.threads, .progress = true}, rng);
  const rhei::FitReport learnt = rhei::fit_variational(student, rhei::Distillation(teacher),
                                                       {.seconds = (1 - kWarm) * arguments.seconds,
                                                        .batch_size = kDistillationBatch,
                                                        .learning_rate = kDistillationRate,
                                                        .threads = arguments.threads,
                                                        .progress = true},
                                                       rng);
  const auto drawn = student.sample_and_log_prob(kJudged, rng);
  const examples::Mean of_student = divergence(drawn.log_prob, teacher.log_prob(drawn.x));
  const auto asked = teacher.sample_and_log_prob(kJudged, rng);
  const auto missed = (student.log_prob(asked.x).array() < asked.log_prob.array() - std::log(100.0F)).count();
  const double dropped = static_cast<double>(missed) / static_cast<double>(kJudged);

  std::printf("%-28s %8s %8s %8s %8s\n", "", "KL", "+-", "steps", "seconds");
  const auto print = [](const std::string& name, const examples::Mean& d, const rhei::FitReport& report) {
    std::printf("%-28s %8.4f %8.4f %8lld %8.1f\n", name.c_str(), d.value, d.stderr_,
                static_cast<long long>(report.last().step), report.last().seconds);
  };
  print(arguments.toy + " || teacher", of_teacher, taught);
  print("student || teacher", of_student, learnt);
  std::printf("before that the student took %lld steps of maximum likelihood in %.1f s\n",
              static_cast<long long>(warmed.last().step), warmed.last().seconds);
  std::printf("the student drops %.2f %% of the teacher's mass\n", 100 * dropped);
  rhei::write_json((arguments.out / "results.json").string(),
                   rhei::Json::Object{{"toy", arguments.toy},
                                      {"seed", arguments.seed},
                                      {"teacher_seconds", taught.last().seconds},
                                      {"teacher_steps", taught.last().step},
                                      {"teacher_kl", of_teacher.value},
                                      {"teacher_kl_stderr", of_teacher.stderr_},
                                      {"warm_seconds", warmed.last().seconds},
                                      {"warm_steps", warmed.last().step},
                                      {"student_seconds", learnt.last().seconds},
                                      {"student_steps", learnt.last().step},
                                      {"student_teacher_kl", of_student.value},
                                      {"student_teacher_kl_stderr", of_student.stderr_},
                                      {"dropped", dropped}});

  const Eigen::MatrixXd samples = student.sample(kDrawn, rng).cast<double>();
  const double side = 1.2 * x.cwiseAbs().maxCoeff();
  const examples::Rectangle range{{-side, side}, {-side, side}};
  const Eigen::MatrixXd taught_density = density_on_grid(teacher, range);
  const double top = examples::brightest_value(taught_density);
  examples::Figure{
      .panels = {map_panel("teacher (MAF)", taught_density, range, top),
                 map_panel("student (IAF)", density_on_grid(student, range), range, top),
                 map_panel("samples of the student", examples::histogram(samples, range, 100), range, top)},
      .columns = 3}
      .save_png(arguments.out / ("distill_" + arguments.toy + ".png"));
  examples::Curve training;
  for (const auto& epoch : learnt.history) {
    training.x.push_back(warmed.last().seconds + epoch.seconds);
    training.y.push_back(epoch.train_loss);
  }
  training.name = "mean of 100 steps";
  examples::Figure{.title = "KL(student || teacher) in nats",
                   .panels = {{.x = {.label = "seconds"},
                               .y = {.log = true},
                               .curves = {std::move(training)},
                               .reference = examples::Reference{0.01, "0.01"}}},
                   .width = 900,
                   .aspect = 0.5}
      .save_png(arguments.out / ("distill_" + arguments.toy + "_training.png"));
  std::printf("pictures and results.json are in %s\n", arguments.out.string().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Distils an autoregressive flow that learnt a toy density into an inverse autoregressive flow.",
               "distill");
  Arguments arguments;
  arguments.seconds = 120;
  std::vector<std::string> toy_names;
  for (const auto& toy : rhei::data::toys()) toy_names.emplace_back(toy.name);
  app.add_option("--toy,toy", arguments.toy, "the density that the teacher learns")
      ->check(CLI::IsMember(toy_names))
      ->capture_default_str();
  examples::add_common_options(app, arguments);
  return examples::run(app, argc, argv, [&] { run(arguments); });
}
