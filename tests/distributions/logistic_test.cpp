// SPDX-License-Identifier: MIT
#include <rhei/distributions/logistic.hpp>

#include "support/distribution_checks.hpp"

using namespace rhei;
using namespace rhei::testing;

static_assert(Reparameterized<Logistic<float>> && Reparameterized<Logistic<double>>);

TEST_CASE("Logistic conforms", "[distribution]") {
  const auto formula = [](const auto&, const LongRow& z) {  // as the paper writes it
    long double sum = 0;
    for (const long double value : z) sum -= std::log(1 + std::exp(value)) + std::log(1 + std::exp(-value));
    return sum;
  };
  for (const Index dim : {1, 2, 5}) {
    const Logistic<double> base(dim);
    check_distribution(base, 3 * draw(base, 256, 1), formula);
  }
}

TEST_CASE("Logistic integrates to one and draws what it says", "[distribution]") {
  check_mass_and_samples(Logistic<double>(1), RowVector<double>::Constant(1, -40), RowVector<double>::Constant(1, 40));
  check_mass_and_samples(Logistic<double>(2), RowVector<double>::Constant(2, -20), RowVector<double>::Constant(2, 20));
}

TEMPLATE_TEST_CASE("Logistic has exponential tails and a bounded gradient", "[distribution]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const Logistic<S> base(1);
  for (const Index n : {1, 40}) {  // one by one, and in packets
    for (const S size : {S(0), S(1e-3), S(30), S(1e3), S(1e30)})
      for (const S z : {size, -size}) {
        const Matrix<S> x = Matrix<S>::Constant(n, 1, z);
        const Vector<S> log_p = log_prob(base, x);
        const Gradients gradients(base, x, Vector<S>(Vector<S>::Ones(n)));
        const double want = -std::abs(double(z)) - 2 * std::log1p(std::exp(-std::abs(double(z))));
        const double epsilon = std::numeric_limits<S>::epsilon();
        CAPTURE(n, z);
        CHECK((log_p.template cast<double>().array() - want).abs().maxCoeff() <= 2 * epsilon * std::abs(want));
        CHECK((gradients.d_z.template cast<double>().array() + std::tanh(double(z) / 2)).abs().maxCoeff() <=
              2 * epsilon);
      }
  }
}

TEST_CASE("Logistic refuses a dimension below one", "[distribution]") {
  CHECK(complaint([] { Logistic<float>(0); }) == "Logistic: dim is 0, expected at least 1");
}
