// SPDX-License-Identifier: MIT
#include <rhei/distributions/uniform.hpp>

#include "support/distribution_checks.hpp"

using namespace rhei;
using namespace rhei::testing;

static_assert(Reparameterized<Uniform<float>> && Reparameterized<Uniform<double>>);

namespace {

/// Boxes of different widths in each dimension.
Uniform<double> some_box(Index dim) {
  RowVector<double> lower(dim), upper(dim);
  for (Index d = 0; d < dim; ++d) {
    lower[d] = -1.5 * static_cast<double>(d) - 0.25;
    upper[d] = 0.5 + static_cast<double>(d * d);
  }
  return {lower, upper};
}

template <class S>
RowVector<S> row(std::initializer_list<S> values) {
  return Eigen::Map<const RowVector<S>>(values.begin(), static_cast<Index>(values.size()));
}

}  // namespace

TEST_CASE("Uniform conforms", "[distribution]") {
  const auto formula = [](const auto& base, const LongRow& z) {
    long double volume = 1;
    for (Index d = 0; d < z.size(); ++d) volume *= static_cast<long double>(base.upper()[d]) - base.lower()[d];
    return -std::log(volume);
  };
  for (const Index dim : {1, 2, 5}) {
    const Uniform<double> base = some_box(dim);
    Matrix<double> z = draw(base, 256, 1);
    const RowVector<double> centre = (base.lower() + base.upper()) / 2;
    for (Index d = 0; d < dim; ++d)
      z.col(d).array() = centre[d] + 0.99 * (z.col(d).array() - centre[d]);  // off the edge
    check_distribution(base, z, formula);
  }
}

TEST_CASE("Uniform integrates to one and draws what it says", "[distribution]") {
  for (const Index dim : {1, 2}) {
    const Uniform<double> base = some_box(dim);
    check_mass_and_samples(base, base.lower(), base.upper());
  }
}

TEMPLATE_TEST_CASE("Uniform is a closed box with nothing outside", "[distribution]", RHEI_TEST_SCALARS) {
  using S = TestType;
  constexpr S infinity = std::numeric_limits<S>::infinity();
  const Uniform<S> base(row<S>({-1, 2}), row<S>({1, 6}));
  Matrix<S> z(8, 2);
  z << -1, 2, 1, 6, 0, 4,               // both edges and the middle
      std::nextafter(S(-1), S(-2)), 4,  // just below
      0, std::nextafter(S(6), S(7)),    // just above
      9, 9, std::numeric_limits<S>::quiet_NaN(), 9, infinity, 4;
  const Vector<S> log_p = log_prob(base, z);
  for (Index i = 0; i < 3; ++i) CHECK(std::abs(log_p[i] + std::log(S(8))) <= S(1e-6));
  for (const Index i : {3, 4, 5, 7}) CHECK(log_p[i] == -infinity);
  CHECK(std::isnan(log_p[6]));
  CHECK(Gradients(base, z, Vector<S>(Vector<S>::Ones(8))).d_z.isZero(0));
}

TEST_CASE("Uniform draws never leave the box by rounding", "[distribution]") {
  const Uniform<float> base(row<float>({-0.3f, 1.0f, 1e-3f}), row<float>({1e-9f, std::nextafter(1.0f, 2.0f), 7e30f}));
  CHECK(log_prob(base, draw(base, 50'000, 3)).allFinite());
}

TEST_CASE("Uniform refuses bounds that are no box", "[distribution]") {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const auto said = [](std::initializer_list<double> lower, std::initializer_list<double> upper) {
    return complaint([&] { Uniform<double>(row(lower), row(upper)); });
  };
  CHECK(said({0, 1}, {1, 1}).find("feature 1 has bounds 1.000000 and 1.000000, expected lower < upper") !=
        std::string::npos);
  CHECK(said({0, 3}, {1, 2}).find("feature 1") != std::string::npos);
  CHECK(said({nan}, {1}).find("feature 0") != std::string::npos);
  CHECK(said({0}, {infinity}).find("finite") != std::string::npos);
  CHECK(said({-1e308}, {1e308}).find("distance") != std::string::npos);
  CHECK(said({0}, {1, 2}).find("upper is 1 x 2") != std::string::npos);
  CHECK(said({}, {}).find("the number of features is 0") != std::string::npos);
}

TEST_CASE("Uniform keeps its bounds as state that a reader may get wrong", "[distribution]") {
  Uniform<double> base = some_box(2);
  CHECK(count_parameters(base) == 0);
  std::vector<std::string> names;
  for_each_state(base, [&](std::string_view name, auto) { names.emplace_back(name); });
  CHECK(names == std::vector<std::string>{"lower", "upper"});
  CHECK_NOTHROW(base.check_state());
  for_each_state(base, [](std::string_view, auto values) {
    if constexpr (requires { values.rows(); }) values.setConstant(4);
  });
  CHECK_THROWS_AS(base.check_state(), std::runtime_error);
  const Uniform<double> thin(row<double>({1.0}), row<double>({1.0 + 1e-12}));
  CHECK_THROWS_AS(thin.cast<float>(), std::runtime_error);
}
