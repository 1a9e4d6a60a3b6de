// SPDX-License-Identifier: MIT

#include "plot.hpp"

#include <cairo.h>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>
#include <numbers>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace examples {
namespace {

using Eigen::Index;
using Eigen::MatrixXd;

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();
constexpr Color kInk{0.16, 0.18, 0.22}, kPale{0.72, 0.74, 0.78}, kGrid{0.91, 0.92, 0.94};
constexpr double kLine = 28, kMargin = 20, kGap = 16;  // pixels: a line of text, around the figure, between panels

/// White to dark indigo by way of aqua and blue: lightness falls evenly (in OKLab), so equal steps look equal.
constexpr std::array<Color, 8> kMap{{{1.000, 1.000, 1.000},
                                     {0.723, 0.900, 0.895},
                                     {0.445, 0.787, 0.816},
                                     {0.217, 0.650, 0.756},
                                     {0.116, 0.499, 0.682},
                                     {0.130, 0.347, 0.581},
                                     {0.142, 0.203, 0.447},
                                     {0.120, 0.072, 0.289}}};

Color map_color(double t) {
  const double place = std::clamp(t, 0.0, 1.0) * static_cast<double>(kMap.size() - 1);
  const auto i = std::min(static_cast<std::size_t>(place), kMap.size() - 2);
  const double w = place - static_cast<double>(i);
  const auto mix = [&](double Color::*c) { return (1 - w) * kMap[i].*c + w * kMap[i + 1].*c; };
  return {mix(&Color::red), mix(&Color::green), mix(&Color::blue)};
}

/// Whether a value can be drawn; far beyond any data, differences would overflow.
bool usable(double v) { return std::abs(v) < 1e100; }

std::vector<double> usable_values(const auto& values) {
  std::vector<double> kept;
  std::copy_if(values.begin(), values.end(), std::back_inserter(kept), usable);
  return kept;
}

void require(bool ok, const std::string& what) {
  if (!ok) throw std::invalid_argument("examples::plot: " + what);
}

void check_points(const MatrixXd& points) {
  require(points.rows() == 0 || points.cols() == 2,
          "points has " + std::to_string(points.cols()) + " columns, expected 2");
}

void check_range(const Rectangle& range) {
  for (const auto [low, high] : {range.x, range.y})
    require(low < high && usable(low) && usable(high), "range is " + std::to_string(low) + " to " +
                                                           std::to_string(high) +
                                                           ", expected two finite numbers, the lower first");
}

double quantile(std::vector<double>& values, double q) {
  const auto nth = values.begin() + static_cast<std::ptrdiff_t>(q * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), nth, values.end());
  return *nth;
}

/// Where v lies in the interval: 0 at its low end, 1 at its high end.
double part(Interval range, double v) { return (v - range.low) / (range.high - range.low); }
double at_part(Interval range, double f) { return range.low + f * (range.high - range.low); }

struct Tick {
  double value;
  std::string label;
};

/// "0.25", or "2·10⁻⁷" where that is shorter.
Tick tick_at(double value, int digits = 6) {
  static constexpr std::array<const char*, 10> kRaised{"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::array<char, 40> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.*g", digits, value);
  std::string text = buffer.data();
  if (const auto e = text.find('e'); e != std::string::npos) {
    const int exponent = std::stoi(text.substr(e + 1));
    text = (e == 1 && text[0] == '1' ? "" : text.substr(0, e) + "·") + "10" + (exponent < 0 ? "⁻" : "");
    for (const char digit : std::to_string(std::abs(exponent))) text += kRaised[static_cast<std::size_t>(digit - '0')];
  }
  if (text[0] == '-') text.replace(0, 1, "−");
  return {value, text};
}

