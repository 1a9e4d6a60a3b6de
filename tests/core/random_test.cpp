// SPDX-License-Identifier: MIT

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <random>
#include <rhei/core/random.hpp>
#include <vector>

#include "support/catch.hpp"

using namespace rhei;

static_assert(std::uniform_random_bit_generator<Rng>);

namespace {

/// The Kolmogorov-Smirnov statistic sqrt(N) sup|F_N - F|; above 1.95 once in a thousand.
template <class Cdf>
double kolmogorov_smirnov(std::vector<double> sample, Cdf&& cdf) {
  std::sort(sample.begin(), sample.end());
  const double n = static_cast<double>(sample.size());
  double worst = 0;
  for (std::size_t i = 0; i < sample.size(); ++i) {
    const double at = cdf(sample[i]), below = static_cast<double>(i) / n;
    worst = std::max({worst, std::abs(at - below), std::abs(at - below - 1 / n)});
  }
  return std::sqrt(n) * worst;
}

/// How many standard deviations a count is away from what is expected.
double deviations(double count, double trials, double probability) {
  return std::abs(count - trials * probability) / std::sqrt(trials * probability * (1 - probability));
}

}  // namespace

TEST_CASE("the seed is spread by splitmix64", "[random]") {
  // the answers that go with the published C code for the seed 1234567
  const Rng::State expected{6457827717110365317u, 3203168211198807973u, 9817491932198370423u, 4593380528125082431u};
  CHECK(Rng(1234567).state() == expected);
}

TEST_CASE("the generator is xoshiro256++", "[random]") {
  // the published C code from the state 1, 2, 3, 4
  Rng rng(Rng::State{1, 2, 3, 4});
  constexpr std::uint64_t answers[] = {41943041u,
                                       58720359u,
                                       3588806011781223u,
                                       3591011842654386u,
                                       9228616714210784205u,
                                       9973669472204895162u,
                                       14011001112246962877u,
                                       12406186145184390807u,
                                       15849039046786891736u,
                                       10450023813501588000u};
  for (const std::uint64_t expected : answers) CHECK(rng() == expected);
}

TEMPLATE_TEST_CASE("uniform numbers are strictly between 0 and 1", "[random]", RHEI_TEST_SCALARS) {
  // states whose next output is 0 and 2^64 - 1
  const TestType smallest = Rng(Rng::State{0, 1, 0, 0}).uniform<TestType>();
  const TestType largest = Rng(Rng::State{0, 1, 0, ~std::uint64_t(0)}).uniform<TestType>();
  CHECK(smallest > 0);
  CHECK(largest < 1);
  CHECK(smallest == 1 - largest);
  CHECK(std::isfinite(std::log(smallest)));
  CHECK(std::log1p(-largest) < 0);
  CHECK(std::isfinite(std::log1p(-largest)));
}

