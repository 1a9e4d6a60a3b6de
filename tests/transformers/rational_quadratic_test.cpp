// SPDX-License-Identifier: MIT

/// \file
/// Rational-quadratic splines: against the textbook's formulas in long double, and where those fail.

#include <algorithm>
#include <cmath>
#include <limits>
#include <rhei/transformers/rational_quadratic.hpp>
#include <vector>

#include "support/errors.hpp"
#include "support/transformer_checks.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

using Wide = long double;

/// One spline as the paper has it (Durkan et al. 2019, eq. 4-8), from one row of raw parameters.
struct Textbook {
  std::vector<Wide> z, x, slope;  // at the K + 1 knots

  template <class Row>
  Textbook(const SplineOptions& options, const Row& raw) {
    const Index bins = options.bins;
    const Wide bound = options.bound;
    const bool clipped = options.map == SplineMap::clipped;
    const Wide most = -std::log(static_cast<Wide>(options.min_slope));
    const auto clip = [](Wide value, Wide limit) { return value / (1 + std::abs(value / limit)); };
    const auto knots = [&](Index first, Wide least) {
      const auto exponential = [&](Index j) {
        const Wide value = raw[first + j];
        return std::exp(clipped ? clip(value, most / 2) : value);
      };
      Wide total = 0, before = 0;
      for (Index j = 0; j < bins; ++j) total += exponential(j);
      std::vector<Wide> result{-bound};
      for (Index j = 0; j < bins; ++j) {
        before += least + (1 - static_cast<Wide>(bins) * least) * exponential(j) / total;
        result.push_back(-bound + 2 * bound * before);
      }
      return result;
    };
    z = knots(0, options.min_width);
    x = knots(bins, options.min_height);
    const Wide least = options.min_slope, shift = std::log(std::expm1(1 - least));
    for (Index c = 2 * bins; c < raw.size(); ++c)
      slope.push_back(clipped ? std::exp(clip(raw[c], most))
                              : least + std::log1p(std::exp(static_cast<Wide>(raw[c]) + shift)));
    if (options.tails == Tails::linear) {
      slope.insert(slope.begin(), 1);
      slope.push_back(1);
    }
    if (options.tails == Tails::circular) slope.push_back(slope.front());
    REQUIRE(slope.size() == z.size());
  }

  struct Point {
    Wide value, slope;
  };
  [[nodiscard]] Point forward(Wide at) const {
    const std::size_t k = bin(z, at);
    const Wide w = z[k + 1] - z[k], h = x[k + 1] - x[k], s = h / w, xi = (at - z[k]) / w;
    const Wide denominator = s + (slope[k + 1] + slope[k] - 2 * s) * xi * (1 - xi);
    return {x[k] + h * (s * xi * xi + slope[k] * xi * (1 - xi)) / denominator,
            s * s * (slope[k + 1] * xi * xi + 2 * s * xi * (1 - xi) + slope[k] * (1 - xi) * (1 - xi)) /
                (denominator * denominator)};
  }
  [[nodiscard]] Point inverse(Wide at) const {
    const std::size_t k = bin(x, at);
    const Wide w = z[k + 1] - z[k], h = x[k + 1] - x[k], s = h / w;
    const Wide rest = (at - x[k]) * (slope[k + 1] + slope[k] - 2 * s);
    const Wide a = h * (s - slope[k]) + rest, b = h * slope[k] - rest, c = -s * (at - x[k]);
    const Wide root = z[k] + w * 2 * c / (-b - std::sqrt(b * b - 4 * a * c));
    return {root, 1 / forward(root).slope};
  }
  /// How far a number is from the knots of one side.
  [[nodiscard]] static double distance(const std::vector<Wide>& knots, double at) {
    double least = std::numeric_limits<double>::infinity();
    for (const Wide knot : knots) least = std::min(least, static_cast<double>(std::abs(knot - at)));
    return least;
  }

 private:
  static std::size_t bin(const std::vector<Wide>& knots, Wide at) {
    std::size_t k = 0;
    while (k + 2 < knots.size() && at >= knots[k + 1]) ++k;
    return k;
  }
};

