// SPDX-License-Identifier: MIT

/// \file
/// Shows how a flow bends space, layer by layer and step by step of its training: a panel for each layer with what the
/// layers up to it make of a regular grid and of points from the base, in the direction of sampling. The panels are
/// drawn again and again while the flow learns a 2-D toy density: frames for an animation.

#include <algorithm>
#include <array>
#include <rhei/rhei.hpp>

#include "support/command_line.hpp"
#include "support/mean.hpp"
#include "support/mesh.hpp"

namespace {

constexpr Eigen::Index kJudged = 100'000;  // fresh points over which the fit is judged
constexpr Eigen::Index kDots = 600;        // points that are followed

using Layer = rhei::AnyLayer<float>;
/// A flow whose layers can be taken one by one, whatever they are.
using Flow = rhei::Flow<rhei::StandardNormal<float>, rhei::Repeat<Layer>>;

struct Arguments : examples::CommonOptions {
  std::string toy = "two_moons";
  std::string model = "nsf";
  int layers = 7;
  int frames = 60;
};

struct Model {
  std::string name;
  Layer (*make)(int i, rhei::Rng& rng);  ///< the i-th layer
  double learning_rate;
};

/// The layers of the models of these names, each in a size at which few of them do.
const std::vector<Model>& models() {
  using rhei::alternating_features, rhei::Rng;
  static const std::vector<Model> table = {
      {"realnvp",
       [](int i, Rng& rng) {
         return Layer(rhei::AffineCoupling<float>(2, {.transformed = alternating_features(2, i)}, rng));
       },
       1e-3},
      {"nsf",
       [](int i, Rng& rng) {
         return Layer(rhei::SplineCoupling<float>(2, {.transformed = alternating_features(2, i)}, rng));
       },
       1e-3},
      {"maf",
       [](int i, Rng& rng) {
         rhei::AutoregressiveOptions<rhei::Affine<float>> options;
         if (i % 2 == 1) options.order = rhei::reversed_order(2);
         return Layer(rhei::Maf<float>(2, std::move(options), rng));
       },
       1e-3},
      {"planar", [](int, Rng& rng) { return Layer(rhei::Planar<float>(2, rng)); }, 5e-3},
      {"radial", [](int, Rng& rng) { return Layer(rhei::Radial<float>(2, rng)); }, 5e-3},
      {"sylvester", [](int, Rng& rng) { return Layer(rhei::Sylvester<float>(2, 2, rng)); }, 5e-3},
      {"gaussianization",
       [](int, Rng& rng) {
         return Layer(rhei::Chain{rhei::Householder<float>(2, rng), rhei::MarginalGaussianization<float>(2, 50)});
       },
       5e-3},
  };
  return table;
}

/// As many layers of the model as were asked for, and an actnorm.
Flow make_flow(const Model& model, int layers, rhei::Rng& rng) {
  return {rhei::StandardNormal<float>(2), rhei::Repeat(layers + 1, [&](int i) {
            return i < layers ? model.make(i, rng) : Layer(rhei::ActNorm<float>(2));
          })};
}

/// The latent space, what it becomes under the first 1, 2, ... layers, and the data.
class Pictures {
 public:
  Pictures(const rhei::data::Toy& toy, rhei::Rng& rng) : data_(toy.sample<double>(kJudged, rng)) {
    Eigen::MatrixXf points(kDots, 2);
    rng.fill_normal(points);
    latent_ = examples::make_mesh(2.5, 0.25, points);
    range_ = examples::square_around(data_);
    const double side = std::max(3.0, range_.x.high);  // room for the base too
    range_ = {{-side, side}, {-side, side}};
  }

  void save(const std::filesystem::path& path, const Flow& flow) const {
    const auto& layers = flow.transform().layers();
    const std::size_t panels = layers.size() + 2;
    examples::Figure figure{.columns =
                                static_cast<int>(panels <= 4 ? panels : std::min<std::size_t>(5, (panels + 1) / 2))};
    examples::Mesh mesh = latent_;
    figure.panels.push_back(examples::mesh_panel("latent", mesh, range_));
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const rhei::Flow one{rhei::StandardNormal<float>(2), layers[i]};
      mesh = mesh.image([&](const Eigen::MatrixXf& z) { return one.forward(z).x; });
      const std::string title = i + 1 < layers.size() ? "layer " + std::to_string(i + 1) : "actnorm";
      figure.panels.push_back(examples::mesh_panel(title, mesh, range_));
    }
    figure.panels.push_back(
        {.title = "data",
         .x = {.range = range_.x, .ticks = false},
         .y = {.range = range_.y, .ticks = false},
         .map = examples::HeatMap{.values = examples::histogram(data_, range_, 110), .range = range_}});
    figure.save_png(path);
  }

