// SPDX-License-Identifier: MIT

#include <algorithm>
#include <limits>
#include <rhei/core/random.hpp>
#include <rhei/nn/staircase_product.hpp>

#include "support/catch.hpp"
#include "support/random_matrix.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// Any staircase, or one of `steps` steps as even as the sizes allow.
detail::Staircase staircase(Index rows, Index cols, Index steps, Rng& rng) {
  std::vector<Index> ends;
  for (Index j = 0; j < cols; ++j)
    ends.push_back(steps == 0 ? rng.below(rows + 1) : (j * steps / cols + 1) * rows / steps);
  std::sort(ends.begin(), ends.end());
  return {rows, std::move(ends)};
}

/// The largest error of `actual`, in units of the rounding of a sum of `depth` products.
template <class S>
double worst(const Matrix<S>& actual, const Matrix<double>& expected, Index depth) {
  if (!actual.allFinite()) return std::numeric_limits<double>::infinity();
  const double unit = std::numeric_limits<S>::epsilon() * static_cast<double>(depth + 1);
  return (actual.template cast<double>() - expected).cwiseAbs().maxCoeff() / unit;
}

}  // namespace

TEST_CASE("a staircase knows its rows from its columns", "[product]") {
  const detail::Staircase stairs(4, {0, 2, 2, 3});
  CHECK(stairs.rows() == 4);
  CHECK(stairs.cols() == 4);
  for (Index row = 0; row <= 4; ++row)
    for (Index col = 0; col < 4; ++col) CHECK((row < stairs.end(col)) == (stairs.begin(row) <= col));
}

TEMPLATE_TEST_CASE("products with a staircase take exactly what counts", "[product]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(4);
  Buffer<S> scratch;
  for (int repeat = 0; repeat < 120; ++repeat) {
    const Index most = repeat % 24 == 0 ? 700 : 180;  // of which more than is copied at a time
    const Index n = repeat % 10 == 1 ? 1024 : 1 + rng.below(repeat % 10 == 2 ? 1200 : 400), p = 1 + rng.below(most),
                q = 1 + rng.below(most);
    const Index steps = repeat % 3 == 0 ? 0 : rng.below(std::min<Index>(p, 30));
    CAPTURE(n, p, q, steps);
    const detail::Staircase stairs = staircase(p, q, steps, rng);
    Matrix<S> x = random_matrix<S>(n, p, rng), y = random_matrix<S>(n, q, rng), w = random_matrix<S>(p, q, rng);
    const Matrix<double> x0 = x.template cast<double>(), y0 = y.template cast<double>();
    Matrix<double> counted = w.template cast<double>();
    Matrix<double> gradient = x0.transpose().lazyProduct(y0);
    for (Index j = 0; j < q; ++j) {
      counted.col(j).tail(p - stairs.end(j)).setZero();
      gradient.col(j).tail(p - stairs.end(j)).setZero();
      w.col(j).tail(p - stairs.end(j)).setConstant(std::numeric_limits<S>::quiet_NaN());
    }
    Matrix<S> d = random_matrix<S>(p, q, rng);
    gradient += d.template cast<double>();
    detail::StaircaseProduct<S>::add_gradient(d, ConstBatch<S>(x), ConstBatch<S>(y), stairs);
    CHECK(worst(d, gradient, n) < 8);
    using Product = detail::StaircaseProduct<S>;
    const Matrix<double> product = x0.lazyProduct(counted);
    Product::multiply(Batch<S>(y), ConstBatch<S>(x), w, stairs, {}, {}, scratch);
    CHECK(worst(y, y0 + product, p) < 8);
    const RowVector<S> row = y0.row(0).template cast<S>();
    y.setConstant(std::numeric_limits<S>::quiet_NaN());
    Product::multiply(Batch<S>(y), ConstBatch<S>(x), w, stairs, {row.data()}, {.relu = true}, scratch);
    CHECK(worst(y, (product.rowwise() + y0.row(0)).cwiseMax(0), p) < 8);
    y = y0.template cast<S>();
    const Matrix<S> gate = random_matrix<S>(n, p, rng);
    x.setConstant(std::numeric_limits<S>::quiet_NaN());
    Product::multiply_transposed(Batch<S>(x), ConstBatch<S>(y), w, stairs, {.relu_output = gate.data(), .stride = n},
                                 scratch);
    CHECK(worst(x,
                y0.lazyProduct(counted.transpose()).cwiseProduct((gate.array() > 0).template cast<double>().matrix()),
                q) < 8);
  }
}
