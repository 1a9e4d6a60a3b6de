// SPDX-License-Identifier: MIT

/// \file
/// Draws what each kind of layer does to a grid and to a Gaussian: the pictures of docs/choosing-a-layer.md. Nothing is
/// trained; the parameters are ones that show what a layer can do.

#include <rhei/rhei.hpp>

#include "support/command_line.hpp"
#include "support/mesh.hpp"

namespace {

constexpr Eigen::Index kGrid = 300;  // cells of a density's picture along each axis
const examples::Rectangle kShown{{-3.6, 3.6}, {-3.6, 3.6}};

/// The two pictures of a layer.
struct Pictures {
  examples::Panel grid, gaussian;
};

/// What `forward` makes of a grid over [-2.5, 2.5]^2, of points from a Gaussian, and of that Gaussian's density.
template <rhei::Layer L>
Pictures draw(std::string name, L layer) {
  const rhei::Flow flow{rhei::StandardNormal<float>(2), std::move(layer)};
  rhei::Rng rng(3);
  Eigen::MatrixXf points(300, 2);
  rng.fill_normal(points);
  const examples::Mesh mesh = examples::make_mesh(2.5, 0.25, points);
  const Eigen::MatrixXf cells = examples::cell_centres(kShown, kGrid, kGrid).cast<float>();
  const Eigen::VectorXd density = flow.log_prob(cells).template cast<double>().array().exp();
  Pictures pictures{
      examples::mesh_panel(std::move(name), mesh.image([&](const Eigen::MatrixXf& z) { return flow.forward(z).x; }),
                           kShown),
      {.x = {.range = kShown.x, .ticks = false}, .y = {.range = kShown.y, .ticks = false}}};
  pictures.gaussian.map =
      examples::HeatMap{.values = Eigen::Map<const Eigen::MatrixXd>(density.data(), kGrid, kGrid), .range = kShown};
  return pictures;
}

/// The layer with parameters drawn from a normal distribution: what begins as the identity is then no more.
template <rhei::Layer L>
L shaken(L layer, float deviation, std::uint64_t seed) {
  rhei::Rng rng(seed);
  rhei::for_each_parameter(layer, [&](std::string_view, rhei::Batch<float> values) {
    rng.fill_normal(values);
    values *= deviation;
  });
  return layer;
}

std::vector<Pictures> layers_that_bend() {
  using rhei::Affine, rhei::RationalQuadratic;
  rhei::Rng rng(1);
  const rhei::NetOptions net{.hidden = {16}, .activation = rhei::Activation::tanh};
  const rhei::MadeOptions made{.hidden = {16}, .activation = rhei::Activation::tanh};
  const std::vector<rhei::Index> second = {1};
  const RationalQuadratic<float> spline({.bins = 6, .bound = 3});
  rhei::Radial<float> radial(2, rng);
  radial.parameters() = {Eigen::RowVector2f(0.8F, 0.4F), rhei::RowVector<float>::Constant(1, -0.8F),
                         rhei::RowVector<float>::Constant(1, 0.6F)};
  rhei::Sylvester<float> sylvester(2, 2, rng);
  sylvester.parameters() = {Eigen::Matrix2f{{1, 0}, {0.5F, 1}}, Eigen::Matrix2f{{0.5F, 0.5F}, {0, 0.6F}},
                            Eigen::Matrix2f{{2, 0.7F}, {0, 2}}, Eigen::RowVector2f(0.5F, -0.5F)};
  rhei::MarginalGaussianization<float> marginal(2, 3);
  marginal.parameters() = {Eigen::MatrixXf{{-2, -1.5F}, {0, 0}, {2, 1.5F}},
                           Eigen::MatrixXf{{-1.8F, -1.2F}, {-1.8F, -1.2F}, {-1.8F, -1.2F}}};
  return {
      draw("AdditiveCoupling",
           shaken(rhei::AdditiveCoupling<float>(2, {.transformed = second, .net = net}, rng), 0.7F, 1)),
      draw("AffineCoupling",
           shaken(rhei::AffineCoupling<float>(2, {.transformed = second, .net = net}, rng), 0.45F, 1)),
      draw("SplineCoupling",
           shaken(rhei::SplineCoupling<float>(2, {.transformed = second, .net = net, .transformer = spline}, rng), 0.4F,
                  2)),
      draw("Maf", shaken(rhei::Maf<float>(2, {.net = made}, rng), 0.45F, 3)),
      draw("Inverted<Maf>", rhei::Inverted(shaken(rhei::Maf<float>(2, {.net = made}, rng), 0.45F, 3))),
      draw("Autoregressive, spline",
           shaken(rhei::Autoregressive<RationalQuadratic<float>>(2, {.net = made, .transformer = spline}, rng), 0.4F,
                  2)),
      draw("Planar", rhei::Planar<float>::from_u_prime(Eigen::RowVector2f(1, 0.6F), Eigen::RowVector2f(2, 1), 0.3F)),
      draw("Radial", radial),
      draw("Sylvester", sylvester),
      draw("MarginalGaussianization", marginal),
  };
}

std::vector<Pictures> layers_that_mix() {
  rhei::Rng rng(1);
  rhei::ActNorm<float> actnorm(2);
  actnorm.parameters() = {Eigen::RowVector2f(0.3F, -0.7F), Eigen::RowVector2f(-0.4F, 0.8F)};
  rhei::Householder<float> householder(2, 2, rng);
  return {
      draw("LuLinear", rhei::LuLinear<float>::from_matrix(Eigen::MatrixXf{{1, -0.8F}, {0.3F, 1.2F}})),
      draw("Householder", householder),
      draw("Permutation", rhei::Permutation<float>::reverse(2)),
      draw("ActNorm", actnorm),
      draw("Domains", rhei::Domains<float>({rhei::Domain::interval(-3, 3), rhei::Domain::half_line(-3)})),
  };
}

/// A row of grids above a row of Gaussians, five layers across.
void save(const std::filesystem::path& path, std::vector<Pictures> layers) {
  constexpr std::size_t kAcross = 5;
  examples::Figure figure{.columns = kAcross};
  for (std::size_t first = 0; first < layers.size(); first += kAcross) {
    layers[first].grid.y.label = "grid";
    layers[first].gaussian.y.label = "Gaussian";
    for (auto part : {&Pictures::grid, &Pictures::gaussian})
      for (std::size_t i = first; i < first + kAcross; ++i) figure.panels.push_back(std::move(layers[i].*part));
  }
  figure.save_png(path);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Draws what each kind of layer does to a grid and to a Gaussian.", "draw_layers");
  std::filesystem::path out = "out";
  app.add_option("--out", out, "folder for the pictures")->capture_default_str();
  return examples::run(app, argc, argv, [&] {
    std::filesystem::create_directories(out);
    save(out / "layers_that_bend.png", layers_that_bend());
    save(out / "layers_that_mix.png", layers_that_mix());
  });
}