/// About `most` ticks at most, at multiples of 1, 2 or 5 times a power of ten. On a logarithmic axis of a decade or
/// more: powers of ten, and their double and fivefold if it is short.
std::vector<Tick> ticks_of(const Axis& axis, double most) {
  const auto [low, high] = axis.range;
  std::vector<Tick> ticks;
  if (!axis.ticks) return ticks;
  if (const double first = std::log10(low), decades = std::log10(high) - first; axis.log && decades >= 1) {
    const double step = std::ceil(decades / most);
    for (double power = std::floor(first); power <= first + decades; power += step)
      for (const double m : {1.0, 2.0, 5.0})
        if (const double v = m * std::pow(10.0, power); v >= low && v <= high && (m == 1 || decades < 2.5))
          ticks.push_back(tick_at(v));
    return ticks;
  }
  const double least_step = (high - low) / most * (1 - 1e-9),
               power = std::pow(10.0, std::floor(std::log10(least_step)));
  double step = 10 * power;
  for (const double m : {5.0, 2.0, 1.0})
    if (m * power >= least_step) step = m * power;
  const double largest = std::max(std::abs(low), std::abs(high));
  const int digits = static_cast<int>(std::log10(largest / step)) + 2;  // which neighbours differ in
  for (double k = std::ceil(low / step - 1e-6); k * step <= high + 1e-6 * step; ++k)
    ticks.push_back(tick_at(k * step + 0.0, std::max(6, digits)));  // + 0.0: no negative zero
  return ticks;
}

/// Gives an axis without a range of its own one that holds `values`, with a little room.
void fit(Axis& axis, const std::vector<double>& values) {
  const auto shows = [&](double v) { return usable(v) && (!axis.log || v > 1e-100); };
  const auto narrow = [](double low, double high) {
    return high - low <= 1e-9 * std::max(std::abs(low), std::abs(high));
  };
  auto& [low, high] = axis.range;
  if (shows(low) && shows(high) && !narrow(low, high)) return;
  low = std::numeric_limits<double>::infinity(), high = -low;
  for (const double v : values)
    if (shows(v)) low = std::min(low, v), high = std::max(high, v);
  if (low > high) low = axis.log ? 0.1 : 0, high = 1;
  if (axis.log) low = std::log10(low), high = std::log10(high);
  double room = 0.04 * (high - low);
  if (narrow(low, high)) room = low == 0 ? 0.5 : 0.05 * std::abs(low);
  low -= room, high += room;
  if (axis.log) low = std::pow(10.0, low), high = std::pow(10.0, high);
}

/// Where a value stands on the axis, 0 at its low end and 1 at its high end; NaN for what cannot be drawn.
double place(const Axis& axis, double v) {
  if (!usable(v) || (axis.log && v <= 0)) return kMissing;
  const auto [low, high] = axis.range;
  const double f = axis.log ? part({std::log(low), std::log(high)}, std::log(v)) : part(axis.range, v);
  return std::clamp(f, -20.0, 20.0);  // cairo's coordinates are small
}

struct Font {
  double size;
  cairo_font_weight_t weight;
};
constexpr Font kPlain{16, CAIRO_FONT_WEIGHT_NORMAL}, kTitle{20, CAIRO_FONT_WEIGHT_BOLD};

/// A cairo surface and what the figure draws on it.
class Canvas {
 public:
  Canvas(int width, int height)
      : surface_(cairo_image_surface_create(CAIRO_FORMAT_RGB24, width, height)),
        context_(cairo_create(surface_.get())) {
    cairo_t* cr = context_.get();
    cairo_set_source_rgb(cr, 1, 1, 1);
    cairo_paint(cr);
    cairo_set_line_cap(cr, CAIRO_LINE_CAP_ROUND);
    cairo_set_line_join(cr, CAIRO_LINE_JOIN_ROUND);
  }

  [[nodiscard]] cairo_t* context() const { return context_.get(); }
  [[nodiscard]] cairo_surface_t* surface() const { return surface_.get(); }

  void ink(Color c, double opacity = 1) const { cairo_set_source_rgba(context(), c.red, c.green, c.blue, opacity); }

  void stroke_line(double x0, double y0, double x1, double y1, double width = 1) const {
    cairo_set_line_width(context(), width);
    cairo_move_to(context(), x0, y0);
    cairo_line_to(context(), x1, y1);
    cairo_stroke(context());
  }

  [[nodiscard]] double text_width(const std::string& text, Font font = kPlain) const {
    cairo_select_font_face(context(), "sans-serif", CAIRO_FONT_SLANT_NORMAL, font.weight);
    cairo_set_font_size(context(), font.size);
    cairo_text_extents_t extents;
    cairo_text_extents(context(), text.c_str(), &extents);
    return extents.x_advance;
  }

