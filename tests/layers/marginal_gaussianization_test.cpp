// SPDX-License-Identifier: MIT

/// \file
/// Marginal Gaussianization: conformance, and its formula in every regime.

#include <algorithm>
#include <cmath>
#include <numbers>
#include <rhei/core/chain.hpp>
#include <rhei/layers/marginal_gaussianization.hpp>
#include <tuple>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

TEMPLATE_TEST_CASE("MarginalGaussianization conforms", "[layer]", RHEI_TEST_SCALARS) {
  for (const Index kernels : {1, 9, 40}) {  // 40: more than are computed at a time
    CAPTURE(kernels);
    conforms([kernels](Index dim) { return MarginalGaussianization<TestType>(dim, kernels); });
  }
}

namespace {

using Long = long double;

/// z and log dz/dx of one feature by the formula, in long double and in logarithms throughout.
struct Reference {
  Long z, log_det;
};
Reference reference(const std::vector<Long>& mean, const std::vector<Long>& log_bandwidth, Long x) {
  const auto log_sum = [](const std::vector<Long>& terms) {
    const Long largest = *std::max_element(terms.begin(), terms.end());
    Long sum = 0;
    for (const Long term : terms) sum += std::exp(term - largest);
    return largest + std::log(sum) - std::log(static_cast<Long>(terms.size()));
  };
  const auto log_sigmoid = [](Long t) { return std::min(t, 0.0L) - std::log1p(std::exp(-std::abs(t))); };
  std::vector<Long> lower, upper, density;
  for (std::size_t k = 0; k < mean.size(); ++k) {
    const Long t = (x - mean[k]) / std::exp(log_bandwidth[k]);
    lower.push_back(log_sigmoid(t));
    upper.push_back(log_sigmoid(-t));
    density.push_back(log_sigmoid(t) + log_sigmoid(-t) - log_bandwidth[k]);
  }
  const Long log_lower = log_sum(lower), log_upper = log_sum(upper), log_p = std::min(log_lower, log_upper);
  const Long half_log_two_pi = std::log(2 * std::numbers::pi_v<Long>) / 2;
  // The quantile by Newton's method on the logarithm of the upper tail, by erfc or the continued fraction of Laplace.
  const auto log_mills = [&](Long q) {
    if (q < 20) return half_log_two_pi + q * q / 2 + std::log(std::erfc(q / std::sqrt(2.0L)) / 2);
    Long fraction = q;
    for (int k = 60; k > 0; --k) fraction = q + static_cast<Long>(k) / fraction;
    return -std::log(fraction);
  };
  Long q = std::sqrt(-2 * log_p);
  for (int step = 0; step < 60; ++step)
    q += (log_mills(q) - q * q / 2 - half_log_two_pi - log_p) * std::exp(log_mills(q));
  return {log_lower < log_upper ? -q : q, log_sum(density) + q * q / 2 + half_log_two_pi};
}

/// One feature with the given kernels.
template <class S>
MarginalGaussianization<S> with_kernels(const std::vector<S>& mean, const std::vector<S>& log_bandwidth) {
  const auto count = static_cast<Index>(mean.size());
  MarginalGaussianization<S> layer(1, count);
  layer.parameters().mean = ConstBatch<S>(mean.data(), count, 1);
  layer.parameters().log_bandwidth = ConstBatch<S>(log_bandwidth.data(), count, 1);
  return layer;
}

}  // namespace

