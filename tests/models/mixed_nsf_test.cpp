// SPDX-License-Identifier: MIT

/// \file
/// A flow for mixed tables: it learns what hangs together across domains, has no seam, integrates to one, and never
/// leaves a domain.

#include <cmath>
#include <numbers>
#include <rhei/io/flow_file.hpp>
#include <rhei/models/mixed_nsf.hpp>
#include <rhei/train/fit.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/finite_difference.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

constexpr double kappa = 2, centre = std::numbers::pi - 0.3, noise = 0.3, amount_unit = 2000;

double line_at(double angle) { return std::sin(angle) + std::cos(2 * angle); }
double bessel_i(double order) { return std::cyl_bessel_i(order, kappa); }

/// An hour of the day, von Mises around shortly before midnight; a line that follows it; an exponential amount; a share
/// from Beta(2, 3).
const std::vector<Domain>& domains() {
  static const std::vector<Domain> list{Domain::circle(0, 24), Domain::line(), Domain::half_line(),
                                        Domain::interval(0, 1)};
  return list;
}
constexpr double hours_per_radian = 24 / (2 * std::numbers::pi);

Matrix<double> draw_table(Index n, Rng& rng) {
  Matrix<double> x(n, 4);
  const auto exponential = [&] { return -std::log(rng.uniform<double>()); };
  for (Index i = 0; i < n; ++i) {
    double angle;
    do angle = std::numbers::pi * (2 * rng.uniform<double>() - 1);
    while (std::log(rng.uniform<double>()) > kappa * (std::cos(angle - centre) - 1));
    x(i, 0) = std::min((angle + std::numbers::pi) * hours_per_radian, std::nextafter(24.0, 0.0));
    x(i, 1) = line_at(angle) + noise * rng.normal<double>();
    x(i, 2) = amount_unit * exponential();
    const double a = exponential() + exponential(), b = exponential() + exponential() + exponential();
    x(i, 3) = a / (a + b);
  }
  return x;
}

struct Truth {
  double joint = 0, marginals = 0;  ///< mean log-densities
};

/// Of the table's density itself, and of the product of its marginals, over the rows of x.
Truth truth(const Matrix<double>& x) {
  constexpr int points = 400;
  const auto normal = [](double e) {
    return std::exp(-0.5 * e * e / (noise * noise)) / (noise * std::sqrt(2 * std::numbers::pi));
  };
  const auto von_mises = [](double angle) {
    return std::exp(kappa * std::cos(angle - centre)) / (2 * std::numbers::pi * bessel_i(0));
  };
  Truth mean;
  for (Index i = 0; i < x.rows(); ++i) {
    const double angle = x(i, 0) / hours_per_radian - std::numbers::pi;
    double marginal = 0;
    for (int k = 0; k < points; ++k) {
      const double other = 2 * std::numbers::pi * k / points;
      marginal += von_mises(other) * normal(x(i, 1) - line_at(other)) * 2 * std::numbers::pi / points;
    }
    const double apart = std::log(von_mises(angle) / hours_per_radian) - std::log(amount_unit) - x(i, 2) / amount_unit +
                         std::log(12 * x(i, 3) * (1 - x(i, 3)) * (1 - x(i, 3)));
    mean.joint += apart + std::log(normal(x(i, 1) - line_at(angle)));
    mean.marginals += apart + std::log(marginal);
  }
  mean.joint /= static_cast<double>(x.rows());
  mean.marginals /= static_cast<double>(x.rows());
  return mean;
}

/// A flow away from the identity, but not so far that it multiplies the rounding of a float by thousands.
template <Real S>
auto perturbed(const std::vector<Domain>& list, const models::MixedNsfOptions& options) {
  Rng rng(21);
  auto flow = models::mixed_nsf<S>(list, options, rng);
  for_each_parameter(flow, [&](std::string_view, Batch<S> values) {
    for (Index i = 0; i < values.size(); ++i) values.data()[i] += S(0.15) * rng.normal<S>();
  });
  return flow;
}

}  // namespace

