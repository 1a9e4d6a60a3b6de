// SPDX-License-Identifier: MIT

#include "support/catch.hpp"

#include <functional>
#include <map>
#include <rhei/data/toys.hpp>
#include <string>
#include <vector>

#include "support/chi_square.hpp"
#include "support/errors.hpp"

using namespace rhei;
using namespace rhei::testing;
using rhei::data::Toy;
using rhei::data::toy;
using rhei::data::toys;

namespace {

constexpr double pi = 3.14159265358979323846;
constexpr Index draws = 100'000;

struct Case {
  std::string name;
  testing::CellGrid grid;  // cells of about one standard deviation, to beyond five of them
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"two_moons", {5, 50}},   {"eight_gaussians", {5.6, 32}}, {"checkerboard", {5, 20}},
      {"circles", {4.8, 40}},   {"rings", {3.6, 90}},           {"pinwheel", {6.4, 64}},
      {"two_spirals", {4, 50}}, {"swiss_roll", {4.4, 44}},      {"gaussian_grid", {7.6, 152}},
  };
  return all;
}

// The densities once more, by brute force from FFJORD's definitions: sums over many nodes, no pruning, no closed forms.

double gaussian(double dx, double dy, double sigma) {
  return std::exp(-(dx * dx + dy * dy) / (2 * sigma * sigma)) / (2 * pi * sigma * sigma);
}

// mean of f at the midpoints of `count` intervals of [0, 1]
double mean_over(int count, auto f) {
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += f((i + 0.5) / count);
  return sum / count;
}

double brute_two_moons(double x, double y) {
  return mean_over(10'000, [=](double u) {
    const double c = std::cos(pi * u), s = std::sin(pi * u);
    return 0.5 * gaussian(x - (2 * c - 1), y - (2 * s - 0.2), 0.2) +
           0.5 * gaussian(x - (2 * (1 - c) - 1), y - (2 * (1 - s - 0.5) - 0.2), 0.2);
  });
}

double brute_eight_gaussians(double x, double y) {
  const double r = 1 / std::sqrt(2.);
  const double centres[8][2] = {{1, 0}, {-1, 0}, {0, 1}, {0, -1}, {r, r}, {r, -r}, {-r, r}, {-r, -r}};
  double p = 0;
  for (const auto& c : centres) p += gaussian(x - 4 * c[0] / 1.414, y - 4 * c[1] / 1.414, 0.5 / 1.414) / 8;
  return p;
}

double brute_checkerboard(double x, double y) {
  const char* board[4] = {".#.#", "#.#.", ".#.#", "#.#."};  // from the top, y = 4, down; from the left, x = -4
  if (std::abs(x) >= 4 || std::abs(y) >= 4) return 0;
  return board[static_cast<int>((4 - y) / 2)][static_cast<int>((x + 4) / 2)] == '#' ? 1. / 32 : 0;
}

double brute_circles(double x, double y, const std::vector<double>& radii, double sigma) {
  return mean_over(2'000, [&](double u) {
    double p = 0;
    for (const double r : radii)
      p += gaussian(x - r * std::cos(2 * pi * u), y - r * std::sin(2 * pi * u), sigma) /
           static_cast<double>(radii.size());
    return p;
  });
}

double brute_two_spirals(double x, double y) {
  const auto interval = [](double d) {  // uniform on [0, 0.5 / 3] plus N(0, 0.1^2)
    const double w = 0.5 / 3, s = 0.1 * std::sqrt(2.);
    return (d > w / 2 ? std::erfc((d - w) / s) - std::erfc(d / s) : std::erfc(-d / s) - std::erfc((w - d) / s)) /
           (2 * w);
  };
  return mean_over(8'000, [&](double v) {  // u = v^2 makes the integrand smooth
    const double n = v * 540 * (2 * pi) / 360, cx = -std::cos(n) * n / 3, cy = std::sin(n) * n / 3;
    return v * (interval(x - cx) * interval(y - cy) + interval(-x - cx) * interval(-y - cy));
  });
}