  /// Text whose middle line is at y; `align` is the part of its width left of x. Cut to `most` pixels.
  void text(double x, double y, std::string text, double align, double most, Font font = kPlain,
            bool upwards = false) const {
    for (bool cut = false; !text.empty() && text_width(text, font) > most; cut = true) {
      if (cut) text.resize(text.size() - std::strlen("…"));
      while (text.size() > 1 && (text.back() & 0xC0) == 0x80) text.pop_back();  // the rest of a UTF-8 character
      text.pop_back();
      text += "…";
    }
    cairo_save(context());
    ink(kInk);
    cairo_translate(context(), x, y);
    if (upwards) cairo_rotate(context(), -std::numbers::pi / 2);
    cairo_move_to(context(), -align * text_width(text, font), 0.36 * font.size);
    cairo_show_text(context(), text.c_str());
    cairo_restore(context());
  }

 private:
  struct Free {
    void operator()(cairo_surface_t* s) const { cairo_surface_destroy(s); }
    void operator()(cairo_t* c) const { cairo_destroy(c); }
  };
  std::unique_ptr<cairo_surface_t, Free> surface_;
  std::unique_ptr<cairo_t, Free> context_;
};

/// The cells on either side of the part f in [0, 1) of n cells, and the weight of the second.
struct Neighbours {
  Index first, second;
  double weight;
};

Neighbours neighbours(double f, Index n, bool smooth) {
  const double last = static_cast<double>(n - 1), at = f * static_cast<double>(n);
  const double s = std::clamp(smooth ? at - 0.5 : std::floor(at), 0.0, last);
  const auto i = static_cast<Index>(s);
  return {i, std::min(i + (smooth ? 1 : 0), n - 1), s - static_cast<double>(i)};
}

double value_at(const HeatMap& map, double x, double y) {
  const double u = part(map.range.x, x), v = part(map.range.y, y);
  if (!(u >= 0 && u < 1 && v >= 0 && v < 1)) return kMissing;
  const auto [i, i1, b] = neighbours(v, map.values.rows(), map.smooth);
  const auto [j, j1, a] = neighbours(u, map.values.cols(), map.smooth);
  return (1 - b) * ((1 - a) * map.values(i, j) + a * map.values(i, j1)) +
         b * ((1 - a) * map.values(i1, j) + a * map.values(i1, j1));
}

double y_tick_count(double height) { return std::max(4.0, height / 60); }

/// One panel whose axes have been fitted, drawn into the box of whole pixels at (left, top).
class Frame {
 public:
  Frame(const Canvas& canvas, const Panel& panel, double left, double top, double width, double height)
      : canvas_(canvas), panel_(panel), left_(left), top_(top), width_(width), height_(height) {}

  /// `border`: the room left of the box, at whose outer edge the label of the y axis stands.
  void draw(double border) const {
    cairo_t* cr = canvas_.context();
    const auto y_ticks = ticks_of(panel_.y, y_tick_count(height_));
    const auto x_ticks = fitting_x_ticks();
    cairo_save(cr);
    cairo_rectangle(cr, left_, top_, width_, height_);
    cairo_clip(cr);
    if (panel_.map) draw_map(*panel_.map);
    if (!panel_.map && !panel_.dots) draw_grid(y_ticks);
    for (const auto& curve : panel_.curves) draw_curve(curve);
    if (panel_.dots) draw_dots(*panel_.dots);
    if (panel_.reference) draw_reference(panel_.reference->value);
    cairo_restore(cr);
    draw_frame(x_ticks, y_ticks, border);
  }

 private:
  [[nodiscard]] double x_of(double v) const { return left_ + width_ * place(panel_.x, v); }
  [[nodiscard]] double y_of(double v) const { return top_ + height_ * (1 - place(panel_.y, v)); }

  /// As many ticks as leave air between their labels; those that would reach into the next panel's go.
  [[nodiscard]] std::vector<Tick> fitting_x_ticks() const {
    std::vector<Tick> ticks;
    for (double most = std::max(4.0, std::floor(width_ / 80)); most >= 1; --most) {
      ticks = ticks_of(panel_.x, most);
      std::erase_if(ticks, [&](const Tick& t) {
        const double half = canvas_.text_width(t.label) / 2, x = x_of(t.value);
        return x - half < left_ - kGap / 3 || x + half > left_ + width_ + kGap / 3;
      });
      bool clear = true;
      for (std::size_t i = 1; i < ticks.size(); ++i)
        clear = clear && x_of(ticks[i].value) - x_of(ticks[i - 1].value) >
                             (canvas_.text_width(ticks[i].label) + canvas_.text_width(ticks[i - 1].label)) / 2 + 12;
      if (clear) break;
    }
    return ticks;
  }