 private:
  Eigen::MatrixXd data_;
  examples::Mesh latent_;
  examples::Rectangle range_;
};

void run(const Arguments& arguments) {
  const rhei::data::Toy& toy = rhei::data::toy(arguments.toy);
  const Model& model =
      *std::find_if(models().begin(), models().end(), [&](const Model& m) { return m.name == arguments.model; });
  rhei::Rng rng(arguments.seed);
  Flow flow = make_flow(model, arguments.layers, rng);
  const Pictures pictures(toy, rng);
  const std::filesystem::path folder = arguments.out / "frames";
  std::filesystem::create_directories(folder);
  const auto frame = [&](int k) {
    std::array<char, 20> name{};
    std::snprintf(name.data(), name.size(), "%04d.png", k);
    return folder / name.data();
  };
  int saved = 0;
  const auto save_frame = [&] { pictures.save(frame(saved++), flow); };

  flow.initialize(toy.sample<float>(4096, rng));
  save_frame();
  const rhei::FitReport report = rhei::fit(
      flow, [&toy](Eigen::Index n, rhei::Rng& g) { return toy.sample<float>(n, g); },
      {.seconds = arguments.seconds,
       .batch_size = 256,
       .learning_rate = model.learning_rate,
       .threads = arguments.threads,
       .progress = true,
       .callback =
           [&](const rhei::FitProgress& progress) {
             // A flow moves most at first: frame k is due at the part (k / frames)^2 of the run.
             const double due = std::pow(static_cast<double>(saved) / arguments.frames, 2);
             if (progress.fraction >= due) save_frame();
             return false;
           }},
      rng);
  for (int k = saved; std::filesystem::remove(frame(k));) ++k;  // those of an earlier, longer run
  const std::string stem = arguments.toy + "_" + arguments.model;
  pictures.save(arguments.out / (stem + "_layers.png"), flow);

  const Eigen::MatrixXd x = toy.sample<double>(kJudged, rng);
  const examples::Mean kl = examples::mean_of(toy.log_density(x) - flow.log_prob(x.cast<float>()).cast<double>());
  rhei::write_json((arguments.out / "results.json").string(), rhei::Json::Object{{"toy", arguments.toy},
                                                                                 {"model", arguments.model},
                                                                                 {"layers", arguments.layers},
                                                                                 {"seed", arguments.seed},
                                                                                 {"seconds", report.last().seconds},
                                                                                 {"steps", report.last().step},
                                                                                 {"kl", kl.value},
                                                                                 {"kl_stderr", kl.stderr_}});
  std::printf("%s by %d layers of %s: KL(truth || model) = %.4f +- %.4f after %lld steps\n", arguments.toy.c_str(),
              arguments.layers, arguments.model.c_str(), kl.value, kl.stderr_,
              static_cast<long long>(report.last().step));
  std::printf("%d frames are in %s, the last panels in %s\n", saved, folder.string().c_str(),
              (stem + "_layers.png").c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Draws how the layers of a flow bend a grid, while it learns a 2-D toy density.", "bend_grid");
  app.footer(
      "The frames OUT/frames/0000.png, 0001.png, ... become a film by one of\n"
      "  ffmpeg -framerate 12 -i OUT/frames/%04d.png -vf 'crop=trunc(iw/2)*2:trunc(ih/2)*2,format=yuv420p' film.mp4\n"
      "  ffmpeg -framerate 12 -i OUT/frames/%04d.png -vf 'split[a][b];[a]palettegen[p];[b][p]paletteuse' film.gif\n"
      "  convert -delay 8 -loop 0 OUT/frames/*.png film.gif");
  Arguments arguments;
  std::vector<std::string> toy_names, model_names;
  for (const auto& toy : rhei::data::toys()) toy_names.emplace_back(toy.name);
  for (const Model& m : models()) model_names.push_back(m.name);
  app.add_option("--toy,toy", arguments.toy, "the density to learn")
      ->check(CLI::IsMember(toy_names))
      ->capture_default_str();
  app.add_option("--model", arguments.model, "the kind of layer")
      ->check(CLI::IsMember(model_names))
      ->capture_default_str();
  app.add_option("--layers", arguments.layers, "how many of them, before an actnorm")
      ->check(CLI::Range(1, 50))
      ->capture_default_str();
  app.add_option("--frames", arguments.frames, "frames drawn while it learns, beside the one before")
      ->check(CLI::Range(1, 9998))
      ->capture_default_str();
  examples::add_common_options(app, arguments);
  return examples::run(app, argc, argv, [&] { run(arguments); });
}