double brute_swiss_roll(double x, double y) {
  return mean_over(10'000, [=](double u) {
    const double t = 1.5 * pi * (1 + 2 * u);
    return gaussian(x - t * std::cos(t) / 5, y - t * std::sin(t) / 5, 0.2);
  });
}

double brute_gaussian_grid(double x, double y) {
  double p = 0;
  for (int i = -7; i <= 7; ++i)
    for (int j = -7; j <= 7; ++j) p += gaussian(x - i, y - j, 0.1) / 225;
  return p;
}

// All pre-images from a fine grid of the radial feature and bisection.
double brute_pinwheel(double x, double y) {
  double p = 0;
  for (int k = 0; k < 5; ++k) {
    const auto angle = [=](double f) { return 2 * pi * k / 5 + 0.25 * std::exp(f); };
    // (x, y) = 2 f . [[cos, -sin], [sin, cos]], so f = (x, y) / 2 . the transpose
    const auto along = [=](double f) { return (x * std::cos(angle(f)) - y * std::sin(angle(f))) / 2 - f; };
    const int cells = 4'000;
    const double from = -2, width = 6.5 / cells;
    double left = along(from);
    for (int i = 0; i < cells; ++i) {
      const double right = along(from + width * (i + 1));
      if ((left > 0) != (right > 0)) {
        double low = from + width * i, high = low + width;
        for (int halving = 0; halving < 60; ++halving) {
          const double middle = (low + high) / 2;
          ((along(middle) > 0) == (left > 0) ? low : high) = middle;
        }
        const double f = low, g = (x * std::sin(angle(f)) + y * std::cos(angle(f))) / 2;
        const double dx = 1e-6;  // the Jacobian from the map itself
        const auto map = [=](double a, double b) {
          return std::pair(2 * (a * std::cos(angle(a)) + b * std::sin(angle(a))),
                           2 * (b * std::cos(angle(a)) - a * std::sin(angle(a))));
        };
        const auto [xa, ya] = map(f + dx, g);
        const auto [xb, yb] = map(f - dx, g);
        const auto [xc, yc] = map(f, g + dx);
        const auto [xd, yd] = map(f, g - dx);
        const double det = ((xa - xb) * (yc - yd) - (xc - xd) * (ya - yb)) / (4 * dx * dx);
        p += std::exp(-0.5 * (f - 1) * (f - 1) / 0.09 - 0.5 * g * g / 0.01) / (2 * pi * 0.03) / 5 / std::abs(det);
      }
      left = right;
    }
  }
  return p;
}

const std::map<std::string, std::function<double(double, double)>>& brute_force() {
  static const std::map<std::string, std::function<double(double, double)>> all = {
      {"two_moons", brute_two_moons},
      {"eight_gaussians", brute_eight_gaussians},
      {"checkerboard", brute_checkerboard},
      {"circles",
       [](double x, double y) {
         return brute_circles(x, y, {3, 1.5}, 0.24);
       }},
      {"rings",
       [](double x, double y) {
         return brute_circles(x, y, {3, 2.25, 1.5, 0.75}, 0.08);
       }},
      {"pinwheel", brute_pinwheel},
      {"two_spirals", brute_two_spirals},
      {"swiss_roll", brute_swiss_roll},
      {"gaussian_grid", brute_gaussian_grid},
  };
  return all;
}

}  // namespace

TEST_CASE("toy samples follow their density, which integrates to one", "[data][toys]") {
  REQUIRE(cases().size() == toys().size());
  for (const auto& [name, grid] : cases()) {
    CAPTURE(name);
    const Toy& t = toy(name);
    Rng rng(11);
    const Matrix<double> x = t.sample<double>(draws, rng);
    const Vector<double> p = grid.integrate([&](const Matrix<double>& at) { return t.log_density(at); });
    CHECK(std::abs(p.sum() - 1) < 1e-4);

    const auto [statistic, threshold, degrees] = testing::chi_square(p, grid.count(x), draws);
    CAPTURE(degrees);
    CHECK(degrees >= 7);
    CHECK(statistic < threshold);

    const Vector<double> log_p = t.log_density(x);
    const double mean = -log_p.mean();
    const double deviation = std::sqrt((log_p.array() + mean).square().mean() / static_cast<double>(draws));
    CHECK(std::abs(mean - t.entropy) <= 5 * deviation + 1e-9);
  }
}