  void draw_map(const HeatMap& map) const {
    const double top = map.top > 0 ? map.top : brightest_value(map.values);
    const auto width = static_cast<int>(width_), height = static_cast<int>(height_);
    const std::unique_ptr<cairo_surface_t, void (*)(cairo_surface_t*)> image(
        cairo_image_surface_create(CAIRO_FORMAT_RGB24, width, height), cairo_surface_destroy);
    unsigned char* pixels = cairo_image_surface_get_data(image.get());
    if (pixels == nullptr || !(top > 0)) return;
    const int stride = cairo_image_surface_get_stride(image.get());
    for (int i = 0; i < height; ++i) {
      auto* row = reinterpret_cast<std::uint32_t*>(pixels + static_cast<std::ptrdiff_t>(i) * stride);
      for (int j = 0; j < width; ++j) {
        const double x = at_part(panel_.x.range, (j + 0.5) / width),
                     y = at_part(panel_.y.range, 1 - (i + 0.5) / height);
        const double v = value_at(map, x, y) / top;
        const Color c = usable(v) && v > 0 ? map_color(map.scale == Scale::sqrt ? std::sqrt(v) : v) : kMap[0];
        const auto byte = [](double part) { return static_cast<std::uint32_t>(std::lround(255 * part)); };
        row[j] = byte(c.red) << 16 | byte(c.green) << 8 | byte(c.blue);
      }
    }
    cairo_surface_mark_dirty(image.get());
    cairo_set_source_surface(canvas_.context(), image.get(), left_, top_);
    cairo_paint(canvas_.context());
  }

  void draw_grid(const std::vector<Tick>& y_ticks) const {
    canvas_.ink(kGrid);
    for (const auto& tick : y_ticks) {
      const double y = std::round(y_of(tick.value)) + 0.5;
      canvas_.stroke_line(left_, y, left_ + width_, y);
    }
  }

  void draw_dots(const Dots& dots) const {
    canvas_.ink(dots.color, 0.4);
    for (Index i = 0; i < dots.points.rows(); ++i) {
      const double x = x_of(dots.points(i, 0)), y = y_of(dots.points(i, 1));
      if (std::isnan(x) || std::isnan(y)) continue;
      if (!dots.colors.empty()) canvas_.ink(dots.colors[static_cast<std::size_t>(i)], 0.8);
      cairo_arc(canvas_.context(), x, y, 1.7, 0, 2 * std::numbers::pi);
      cairo_fill(canvas_.context());
    }
  }

  void draw_curve(const Curve& curve) const {
    cairo_t* cr = canvas_.context();
    const auto missing = [&](std::size_t i) { return std::isnan(x_of(curve.x[i])) || std::isnan(y_of(curve.y[i])); };
    const auto to = [&](auto move, std::size_t i) { move(cr, x_of(curve.x[i]), y_of(curve.y[i])); };
    for (std::size_t i = 1; i < curve.x.size() && curve.filled; ++i) {
      if (missing(i - 1) || missing(i)) continue;
      to(cairo_move_to, i - 1);
      to(cairo_line_to, i);
      cairo_line_to(cr, x_of(curve.x[i]), top_ + height_);
      cairo_line_to(cr, x_of(curve.x[i - 1]), top_ + height_);
    }
    canvas_.ink(curve.color, 0.2);
    cairo_fill(cr);
    for (std::size_t i = 0; i < curve.x.size(); ++i) {
      if (missing(i)) continue;
      const bool first = i == 0 || missing(i - 1), last = i + 1 == curve.x.size() || missing(i + 1);
      to(first ? cairo_move_to : cairo_line_to, i);
      if (first && last) cairo_arc(cr, x_of(curve.x[i]), y_of(curve.y[i]), 1.5, 0, 2 * std::numbers::pi);
    }
    canvas_.ink(curve.color);
    cairo_set_line_width(cr, curve.width);
    cairo_stroke(cr);
  }

  void draw_reference(double value) const {
    const double y = std::round(y_of(value)) + 0.5;
    if (std::isnan(y)) return;
    canvas_.ink(kInk);
    constexpr std::array<double, 2> dashes{6, 5};
    cairo_set_dash(canvas_.context(), dashes.data(), 2, 0);
    canvas_.stroke_line(left_, y, left_ + width_, y, 1.3);
  }