TEMPLATE_TEST_CASE("uniform numbers are uniform", "[random]", RHEI_TEST_SCALARS) {
  Rng rng(11);
  std::vector<double> sample(200'000);
  double sum = 0, squares = 0;
  for (double& u : sample) {
    u = static_cast<double>(rng.uniform<TestType>());
    sum += u;
    squares += u * u;
  }
  const double n = static_cast<double>(sample.size());
  CHECK(std::abs(sum / n - 0.5) < 4 * std::sqrt(1.0 / 12 / n));
  CHECK(std::abs(squares / n - 1.0 / 3) < 4 * std::sqrt(4.0 / 45 / n));
  CHECK(kolmogorov_smirnov(sample, [](double u) { return u; }) < 1.95);
}

TEMPLATE_TEST_CASE("normal numbers are normal", "[random]", RHEI_TEST_SCALARS) {
  Rng rng(12);
  constexpr int n = 1'000'000;
  std::vector<double> sample(n);
  std::array<double, 5> moment{};  // means of x^k
  for (double& x : sample) {
    x = static_cast<double>(rng.normal<TestType>());
    double power = 1;
    for (double& m : moment) {
      m += power / n;
      power *= x;
    }
  }
  // the deviation of the mean of x^k is sqrt((E x^2k - (E x^k)^2) / n)
  CHECK(std::abs(moment[1]) < 4 * std::sqrt(1.0 / n));
  CHECK(std::abs(moment[2] - 1) < 4 * std::sqrt(2.0 / n));
  CHECK(std::abs(moment[3]) < 4 * std::sqrt(15.0 / n));
  CHECK(std::abs(moment[4] - 3) < 4 * std::sqrt(96.0 / n));
  CHECK(kolmogorov_smirnov(sample, [](double x) { return 0.5 * std::erfc(-x * std::sqrt(0.5)); }) < 1.95);
  // each side of the ziggurat's edge at 3.654, and the tail that has its own method
  for (const double edge : {1.0, 2.0, 3.0, 3.5, 3.6541528853610088, 4.0, 4.3}) {
    const double side = 0.5 * std::erfc(edge * std::sqrt(0.5));
    const auto above = std::count_if(sample.begin(), sample.end(), [=](double x) { return x > edge; });
    const auto below = std::count_if(sample.begin(), sample.end(), [=](double x) { return x < -edge; });
    CHECK(deviations(static_cast<double>(above), n, side) < 4);
    CHECK(deviations(static_cast<double>(below), n, side) < 4);
  }
}

TEST_CASE("a normal float is a rounded double", "[random]") {
  Rng a(13), b(13);
  for (int i = 0; i < 10'000; ++i) REQUIRE(a.normal<float>() == static_cast<float>(b.normal<double>()));
}

TEST_CASE("below has no bias", "[random]") {
  Rng rng(14);
  CHECK(rng.below(1) == 0);
  std::array<int, 7> count{};
  for (int i = 0; i < 70'000; ++i) ++count.at(static_cast<std::size_t>(rng.below(7)));
  for (const int c : count) CHECK(deviations(c, 70'000, 1.0 / 7) < 4);
  // 2^64 is 8/3 of this bound: without the rejection step the remainders would come as 3 : 3 : 2
  const Index bound = Index(3) << 61;
  std::array<int, 3> remainder{};
  for (int i = 0; i < 30'000; ++i) {
    const Index value = rng.below(bound);
    REQUIRE((value >= 0 && value < bound));
    ++remainder.at(static_cast<std::size_t>(value % 3));
  }
  for (const int c : remainder) CHECK(deviations(c, 30'000, 1.0 / 3) < 4);
}

TEST_CASE("a shuffle makes every order equally likely", "[random]") {
  Rng rng(15);
  std::map<std::vector<int>, int> count;
  for (int i = 0; i < 24'000; ++i) {
    std::vector<int> items{0, 1, 2, 3};
    rng.shuffle(items);
    ++count[items];
  }
  CHECK(count.size() == 24);
  for (const auto& [order, c] : count) CHECK(deviations(c, 24'000, 1.0 / 24) < 4);
}

TEST_CASE("a state is a place to go on from", "[random]") {
  Rng rng(16);
  for (int i = 0; i < 5; ++i) rng();
  Rng other(rng.state());
  CHECK(other == rng);
  for (int i = 0; i < 100; ++i) REQUIRE(other.normal<double>() == rng.normal<double>());
  CHECK(other == rng);
  other();
  CHECK_FALSE(other == rng);
}

TEST_CASE("a split generator goes its own way", "[random]") {
  Rng rng(17), same(17);
  Rng child = rng.split(), other_child = same.split(), second_child = rng.split();
  CHECK(child == other_child);
  CHECK_FALSE(child == second_child);
  same.split();
  CHECK(rng == same);  // a split draws once
  double correlation = 0;
  constexpr int n = 100'000;
  for (int i = 0; i < n; ++i) correlation += rng.normal<double>() * child.normal<double>() / n;
  CHECK(std::abs(correlation) < 4 / std::sqrt(n));
}

TEST_CASE("matrices are filled column by column", "[random]") {
  Rng rng(18), again(18);
  Matrix<double> normal(3, 2), uniform(3, 2);
  rng.fill_normal(normal);
  rng.fill_uniform(uniform.col(1));
  for (Index i = 0; i < normal.size(); ++i) CHECK(normal.data()[i] == again.normal<double>());
  for (Index i = 0; i < 3; ++i) CHECK(uniform(i, 1) == again.uniform<double>());
}