// Where p < 0.5e-7 the authors' code has the wrong sign of log p in its log-determinant, at least 33 nats too low.
TEMPLATE_TEST_CASE("MarginalGaussianization has its formula's value in tails and gaps", "[gaussianization]",
                   RHEI_TEST_SCALARS) {
  using S = TestType;
  const double epsilon = double(std::numeric_limits<S>::epsilon());
  const std::vector<S> mean{S(-1), S(0.5), S(2)}, log_bandwidth{S(-1), S(-3), S(-2)};
  const auto layer = with_kernels<S>(mean, log_bandwidth);
  const std::vector<Long> means(mean.begin(), mean.end()), log_bandwidths(log_bandwidth.begin(), log_bandwidth.end());
  std::vector<S> points{0, S(0.5), S(1.3)};
  for (const double bandwidths : {9.9, 10.1}) {  // from the outer kernels: where the sums begin to be scaled
    points.push_back(static_cast<S>(-1 - bandwidths * std::exp(-1)));
    points.push_back(static_cast<S>(2 + bandwidths * std::exp(-2)));
  }
  for (const double size : {1.0, 3.0, 5.0, 6.0, 7.0, 8.0, 10.0, 30.0, 100.0, 1e3, 1e4, 1e5, 1e6}) {
    points.push_back(static_cast<S>(size));
    points.push_back(static_cast<S>(-size));
  }
  Matrix<S> x(static_cast<Index>(points.size()), 1);
  for (std::size_t i = 0; i < points.size(); ++i) x(static_cast<Index>(i), 0) = points[i];
  const auto z = inverse_of(layer, x);
  const auto back = forward_of(layer, z.out);
  for (Index i = 0; i < x.rows(); ++i) {
    CAPTURE(x(i, 0));
    const auto [latent, log_det] = reference(means, log_bandwidths, x(i, 0));
    CHECK(double(z.out(i, 0)) == Approx(double(latent)).epsilon(32 * epsilon).margin(32 * epsilon));
    CHECK(double(z.log_det[i]) == Approx(double(log_det)).epsilon(64 * epsilon).margin(64 * epsilon));
    CHECK(double(back.log_det[i]) == Approx(double(-log_det)).epsilon(256 * epsilon).margin(256 * epsilon));
    // x is known from z to epsilon of what z is, times dx/dz
    const double slope = std::exp(double(log_det));
    CHECK(double(back.out(i, 0)) ==
          Approx(double(x(i, 0))).margin(16 * epsilon * (std::max(1.0, std::abs(double(latent))) / slope)));
  }
}

TEMPLATE_TEST_CASE("MarginalGaussianization has finite gradients far out and in a gap", "[gaussianization]",
                   RHEI_TEST_SCALARS) {
  using S = TestType;
  // The gap is 10^4 bandwidths wide: the density within underflows, its logarithm does not.
  const auto layer = with_kernels<S>({0, 1}, {S(std::log(1e-4)), S(std::log(1e-4))});
  Matrix<S> x(6, 1), d_x(6, 1), d_z(6, 1), z(6, 1);
  x << S(-1e6), S(-100), S(0.3), S(0.6), S(50), S(1e6);
  if (std::same_as<S, float>) x *= S(1e-2);
  x(2, 0) = S(0.3);
  x(3, 0) = S(0.6);
  Vector<S> log_det = Vector<S>::Zero(6), d_log_det = Vector<S>::Ones(6);
  typename MarginalGaussianization<S>::Cache cache;
  layer.inverse({}, x, z, log_det, cache);
  CHECK(z.allFinite());
  CHECK(log_det.allFinite());
  CHECK(log_det[2] < S(-2000));
  d_z.setZero();
  auto gradient = layer.make_gradient();
  Batch<S> out(d_x);
  layer.inverse_pullback({}, x, z, cache, d_z, d_log_det, &out, nullptr, &gradient);
  CHECK(d_x.allFinite());
  CHECK(gradient.mean.allFinite());
  CHECK(gradient.log_bandwidth.allFinite());
  // In the gap log f falls as exp(-(x - 0) / h) and rises as exp((x - 1) / h): F is 1/2 there and z is 0.
  CHECK(double(d_x(2, 0)) == Approx(-1e4).epsilon(1e-4));
  CHECK(double(d_x(3, 0)) == Approx(1e4).epsilon(1e-4));
}