std::vector<SplineOptions> every_kind() {
  const double pi = 3.14159265358979323846;
  return {{},
          {.bins = 1, .bound = 3},
          {.bins = 2, .bound = 1, .min_width = 0.1, .min_height = 0.2, .min_slope = 0.3},
          {.bins = 8, .bound = pi, .tails = Tails::circular},
          {.bins = 1, .bound = pi, .tails = Tails::circular},
          {.bins = 5, .bound = 2, .tails = Tails::none},
          {.bins = 1, .bound = 2, .tails = Tails::none},
          {.min_width = 0, .min_height = 0, .map = SplineMap::clipped},  // zuko's
          {.bins = 3, .bound = 2, .min_slope = 0.1, .tails = Tails::circular, .map = SplineMap::clipped}};
}

/// Normal numbers of deviation sigma, as floats hold them.
Matrix<double> random_raw(Index n, Index cols, double sigma, Rng& rng) {
  Matrix<double> raw(n, cols);
  rng.fill_normal(raw);
  return (sigma * raw).cast<float>().cast<double>();
}

/// Inputs away from all knots, a few of them in the tails where there are any.
Vector<double> random_inputs(const SplineOptions& options, const Matrix<double>& raw, double margin, Rng& rng) {
  Vector<double> in(raw.rows());
  const double reach = options.tails == Tails::linear ? 1.2 : 1;
  for (Index i = 0; i < in.size(); ++i) {
    const Textbook spline(options, raw.row(i));
    do in[i] = static_cast<float>(options.bound * reach * (2 * rng.uniform<double>() - 1));
    while (std::min(Textbook::distance(spline.z, in[i]), Textbook::distance(spline.x, in[i])) < margin);
  }
  return in;
}

std::string refusal(const SplineOptions& options) {
  return error_text<std::invalid_argument>([&] { (void)RationalQuadratic<float>(options); });
}

}  // namespace

TEST_CASE("splines conform with each kind of tails", "[transformer]") {
  for (const SplineOptions& options : every_kind()) {
    CAPTURE(options.bins, options.bound, static_cast<int>(options.tails));
    Rng rng(1);
    const RationalQuadratic<double> spline(options);
    const Matrix<double> raw = random_raw(41, spline.parameter_count(), 0.5, rng);
    transformer_conforms(spline, raw, random_inputs(options, raw, 3e-4, rng));
  }
}

TEMPLATE_TEST_CASE("splines are the identity where all is zero", "[transformer]", RHEI_TEST_SCALARS) {
  for (const Tails tails : {Tails::linear, Tails::circular, Tails::none})
    for (const Index bins : {1, 2, 7, 8, 64})
      for (const double bound : {3.14159265358979323846, 5.0, 32.0})
        for (const double least : {1e-3, 1e-6, 0.015}) {
          CAPTURE(static_cast<int>(tails), bins, bound, least);
          starts_as_identity(RationalQuadratic<TestType>({.bins = bins,
                                                          .bound = bound,
                                                          .min_width = least,
                                                          .min_height = least,
                                                          .min_slope = least,
                                                          .tails = tails}));
        }
}

TEST_CASE("splines are those of the textbook", "[transformer]") {
  std::vector<SplineOptions> kinds = every_kind();
  kinds.push_back({.bins = 64, .bound = 32, .tails = Tails::none});
  for (const SplineOptions& options : kinds)
    for (const double sigma : {0.5, 3.0}) {
      CAPTURE(options.bins, options.bound, static_cast<int>(options.tails), sigma);
      Rng rng(2);
      const Index n = 203;
      const RationalQuadratic<double> spline(options);
      const Matrix<double> raw = random_raw(n, spline.parameter_count(), sigma, rng);
      Vector<double> in(n);
      for (double& value : in) value = options.bound * (2 * rng.uniform<double>() - 1);
      for (const bool forward : {true, false}) {
        const auto got = transform(spline, forward, raw, in);
        double worst = 0, worst_slope = 0;
        for (Index i = 0; i < n; ++i) {
          const Textbook textbook(options, raw.row(i));
          const auto want = forward ? textbook.forward(in[i]) : textbook.inverse(in[i]);
          const double steep = std::max(1.0, static_cast<double>(want.slope));
          worst = std::max(worst, std::abs(got.out[i] - static_cast<double>(want.value)) / options.bound / steep);
          worst_slope = std::max(worst_slope, std::abs(got.log_slope[i] - static_cast<double>(std::log(want.slope))));
        }
        CHECK(worst < 1e-14);
        CHECK(worst_slope < 1e-10);  // at sigma 3 some bins are so narrow that they magnify the rounding of a knot
      }
    }
}

