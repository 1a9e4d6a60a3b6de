// SPDX-License-Identifier: MIT

#include "support/mesh.hpp"

#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

namespace examples {
namespace {

/// Lines along the given axis, each of points close enough for a curve.
Eigen::MatrixXf grid_lines(double reach, double spacing, Eigen::Index axis) {
  constexpr Eigen::Index kPoints = 301;
  const auto half = static_cast<Eigen::Index>(std::floor(reach / spacing + 1e-9));
  Eigen::MatrixXf lines((2 * half + 1) * (kPoints + 1), 2);
  lines.setConstant(std::numeric_limits<float>::quiet_NaN());
  for (Eigen::Index k = -half; k <= half; ++k) {
    auto line = lines.middleRows((k + half) * (kPoints + 1), kPoints);
    line.col(axis).setLinSpaced(static_cast<float>(-reach), static_cast<float>(reach));
    line.col(1 - axis).setConstant(static_cast<float>(static_cast<double>(k) * spacing));
  }
  return lines;
}

/// A colour of the wheel; red, green and blue are a third of it apart.
Color wheel_color(double angle) {
  const auto part = [angle](double at) { return 0.48 + 0.42 * std::cos(angle - at); };
  constexpr double kThird = 2 * std::numbers::pi / 3;
  return {part(0), part(kThird), part(-kThird)};
}

Curve curve_of(const Eigen::MatrixXf& lines, Color color) {
  const Eigen::MatrixXd p = lines.cast<double>();
  return {
      .x = {p.col(0).begin(), p.col(0).end()}, .y = {p.col(1).begin(), p.col(1).end()}, .color = color, .width = 0.8};
}

}  // namespace

Mesh make_mesh(double reach, double spacing, const Eigen::MatrixXf& points) {
  Mesh mesh{grid_lines(reach, spacing, 1), grid_lines(reach, spacing, 0), points};
  for (Eigen::Index i = 0; i < points.rows(); ++i)
    mesh.colors.push_back(wheel_color(std::atan2(points(i, 1), points(i, 0))));
  return mesh;
}

Panel mesh_panel(std::string title, const Mesh& mesh, const Rectangle& range) {
  constexpr Color kUpright{0.45, 0.50, 0.58}, kLevel{0.62, 0.66, 0.72};
  return {.title = std::move(title),
          .x = {.range = range.x, .ticks = false},
          .y = {.range = range.y, .ticks = false},
          .curves = {curve_of(mesh.upright, kUpright), curve_of(mesh.level, kLevel)},
          .dots = Dots{.points = mesh.points.cast<double>(), .colors = mesh.colors}};
}

}  // namespace examples