  void draw_frame(const std::vector<Tick>& x_ticks, const std::vector<Tick>& y_ticks, double border) const {
    const double bottom = top_ + height_;
    canvas_.ink(kPale);
    cairo_set_line_width(canvas_.context(), 1);
    cairo_rectangle(canvas_.context(), left_ - 0.5, top_ - 0.5, width_ + 1, height_ + 1);
    cairo_stroke(canvas_.context());
    for (const auto& tick : x_ticks) canvas_.text(x_of(tick.value), bottom + kLine / 2, tick.label, 0.5, width_);
    for (const auto& tick : y_ticks) canvas_.text(left_ - 8, y_of(tick.value), tick.label, 1, width_);
    const double middle = left_ + width_ / 2;
    canvas_.text(middle, top_ - kLine / 2, panel_.title, 0.5, width_ + kGap);
    canvas_.text(middle, bottom + (panel_.x.ticks ? kLine : 0) + kLine / 2, panel_.x.label, 0.5, width_);
    canvas_.text(left_ - border + kPlain.size / 2, top_ + height_ / 2, panel_.y.label, 0.5, height_, kPlain, true);
    if (panel_.reference)
      if (const double at = place(panel_.y, panel_.reference->value); at >= 0 && at <= 1)
        canvas_.text(left_ + width_ + 8, y_of(panel_.reference->value), panel_.reference->label, 0, width_);
  }

  const Canvas& canvas_;
  const Panel& panel_;
  double left_, top_, width_, height_;
};

void check(const Panel& panel) {
  if (panel.map && panel.map->values.size() > 0) {
    check_range(panel.map->range);
    require(!panel.x.log && !panel.y.log, "a heat map on a logarithmic axis, expected linear ones");
  }
  if (panel.dots) {
    const auto& [points, color, colors] = *panel.dots;
    check_points(points);
    require(colors.empty() || static_cast<Index>(colors.size()) == points.rows(),
            "dots has " + std::to_string(points.rows()) + " points and " + std::to_string(colors.size()) +
                " colors, expected as many or none");
  }
  for (const auto& curve : panel.curves)
    require(curve.x.size() == curve.y.size(), "curve '" + curve.name + "' has " + std::to_string(curve.x.size()) +
                                                  " x and " + std::to_string(curve.y.size()) + " y, expected as many");
}

void fit_axes(Panel& panel) {
  std::vector<double> x, y;
  if (panel.map) {
    x = {panel.map->range.x.low, panel.map->range.x.high};
    y = {panel.map->range.y.low, panel.map->range.y.high};
  }
  if (panel.dots)
    for (Index i = 0; i < panel.dots->points.rows(); ++i)
      x.push_back(panel.dots->points(i, 0)), y.push_back(panel.dots->points(i, 1));
  for (const auto& curve : panel.curves) {
    x.insert(x.end(), curve.x.begin(), curve.x.end());
    y.insert(y.end(), curve.y.begin(), curve.y.end());
  }
  if (panel.reference) y.push_back(panel.reference->value);
  fit(panel.x, x);
  fit(panel.y, y);
}

/// The named curves of all panels, each name once.
std::vector<Curve> legend_of(const std::vector<Panel>& panels) {
  std::vector<Curve> legend;
  for (const auto& panel : panels)
    for (const auto& curve : panel.curves)
      if (!curve.name.empty() &&
          std::none_of(legend.begin(), legend.end(), [&](auto& c) { return c.name == curve.name; }))
        legend.push_back({.name = curve.name, .color = curve.color});
  return legend;
}

/// The title at the left and the legend at the right, below it if there is no room; returns the height they take.
double draw_header(const Canvas& canvas, const std::string& title, const std::vector<Curve>& legend, double width) {
  constexpr double kSwatch = 26, kSpace = 8, kBetween = 24;
  double legend_width = 0;
  for (const auto& entry : legend) legend_width += kBetween + kSwatch + kSpace + canvas.text_width(entry.name);
  double y = kMargin + kTitle.size / 2;
  canvas.text(kMargin, y, title, 0, width - 2 * kMargin, kTitle);
  const bool below = !title.empty() && canvas.text_width(title, kTitle) + legend_width > width - 2 * kMargin;
  if (below) y += kLine;
  double x = width - kMargin - legend_width;
  for (const auto& entry : legend) {
    x += kBetween;
    canvas.ink(entry.color);
    canvas.stroke_line(x, y, x + kSwatch, y, 3);
    canvas.text(x + kSwatch + kSpace, y, entry.name, 0, width);
    x += kSwatch + kSpace + canvas.text_width(entry.name);
  }
  return title.empty() && legend.empty() ? kMargin : std::ceil(y + kTitle.size / 2 + 14);
}