TEMPLATE_TEST_CASE("MarginalGaussianization has its formula's gradients in tails and gaps", "[gaussianization]",
                   RHEI_TEST_SCALARS) {
  using S = TestType;
  const std::vector<S> mean{S(-1), S(0.5), S(2)}, log_bandwidth{S(-1), S(-3), S(-2)};
  const auto layer = with_kernels<S>(mean, log_bandwidth);
  Matrix<S> x(12, 1);  // near the kernels and, in the same registers, more than ten bandwidths from each
  x << S(0.4), S(5), S(-5), S(-1.5), S(30), S(-300), S(1.3), S(3.6), S(-1.2), S(2.1), S(-12), S(80);
  const Index n = x.rows();
  Matrix<S> z(n, 1), d_x(n, 1), d_z(n, 1);
  Vector<S> log_det = Vector<S>::Zero(n), d_log_det(n);
  typename MarginalGaussianization<S>::Cache cache;
  layer.inverse({}, x, z, log_det, cache);
  for (Index i = 0; i < n; ++i)
    for (const bool of_z : {true, false}) {
      CAPTURE(i, x(i, 0), of_z);
      d_z.setZero();
      d_log_det.setZero();
      (of_z ? d_z(i, 0) : d_log_det[i]) = 1;
      auto gradient = layer.make_gradient();
      Batch<S> out(d_x);
      layer.inverse_pullback({}, x, z, cache, d_z, d_log_det, &out, nullptr, &gradient);

      // by differences of the formula: by each mean, each log-bandwidth, and x
      const Long h = 1e-6L;
      const auto by = [&](std::size_t moved) {
        const auto at = [&](Long step) {
          std::vector<Long> all(mean.begin(), mean.end());
          all.insert(all.end(), log_bandwidth.begin(), log_bandwidth.end());
          all.push_back(x(i, 0));
          all[moved] += step;
          const auto result = reference({all.begin(), all.begin() + 3}, {all.begin() + 3, all.end() - 1}, all.back());
          return of_z ? result.z : result.log_det;
        };
        return static_cast<double>((at(h) - at(-h)) / (2 * h));
      };
      const double tolerance = std::same_as<S, float> ? 1e-4 : 1e-9;
      for (std::size_t k = 0; k < 3; ++k) {
        CAPTURE(k);
        const double d_mean = by(k), d_log_bandwidth = by(3 + k);
        const auto row = static_cast<Index>(k);
        CHECK(double(gradient.mean(row, 0)) == Approx(d_mean).epsilon(tolerance).margin(tolerance));
        CHECK(double(gradient.log_bandwidth(row, 0)) == Approx(d_log_bandwidth).epsilon(tolerance).margin(tolerance));
      }
      CHECK(double(d_x(i, 0)) == Approx(by(6)).epsilon(tolerance).margin(tolerance));
    }
}

