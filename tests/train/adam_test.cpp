// SPDX-License-Identifier: MIT

/// \file
/// Adam and AdamW against the papers' algorithms, schedules, workers.

#include <atomic>
#include <rhei/core/random.hpp>
#include <rhei/core/workers.hpp>
#include <rhei/train/adam.hpp>
#include <rhei/train/schedule.hpp>

#include "support/catch.hpp"

namespace {

using namespace rhei;

struct Two {
  Matrix<double> a;
  RowVector<double> b;
  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    f("net.weight.0", self.a);
    f("shift", self.b);
  }
};

}  // namespace

TEST_CASE("Adam follows algorithm 1", "[adam]") {
  Rng rng(5);
  Two parameters{Matrix<double>(60, 50), RowVector<double>(3)};  // more than one block
  rng.fill_normal(parameters.a);
  rng.fill_normal(parameters.b);
  Two gradient = parameters;
  Two expected = parameters;
  const double decay = GENERATE(0.0, 0.1);
  const AdamOptions options{.weight_decay = decay};
  Adam<double> adam(options);
  auto list = parameter_list<double>(parameters);
  std::vector<double> m(3003, 0.0), v(3003, 0.0);
  for (int t = 1; t <= 5; ++t) {
    rng.fill_normal(gradient.a);
    rng.fill_normal(gradient.b);
    adam.step(list, parameter_list<double>(gradient), 0.01, 0.5);
    std::size_t k = 0;
    const auto reference = [&](auto& theta, const auto& g, double shrink) {
      for (Index i = 0; i < theta.size(); ++i, ++k) {
        const double scaled = 0.5 * g.data()[i];
        m[k] = 0.9 * m[k] + 0.1 * scaled;
        v[k] = 0.999 * v[k] + 0.001 * scaled * scaled;
        const double m_hat = m[k] / (1 - std::pow(0.9, t)), v_hat = v[k] / (1 - std::pow(0.999, t));
        theta.data()[i] -= 0.01 * (m_hat / (std::sqrt(v_hat) + 1e-8) + shrink * theta.data()[i]);
      }
    };
    reference(expected.a, gradient.a, decay);
    reference(expected.b, gradient.b, 0);
  }
  CHECK((parameters.a - expected.a).cwiseAbs().maxCoeff() < 1e-13);
  CHECK((parameters.b - expected.b).cwiseAbs().maxCoeff() < 1e-13);
  CHECK(adam.steps() == 5);
}

TEST_CASE("Schedules", "[schedule]") {
  CHECK(schedule_factor(Schedule::constant, 0.7) == 1);
  CHECK(schedule_factor(Schedule::cosine, 0) == 1);
  CHECK(schedule_factor(Schedule::cosine, 0.5) == Approx(0.5));
  CHECK(schedule_factor(Schedule::cosine, 1) == Approx(0).margin(1e-15));
  CHECK(schedule_factor(Schedule::cosine, 2) == Approx(0).margin(1e-15));
}

TEST_CASE("Workers do each part once, and pass on what is thrown", "[workers]") {
  Workers workers(3);
  std::vector<int> done(3, 0);
  for (int round = 0; round < 200; ++round) workers.run([&](int i) { ++done[static_cast<std::size_t>(i)]; });
  CHECK(done == std::vector<int>{200, 200, 200});
  CHECK_THROWS_AS(workers.run([](int i) {
    if (i == 2) throw std::runtime_error("two");
  }),
                  std::runtime_error);
  workers.run([&](int i) { ++done[static_cast<std::size_t>(i)]; });  // still serves
  CHECK(done == std::vector<int>{201, 201, 201});
  CHECK(workers.first(0, 10) == 0);
  CHECK(workers.first(3, 10) == 10);
}
