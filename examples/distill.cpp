// SPDX-License-Identifier: MIT

/// \file
/// Probability density distillation (van den Oord et al. 2018, "Parallel WaveNet"): a masked autoregressive flow, the
/// teacher, learns a toy density from draws; an inverse autoregressive flow, the student, then learns from the teacher
/// alone, whose density it asks at its own draws. The loss is KL(student || teacher).
///
/// That divergence says little of a mode that the student misses. So the draws of the teacher are asked as well: the
/// share of them that the student finds a hundred times less likely than the teacher does is what it has dropped.
///
/// The student begins by maximum likelihood on draws of the teacher, which leaves no mode out; both directions of an
/// autoregressive flow cost the same, so that an IAF can learn that way, too. Then it learns from the teacher's density
/// alone. Two things spoil the plain path gradient of the divergence (rhei::Distillation) here. It hardly sees how the
/// mass is divided between the moons, and lets that drift. And most of the divergence is in a few draws of a hundred
/// thousand, far out, where the student has some density and the teacher almost none. rhei::LogVariance sees both:
/// log(student / teacher) must be the same everywhere, for draws from a base half as wide again.

#include <rhei/rhei.hpp>

#include "support/command_line.hpp"
#include "support/mean.hpp"
#include "support/plot.hpp"

namespace {

constexpr double kWarm = 0.4;                // part of the student's time
constexpr double kWidth = 1.5;               // of the base that the student is compared from
constexpr Eigen::Index kBatch = 4096;        // draws to compare in a step
constexpr Eigen::Index kJudged = 1'000'000;  // fresh draws over which a divergence is judged
constexpr Eigen::Index kDrawn = 50'000;      // points in the picture
constexpr Eigen::Index kGrid = 200;          // cells of a density's picture along each axis

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

  using Splines = rhei::Autoregressive<rhei::RationalQuadratic<float>>;
  auto layers = rhei::Repeat(4, [&](int i) {
    rhei::AutoregressiveOptions<rhei::RationalQuadratic<float>> options;
    if (i % 2 == 1) options.order = rhei::reversed_order(2);
    return rhei::Inverted(Splines(2, options, rng));
  });
  rhei::Flow student{rhei::StandardNormal<float>(2), std::move(layers), rhei::ActNorm<float>(2)};
  const auto draw_teacher = [&teacher](Eigen::Index n, rhei::Rng& g) { return teacher.sample(n, g); };
  const rhei::FitReport warmed = rhei::fit(
      student, draw_teacher,
      {.seconds = kWarm * arguments.seconds, .batch_size = 512, .threads = arguments.threads, .progress = true}, rng);
  const rhei::FitReport learnt = rhei::fit_variational(student, rhei::LogVariance(rhei::FixedDensity(teacher), kWidth),
                                                       {.seconds = (1 - kWarm) * arguments.seconds,
                                                        .batch_size = kBatch,
                                                        .threads = arguments.threads,
                                                        .progress = true},
                                                       rng);
  const auto drawn = student.sample_and_log_prob(kJudged, rng);
  const examples::Mean of_student = divergence(drawn.log_prob, teacher.log_prob(drawn.x));
  const auto asked = teacher.sample_and_log_prob(kJudged, rng);
  const auto missed = (student.log_prob(asked.x).array() < asked.log_prob.array() - std::log(100.0F)).count();
  const double dropped = static_cast<double>(missed) / static_cast<double>(kJudged);

  std::printf("%-28s %8s %8s %8s %8s\n", "", "KL", "+-", "steps", "seconds");
  const auto print = [](const std::string& name, const examples::Mean& d, long long steps, double seconds) {
    std::printf("%-28s %8.4f %8.4f %8lld %8.1f\n", name.c_str(), d.value, d.stderr_, steps, seconds);
  };
  print(arguments.toy + " || teacher", of_teacher, taught.last().step, taught.last().seconds);
  print("student || teacher", of_student, learnt.last().step, learnt.last().seconds);
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
  examples::Curve training{.name = "mean of 100 steps"};
  for (const rhei::FitProgress& epoch : learnt.history) {
    if (epoch.step % 100 != 0) continue;  // the last, cut short by the time
    training.x.push_back(epoch.seconds);
    training.y.push_back(epoch.train_loss);
  }
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
