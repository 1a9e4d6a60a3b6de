// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The generator that everything random in rhei takes by reference, and its uniform and normal draws.
///
/// They are our own because the distributions of <random> give different numbers on different standard libraries.
/// Same seed, same build: same bits.

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <rhei/core/types.hpp>
#include <utility>

namespace rhei {

/// xoshiro256++ 1.0 (Blackman & Vigna 2021, ACM TOMS 47:36), seeded through splitmix64.
///
/// A std::uniform_random_bit_generator, so that it also serves std::shuffle and the like.
class Rng {
 public:
  /// What one call gives: 64 random bits.
  using result_type = std::uint64_t;
  /// All that the next draws depend on.
  using State = std::array<std::uint64_t, 4>;

  /// Any number is a seed, 0 too.
  explicit Rng(std::uint64_t seed) {
    for (auto& word : state_) word = splitmix(seed);
  }
  /// A generator that goes on where the one that gave `state` stood (for checkpoints); `state` must not be all zero.
  explicit Rng(const State& state) : state_(state) {}

  /// The smallest value of a call.
  static constexpr result_type min() { return 0; }
  /// The largest value of a call.
  static constexpr result_type max() { return std::numeric_limits<result_type>::max(); }

  /// The next 64 bits.
  result_type operator()() {
    const std::uint64_t result = rotate(state_[0] + state_[3], 23) + state_[0];
    const std::uint64_t t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = rotate(state_[3], 45);
    return result;
  }

  /// Uniform on the open interval (0, 1): never 0, never 1, so that logarithms and quantiles of it are finite.
  template <Real S>
  S uniform() {
    if constexpr (std::same_as<S, float>)  // 23 bits and a half step: the largest value is 1 - 2^-24, a float
      return (static_cast<float>((*this)() >> 41) + 0.5f) * 0x1p-23f;
    else
      return (static_cast<double>((*this)() >> 12) + 0.5) * 0x1p-52;
  }

  /// Uniform on {0, ..., count - 1}, without bias (Lemire 2019, ACM TOMACS 29:1); count must be positive.
  Index below(Index count) {
    const auto bound = static_cast<std::uint64_t>(count);
    __extension__ using Wide = unsigned __int128;
    Wide product = static_cast<Wide>((*this)()) * bound;
    if (static_cast<std::uint64_t>(product) < bound) {
      const std::uint64_t threshold = (0 - bound) % bound;
      while (static_cast<std::uint64_t>(product) < threshold) product = static_cast<Wide>((*this)()) * bound;
    }
    return static_cast<Index>(product >> 64);
  }

  /// Standard normal, by the ziggurat of Marsaglia & Tsang 2000 (J. Stat. Softw. 5:8) with 256 layers and independent
  /// bits for layer and position (Doornik 2005). A float is a rounded double.
  template <Real S>
  S normal() {
    const Ziggurat& table = ziggurat();
    for (;;) {
      const std::uint64_t bits = (*this)();
      const auto layer = static_cast<std::size_t>(bits & 0xff);
      // the upper 53 bits as a signed position in (-1, 1)
      const double u = (static_cast<double>(bits >> 11) + 0.5) * 0x1p-52 - 1.0;
      const double x = u * table.x[layer];
      if (std::abs(x) < table.x[layer + 1]) [[likely]]
        return static_cast<S>(x);
      if (layer == 0) {  // the tail beyond r (Marsaglia 1964)
        double a, b;
        do {
          a = -std::log(uniform<double>()) / kTail;
          b = -std::log(uniform<double>());
        } while (b + b < a * a);
        return static_cast<S>(u < 0 ? -(kTail + a) : kTail + a);
      }
      const double f = std::exp(-0.5 * x * x);
      if (table.f[layer] + uniform<double>() * (table.f[layer + 1] - table.f[layer]) < f) return static_cast<S>(x);
    }
  }

  /// Fills a matrix column by column with uniform draws on (0, 1).
  template <class Derived>
  void fill_uniform(const Eigen::MatrixBase<Derived>& out) {
    auto& m = out.const_cast_derived();
    for (Index j = 0; j < m.cols(); ++j)
      for (Index i = 0; i < m.rows(); ++i) m(i, j) = uniform<typename Derived::Scalar>();
  }
  /// Fills a matrix column by column with standard normal draws.
  template <class Derived>
  void fill_normal(const Eigen::MatrixBase<Derived>& out) {
    auto& m = out.const_cast_derived();
    for (Index j = 0; j < m.cols(); ++j)
      for (Index i = 0; i < m.rows(); ++i) m(i, j) = normal<typename Derived::Scalar>();
  }
  /// Shuffles a sequence in place (Fisher & Yates).
  template <class Sequence>
  void shuffle(Sequence&& items) {
    const auto first = items.begin();  // an iterator counts in Index, whatever the sequence is indexed by
    for (Index i = static_cast<Index>(items.size()) - 1; i > 0; --i) std::swap(first[i], first[below(i + 1)]);
  }

  /// A new generator whose stream does not overlap with this one's in practice; draws once from this one.
  Rng split() { return Rng((*this)()); }

  /// For checkpoints: what the constructor takes.
  [[nodiscard]] const State& state() const { return state_; }
  bool operator==(const Rng&) const = default;

 private:
  static constexpr double kTail = 3.6541528853610088;  // r for 256 layers
  static constexpr double kArea = 0.00492867323399;    // area of a layer

  struct Ziggurat {
    std::array<double, 257> x, f;  // x[0] > x[1] = r > ... > x[256] = 0, f = exp(-x^2 / 2)
  };
  static const Ziggurat& ziggurat() {
    static const Ziggurat table = [] {
      Ziggurat t{};
      const auto density = [](double x) { return std::exp(-0.5 * x * x); };
      t.x[1] = kTail;
      t.x[0] = kArea / density(kTail);  // the base layer as a rectangle of the same area, tail included
      for (std::size_t i = 2; i < 256; ++i) t.x[i] = std::sqrt(-2 * std::log(kArea / t.x[i - 1] + density(t.x[i - 1])));
      t.x[256] = 0;
      for (std::size_t i = 0; i <= 256; ++i) t.f[i] = density(t.x[i]);
      return t;
    }();
    return table;
  }

  static std::uint64_t splitmix(std::uint64_t& s) {
    std::uint64_t z = (s += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  static std::uint64_t rotate(std::uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

  State state_{};
};

}  // namespace rhei
