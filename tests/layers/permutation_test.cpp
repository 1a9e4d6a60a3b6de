// SPDX-License-Identifier: MIT

/// \file
/// Permutation: the direction of its index list, and what it refuses to be.

#include <rhei/layers/permutation.hpp>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"
#include "support/evaluation.hpp"

using namespace rhei;
using namespace rhei::testing;

using Indices = std::vector<std::int64_t>;

TEMPLATE_TEST_CASE("Permutation conforms", "[layer]", RHEI_TEST_SCALARS) {
  conforms([](Index dim, Rng& rng) { return Permutation<TestType>::random(dim, rng); });
}

TEMPLATE_TEST_CASE("Permutation reads its indices from data to latent", "[permutation]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const Index rows = GENERATE(1, 2);  // one row has a path of its own
  const Permutation<S> layer({2, 0, 1});
  Matrix<S> x(2, 3), z(2, 3);
  x << 10, 11, 12, 20, 21, 22;
  z << 12, 10, 11, 22, 20, 21;
  x.conservativeResize(rows, 3);
  z.conservativeResize(rows, 3);
  CHECK(inverse_of(layer, x).out == z);
  CHECK(forward_of(layer, z).out == x);
  CHECK(inverse_of(layer, x).log_det == Vector<S>::Zero(rows));
}

TEST_CASE("Permutation comes in reverse and at random", "[permutation]") {
  CHECK(Permutation<float>::reverse(4).indices() == Indices{3, 2, 1, 0});
  CHECK(Permutation<float>::reverse(1).indices() == Indices{0});

  Rng rng(3), same(3);
  const auto random = Permutation<float>::random(50, rng).indices();
  CHECK(random == Permutation<double>::random(50, same).indices());
  CHECK(random != Permutation<float>::random(50, rng).indices());

  std::array<int, 6> seen{};  // of the orders of three features, by their first index and whether the rest ascends
  for (int i = 0; i < 6000; ++i) {
    const auto order = Permutation<float>::random(3, rng).indices();
    ++seen[static_cast<std::size_t>(2 * order[0] + (order[1] < order[2]))];
  }
  for (const int count : seen) CHECK(std::abs(count - 1000) < 150);  // five standard deviations
}

TEST_CASE("Permutation refuses lists that are none", "[permutation]") {
  const auto text = [](const Indices& indices) {
    return error_text<std::invalid_argument>([&] { Permutation<float>{indices}; });
  };
  CHECK(text({0, 1, 3}) == "Permutation: indices[2] is 3, expected 0 to 2");
  CHECK(text({0, -1, 1}) == "Permutation: indices[1] is -1, expected 0 to 2");
  CHECK(text({1, 0, 1}) == "Permutation: indices[2] is 1 and indices[0] is 1, expected each index once");
  CHECK(text({}) == "Permutation: the number of indices is 0, expected at least 1");
  CHECK_THROWS_AS(Permutation<float>::reverse(0), std::invalid_argument);
}

TEST_CASE("Permutation checks the indices that a reader wrote", "[permutation]") {
  auto layer = Permutation<double>::from_options(Permutation<double>::reverse(3).options());
  CHECK(layer.indices() == Indices{0, 1, 2});
  const auto write = [&](const Indices& indices) {
    for_each_state(layer, [&](std::string_view name, std::span<std::int64_t> state) {
      CHECK(name == "indices");
      std::copy(indices.begin(), indices.end(), state.begin());
    });
    return error_text<std::runtime_error>([&] { check_state(layer); });
  };
  CHECK(write({1, 2, 0}).empty());
  CHECK(layer.indices() == Indices{1, 2, 0});
  CHECK(write({1, 2, 2}) == "Permutation: indices[2] is 2 and indices[1] is 2, expected each index once");
  CHECK(write({1, 2, 1'000'000'000'000}) == "Permutation: indices[2] is 1000000000000, expected 0 to 2");
}