// A search with a slack of 1e-6, which a float of 32 cannot hold, and a search that runs past the last bin: nflows.
TEMPLATE_TEST_CASE("splines are exact at the knots and bounds and beside them", "[transformer]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const S infinity = std::numeric_limits<S>::infinity(), eps = std::numeric_limits<S>::epsilon();
  for (const double bound : {1.0, 3.0, 32.0, 1e3})
    for (const Tails tails : {Tails::linear, Tails::circular, Tails::none}) {
      CAPTURE(bound, static_cast<int>(tails));
      const SplineOptions options{.bins = 10, .bound = bound, .tails = tails};
      const RationalQuadratic<S> spline(options);
      const S edge = static_cast<S>(bound);
      Rng rng(3);
      const Matrix<double> row = random_raw(1, spline.parameter_count(), 2, rng);
      const Textbook textbook(options, row.row(0));
      for (const bool forward : {true, false}) {
        CAPTURE(forward);
        std::vector<S> points;  // ascending
        for (const Wide exact : forward ? textbook.z : textbook.x) {
          const S knot = static_cast<S>(exact);
          for (S point :
               {std::nextafter(std::nextafter(knot, -infinity), -infinity), std::nextafter(knot, -infinity), knot,
                std::nextafter(knot, infinity), std::nextafter(std::nextafter(knot, infinity), infinity)})
            points.push_back(point);
        }
        const Index n = static_cast<Index>(points.size());
        const Vector<S> in = Eigen::Map<const Vector<S>>(points.data(), n);
        const Matrix<S> raw = row.cast<S>().replicate(n, 1);
        const auto got = transform(spline, forward, raw, in);
        for (Index i = 0; i < n; ++i) {
          CAPTURE(i, in[i], got.out[i]);
          if (std::abs(in[i]) > edge) {
            CHECK((tails == Tails::linear ? got.out[i] == in[i] : bool(std::isnan(got.out[i]))));
            CHECK((tails == Tails::linear ? got.log_slope[i] == S(0) : bool(std::isnan(got.log_slope[i]))));
            continue;
          }
          const auto want = forward ? textbook.forward(in[i]) : textbook.inverse(in[i]);
          const S steep = std::max(S(1), static_cast<S>(want.slope));
          CHECK(std::abs(got.out[i]) <= edge);
          CHECK(std::abs(got.out[i] - static_cast<S>(want.value)) <= 8 * eps * edge * steep);
          CHECK(std::isfinite(got.log_slope[i]));
          if (std::abs(in[i]) == edge) CHECK(got.out[i] == in[i]);
          if (std::abs(in[i]) == edge && tails == Tails::linear) CHECK(std::abs(got.log_slope[i]) <= 4 * eps);
        }
        if (tails == Tails::circular)
          CHECK(got.log_slope[2] == Approx(got.log_slope[n - 3]).margin(8 * static_cast<double>(eps)));
      }
    }
}

TEST_CASE("splines rise", "[transformer]") {
  Rng rng(4);
  for (const SplineOptions& options : every_kind()) {
    const Index n = 4001;
    const RationalQuadratic<float> spline(options);
    const float edge = static_cast<float>(options.bound);
    const Matrix<float> raw = random_raw(1, spline.parameter_count(), 3, rng).cast<float>().replicate(n, 1);
    const Vector<float> in = Vector<float>::LinSpaced(n, -edge, edge);
    for (const bool forward : {true, false}) {
      const Vector<float> out = transform(spline, forward, raw, in).out;
      const float rounding = 2e-7f * edge;
      CHECK((out.tail(n - 1).array() >= out.head(n - 1).array() - rounding).all());
      CHECK(out[n - 1] > out[0]);
    }
  }
}