TEST_CASE("mixed_nsf learns a table of four domains", "[models][slow]") {
  Rng rng(5);
  auto flow = models::mixed_nsf<float>(domains(), {.blocks = 2, .hidden = {32, 32}}, rng);
  fit(flow, Matrix<float>(draw_table(20'000, rng).cast<float>()), {.steps = 600, .learning_rate = 3e-3}, rng);

  const Matrix<double> test = draw_table(10'000, rng);
  const Truth best = truth(test);
  const auto precise = flow.cast<double>();
  const double reached = precise.log_prob(test).mean();
  CAPTURE(reached, best.joint, best.marginals);
  CHECK(best.joint - best.marginals > 0.5);  // what there is to be learned beyond the marginals
  CHECK(best.joint - reached < 0.1);
  CHECK(best.joint - reached > -0.03);  // less would be no density: the mean over 10000 rows errs by 0.015
  CHECK((flow.log_prob(test.cast<float>()).cast<double>() - precise.log_prob(test)).array().abs().mean() < 1e-3);

  const Matrix<float> drawn = flow.sample(20'000, rng);
  CHECK(drawn.allFinite());
  CHECK(flow.log_prob(drawn).allFinite());
  CHECK(bool((drawn.col(0).array() >= 0 && drawn.col(0).array() < 24).all()));
  CHECK(bool((drawn.col(2).array() > 0).all()));
  CHECK(bool((drawn.col(3).array() > 0 && drawn.col(3).array() < 1).all()));
  const auto angles = (drawn.col(0).cast<double>().array() / hours_per_radian - std::numbers::pi).eval();
  CHECK((angles - centre).cos().mean() == Approx(bessel_i(1) / bessel_i(0)).margin(0.03));
  CHECK(drawn.col(2).mean() == Approx(amount_unit).epsilon(0.1));
  CHECK(drawn.col(3).mean() == Approx(0.4).margin(0.02));

  // no seam: midnight from both sides
  Matrix<double> late = test.topRows(500), early = late;
  constexpr double close = 1e-7;
  late.col(0).setConstant(24 - close);
  early.col(0).setConstant(close);
  const auto before = precise.log_prob_gradient(late), after = precise.log_prob_gradient(early);
  CHECK((before.log_prob - after.log_prob).cwiseAbs().maxCoeff() < 1e-4);
  for (Index d = 0; d < 4; ++d) CHECK(relative_error(before.gradient.col(d), after.gradient.col(d)) < 1e-3);
  late.col(0).setConstant(24);
  early.col(0).setConstant(0);
  CHECK(bool(precise.log_prob(late) == precise.log_prob(early)));
}

TEST_CASE("mixed_nsf integrates to one over a circle and an interval", "[models]") {
  const auto flow = perturbed<double>({Domain::circle(0, 24), Domain::interval(-1, 3)},
                                      {.blocks = 2, .hidden = {8}, .activation = Activation::tanh});
  // with x = -1 + 4 sigma(t) most points lie where an interval's density may be steep: near its ends
  constexpr Index hours = 100, points = 1000;
  double mass = 0;
  Matrix<double> x(hours, 2);
  for (Index i = 0; i < hours; ++i) x(i, 0) = 24 * (static_cast<double>(i) + 0.5) / hours;
  double smallest = 1e9, largest = 0;
  for (Index k = 0; k < points; ++k) {
    const double t = 60 * ((static_cast<double>(k) + 0.5) / points - 0.5), share = 1 / (1 + std::exp(-t));
    x.col(1).setConstant(-1 + 4 * share);
    const double slope = 4 * share * (1 - share);
    const Vector<double> density = flow.log_prob(x).array().exp();
    mass += slope * density.sum() * (24.0 / hours) * (60.0 / points);
    if (k == points / 2) {
      smallest = density.minCoeff();
      largest = density.maxCoeff();
    }
  }
  CHECK(mass == Approx(1).margin(1e-3));
  CHECK(largest > 1.2 * smallest);  // not the uniform density that a fresh flow has on the circle
}

TEMPLATE_TEST_CASE("mixed_nsf inverts itself in every domain", "[models]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(4);
  for (const std::vector<Domain>& list :
       {domains(), std::vector<Domain>{Domain::circle()}, std::vector<Domain>{Domain::half_line(-2)},
        std::vector<Domain>{Domain::circle(), Domain::circle(0, 1), Domain::circle(-4, 2)},
        std::vector<Domain>{Domain::line(), Domain::line(), Domain::interval(-1, 1)}}) {
    const auto flow = perturbed<S>(list, {.blocks = 2, .hidden = {8}, .context_dim = 2});
    CHECK(flow.context_dim() == 2);
    const auto dim = static_cast<Index>(list.size());
    Matrix<S> context(300, 2);
    rng.fill_normal(context);
    const auto drawn = flow.sample_and_log_prob(300, rng, context);
    const auto [z, log_det] = flow.inverse(drawn.x, context);
    CHECK(z.allFinite());
    const auto back = flow.forward(z, context);
    // circles are compared as points: their ends are the same
    const S tolerance = std::same_as<S, float> ? S(2e-3) : S(1e-9);
    for (Index d = 0; d < dim; ++d) {
      const Domain& domain = list[static_cast<std::size_t>(d)];
      Vector<S> difference = (back.x.col(d) - drawn.x.col(d)).cwiseAbs();
      if (domain.is_circle())
        difference =
            difference.cwiseMin((difference.array() - static_cast<S>(domain.upper - domain.lower)).abs().matrix());
      CHECK((difference.array() / drawn.x.col(d).array().abs().max(S(1))).maxCoeff() < tolerance);
    }
    CHECK((back.log_det + log_det).cwiseAbs().maxCoeff() < 10 * tolerance);
    CHECK((flow.log_prob(drawn.x, context) - drawn.log_prob).cwiseAbs().maxCoeff() < 10 * tolerance);
  }
}

TEST_CASE("mixed_nsf starts from standardised columns and uniform circles", "[models]") {
  Rng rng(6);
  auto flow = models::mixed_nsf<double>(domains(), {}, rng);
  const Matrix<double> x = draw_table(4000, rng);
  flow.initialize(x);
  const Matrix<double> z = flow.inverse(x).z;
  for (const Index d : {1, 2, 3}) {
    CHECK(z.col(d).mean() == Approx(0).margin(1e-8));
    CHECK(z.col(d).squaredNorm() / 4000 == Approx(1));
  }
  CHECK((z.col(0).array() - (x.col(0).array() - 12) / hours_per_radian).abs().maxCoeff() < 1e-12);

  Matrix<double> ends = x;
  ends(17, 3) = 1;
  auto fresh = models::mixed_nsf<double>(domains(), {}, rng);
  CHECK(error_text<std::invalid_argument>([&] {
          fit(fresh, ends, {.steps = 1}, rng);
        }).find("a value of column 3 of x is 1.000000, expected a number between 0.000000 and 1.000000") !=
        std::string::npos);
}

TEST_CASE("mixed_nsf is rebuilt from a file's values", "[models]") {
  const auto flow = perturbed<float>(domains(), {.blocks = 2, .hidden = {8}});
  Rng rng(7);
  auto other = models::mixed_nsf<float>(domains(), {.blocks = 2, .hidden = {8}}, rng);
  load_into(other, parse_safetensors(format_safetensors(to_safetensors(flow))));
  const Matrix<float> x = draw_table(50, rng).cast<float>();
  CHECK(bool(other.log_prob(x) == flow.log_prob(x)));
  CHECK(other.options() == flow.options());
}

TEST_CASE("mixed_nsf lets every two features meet", "[models]") {
  for (const Index dim : {2, 3, 4, 5, 8, 9, 63}) {
    const auto digits = static_cast<int>(std::bit_width(static_cast<std::size_t>(dim - 1)));
    std::vector<bool> met(static_cast<std::size_t>(dim * dim), false);
    for (int i = 0; i < 2 * digits; ++i) {
      const std::vector<Index> moved = models::detail::half_by_digit(dim, i / 2, i % 2);
      CHECK(!moved.empty());
      CHECK(static_cast<Index>(moved.size()) < dim);
      std::vector<bool> is_moved(static_cast<std::size_t>(dim), false);
      for (const Index d : moved) is_moved[static_cast<std::size_t>(d)] = true;
      for (Index a = 0; a < dim; ++a)
        for (Index b = 0; b < dim; ++b)
          if (is_moved[static_cast<std::size_t>(a)] && !is_moved[static_cast<std::size_t>(b)])
            met[static_cast<std::size_t>(a * dim + b)] = true;
    }
    for (Index a = 0; a < dim; ++a)
      for (Index b = 0; b < dim; ++b) CHECK(met[static_cast<std::size_t>(a * dim + b)] == (a != b));
  }
  Rng rng(1);
  CHECK(error_text<std::invalid_argument>([&] { (void)models::mixed_nsf<float>({}, {}, rng); }) ==
        "Domains: the number of domains is 0, expected at least 1");
  CHECK_THROWS_AS(models::mixed_nsf<float>({Domain::line()}, {.blocks = 0}, rng), std::invalid_argument);
}
