// SPDX-License-Identifier: MIT

/// \file
/// Subsets of features: the named ones, and reading and writing those of a batch.

#include <rhei/core/features.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"

using namespace rhei;
using rhei::detail::Subset;
using rhei::testing::error_text;

namespace {

using List = std::vector<Index>;

std::string refusal(Index dim, const List& features) {
  return error_text<std::invalid_argument>([&] { (void)Subset("Thing", "picked", dim, features); });
}

}  // namespace

TEST_CASE("named subsets", "[features]") {
  CHECK(even_features(5) == List{0, 2, 4});
  CHECK(odd_features(5) == List{1, 3});
  CHECK(even_features(4) == List{0, 2});
  CHECK(odd_features(4) == List{1, 3});
  CHECK(even_features(1) == List{0});
  CHECK(odd_features(1).empty());
  CHECK(even_features(0).empty());
  CHECK(feature_range(2, 3) == List{2, 3, 4});
  CHECK(feature_range(2, 0).empty());
  CHECK(alternating_features(5, 0) == odd_features(5));
  CHECK(alternating_features(5, 1) == even_features(5));
  CHECK(alternating_features(5, 2) == odd_features(5));
  CHECK(alternating_features(1, 0) == List{0});
  CHECK(alternating_features(1, 1) == List{0});
}

TEST_CASE("a subset is ascending and has a complement", "[features]") {
  const Subset subset("Thing", "picked", 6, {5, 0, 3});
  CHECK(subset.size() == 3);
  CHECK(subset.features() == List{0, 3, 5});
  CHECK(subset[1] == 3);
  CHECK(Subset(6, subset).features() == List{1, 2, 4});
  const Subset all("Thing", "picked", 3, {2, 1, 0});
  CHECK(Subset(3, all).size() == 0);
}

TEST_CASE("a subset refuses what is not one", "[features]") {
  CHECK(refusal(4, {1, 4}) == "Thing: a feature of picked is 4, expected 0 to 3");
  CHECK(refusal(4, {-1}) == "Thing: a feature of picked is -1, expected 0 to 3");
  CHECK(refusal(4, {2, 0, 2}) == "Thing: picked names feature 2 twice");
  CHECK(refusal(4, {}) == "Thing: picked is empty, expected at least one feature");
  CHECK(refusal(0, {}) == "Thing: dim is 0, expected at least 1");
  CHECK(refusal(-3, {0}) == "Thing: dim is -3, expected at least 1");
}

TEMPLATE_TEST_CASE("features are read and written, in place where they are neighbours", "[features]",
                   RHEI_TEST_SCALARS) {
  using S = TestType;
  const List features = GENERATE(List{1, 2}, List{0, 1, 2, 3, 4}, List{3}, List{0, 2}, List{4, 1, 2});
  const Index rows = GENERATE(0, 1, 3);
  const Subset subset("Thing", "picked", 5, features);
  const bool neighbours = subset.features().back() - subset.features().front() + 1 == subset.size();
  Matrix<S> from(rows, 5);
  for (Index i = 0; i < from.size(); ++i) from.data()[i] = static_cast<S>(i + 1);
  Matrix<S> wanted(rows, subset.size());
  for (Index j = 0; j < subset.size(); ++j) wanted.col(j) = from.col(subset[j]);

  Buffer<S> buffer;
  const ConstBatch<S> read = subset.gather(ConstBatch<S>(from), buffer);
  CHECK(bool(read == wanted));
  CHECK((read.data() == from.data() + subset[0] * rows) == (neighbours || rows == 0));
  CHECK(subset.gathered(ConstBatch<S>(from), buffer).data() == read.data());

  Matrix<S> to = Matrix<S>::Zero(rows, 5);
  Matrix<S> expected = to;
  for (const Index d : subset.features()) expected.col(d) = S(2) * from.col(d);
  Buffer<S> other;
  Batch<S> target = subset.writable(Batch<S>(to), other);
  target = S(2) * wanted;
  subset.scatter(other, Batch<S>(to));
  CHECK(bool(to == expected));

  to.setZero();
  subset.copy(ConstBatch<S>(from), Batch<S>(to));
  for (Index d = 0; d < 5; ++d) {
    const bool picked = std::find(features.begin(), features.end(), d) != features.end();
    CHECK(bool(to.col(d) == (picked ? Vector<S>(from.col(d)) : Vector<S>(Vector<S>::Zero(rows)))));
  }
}

TEST_CASE("the complement of everything reads nothing", "[features]") {
  const Matrix<double> from = Matrix<double>::Ones(3, 2);
  const Subset nothing(2, Subset("Thing", "picked", 2, {0, 1}));
  Buffer<double> buffer;
  const ConstBatch<double> read = nothing.gather(ConstBatch<double>(from), buffer);
  CHECK(read.rows() == 3);
  CHECK(read.cols() == 0);
}