namespace {

/// Random float splines, checked against the same splines in double: x must lie between their values a little left and
/// right of z, as far as a softmax in float may move a knot.
void try_random_bins(Index elements, double sigma) {
  const SplineOptions options;
  const RationalQuadratic<float> spline(options);
  const RationalQuadratic<double> exact(options);
  const Index n = 10'000;
  const double reach = 8 * options.bound * std::numeric_limits<float>::epsilon();
  Rng rng(static_cast<std::uint64_t>(sigma) + 5);
  Matrix<float> raw(n, spline.parameter_count());
  Vector<float> in(n);
  Index not_finite = 0, outside = 0, off = 0;
  for (Index done = 0; done < elements; done += n) {
    rng.fill_normal(raw);
    raw *= static_cast<float>(sigma);
    for (float& value : in) value = static_cast<float>(options.bound * (2 * rng.uniform<double>() - 1));
    const Matrix<double> exact_raw = raw.cast<double>();
    for (const bool forward : {true, false}) {
      const auto got = transform(spline, forward, raw, in);
      not_finite += n - (got.out.array().isFinite() && got.log_slope.array().isFinite()).count();
      outside += n - (got.out.array().abs() <= static_cast<float>(options.bound)).count();
      const Vector<double> z = (forward ? in : got.out).cast<double>(), x = (forward ? got.out : in).cast<double>();
      const auto below = transform(exact, true, exact_raw, Vector<double>(z.array() - reach));
      const auto above = transform(exact, true, exact_raw, Vector<double>(z.array() + reach));
      off += n - (below.out.array() - reach <= x.array() && x.array() <= above.out.array() + reach).count();
    }
  }
  CAPTURE(sigma);
  CHECK(not_finite == 0);
  CHECK(outside == 0);
  CHECK(off == 0);
}

}  // namespace

