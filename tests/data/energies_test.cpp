// SPDX-License-Identifier: MIT

/// \file
/// The energies against their formulas, their gradients against finite differences, and every log Z by quadrature.

#include <numbers>
#include <rhei/core/random.hpp>
#include <rhei/data/energies.hpp>
#include <rhei/train/log_density.hpp>

#include "support/catch.hpp"
#include "support/finite_difference.hpp"

using namespace rhei;
using namespace rhei::testing;
using data::Energy;

static_assert(LogDensity<Energy, float> && LogDensity<Energy, double>);

namespace {

double square(double v) { return v * v; }

/// The formulas of the paper, as they are printed.
double formula(std::string_view name, double x, double y) {
  const double w1 = std::sin(2 * std::numbers::pi * x / 4), w2 = 3 * std::exp(-0.5 * square((x - 1) / 0.6)),
               w3 = 3 / (1 + std::exp(-(x - 1) / 0.3));
  if (name == "u1")
    return 0.5 * square((std::sqrt(x * x + y * y) - 2) / 0.4) -
           std::log(std::exp(-0.5 * square((x - 2) / 0.6)) + std::exp(-0.5 * square((x + 2) / 0.6)));
  if (name == "u2") return 0.5 * square((y - w1) / 0.4);
  if (name == "u3")
    return -std::log(std::exp(-0.5 * square((y - w1) / 0.35)) + std::exp(-0.5 * square((y - w1 + w2) / 0.35)));
  return -std::log(std::exp(-0.5 * square((y - w1) / 0.4)) + std::exp(-0.5 * square((y - w1 + w3) / 0.35)));
}

struct Evaluated {
  Vector<double> log_p;
  Matrix<double> gradient;
};
template <Real S>
Evaluated evaluate(const Energy& energy, const Matrix<double>& x) {
  const Matrix<S> own = x.cast<S>();
  Vector<S> log_p(x.rows());
  Matrix<S> gradient(x.rows(), 2);
  energy.operator()<S>(own, log_p, gradient);
  return {log_p.template cast<double>(), gradient.template cast<double>()};
}

/// Nodes and weights of composite Gauss-Legendre rules of 8 nodes, `panels` between each two neighbours of `edges`.
struct Rule {
  std::vector<double> nodes, weights;
};
Rule composite_rule(const std::vector<double>& edges, int panels) {
  constexpr int n = 8;
  Rule unit, rule;
  for (int k = 0; k < n; ++k) {  // Newton's method on the Legendre polynomial
    double t = std::cos(std::numbers::pi * (k + 0.75) / (n + 0.5)), slope = 0;
    for (int step = 0; step < 50; ++step) {
      double p = 1, before = 0;
      for (int j = 1; j <= n; ++j) before = std::exchange(p, ((2 * j - 1) * t * p - (j - 1) * before) / j);
      slope = n * (t * p - before) / (t * t - 1);
      t -= p / slope;
    }
    unit.nodes.push_back(t);
    unit.weights.push_back(2 / ((1 - t * t) * slope * slope));
  }
  for (std::size_t e = 0; e + 1 < edges.size(); ++e)
    for (int panel = 0; panel < panels; ++panel) {
      const double half = (edges[e + 1] - edges[e]) / panels / 2, centre = edges[e] + half * (2 * panel + 1);
      for (int k = 0; k < n; ++k) {
        rule.nodes.push_back(centre + half * unit.nodes[static_cast<std::size_t>(k)]);
        rule.weights.push_back(half * unit.weights[static_cast<std::size_t>(k)]);
      }
    }
  return rule;
}

/// log of the integral of exp(log_p) over the square of the rule.
double log_integral(const Rule& rule, auto&& log_p) {
  const auto n = static_cast<Index>(rule.nodes.size());
  Matrix<double> row(n, 2);
  double sum = 0;
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < n; ++j)
      row.row(j) << rule.nodes[static_cast<std::size_t>(i)], rule.nodes[static_cast<std::size_t>(j)];
    const Vector<double> density = log_p(row).array().exp();
    for (Index j = 0; j < n; ++j)
      sum += rule.weights[static_cast<std::size_t>(i)] * rule.weights[static_cast<std::size_t>(j)] * density[j];
  }
  return std::log(sum);
}

}  // namespace