TEST_CASE("toy log-densities equal brute-force sums", "[data][toys]") {
  for (const Toy& t : toys()) {
    CAPTURE(t.name);
    const auto& brute = brute_force().at(std::string(t.name));
    Rng rng(5);
    Matrix<double> x(160, 2);
    x.topRows(60) = t.sample<double>(60, rng);
    rng.fill_uniform(x.bottomRows(100));
    x.bottomRows(100) = (12 * x.bottomRows(100).array() - 6).matrix().eval();
    const Vector<double> log_p = t.log_density(x);
    Index compared = 0;
    for (Index i = 0; i < x.rows(); ++i) {
      CAPTURE(x(i, 0), x(i, 1));
      const double expected = std::log(brute(x(i, 0), x(i, 1)));
      if (expected > -30) {
        ++compared;
        CHECK(std::abs(log_p[i] - expected) < 1e-4);
      } else {
        CHECK(log_p[i] < -30 + 1e-4);
      }
    }
    CHECK(compared >= 70);
  }
}

TEST_CASE("toy log-densities remain finite far out", "[data][toys]") {
  for (const Toy& t : toys()) {
    CAPTURE(t.name);
    for (int direction = 0; direction < 16; ++direction) {
      const double angle = 0.1 + 2 * pi * direction / 16;
      double previous = 0;
      for (const double r : {9., 15.9, 16.1, 40., 1e3, 1e6, 1e12, 1e100, 1e200}) {
        Matrix<double> x(1, 2);
        x << r * std::cos(angle), r * std::sin(angle);
        const double log_p = t.log_density(x)[0];
        CAPTURE(r, angle);
        if (t.name == "checkerboard" || r > 1e100) {
          CHECK(log_p == -std::numeric_limits<double>::infinity());
        } else {
          CHECK(std::isfinite(log_p));
          CHECK(log_p < previous);
          previous = log_p;
        }
      }
    }
    Matrix<double> origin = Matrix<double>::Zero(1, 2);
    CHECK_FALSE(std::isnan(t.log_density(origin)[0]));
  }
}

TEST_CASE("the checkerboard's squares are closed and hold every float sample", "[data][toys]") {
  const Toy& t = toy("checkerboard");
  Rng rng(2);
  const Matrix<float> x = data::checkerboard<float>(draws, rng);
  CHECK((t.log_density(x.cast<double>()).array() == -std::log(32.)).all());
  Matrix<double> edges(6, 2);
  edges << 2, 1, 4, 4, -4, -4, 4, 1, -4, -1, 4.0001, 4;
  const Vector<double> log_p = t.log_density(edges);
  CHECK(std::isfinite(log_p[0]));
  CHECK(std::isfinite(log_p[1]));
  CHECK(std::isfinite(log_p[2]));
  CHECK(std::isinf(log_p[3]));
  CHECK(std::isinf(log_p[4]));
  CHECK(std::isinf(log_p[5]));
}

TEST_CASE("toy samplers: shapes, scalars, seeds", "[data][toys]") {
  using Sampler = Matrix<double> (*)(Index, Rng&);
  const Sampler functions[] = {data::two_moons<double>,   data::eight_gaussians<double>, data::checkerboard<double>,
                               data::circles<double>,     data::rings<double>,           data::pinwheel<double>,
                               data::two_spirals<double>, data::swiss_roll<double>,      data::gaussian_grid<double>};
  REQUIRE(std::size(functions) == toys().size());
  for (std::size_t k = 0; k < toys().size(); ++k) {
    const Toy& t = toys()[k];
    CAPTURE(t.name);
    CHECK_FALSE(t.entropy_source.empty());
    Rng first(3), second(3), third(3);
    const Matrix<double> x = functions[k](100, first);
    CHECK(x.rows() == 100);
    CHECK(x.cols() == 2);
    CHECK(x == t.sample<double>(100, second));
    CHECK(x.cast<float>() == t.sample<float>(100, third));
    CHECK(x != functions[k](100, first));
    CHECK(first != second);

    CHECK(functions[k](0, first).rows() == 0);
    CHECK(functions[k](0, first).cols() == 2);
    CHECK(t.log_density(Matrix<double>(0, 2)).size() == 0);
    const std::string message = error_text([&] { functions[k](-1, first); });
    CHECK(contains(message, std::string(t.name)));
    CHECK(contains(message, "-1"));
  }
}