// The textbook's b^2 - 4ac is negative for one in 200 of these at sigma 20, and theta leaves [0, 1] for one in 20.
TEST_CASE("random splines in float never leave their bin", "[transformer]") {
  for (const double sigma : {1.0, 5.0, 20.0}) try_random_bins(40'000, sigma);
}
TEST_CASE("ten million random splines in float never leave their bin", "[.slow]") { try_random_bins(10'000'000, 20); }

TEMPLATE_TEST_CASE("splines take parameters of any size", "[transformer]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(6);
  const Index n = 20'000;
  const std::vector<double> sizes{0, 1, 20, 100, 1e4, 1e8, 1e30, std::numeric_limits<float>::max()};
  for (const SplineOptions& options : every_kind()) {
    CAPTURE(options.bins, options.bound, static_cast<int>(options.tails));
    const RationalQuadratic<S> spline(options);
    const S edge = static_cast<S>(options.bound);
    Matrix<S> raw(n, spline.parameter_count());
    for (Index i = 0; i < raw.size(); ++i) {
      const double size = sizes[static_cast<std::size_t>(rng.uniform<double>() * static_cast<double>(sizes.size()))];
      raw.data()[i] = static_cast<S>(rng.uniform<double>() < 0.5 ? size : -size);
    }
    Vector<S> in(n), ones = Vector<S>::Ones(n);
    for (S& value : in) value = edge * static_cast<S>(2 * rng.uniform<double>() - 1);
    for (const bool forward : {true, false}) {
      const auto got = transform(spline, forward, raw, in);
      CHECK(got.out.array().isFinite().all());
      CHECK((got.out.array().abs() <= edge).all());
      CHECK(got.log_slope.array().isFinite().all());
      const auto derivatives = pull_back(spline, forward, raw, in, ones, ones);
      CHECK(derivatives.d_in.array().isFinite().all());
      CHECK(derivatives.d_raw.array().isFinite().all());
    }
  }
}

// Nearly all of the side that an element is mapped to is one bin, and the element's own is one of the narrow ones
// squeezed against an end. Its derivatives are small, and were what was left of numbers of the size of B that nearly
// cancel: off by 2e-5 in the median, up to 1e-3.
TEST_CASE("splines keep the digits of derivatives beside the ends", "[transformer]") {
  const RationalQuadratic<float> spline;
  const RationalQuadratic<double> wide;
  Rng rng(8);
  const Index n = 200, bins = spline.spline_options().bins;
  for (const bool forward : {true, false})
    for (const Index giant : {Index{0}, bins - 1}) {
      Matrix<float> raw = random_raw(n, spline.parameter_count(), 0.5, rng).cast<float>();
      raw.col(giant + (forward ? bins : 0)).array() += 9;
      Vector<float> in(n), d_out(n), d_log_slope(n);
      for (float& value : in) value = (giant == 0 ? 1.f : -1.f) * (4 * rng.uniform<float>() - 1);
      rng.fill_normal(d_out);
      rng.fill_normal(d_log_slope);
      d_log_slope *= 1e-3f;
      const auto got = pull_back(spline, forward, raw, in, d_out, d_log_slope);
      const auto want = pull_back(wide, forward, raw.cast<double>().eval(), in.cast<double>().eval(),
                                  d_out.cast<double>().eval(), d_log_slope.cast<double>().eval());
      Vector<double> errors(n);  // of each element
      for (Index i = 0; i < n; ++i)
        errors[i] = (got.d_raw.row(i).cast<double>() - want.d_raw.row(i)).cwiseAbs().maxCoeff() /
                    want.d_raw.row(i).cwiseAbs().maxCoeff();
      std::sort(errors.begin(), errors.end());
      CAPTURE(giant, forward);
      CHECK(errors[n / 2] < 3e-6);
      CHECK(errors[n * 9 / 10] < 3e-5);
    }
}

// One feature outside that makes the identity of its whole row (madnis), a bin index of a number outside (SummerTTS).
TEMPLATE_TEST_CASE("linear tails belong to one element", "[transformer]", RHEI_TEST_SCALARS) {
  using S = TestType;
  constexpr S infinity = std::numeric_limits<S>::infinity(), nan = std::numeric_limits<S>::quiet_NaN();
  const RationalQuadratic<S> spline({.bound = 3});
  Rng rng(7);
  Vector<S> in(9);
  in << 0.5, 3.5, -1, -infinity, infinity, 2, nan, -1e30f, 1;
  const Matrix<double> drawn = random_raw(9, spline.parameter_count(), 1, rng);
  const Matrix<S> raw = drawn.cast<S>();
  Vector<S> d_out(9), d_log_slope(9);
  rng.fill_normal(d_out);
  rng.fill_normal(d_log_slope);
  for (const bool forward : {true, false}) {
    CAPTURE(forward);
    const auto got = transform(spline, forward, raw, in);
    const auto derivatives = pull_back(spline, forward, raw, in, d_out, d_log_slope);
    for (const Index i : {1, 3, 4, 7}) {
      CHECK(got.out[i] == in[i]);
      CHECK(got.log_slope[i] == S(0));
      CHECK(derivatives.d_in[i] == d_out[i]);
      CHECK(derivatives.d_raw.row(i).isZero(0));
    }
    for (const Index i : {0, 2, 5, 8}) {
      const Textbook textbook({.bound = 3}, raw.row(i));
      const auto want = forward ? textbook.forward(in[i]) : textbook.inverse(in[i]);
      CHECK(got.out[i] == Approx(static_cast<double>(want.value)).margin(1e-5));
      CHECK(got.log_slope[i] == Approx(static_cast<double>(std::log(want.slope))).margin(1e-5));
      CHECK(std::abs(got.out[i] - in[i]) > S(1e-3));
      CHECK(derivatives.d_raw.row(i).allFinite());
      CHECK(!derivatives.d_raw.row(i).isZero(0));
    }
    CHECK(std::isnan(got.out[6]));
    CHECK(std::isnan(got.log_slope[6]));
  }
}

TEST_CASE("outside an interval without tails there is nothing", "[transformer]") {
  for (const Tails tails : {Tails::circular, Tails::none}) {
    const RationalQuadratic<double> spline({.bound = 2, .tails = tails});
    Vector<double> in(3);
    in << 2.5, 1, -3;
    const Matrix<double> raw = Matrix<double>::Constant(3, spline.parameter_count(), 0.1);
    for (const bool forward : {true, false}) {
      const auto got = transform(spline, forward, raw, in);
      const auto derivatives = pull_back(spline, forward, raw, in, Vector<double>(Vector<double>::Ones(3)),
                                         Vector<double>(Vector<double>::Ones(3)));
      for (const Index i : {0, 2}) {
        CHECK(std::isnan(got.out[i]));
        CHECK(std::isnan(got.log_slope[i]));
        CHECK(std::isnan(derivatives.d_in[i]));
        CHECK(derivatives.d_raw.row(i).hasNaN());
      }
      CHECK(std::isfinite(got.out[1]));
      CHECK(derivatives.d_raw.row(1).allFinite());
    }
  }
}

TEST_CASE("splines know how many parameters they take", "[transformer]") {
  const auto count = [](Index bins, Tails tails) {
    return RationalQuadratic<float>({.bins = bins, .tails = tails}).parameter_count();
  };
  CHECK(count(8, Tails::linear) == 23);
  CHECK(count(8, Tails::circular) == 24);
  CHECK(count(8, Tails::none) == 25);
  CHECK(count(1, Tails::linear) == 2);
  CHECK(count(64, Tails::linear) == 191);
}

TEST_CASE("splines refuse what cannot be", "[transformer]") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  CHECK(refusal({}).empty());
  CHECK(refusal({.bins = 0}) == "RationalQuadratic: bins is 0, expected 1 or more");
  for (const double bound : {0.0, -1.0, nan, infinity, 1e7})
    CHECK(refusal({.bound = bound}).find("RationalQuadratic: bound is ") == 0);
  for (const double least : {0.0, -1.0, nan, infinity, 0.125, 1e-7}) {
    CHECK(refusal({.min_width = least}).find("RationalQuadratic: min_width is ") == 0);
    CHECK(refusal({.min_height = least}).find("RationalQuadratic: min_height is ") == 0);
  }
  CHECK(refusal({.min_width = 0.125}) ==
        "RationalQuadratic: min_width is 0.125000, expected at least 1e-6 and less than 1 / bins = 0.125000");
  for (const double least : {0.0, 1.0, nan})
    CHECK(refusal({.min_slope = least}).find("min_slope is ") != std::string::npos);
  CHECK(refusal({.min_width = -1, .map = SplineMap::clipped}) ==
        "RationalQuadratic: min_width is -1.000000, expected at least 0 and less than 1 / bins = 0.125000");
  CHECK(refusal({.bins = 2000}).find("min_width is 0.001000, expected") != std::string::npos);
}

