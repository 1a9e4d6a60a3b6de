// SPDX-License-Identifier: MIT

#include <rhei/core/random.hpp>
#include <rhei/nn/product.hpp>

#include "support/allocation_counter.hpp"
#include "support/catch.hpp"
#include "support/random_matrix.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// Whether c agrees with `expected` (found in double) to the rounding of a sum of `depth` products.
template <class C>
bool close(const C& c, const Matrix<double>& expected, Index depth) {
  const double unit = std::numeric_limits<typename C::Scalar>::epsilon();
  return (c.template cast<double>() - expected).cwiseAbs().sum() <=
         unit * static_cast<double>(c.size()) * 4 * (1 + static_cast<double>(depth));
}

}  // namespace

TEMPLATE_TEST_CASE("products agree with sums of products at every shape", "[product]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(1);
  for (const Index m : {0, 1, 2, 7, 8, 24, 33, 257})
    for (const Index k : {0, 1, 2, 3, 17, 600})  // 600: more than is copied at a time
      for (const Index n : {0, 1, 3, 8, 40, 258}) {
        CAPTURE(m, k, n);
        const Matrix<S> a = random_matrix<S>(m, k, rng), b = random_matrix<S>(k, n, rng);
        const Matrix<S> a_t = a.transpose(), b_t = b.transpose(), start = random_matrix<S>(m, n, rng);
        const Matrix<double> product =
            a.template cast<double>().lazyProduct(b.template cast<double>());  // plain sums, not Eigen's kernels
        const Matrix<double> sum = start.template cast<double>() + product;
        Matrix<S> c = start;
        add_product(c, a, b);
        CHECK(close(c, sum, k));
        c = start;
        add_product_transposed(c, a, b_t);
        CHECK(close(c, sum, k));
        c = start;
        add_transposed_product(c, a_t, b);
        CHECK(close(c, sum, k));
        c.setConstant(std::numeric_limits<S>::quiet_NaN());
        set_product(c, a, b);
        CHECK(close(c, product, k));
        c.setConstant(std::numeric_limits<S>::quiet_NaN());
        set_product_transposed(c, a, b_t);
        CHECK(close(c, product, k));
        const RowVector<S> row = random_matrix<S>(1, n, rng);
        c.setConstant(std::numeric_limits<S>::quiet_NaN());
        detail::multiply<false, false>(detail::writable_panel(c), detail::panel(a), detail::panel(b),
                                       detail::Start<S>{row.data()}, detail::Finish<S>{.relu = true});
        CHECK(close(c, (product.rowwise() + row.template cast<double>()).cwiseMax(0), k));
        const Matrix<S> output = random_matrix<S>(m, n, rng);
        detail::multiply<false, true>(detail::writable_panel(c), detail::panel(a), detail::panel(b_t),
                                      detail::Start<S>::zero(),
                                      detail::Finish<S>{.relu_output = output.data(), .stride = m});
        CHECK(close(c, product.cwiseProduct((output.array() > 0).template cast<double>().matrix()), k));
      }
}

TEST_CASE("products take blocks, views and row vectors", "[product]") {
  Rng rng(2);
  const Matrix<double> a = random_matrix<double>(30, 20, rng), b = random_matrix<double>(25, 40, rng);
  Matrix<double> c = Matrix<double>::Zero(50, 60), expected = c;
  add_product(c.block(3, 5, 10, 12), a.block(4, 2, 10, 9), b.block(6, 7, 9, 12));
  expected.block(3, 5, 10, 12) += a.block(4, 2, 10, 9).lazyProduct(b.block(6, 7, 9, 12));
  CHECK((c - expected).cwiseAbs().maxCoeff() < 1e-12);  // and nothing outside the block has changed

  RowVector<double> row = a.row(3), out = RowVector<double>::Zero(40);
  const Matrix<double> weight = b.topRows(20);
  add_product(out, row, weight);
  CHECK((out - row.lazyProduct(weight)).cwiseAbs().maxCoeff() < 1e-12);

  Matrix<double> outer = Matrix<double>::Zero(20, 40);
  add_transposed_product(outer, row, out);
  CHECK((outer - row.transpose().lazyProduct(out)).cwiseAbs().maxCoeff() < 1e-12);

  Matrix<double> batch_out = Matrix<double>::Zero(30, 40);
  add_product(Batch<double>(batch_out), ConstBatch<double>(a), weight);
  CHECK((batch_out - a.lazyProduct(weight)).cwiseAbs().maxCoeff() < 1e-12);
}

TEST_CASE("a row with NaN leaves the others as they are, bit for bit", "[product]") {
  Rng rng(3);
  Matrix<float> a = random_matrix<float>(300, 40, rng);
  const Matrix<float> b = random_matrix<float>(40, 50, rng);
  Matrix<float> clean(300, 50), hit(300, 50);
  set_product(clean, a, b);
  a(17, 3) = std::numeric_limits<float>::quiet_NaN();
  set_product(hit, a, b);
  CHECK(hit.row(17).array().isNaN().all());
  CHECK(hit.topRows(17) == clean.topRows(17));
  CHECK(hit.bottomRows(282) == clean.bottomRows(282));
}

TEMPLATE_TEST_CASE("products allocate nothing at any size", "[product][allocation]", RHEI_TEST_SCALARS) {
  using S = TestType;
  if (!testing::counts_allocations()) return;
  static Matrix<S> kept;                                          // so that no compiler may leave its memory out
  CHECK(testing::allocations_in([] { kept.resize(3, 3); }) > 0);  // the counter counts
  for (const Index n : {1, 2, 7, 8, 256, 1024})
    for (const Index width : {2, 64, 512, 1024}) {
      CAPTURE(n, width);
      if (n > 256 && width > 512) continue;  // for time: no new code path
      const Matrix<S> x = Matrix<S>::Ones(n, 512), w = Matrix<S>::Ones(512, width), d = Matrix<S>::Ones(n, width);
      Matrix<S> y(n, width), d_x(n, 512), d_w = Matrix<S>::Zero(512, width);
      CHECK(testing::allocations_in([&] {
              set_product(y, x, w);
              set_product_transposed(d_x, d, w);
              add_transposed_product(d_w, x, d);
            }) == 0);
    }
  const Matrix<S> x = Matrix<S>::Ones(1, 100'000), w = Matrix<S>::Ones(100'000, 1);
  Matrix<S> y(1, 1), z(1, 100'000);
  CHECK(testing::allocations_in([&] {
          set_product(y, x, w);
          set_product_transposed(z, y, w);
        }) == 0);
  CHECK(y(0, 0) == S(100'000));
}