TEMPLATE_TEST_CASE("MarginalGaussianization goes back through its forward as the inverse function does",
                   "[gaussianization]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const auto layer = with_kernels<S>({S(-1), S(0.5), S(2)}, {S(-1), S(-3), S(-2)});
  Matrix<S> z(9, 1);
  z << S(-6), S(-3), S(-1), S(-0.2), S(0), S(0.7), S(2), S(4), S(9);
  const Index n = z.rows();
  Matrix<S> x(n, 1), z_again(n, 1), d_out(n, 1), d_in(n, 1), of_one(n, 1);
  Vector<S> log_det = Vector<S>::Zero(n), unused = log_det;
  typename MarginalGaussianization<S>::Cache cache, cache_back;
  layer.forward({}, z, x, log_det, cache);
  layer.inverse({}, x, z_again, unused, cache_back);
  for (Index i = 0; i < n; ++i)
    for (const bool of_x : {true, false}) {
      CAPTURE(z(i, 0), of_x);
      // dx = -dz / slope; and log_det of forward is -l(x(z)), where l is that of inverse
      const auto pulled_back = [&](S d_latent, S d_l) {
        auto gradient = layer.make_gradient();
        Vector<S> d_log_det = Vector<S>::Zero(n);
        d_out.setZero();
        d_out(i, 0) = d_latent;
        d_log_det[i] = d_l;
        Batch<S> out(of_one);
        layer.inverse_pullback({}, x, z_again, cache_back, d_out, d_log_det, &out, nullptr, &gradient);
        return std::tuple(gradient.mean, gradient.log_bandwidth, of_one(i, 0));
      };
      const auto [z_mean, z_log_bandwidth, slope] = pulled_back(1, 0);
      const auto [l_mean, l_log_bandwidth, l_slope] = pulled_back(0, 1);
      const S arrives = of_x ? S(1) : -l_slope, own = of_x ? S(0) : S(-1);
      auto gradient = layer.make_gradient();
      Vector<S> d_log_det = Vector<S>::Zero(n);
      d_out.setZero();
      (of_x ? d_out(i, 0) : d_log_det[i]) = 1;
      Batch<S> in(d_in);
      layer.forward_pullback({}, z, x, cache, d_out, d_log_det, &in, nullptr, &gradient);
      const double tolerance = std::same_as<S, float> ? 1e-3 : 1e-10;
      CHECK(double(d_in(i, 0)) == Approx(double(arrives / slope)).epsilon(tolerance).margin(tolerance));
      for (Index k = 0; k < 3; ++k) {
        const S mean = own * l_mean(k, 0) - arrives / slope * z_mean(k, 0);
        const S log_bandwidth = own * l_log_bandwidth(k, 0) - arrives / slope * z_log_bandwidth(k, 0);
        CHECK(double(gradient.mean(k, 0)) == Approx(double(mean)).epsilon(tolerance).margin(tolerance));
        CHECK(double(gradient.log_bandwidth(k, 0)) ==
              Approx(double(log_bandwidth)).epsilon(tolerance).margin(tolerance));
      }
    }
}

// More rows than are pulled back at a time, and of them not a whole number of registers.
TEMPLATE_TEST_CASE("MarginalGaussianization adds up the gradients of any number of rows", "[gaussianization]",
                   RHEI_TEST_SCALARS) {
  using S = TestType;
  const MarginalGaussianization<S> layer(2, 5);
  const Index n = 1101, first = 403;
  Matrix<S> x(n, 2), d_z(n, 2);
  Vector<S> d_log_det(n);
  Rng rng(8);
  rng.fill_normal(x);
  rng.fill_normal(d_z);
  rng.fill_normal(d_log_det);
  auto whole = layer.make_gradient(), parts = layer.make_gradient();
  const auto add = [&](Index from, Index rows, auto& gradient) {
    const Matrix<S> in = x.middleRows(from, rows), d_out = d_z.middleRows(from, rows);
    Matrix<S> z(rows, 2), d_x(rows, 2);
    Vector<S> log_det = Vector<S>::Zero(rows);
    const Vector<S> d_l = d_log_det.segment(from, rows);
    typename MarginalGaussianization<S>::Cache cache;
    layer.inverse({}, in, z, log_det, cache);
    Batch<S> out(d_x);
    layer.inverse_pullback({}, in, z, cache, d_out, d_l, &out, nullptr, &gradient);
  };
  add(0, n, whole);
  for (Index from = 0; from < n; from += first) add(from, std::min(first, n - from), parts);
  const double tolerance = std::same_as<S, float> ? 1e-4 : 1e-12;
  CHECK((whole.mean - parts.mean).norm() < tolerance * parts.mean.norm());
  CHECK((whole.log_bandwidth - parts.log_bandwidth).norm() < tolerance * parts.log_bandwidth.norm());
}

TEST_CASE("MarginalGaussianization refuses to go back where nothing was kept", "[gaussianization]") {
  const MarginalGaussianization<double> layer(1, 3);
  const Matrix<double> x = Matrix<double>::Ones(4, 1);
  Matrix<double> z(4, 1), d_x(4, 1);
  Vector<double> log_det = Vector<double>::Zero(4);
  MarginalGaussianization<double>::Cache cache;
  layer.inverse({}, x, z, log_det, cache);
  layer.inverse({.keep = Keep::nothing}, x, z, log_det, cache);
  Batch<double> out(d_x);
  CHECK(error_text<std::invalid_argument>(
            [&] { layer.inverse_pullback({}, x, z, cache, z, log_det, &out, nullptr, nullptr); }) ==
        "MarginalGaussianization, on the way back: what the cache holds is 0 x 1 (rows x columns), expected 4 x 1");
}