TEST_CASE("splines are described by their options", "[transformer]") {
  const SplineOptions given{
      .bins = 5, .bound = 2.5, .min_width = 0.01, .min_height = 0.02, .min_slope = 0.03, .tails = Tails::circular};
  const RationalQuadratic<float> spline(given);
  const Options options = spline.options();
  CHECK(options.type() == "rational_quadratic");
  CHECK(options.get<std::int64_t>("bins") == 5);
  CHECK(options.get<std::string>("tails") == "circular");
  CHECK(RationalQuadratic<float>::from_options(options).spline_options() == given);
  CHECK(spline.cast<double>().spline_options() == given);
  for (const Tails tails : {Tails::linear, Tails::circular, Tails::none})
    CHECK(RationalQuadratic<float>::from_options(RationalQuadratic<float>({.tails = tails}).options())
              .spline_options()
              .tails == tails);

  CHECK(!options.has("map"));  // nor in files that were written before there was one
  const SplineOptions clipped{.min_width = 0, .min_height = 0, .map = SplineMap::clipped};
  const Options described = RationalQuadratic<float>(clipped).options();
  CHECK(described.get<std::string>("map") == "clipped");
  CHECK(RationalQuadratic<float>::from_options(described).spline_options() == clipped);
  Options unknown = options;
  unknown.set("map", std::string("folded"));
  CHECK(error_text<std::runtime_error>([&] { (void)RationalQuadratic<float>::from_options(unknown); }) ==
        "map is 'folded', expected clipped or no such entry");

  Options odd = Options("rational_quadratic");
  odd.set("bins", std::int64_t{5}).set("tails", std::string("open"));
  CHECK(error_text<std::runtime_error>([&] { (void)RationalQuadratic<float>::from_options(odd); }) ==
        "tails is 'open', expected linear, circular or none");
}
