// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Pictures of densities, samples and training curves as PNG files, drawn with cairo. For the example programs only.
///
/// The three `draw_...` functions at the end draw what the examples need; for anything else fill a Figure with panels:
/// they are plain values. A number that is not finite (or not positive, on a logarithmic axis) is left out of the
/// picture; a panel without content is an empty frame.

#include <Eigen/Core>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace examples {

/// A stretch of an axis. Without low < high, as by default, the axis is fitted to what is drawn.
struct Interval {
  double low = 0, high = 0;
};

struct Rectangle {
  Interval x, y;
};

struct Color {
  double red = 0, green = 0, blue = 0;
};
inline constexpr Color kBlue{0.11, 0.40, 0.62}, kOrange{0.91, 0.42, 0.16}, kGreen{0.20, 0.58, 0.38},
    kPurple{0.52, 0.34, 0.65};

/// How a value becomes a place in the colour map; `sqrt` shows the low parts of a density too.
enum class Scale { linear, sqrt };

/// Values on the cells of a grid over `range`: values(i, j) belongs to row i from the bottom, column j from the left.
struct HeatMap {
  Eigen::MatrixXd values = {};
  Rectangle range = {};
  double top = 0;  ///< the value of the darkest colour; 0: brightest_value(values)
  Scale scale = Scale::sqrt;
  bool smooth = true;  ///< bilinear between the cells' centres, else one colour a cell
};

/// Points (n x 2) as half-transparent dots.
struct Dots {
  Eigen::MatrixXd points = {};
  Color color = kBlue;
  std::vector<Color> colors = {};  ///< in place of `color`, one for each point
};

/// A line through (x[i], y[i]), interrupted where a value is missing. Curves with a name are listed in the legend.
struct Curve {
  std::string name = {};
  std::vector<double> x = {}, y = {};
  Color color = kBlue;
  bool filled = false;  ///< a light fill down to the lower edge
  double width = 2;     ///< in pixels
};

/// A dashed horizontal line, labelled to its right.
struct Reference {
  double value = 0;
  std::string label = {};
};

struct Axis {
  std::string label = {};
  Interval range = {};
  bool ticks = true;
  bool log = false;
};

/// What it has of these is drawn in this order.
struct Panel {
  std::string title = {};
  Axis x = {}, y = {};
  std::optional<HeatMap> map = {};
  std::vector<Curve> curves = {};
  std::optional<Dots> dots = {};
  std::optional<Reference> reference = {};
};

/// Panels of one size in a grid, row by row, under a title and a legend of all named curves.
struct Figure {
  std::string title = {};
  std::vector<Panel> panels = {};
  int columns = 1;
  int width = 1200;   ///< of the picture in pixels; the height follows
  double aspect = 1;  ///< height over width of a panel

  /// Writes `path` under a temporary name and renames it. Throws std::runtime_error naming `path` when that fails, and
  /// std::invalid_argument for contents that do not fit together (points that are not n x 2, x and y of two lengths).
  void save_png(const std::filesystem::path& path) const;
};

/// The centres of rows * columns cells over `range` (as many x 2), column by column: a function's values there, read as
/// a rows x columns matrix, are the `values` of a HeatMap.
[[nodiscard]] Eigen::MatrixXd cell_centres(const Rectangle& range, Eigen::Index rows, Eigen::Index columns);

/// The smallest square around the origin that holds nearly all of the points (n x 2, at least one), and a little more.
[[nodiscard]] Rectangle square_around(const Eigen::MatrixXd& points);

/// The density of points (n x 2) on bins x bins cells over `range`: counts / (finite points * area of a cell).
[[nodiscard]] Eigen::MatrixXd histogram(const Eigen::MatrixXd& points, const Rectangle& range, Eigen::Index bins);

/// The value that gets the darkest colour unless told otherwise: the 99 % quantile of the positive finite values (one
/// spike must not pale the rest); 0 when there are none.
[[nodiscard]] double brightest_value(const Eigen::MatrixXd& values);

/// One row of draw_density_comparison.
struct DensityRow {
  std::string name = {};
  Eigen::MatrixXd data = {};     ///< n x 2
  Eigen::MatrixXd density = {};  ///< of the model (not its logarithm), at cell_centres(range, ...)
  Eigen::MatrixXd samples = {};  ///< of the model, n x 2
  Rectangle range = {};
};

/// "data | model | samples", one row a density, or one column with `sideways`. The three share one colour
/// scale. Fewer than 3000 points are drawn as dots.
void draw_density_comparison(const std::filesystem::path& path, const std::string& title,
                             const std::vector<DensityRow>& rows, bool sideways = false);

/// Training and validation loss (names and colours are set here, x counts epochs unless labelled otherwise). A steep
/// start that would flatten the rest may leave the frame at the top.
void draw_training_curve(const std::filesystem::path& path, const std::string& title, Curve training, Curve validation,
                         const std::optional<Reference>& reference = {}, const std::string& x_label = "epoch",
                         const std::string& y_label = "negative log-likelihood (nats)");

/// All pairs of 1 to 6 columns: histograms of the data below the diagonal, of the samples above it, of both on it.
/// The axes show the central 99 % of the data, and a little more.
void draw_corner(const std::filesystem::path& path, const std::string& title, const std::vector<std::string>& names,
                 const Eigen::MatrixXd& data, const Eigen::MatrixXd& samples);

}  // namespace examples