// What a repeated evaluation must keep follows from where the first one's memory lies, not from the second call.
TEST_CASE("a repeated evaluation of a chain keeps what its pullback needs", "[gaussianization]") {
  const Repeat chain(2, [](int) { return MarginalGaussianization<double>(1, 3); });
  using Chain = std::remove_const_t<decltype(chain)>;
  const Matrix<double> before = Matrix<double>::Constant(4, 1, 2), x = Matrix<double>::Constant(9, 1, -0.3);
  const auto gradient_after = [&](auto evaluate) {
    Chain::Cache cache;
    Matrix<double> z(9, 1), d_x(9, 1);
    Vector<double> log_det = Vector<double>::Zero(9);
    evaluate(cache, z, log_det);
    auto gradient = chain.make_gradient();
    Batch<double> out(d_x);
    const Matrix<double> d_z = Matrix<double>::Ones(9, 1);
    const Vector<double> d_log_det = Vector<double>::Ones(9);
    chain.inverse_pullback({}, x, z, cache, d_z, d_log_det, &out, nullptr, &gradient);
    return d_x;
  };
  const auto plain =
      gradient_after([&](auto& cache, auto& z, auto& log_det) { chain.inverse({}, x, z, log_det, cache); });
  const auto repeated = gradient_after([&](auto& cache, auto& z, auto& log_det) {
    Matrix<double> other(4, 1);
    Vector<double> unused = Vector<double>::Zero(4);
    chain.inverse({}, before, other, unused, cache);
    chain.inverse({.repeat = true, .keep = Keep::output}, x, z, log_det, cache);
  });
  CHECK(plain == repeated);
}

// For one kernel the equation that `forward` solves is linear: x = mean + h log(Phi(z) / (1 - Phi(z))).
TEMPLATE_TEST_CASE("MarginalGaussianization of one kernel is the logistic distribution", "[gaussianization]",
                   RHEI_TEST_SCALARS) {
  using S = TestType;
  const double epsilon = double(std::numeric_limits<S>::epsilon());
  const auto layer = with_kernels<S>({S(3)}, {S(std::log(2.0))});
  Matrix<S> z(5, 1);
  z << S(-3), S(-1), S(0), S(0.5), S(4);
  const auto x = forward_of(layer, z);
  for (Index i = 0; i < 5; ++i) {
    const Long q = std::erfc(-static_cast<Long>(z(i, 0)) / std::sqrt(2.0L)) / 2;
    const Long p = std::erfc(static_cast<Long>(z(i, 0)) / std::sqrt(2.0L)) / 2;
    CHECK(double(x.out(i, 0)) == Approx(double(3 + 2 * std::log(q / p))).epsilon(32 * epsilon).margin(32 * epsilon));
  }
  CHECK(double(x.out(2, 0)) == Approx(3).epsilon(4 * epsilon));
}

TEMPLATE_TEST_CASE("MarginalGaussianization is increasing and solves each row on its own", "[gaussianization]",
                   RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(4);
  MarginalGaussianization<S> layer(1, 20);
  rng.fill_normal(layer.parameters().mean);
  rng.fill_normal(layer.parameters().log_bandwidth);
  Matrix<S> z(201, 1);
  for (Index i = 0; i < 201; ++i) z(i, 0) = static_cast<S>(i - 100) / S(5);
  const auto x = forward_of(layer, z);
  for (Index i = 1; i < 201; ++i) CHECK(x.out(i - 1, 0) < x.out(i, 0));
  const S nan = std::numeric_limits<S>::quiet_NaN(), infinity = std::numeric_limits<S>::infinity();
  Matrix<S> odd = z;
  odd(3, 0) = nan;
  odd(8, 0) = infinity;
  typename MarginalGaussianization<S>::Cache cache;
  Matrix<S> out(201, 1);
  Vector<S> log_det = Vector<S>::Zero(201);
  layer.forward({}, odd, out, log_det, cache);
  CHECK(std::isnan(out(3, 0)));
  for (Index i = 0; i < 201; ++i)
    if (i != 3 && i != 8) CHECK(out(i, 0) == x.out(i, 0));
  CHECK(cache.solve.failures == 0);  // there is nothing to solve for NaN and infinity
  layer.parameters().mean(4, 0) = nan;
  layer.forward({}, z, out, log_det, cache);
  CHECK(cache.solve.failures == 201);
  CHECK(out.array().isNaN().all());
}

