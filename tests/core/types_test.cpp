// SPDX-License-Identifier: MIT

#include <rhei/core/types.hpp>
#include <type_traits>

#include "support/catch.hpp"

using namespace rhei;

static_assert(Real<float> && Real<double> && !Real<int> && !Real<long double>);
static_assert(std::is_convertible_v<Batch<float>, ConstBatch<float>>);
static_assert(!std::is_convertible_v<ConstBatch<float>, Batch<float>>);
static_assert(!std::is_constructible_v<Batch<float>, const Matrix<float>&>, "a batch would write into a constant");
static_assert(!std::is_convertible_v<Matrix<double>, ConstBatch<float>>);

TEMPLATE_TEST_CASE("batches are views", "[types]", RHEI_TEST_SCALARS) {
  Matrix<TestType> m(2, 3);
  m << 1, 2, 3, 4, 5, 6;
  const Batch<TestType> batch(m);
  CHECK(batch.data() == m.data());
  CHECK(batch.rows() == 2);
  CHECK(batch.cols() == 3);

  const Batch<TestType> two = batch.features(1, 2);
  CHECK(two == m.rightCols(2));
  CHECK(two.features(2, 0).size() == 0);  // an empty range is legal
  Batch<TestType>(two).setConstant(9);
  CHECK(m(0, 0) == 1);
  CHECK(m(1, 2) == 9);

  const ConstBatch<TestType> constant(m);
  CHECK(constant.features(0, 1)(1, 0) == 4);
  const ConstBatch<TestType> tall = constant.reshaped_as(6, 1);
  CHECK(tall.data() == m.data());
  CHECK(tall(1, 0) == 4);  // column-major
  CHECK(batch.reshaped_as(1, 6)(0, 1) == 4);
}

TEMPLATE_TEST_CASE("assigning a batch copies values", "[types]", RHEI_TEST_SCALARS) {
  Matrix<TestType> a = Matrix<TestType>::Constant(2, 2, 1), b = Matrix<TestType>::Constant(2, 2, 2);
  Batch<TestType> to(a);
  const Batch<TestType> from(b);
  to = from;
  CHECK(a == b);
  CHECK(to.data() == a.data());
  to = Matrix<TestType>::Zero(2, 2);
  CHECK(a.isZero(0));
  CHECK(b(0, 0) == 2);
}

TEMPLATE_TEST_CASE("vectors are batches of one row or one feature", "[types]", RHEI_TEST_SCALARS) {
  RowVector<TestType> row(3);
  row << 1, 2, 3;
  Vector<TestType> column(2);
  column << 4, 5;
  CHECK(ConstBatch<TestType>(row).rows() == 1);
  CHECK(Batch<TestType>(row).cols() == 3);
  CHECK(ConstBatch<TestType>(column).cols() == 1);
  CHECK(Batch<TestType>(column)(1, 0) == 5);
  CHECK(ConstBatch<TestType>().rows() == 0);
  CHECK(ConstBatch<TestType>().cols() == 0);
}

TEMPLATE_TEST_CASE("values are views of one number per sample", "[types]", RHEI_TEST_SCALARS) {
  Vector<TestType> v(2), w(2);
  v << 1, 2;
  w << 3, 4;
  Values<TestType> to(v);
  to = Values<TestType>(w);
  CHECK(v == w);
  to += w;
  CHECK(v[1] == 8);
  CHECK(ConstValues<TestType>(to).data() == v.data());
  CHECK(ConstValues<TestType>().size() == 0);
}

TEMPLATE_TEST_CASE("a buffer grows and is then reused", "[types]", RHEI_TEST_SCALARS) {
  Buffer<TestType> buffer;
  CHECK(buffer.view().size() == 0);
  const TestType* memory = buffer.resize(4, 3).data();
  CHECK(buffer.resize(3, 2).data() == memory);
  CHECK(buffer.view().rows() == 3);
  CHECK(buffer.values().size() == 6);
  buffer.view().setConstant(7);
  const Buffer<TestType>& constant = buffer;
  CHECK((constant.view().array() == TestType(7)).all());
  CHECK((constant.values().array() == TestType(7)).all());
  CHECK(buffer.resize(2, 6).data() == memory);
  CHECK(buffer.resize(5, 3).size() == 15);
  CHECK(buffer.resize(0, 3).size() == 0);
}