/// What the labels of a column (row) of panels need before and after it.
struct Room {
  double before = 0, after = 0;
  void grow(double more_before, double more_after) {
    before = std::max(before, std::ceil(more_before));
    after = std::max(after, std::ceil(more_after));
  }
};

/// The width (height) of everything that is not a panel.
double total(const std::vector<Room>& rooms) {
  double sum = 2 * kMargin - kGap;
  for (const auto& room : rooms) sum += room.before + room.after + kGap;
  return sum;
}

void write_png(const Canvas& canvas, const std::filesystem::path& path) {
  const auto part = path.string() + ".part";
  std::error_code error;
  auto status = cairo_status(canvas.context());
  if (status == CAIRO_STATUS_SUCCESS) status = cairo_surface_write_to_png(canvas.surface(), part.c_str());
  if (status == CAIRO_STATUS_SUCCESS) std::filesystem::rename(part, path, error);
  if (status == CAIRO_STATUS_SUCCESS && !error) return;
  const auto why = error ? error.message() : cairo_status_to_string(status);
  std::filesystem::remove(part, error);
  throw std::runtime_error("Figure::save_png: cannot write '" + path.string() + "': " + why);
}

}  // namespace

void Figure::save_png(const std::filesystem::path& path) const {
  require(columns > 0 && columns <= 100, "columns is " + std::to_string(columns) + ", expected 1 to 100");
  require(width > 0 && width <= 20'000, "width is " + std::to_string(width) + ", expected 1 to 20000");
  require(aspect > 0 && aspect <= 10, "aspect is " + std::to_string(aspect) + ", expected 0 to 10");
  auto fitted = panels;
  for (auto& panel : fitted) {
    check(panel);
    fit_axes(panel);
  }
  const auto across = static_cast<std::size_t>(columns);
  const Canvas ruler(1, 1);  // only measures
  std::vector<Room> x(across), y((panels.size() + across - 1) / across);
  for (std::size_t i = 0; i < fitted.size(); ++i) {
    const auto& panel = fitted[i];
    double ticks = 0;
    for (const auto& tick : ticks_of(panel.y, y_tick_count(aspect * width / columns)))
      ticks = std::max(ticks, ruler.text_width(tick.label) + 8);
    x[i % across].grow(ticks + (panel.y.label.empty() ? 0 : kLine),
                       panel.reference ? ruler.text_width(panel.reference->label) + 8 : 0);
    y[i / across].grow(panel.title.empty() ? 0 : kLine,
                       (panel.x.ticks ? kLine : 0) + (panel.x.label.empty() ? 0 : kLine));
  }
  const double panel_width = std::max(20.0, std::floor((width - total(x)) / columns));
  const double panel_height = std::max(20.0, std::floor(aspect * panel_width));
  const auto legend = legend_of(panels);
  const double header = draw_header(ruler, title, legend, width);
  const double height = header - kMargin + total(y) + static_cast<double>(y.size()) * panel_height;
  const Canvas canvas(width, static_cast<int>(std::min(1e6, height)));  // cairo refuses long before
  draw_header(canvas, title, legend, width);
  double left = kMargin, top = header;
  for (std::size_t i = 0; i < fitted.size(); ++i) {
    const auto &column = x[i % across], &row = y[i / across];
    Frame(canvas, fitted[i], left + column.before, top + row.before, panel_width, panel_height).draw(column.before);
    left += column.before + panel_width + column.after + kGap;
    if ((i + 1) % across != 0) continue;
    left = kMargin;
    top += row.before + panel_height + row.after + kGap;
  }
  write_png(canvas, path);
}

Eigen::MatrixXd cell_centres(const Rectangle& range, Index rows, Index columns) {
  require(rows >= 0 && columns >= 0, "cell_centres got a negative number of rows or columns");
  MatrixXd points(rows * columns, 2);
  const auto centre = [](Interval r, Index i, Index n) {
    return at_part(r, (static_cast<double>(i) + 0.5) / static_cast<double>(n));
  };
  for (Index j = 0; j < columns; ++j)
    for (Index i = 0; i < rows; ++i) points.row(j * rows + i) << centre(range.x, j, columns), centre(range.y, i, rows);
  return points;
}

Rectangle square_around(const MatrixXd& points) {
  Eigen::VectorXd reach = points.cwiseAbs().rowwise().maxCoeff();
  const auto nth = reach.data() + reach.size() * 998 / 1000;
  std::nth_element(reach.data(), nth, reach.data() + reach.size());
  const double side = 1.1 * *nth;
  return {{-side, side}, {-side, side}};
}

Eigen::MatrixXd histogram(const MatrixXd& points, const Rectangle& range, Index bins) {
  check_points(points);
  check_range(range);
  require(bins > 0, "bins is " + std::to_string(bins) + ", expected a positive number");
  MatrixXd counts = MatrixXd::Zero(bins, bins);
  const double n = static_cast<double>(bins);
  double finite = 0;
  for (Index k = 0; k < points.rows(); ++k) {
    if (!usable(points(k, 0)) || !usable(points(k, 1))) continue;
    ++finite;
    const double j = n * part(range.x, points(k, 0)), i = n * part(range.y, points(k, 1));
    if (i >= 0 && i < n && j >= 0 && j < n) ++counts(static_cast<Index>(i), static_cast<Index>(j));
  }
  const double area = (range.x.high - range.x.low) / n * ((range.y.high - range.y.low) / n);
  return finite > 0 ? MatrixXd(counts / (finite * area)) : counts;
}

double brightest_value(const MatrixXd& values) {
  auto kept = usable_values(values.reshaped());
  std::erase_if(kept, [](double v) { return !(v > 0); });
  return kept.empty() ? 0 : quantile(kept, 0.99);
}

namespace {

constexpr Index kFewPoints = 3000;

/// Bins for n points: fine enough to see the shape, coarse enough to have some points in each.
Index bins_for(Index n, double most) {
  return static_cast<Index>(std::clamp(0.6 * std::sqrt(static_cast<double>(n)), 20.0, most));
}

/// The outline of the histogram of finite values, as a density.
Curve outline(std::string name, const std::vector<double>& values, Interval range, Color color, bool filled) {
  Curve curve{.name = std::move(name), .color = color, .filled = filled};
  const auto n = static_cast<double>(values.size());
  const auto bins = static_cast<double>(bins_for(static_cast<Index>(values.size()), 50));
  std::vector<double> counts(static_cast<std::size_t>(bins));
  for (const double v : values)
    if (const double i = bins * part(range, v); i >= 0 && i < bins) ++counts[static_cast<std::size_t>(i)];
  for (std::size_t i = 0; i < counts.size() && n > 0; ++i)
    for (const double edge : {0.0, 1.0}) {
      curve.x.push_back(at_part(range, (static_cast<double>(i) + edge) / bins));
      curve.y.push_back(counts[i] * bins / (n * (range.high - range.low)));
    }
  return curve;
}

/// A panel without ticks that shows points over `range`: as dots when they are few, else as a histogram.
Panel points_panel(const MatrixXd& points, const Rectangle& range, double most_bins, double top, Color color) {
  Panel panel{.x = {.range = range.x, .ticks = false}, .y = {.range = range.y, .ticks = false}};
  if (points.rows() < kFewPoints)
    panel.dots = Dots{points, color};
  else
    panel.map = HeatMap{histogram(points, range, bins_for(points.rows(), most_bins)), range, top};
  return panel;
}

/// The darkest value of the panels that are compared with this one; 0, each its own, if this shows dots.
double top_of(const Panel& panel) { return panel.map ? brightest_value(panel.map->values) : 0; }

/// The central 99 % of the values and a twelfth of that on either side.
Interval central_range(std::vector<double> values) {
  if (values.empty()) return {};
  const double low = quantile(values, 0.005), high = quantile(values, 0.995), room = (high - low) / 12;
  return {low - room, high + room};
}

}  // namespace

void draw_density_comparison(const std::filesystem::path& path, const std::string& title,
                             const std::vector<DensityRow>& rows, bool sideways) {
  static constexpr std::array<const char*, 3> kKinds{"data", "model", "samples"};
  std::vector<std::array<Panel, 3>> all;
  for (const auto& row : rows) {
    check_range(row.range);
    auto& [data, model, samples] = all.emplace_back();
    data = points_panel(row.data, row.range, 110, 0, kBlue);
    const double top = top_of(data);
    model = {.x = data.x, .y = data.y, .map = HeatMap{row.density, row.range, top}};
    samples = points_panel(row.samples, row.range, 110, top, kBlue);
    (sideways ? data.title : data.y.label) = row.name;
  }
  for (std::size_t kind = 0; kind < 3 && !all.empty(); ++kind)
    (sideways ? all[0][kind].y.label : all[0][kind].title) = kKinds[kind];
  Figure figure{.title = title, .columns = static_cast<int>(sideways && !all.empty() ? all.size() : 3)};
  for (std::size_t i = 0; i < 3 * all.size(); ++i)
    figure.panels.push_back(sideways ? all[i % all.size()][i / all.size()] : all[i / 3][i % 3]);
  figure.save_png(path);
}

void draw_training_curve(const std::filesystem::path& path, const std::string& title, Curve training, Curve validation,
                         const std::optional<Reference>& reference, const std::string& x_label,
                         const std::string& y_label) {
  training.name = "training", training.color = kBlue;
  validation.name = "validation", validation.color = kOrange;
  Panel panel{.x = {.label = x_label}, .y = {.label = y_label}, .reference = reference};
  auto losses = usable_values(training.y);
  const auto others = usable_values(validation.y);
  losses.insert(losses.end(), others.begin(), others.end());
  if (reference && usable(reference->value)) losses.push_back(reference->value);
  if (!losses.empty()) {
    const auto [low, high] = std::minmax_element(losses.begin(), losses.end());
    const double least = *low, most = *high, usual = quantile(losses, 0.9);
    const double end = std::min(most, usual + 1.5 * (usual - least));
    if (end > least) panel.y.range = {least - 0.06 * (end - least), end + 0.04 * (end - least)};
  }
  for (auto* curve : {&training, &validation})
    if (!curve->x.empty()) panel.curves.push_back(std::move(*curve));
  Figure{.title = title, .panels = {std::move(panel)}, .width = 900, .aspect = 0.5}.save_png(path);
}

void draw_corner(const std::filesystem::path& path, const std::string& title, const std::vector<std::string>& names,
                 const MatrixXd& data, const MatrixXd& samples) {
  const std::size_t count = names.size();
  require(count >= 1 && count <= 6, "draw_corner got " + std::to_string(count) + " names, expected 1 to 6");
  std::array<std::vector<std::vector<double>>, 2> finite;  // the usable values of each column of data and samples
  for (std::size_t k = 0; k < 2; ++k) {
    const auto& table = k == 0 ? data : samples;
    require(table.rows() == 0 || table.cols() == static_cast<Index>(count),
            "draw_corner got " + std::to_string(table.cols()) + " columns and " + std::to_string(count) + " names");
    for (Index j = 0; j < static_cast<Index>(count); ++j)
      finite[k].push_back(table.rows() == 0 ? std::vector<double>{} : usable_values(table.col(j)));
  }
  std::vector<Axis> axes;
  for (std::size_t j = 0; j < count; ++j) {
    const auto& shown = finite[finite[0][j].empty() ? 1 : 0][j];
    fit(axes.emplace_back(Axis{.label = names[j], .range = central_range(shown)}), shown);
  }
  const auto pair_panel = [&](const MatrixXd& table, std::size_t i, std::size_t j, double top, Color color) {
    MatrixXd points(table.rows(), 2);
    if (table.rows() > 0) points << table.col(static_cast<Index>(j)), table.col(static_cast<Index>(i));
    return points_panel(points, {axes[j].range, axes[i].range}, 60, top, color);
  };
  const auto diagonal_panel = [&](std::size_t i) {
    Panel panel{.x = {.range = axes[i].range},
                .curves = {outline("data (below the diagonal)", finite[0][i], axes[i].range, kBlue, true),
                           outline("samples (above)", finite[1][i], axes[i].range, kOrange, false)}};
    double highest = 0;
    for (const auto& curve : panel.curves)
      for (const double v : curve.y) highest = std::max(highest, v);
    panel.y.range = {0, highest > 0 ? 1.08 * highest : 1};
    return panel;
  };
  Figure figure{.title = title, .columns = static_cast<int>(count)};
  figure.width = std::min(1200, 100 + 280 * figure.columns);
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t j = 0; j < count; ++j) {
      Panel panel = i == j ? diagonal_panel(i) : pair_panel(data, i, j, 0, kBlue);
      if (i < j) panel = pair_panel(samples, i, j, top_of(panel), kOrange);
      panel.x.ticks = i + 1 == count;
      panel.y.ticks = j == 0 && i > 0;  // the first row's would stand at the heights of a histogram
      if (i + 1 == count) panel.x.label = names[j];
      if (j == 0) panel.y.label = names[i];
      figure.panels.push_back(std::move(panel));
    }
  figure.save_png(path);
}

}  // namespace examples
