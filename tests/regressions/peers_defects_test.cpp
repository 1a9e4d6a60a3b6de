// SPDX-License-Identifier: MIT

/// \file
/// Defects found in the code of other libraries, so that they do not become ours.
///
///  # | defect                                                          | where it is tested
/// ---|-----------------------------------------------------------------|---------------------------------------------
///  1 | spline inverse: negative discriminant in float                  | with the splines, when they come
///  2 | spline: x = B falls into bin K                                  | with the splines
///  3 | an elementwise layer with a wrong slope or log-det shape        | support/conformance (numeric Jacobian)
///  4 | initial scale skipped where a net lacks an attribute            | with the importers
///  5 | batch statistics divide by a standard deviation of zero         | layers/actnorm_test (constant column, one
///  row) 6 | float accumulators in a model of doubles                        | core/flow_test (sum in long double) 7 |
///  actnorm initialised by being evaluated, by either direction     | layers/actnorm_test (never by being evaluated) 8
///  | log of a product of scales underflows                           | layers/actnorm_test (200 columns), here: LU 9 |
///  residual log-det without gradient, or at the wrong point        | support/conformance, when residual layers come
/// 10 | old files bypass migration in nested modules                    | with the second version of the file format
/// 11 | a documented formula that the code does not follow              | transformers/, distributions/ (long double)
/// 12 | modulo zero at D = 1                                            | here
/// 13 | a separate pass for the log-det of an autoregressive inverse    | with the autoregressive layers
/// 14 | density jumps where a spline meets its tail                     | with the splines
/// 15 | inverse only from the cache of a forward                        | here
/// 16 | one outlying feature turns its row into the identity            | with the splines; here for what exists
/// 17 | inverse divides by scale + epsilon                              | here
/// 18 | non-convergence is not reported                                 | with the iterative layers
/// 19 | bin index -1 in the tail                                        | with the splines, under sanitizers
/// 20 | inverse returns no log-det                                      | here, and support/conformance (they cancel)

#include <rhei/core/flow.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/coupling.hpp>
#include <rhei/layers/elementwise_affine.hpp>
#include <rhei/layers/lu_linear.hpp>
#include <rhei/layers/permutation.hpp>

#include "support/catch.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// Every kind of layer there is, away from the identity.
auto every_layer(Index dim) {
  Rng rng(3);
  std::vector<std::int64_t> backwards;
  for (Index d = dim; d > 0; --d) backwards.push_back(d - 1);
  const CouplingOptions<Affine<double>> affine{.transformed = alternating_features(dim, 0), .net = {{8}}};
  const CouplingOptions<Shift<double>> additive{.transformed = alternating_features(dim, 1), .net = {{8}}};
  Flow flow{StandardNormal<double>(dim),
            AffineCoupling<double>(dim, affine, rng),
            AdditiveCoupling<double>(dim, additive, rng),
            Permutation<double>(backwards),
            LuLinear<double>(dim, rng),
            ElementwiseAffine<double>(dim),
            ActNorm<double>(dim)};
  for_each_parameter(flow, [&](std::string_view, Batch<double> values) {
    for (Index i = 0; i < values.size(); ++i) values.data()[i] += 0.3 * rng.normal<double>();
  });
  check_state(flow);
  return flow;
}

Matrix<double> normal_rows(Index n, Index cols) {
  Rng rng(5);
  Matrix<double> x(n, cols);
  rng.fill_normal(x);
  return x;
}

}  // namespace

TEST_CASE("#8 the log-determinant of a product of small scales does not underflow", "[regression]") {
  Rng rng(1);
  LuLinear<float> layer(200, rng);
  const Matrix<float> x = Matrix<float>::Zero(1, 200);
  const float before = inverse_of(layer, x).log_det[0];
  layer.parameters().log_diagonal.array() += std::log(1e-3f);
  check_state(layer);
  CHECK(double(inverse_of(layer, x).log_det[0] - before) == Approx(200 * std::log(1e-3)).epsilon(1e-5));
}

TEST_CASE("#12 one dimension is enough", "[regression]") {
  const auto flow = every_layer(1);
  const Matrix<double> x = normal_rows(9, 1);
  const auto [z, log_det] = flow.inverse(x);
  CHECK((flow.forward(z).x - x).cwiseAbs().maxCoeff() < 1e-13);
  CHECK(flow.log_prob(x).array().isFinite().all());
  // without context all layers are affine in one dimension
  CHECK(std::abs(log_det[0] - std::log(std::abs((z(1) - z(0)) / (x(1) - x(0))))) < 1e-12);
}

TEST_CASE("#15 a layer that has never gone forward can be inverted", "[regression]") {
  const auto made = every_layer(4), another = every_layer(4);
  const Matrix<double> x = normal_rows(7, 4);
  const Matrix<double> z = made.inverse(x).z;  // the first thing that is asked of it, of a fresh cache
  CHECK(bool(another.inverse(x).z == z));      // and of another object
  CHECK((another.forward(z).x - x).cwiseAbs().maxCoeff() < 1e-13);
  decltype(made)::Cache cache;  // a cache of other rows going forward leaves no trace
  Matrix<double> out(3, 4), again(7, 4);
  Vector<double> log_det = Vector<double>::Zero(3), other = Vector<double>::Zero(7);
  made.transform().forward({}, normal_rows(3, 4), out, log_det, cache.transform);
  made.transform().inverse({}, x, again, other, cache.transform);
  CHECK(bool(again == z));
}

TEST_CASE("#16 an outlier in one feature leaves the others their map", "[regression]") {
  const ElementwiseAffine<double> fresh(3);
  ElementwiseAffine<double> layer = fresh;
  layer.parameters().log_scale << 0.5, -0.5, 0.25;
  Matrix<double> x = normal_rows(5, 3);
  const auto before = inverse_of(layer, x);
  x(2, 0) = 1e30;
  const auto after = inverse_of(layer, x);
  CHECK(bool(after.out.rightCols(2) == before.out.rightCols(2)));
  CHECK(bool(after.log_det == before.log_det));
}

TEMPLATE_TEST_CASE("#17 a round trip through small and large scales errs by a few units in the last place",
                   "[regression]", RHEI_TEST_SCALARS) {
  using S = TestType;
  constexpr S ulp = std::numeric_limits<S>::epsilon();
  for (const S log_scale : {S(-14), S(-3), S(0.3), S(14)}) {  // of e^-14 an epsilon of 1e-6 would show
    CAPTURE(log_scale);
    ActNorm<S> layer(2);
    layer.parameters().log_scale.setConstant(log_scale);
    const Matrix<S> z = normal_rows(50, 2).template cast<S>();
    const Matrix<S> back = inverse_of(layer, forward_of(layer, z).out).out;
    CHECK(((back - z).array().abs() <= 8 * ulp * z.array().abs()).all());
  }
}

TEST_CASE("#20 both directions return their log-determinant", "[regression]") {
  const auto flow = every_layer(4);
  const auto [z, log_det] = flow.inverse(normal_rows(7, 4));
  const auto back = flow.forward(z).log_det;
  CHECK(log_det.cwiseAbs().minCoeff() > 1e-3);
  CHECK((log_det + back).cwiseAbs().maxCoeff() < 1e-12);
}
