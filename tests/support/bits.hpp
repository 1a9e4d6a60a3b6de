// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Numbers as bits, for which a NaN is like any other value.

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <rhei/core/random.hpp>
#include <string>
#include <type_traits>
#include <vector>

namespace rhei::testing {

inline bool same_bits(double a, double b) { return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b); }

/// Of the same shape, too.
template <class A, class B>
bool same_bits(const Eigen::PlainObjectBase<A>& a, const Eigen::PlainObjectBase<B>& b) {
  static_assert(std::is_same_v<typename A::Scalar, typename B::Scalar>);
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         (a.size() == 0 ||
          std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(typename A::Scalar)) == 0);
}

template <class T>
std::string bytes_of(const T* values, std::size_t count) {
  std::string bytes(count * sizeof(T), '\0');
  if (count > 0) std::memcpy(bytes.data(), values, bytes.size());
  return bytes;
}
template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return bytes_of(values.data(), values.size());
}
template <class Derived>
std::string bits_of(const Eigen::PlainObjectBase<Derived>& values) {
  return bytes_of(values.data(), static_cast<std::size_t>(values.size()));
}

/// Draws of all bits: NaN with payloads, subnormals, infinities.
template <Real S>
Matrix<S> any_bits(Index rows, Index cols) {
  using Bits = std::conditional_t<sizeof(S) == 4, std::uint32_t, std::uint64_t>;
  using Limits = std::numeric_limits<S>;
  Rng rng(13);
  Matrix<S> m(rows, cols);
  for (Index i = 0; i < m.size(); ++i) m(i) = std::bit_cast<S>(static_cast<Bits>(rng()));
  if (m.size() >= 5) {
    m(0) = S(-0.0);
    m(1) = Limits::denorm_min();
    m(2) = Limits::infinity();
    m(3) = std::bit_cast<S>(static_cast<Bits>(std::bit_cast<Bits>(Limits::quiet_NaN()) + 42));
    m(4) = std::bit_cast<S>(static_cast<Bits>(std::bit_cast<Bits>(Limits::infinity()) + 1));  // signals
  }
  return m;
}

}  // namespace rhei::testing