TEMPLATE_TEST_CASE("MarginalGaussianization starts close to the identity", "[gaussianization]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Matrix<S> x(61, 1);
  for (Index i = 0; i < 61; ++i) x(i, 0) = static_cast<S>(i - 30) / S(10);
  for (const Index kernels : {1, 2, 5, 30, 100}) {
    CAPTURE(kernels);
    const auto z = inverse_of(MarginalGaussianization<S>(1, kernels), x);
    CHECK(double((z.out - x).cwiseAbs().maxCoeff()) < 0.7);  // at |x| = 3 the tails are logistic
    CHECK(double((z.out - x).middleRows(10, 41).cwiseAbs().maxCoeff()) < 0.4);
  }
}

TEMPLATE_TEST_CASE("MarginalGaussianization makes what initialises it nearly normal", "[gaussianization]",
                   RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(5);
  Matrix<S> x(4000, 4);
  rng.fill_normal(x);
  x.col(0) = x.col(0).array() * S(20) - S(700);
  x.col(1) = x.col(1).array().exp();                                      // skew
  x.col(2) = x.col(2).array() * S(0.6) + x.col(2).array().sign() * S(2);  // two modes
  x.col(3).setConstant(S(0.1));
  MarginalGaussianization<S> layer(4, 50);
  layer.initialize({}, x);
  CHECK(layer.initialized());
  const auto z = inverse_of(layer, x);
  CHECK(z.out.allFinite());
  CHECK(z.log_det.allFinite());
  for (Index d = 0; d < 3; ++d) {
    CAPTURE(d);
    const auto column = z.out.col(d).array().template cast<double>();
    CHECK(column.mean() == Approx(0).margin(0.1));
    CHECK(column.square().mean() == Approx(1).margin(0.3));  // kernels widen the data, by more where it has gaps
    for (const double quantile : {-0.6745, 0.0, 0.6745})     // a quarter, a half and three quarters of a normal sample
      CHECK((column < quantile).template cast<double>().mean() ==
            Approx(std::erfc(-quantile / std::sqrt(2.0)) / 2).margin(0.03));
  }
  CHECK(z.out.col(3).cwiseAbs().maxCoeff() < S(1e-5));  // K kernels in one place, half of whose sum is below it
  const auto once = layer.parameters().mean;
  layer.initialize({}, Matrix<S>(Matrix<S>::Ones(5, 4)));
  CHECK(layer.parameters().mean == once);
}

TEST_CASE("MarginalGaussianization refuses what it cannot be made or initialised from", "[gaussianization]") {
  const auto text = [](const Matrix<float>& x) {
    return error_text<std::invalid_argument>([&] { MarginalGaussianization<float>(2, 3).initialize({}, x); });
  };
  CHECK(text(Matrix<float>(0, 2)).find("the number of rows is 0") != std::string::npos);
  CHECK(text(Matrix<float>::Zero(4, 3)).find("x is 4 x 3") != std::string::npos);
  Matrix<float> x = Matrix<float>::Zero(4, 2);
  x(2, 1) = std::numeric_limits<float>::infinity();
  CHECK(text(x).find("column 1 of x") != std::string::npos);
  CHECK_THROWS_AS(MarginalGaussianization<float>(0, 3), std::invalid_argument);
  CHECK_THROWS_AS(MarginalGaussianization<float>(3, 0), std::invalid_argument);
}
