// SPDX-License-Identifier: MIT

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <rhei/core/random.hpp>
#include <rhei/nn/math.hpp>
#include <rhei/nn/product.hpp>

#include "support/cost.hpp"

namespace bench {
namespace {

using Clock = std::chrono::steady_clock;

/// Seconds of one call of f: the best of several tries of at least 2 ms each.
template <class F>
double best_seconds(F f) {
  double best = std::numeric_limits<double>::infinity();
  for (int attempt = 0; attempt < 15; ++attempt) {
    const auto begin = Clock::now();
    std::int64_t calls = 0;
    double seconds = 0;
    do {
      f();
      ++calls;
      seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    } while (seconds < 2e-3);
    best = std::min(best, seconds / static_cast<double>(calls));
  }
  return best;
}

void measure_product(Rates& rates) {
  rates.multiply_add = std::numeric_limits<double>::infinity();
  for (const Index size : {256, 384, 512, 768, 1024}) {
    const Eigen::MatrixXf a = Eigen::MatrixXf::Constant(size, size, 0.5f), b = a;
    Eigen::MatrixXf c = Eigen::MatrixXf::Zero(size, size);
    const double cube = static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size);
    const double eigen = best_seconds([&] { c.noalias() = a * b; });
    const double own = best_seconds([&] { rhei::set_product(c, a, b); });
    const double better = std::min(eigen, own) / cube;
    if (better < rates.multiply_add) {
      rates.multiply_add = better;
      rates.best_size = size;
    }
  }
}

}  // namespace

Rates measure_rates() {
  Rates rates;
  measure_product(rates);

  constexpr Index n = 4096;  // two arrays of which are in the first-level cache
  const double count = static_cast<double>(n);
  rhei::Rng rng(1);
  Eigen::ArrayXf x(n), y(n), m = Eigen::ArrayXf::Zero(n), v = m;
  for (Index i = 0; i < n; ++i) x[i] = 0.1f + rng.uniform<float>();
  const float* const from = x.data();
  float* const to = y.data();
  // The best over distances of the two arrays: where loads and stores meet at the same place of a page, a pass takes
  // half as long again, and a rate that is measured badly would lower the floor's demands. By two loops, because one of
  // them may lie badly in the code.
  rates.pass = std::numeric_limits<double>::infinity();
  Eigen::ArrayXf wide(n + 1024);
  using L = rhei::Lanes<float>;
  for (const Index shift : {0, 128, 256, 512, 1024}) {
    float* const shifted = wide.data() + shift;
    const double eigen = best_seconds([&] { wide.segment(shift, n) = (x + from[0]).max(0.f); });
    const double own = best_seconds([&] {
      const L added(from[0]);
      for (Index i = 0; i < n; i += 4 * L::size)
        for (Index j = i; j < i + 4 * L::size; j += L::size)
          L::of(Eigen::internal::pmax((L::load(from + j) + added).p, L(0).p)).store(shifted + j);
    });
    rates.pass = std::min({rates.pass, eigen / count, own / count});
  }
  const auto negative = [](rhei::Lanes<float> lanes) { return rhei::exp_negative(-lanes); };
  const auto logarithm = [](rhei::Lanes<float> lanes) { return log(lanes); };
  rates.exp =
      std::min(best_seconds([&] { y = x.exp(); }), best_seconds([&] { rhei::elementwise(n, negative, to, from); })) /
      count;
  rates.log =
      std::min(best_seconds([&] { y = x.log(); }), best_seconds([&] { rhei::elementwise(n, logarithm, to, from); })) /
      count;
  rates.tanh = best_seconds([&] { y = x.tanh(); }) / count;
  rates.divide = best_seconds([&] { y = x.sqrt() / (1.5f + x); }) / count;
  rates.normal = best_seconds([&] {
                   for (Index i = 0; i < n; ++i) to[i] = rng.normal<float>();
                 }) /
                 count;
  rates.adam = best_seconds([&] {
                 constexpr Index block = 512;
                 for (Index i = 0; i < n; i += block) {
                   const auto g = x.segment(i, block);
                   auto first = m.segment(i, block), second = v.segment(i, block);
                   first = 0.9f * first + 0.1f * g;
                   second = 0.999f * second + 0.001f * g.square();
                   y.segment(i, block) -= 1e-4f * first / (second.sqrt() + 1e-8f);
                 }
               }) /
               count;
  return rates;
}

}  // namespace bench