TEST_CASE("The energies are those of the paper", "[energies]") {
  Rng rng(1);
  Matrix<double> x(200, 2);
  rng.fill_normal(x);
  x *= 2;  // hardly ever beyond 6, where the penalty begins
  for (const Energy& energy : data::energies()) {
    CAPTURE(energy.name);
    const Vector<double> log_p = evaluate<double>(energy, x).log_p;
    for (Index i = 0; i < x.rows(); ++i) {
      const double penalty =
          square(std::max(std::abs(x(i, 0)) - 6, 0.0)) + square(std::max(std::abs(x(i, 1)) - 6, 0.0));
      CHECK(-log_p[i] == Approx(formula(energy.name, x(i, 0), x(i, 1)) + penalty).epsilon(1e-12));
    }
  }
}

TEST_CASE("The penalty is the square of the way beyond 6", "[energies]") {
  const Matrix<double> x{{7, 0}, {-7.5, 0}, {0, 8}, {-7, -6.5}, {6, 6}};
  const Vector<double> expected{{1, 2.25, 4, 1.25, 0}};
  for (const Energy& energy : data::energies()) {
    const Vector<double> log_p = evaluate<double>(energy, x).log_p;
    for (Index i = 0; i < x.rows(); ++i)
      CHECK(-energy.at(x(i, 0), x(i, 1)).value - log_p[i] == Approx(expected[i]).epsilon(1e-12).margin(1e-12));
  }
}

TEST_CASE("The gradients of the energies are their derivatives", "[energies]") {
  Rng rng(2);
  Matrix<double> x(300, 2);
  rng.fill_normal(x);
  x *= 4;
  for (const Energy& energy : data::energies()) {
    CAPTURE(energy.name);
    const Evaluated seen = evaluate<double>(energy, x);
    for (Index d = 0; d < 2; ++d) {
      const Vector<double> numeric = central_difference([&](double t) {
        Matrix<double> moved = x;
        moved.col(d).array() += t;
        return evaluate<double>(energy, moved).log_p;
      });
      CHECK(relative_error(seen.gradient.col(d), numeric) < 1e-8);
    }
    const Evaluated in_float = evaluate<float>(energy, x.cast<float>().cast<double>());
    CHECK(relative_error(in_float.log_p, evaluate<double>(energy, x.cast<float>().cast<double>()).log_p) < 1e-6);
    CHECK(relative_error(in_float.gradient, evaluate<double>(energy, x.cast<float>().cast<double>()).gradient) < 1e-6);
  }
}

TEST_CASE("log Z of the energies, by quadrature", "[energies]") {
  const Rule box = composite_rule({-4, 0, 4}, 16);             // edges where a density is not smooth
  const Rule plane = composite_rule({-13, -6, 0, 6, 13}, 16);  // the penalty is 49 at the ends
  for (const Energy& energy : data::energies()) {
    CAPTURE(energy.name);
    const double in_box = log_integral(box, [&](const auto& x) { return energy.log_density_in_box(x); });
    const double on_plane = log_integral(plane, [&](const auto& x) { return evaluate<double>(energy, x).log_p; });
    CAPTURE(on_plane - energy.log_z, in_box - energy.log_z_box);
    CHECK(std::abs(in_box - energy.log_z_box) < 1e-9);
    CHECK(std::abs(on_plane - energy.log_z) < 1e-9);
  }
}

TEST_CASE("Energies at extremes", "[energies]") {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  const Matrix<double> x{{0, 0}, {nan, 0}, {0, nan}, {1e100, -1e100}, {4.5, 0}};
  for (const Energy& energy : data::energies()) {
    CAPTURE(energy.name);
    const Evaluated seen = evaluate<double>(energy, x);
    CHECK(std::isfinite(seen.log_p[0]));
    CHECK(seen.gradient.row(0).allFinite());
    CHECK(std::isnan(seen.log_p[1]));
    CHECK(std::isnan(seen.log_p[2]));
    CHECK(seen.log_p[3] < -1e100);
    const Vector<double> boxed = energy.log_density_in_box(x);
    CHECK(boxed[0] == seen.log_p[0]);
    CHECK(std::isnan(boxed[1]));
    CHECK(boxed[4] == -infinity);
  }
}

TEST_CASE("Energies by name", "[energies]") {
  CHECK(data::energy("u3").name == "u3");
  CHECK_THROWS_AS(data::energy("u5"), std::invalid_argument);
  CHECK_THROWS_AS(evaluate<double>(data::energy("u1"), Matrix<double>(2, 3)), std::invalid_argument);
}