TEST_CASE("toy log-densities: bad input", "[data][toys]") {
  for (const Toy& t : toys()) {
    CAPTURE(t.name);
    CHECK(contains(error_text([&] { (void)t.log_density(Matrix<double>::Zero(4, 3)); }), "4 x 3"));
    const double nan = std::numeric_limits<double>::quiet_NaN();
    Matrix<double> x(4, 2);
    x << 1, 0.5, nan, 0, 0, nan, 1, 0.5;
    const Vector<double> log_p = t.log_density(x);
    CHECK(std::isnan(log_p[1]));
    CHECK(std::isnan(log_p[2]));
    CHECK(log_p[0] == log_p[3]);
    CHECK_FALSE(std::isnan(log_p[0]));
  }
  const std::string message = error_text([] { (void)toy("moons"); });
  CHECK(contains(message, "'moons'"));
  for (const Toy& t : toys()) CHECK(contains(message, std::string(t.name)));
}

TEST_CASE("the scaled Bessel function equals its integral", "[data][toys]") {
  // (1 / pi) integral of exp(x (cos t - 1)): the midpoint rule converges exponentially
  for (const double x : {0., 1e-3, 0.5, 1., 7., 19.999, 20., 20.001, 60., 1e3, 1e5}) {
    CAPTURE(x);
    const double expected = mean_over(4'000, [=](double u) {
      const double s = std::sin(pi * u / 2);
      return std::exp(-2 * x * s * s);
    });
    CHECK(std::abs(data::detail::scaled_bessel_i0(x) / expected - 1) < 1e-13);
  }
}

TEST_CASE("the chi-square helper", "[support]") {
  SECTION("its threshold is exceeded with probability 1e-6") {
    for (const Index degrees : {10, 20, 100, 500}) {
      const double half = testing::chi_square_threshold(degrees) / 2;  // survival of an even number, in closed form
      double term = std::exp(-half), survival = 0;
      for (Index j = 0; j < degrees / 2; ++j) {
        survival += term;
        term *= half / static_cast<double>(j + 1);
      }
      CAPTURE(degrees, survival);
      CHECK(survival > 0.5e-6);
      CHECK(survival < 2e-6);
    }
  }
  SECTION("by hand") {
    Vector<double> p(4), observed(4);
    p << 0.5, 0.3, 0.05, 0.04;  // and 0.11 elsewhere: of 100 draws 50, 30, and a rest of 20
    observed << 55, 24, 9, 2;
    const auto result = testing::chi_square(p, observed, 100);
    CHECK(result.degrees == 2);
    CHECK(std::abs(result.statistic - (25. / 50 + 36. / 30 + 1. / 20)) < 1e-9);
  }
  SECTION("samples where there should be none are noticed") {
    Vector<double> p(3), observed(3);
    p << 0.5, 0.485, 0.015;
    observed << 500, 465, 15;  // and 20 outside
    const auto result = testing::chi_square(p, observed, 1'000);
    CHECK(result.degrees == 2);
    CHECK(std::abs(result.statistic - (400. / 485 + 400. / 15)) < 1e-9);
  }
  SECTION("a density that is slightly wrong is noticed") {
    const testing::CellGrid grid{5, 50};
    Rng rng(1);
    Matrix<double> x = data::two_moons<double>(draws, rng);
    x.col(0).array() += 0.02;  // a tenth of a standard deviation
    const auto moons = [](const Matrix<double>& at) { return toy("two_moons").log_density(at); };
    const auto result = testing::chi_square(grid.integrate(moons), grid.count(x), draws);
    CHECK(result.statistic > result.threshold);
  }
}
