// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What is followed through a map of the plane, to see how it bends space: the lines of a grid, and points that keep
/// their colours.

#include <Eigen/Core>
#include <string>
#include <vector>

#include "support/plot.hpp"

namespace examples {

/// Points whose image under a map is drawn. A row of NaN, which every layer leaves as it is, ends a line.
struct Mesh {
  Eigen::MatrixXf upright = {}, level = {};  ///< n x 2, the lines of the grid along the second and the first axis
  Eigen::MatrixXf points = {};               ///< n x 2
  std::vector<Color> colors = {};            ///< of the points

  /// What `map`, a function from n x 2 to n x 2, makes of it.
  template <class Map>
  [[nodiscard]] Mesh image(const Map& map) const {
    return {map(upright), map(level), map(points), colors};
  }
};

/// A grid of the given spacing over [-reach, reach] x [-reach, reach], and points coloured by their direction from the
/// origin.
[[nodiscard]] Mesh make_mesh(double reach, double spacing, const Eigen::MatrixXf& points);

/// The mesh over `range`.
[[nodiscard]] Panel mesh_panel(std::string title, const Mesh& mesh, const Rectangle& range);

}  // namespace examples
