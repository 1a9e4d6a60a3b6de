// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Products of a few rows with a matrix: what a flow that scores one event at a time spends its time in.
///
/// Of up to four rows each entry is a dot product of a row and a column, both contiguous. Eight of them are summed at a
/// time, which hides the latency of the additions: one row with eight columns, two with four, or four with two; or
/// twelve, three with four, which load less for each that they sum. As many rows as a wide register holds, or nearly,
/// are kept side by side in one, and each entry of the matrix is multiplied with all of them. Either way blocks of a
/// few columns, of which the sweeps of MADE consist, cost no more than what they compute.

#include <algorithm>
#include <array>
#include <rhei/nn/math.hpp>

namespace rhei::detail {

/// Dot products that are summed at a time: as many as fill a register, or enough to hide the latency.
template <Real S>
inline constexpr Index dots_at_a_time = std::max<Index>(Lanes<S>::size, 8);

/// f(0), ..., f(count - 1) with constants, so that arrays with these indices are registers.
template <Index count, class F>
void for_each_constant(F&& f) {
  [&]<Index... i>(std::integer_sequence<Index, i...>) { (f(std::integral_constant<Index, i>()), ...); }
  (std::make_integer_sequence<Index, count>());
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"  // of a packet as a template argument, which is Eigen's way
/// Value j of square[i] becomes value i of square[j]. (Inlined: else all lanes would be kept in memory.)
template <Real S>
[[gnu::always_inline]] inline void transpose(Lanes<S>* square) {
  constexpr Index size = Lanes<S>::size;
  if constexpr (size > 1) {
    Eigen::internal::PacketBlock<typename Lanes<S>::Packet, size> block;
    for_each_constant<size>([&](auto i) { block.packet[i] = square[i].p; });
    Eigen::internal::ptranspose(block);
    for_each_constant<size>([&](auto i) { square[i].p = block.packet[i]; });
  }
}
#pragma GCC diagnostic pop

/// out_i = the sum of the values in lanes[i], for as many as a register holds, which are lost.
template <Real S>
[[gnu::always_inline]] inline void sum_each(Lanes<S>* lanes, S* out) {
  transpose(lanes);
  Lanes<S> sum = lanes[0];
  for_each_constant<Lanes<S>::size - 1>([&](auto i) { sum = sum + lanes[i + 1]; });
  sum.store(out);
}

/// y_rc += sum_k x_rk b_kc for r < rows and c < columns, where y_rc lies at y + r + c y_stride, x_rk at x + r x_stride
/// + k, and b_kc at b + c b_stride + k.
template <Index rows, Index columns, Real S>
void add_dots(S* y, Index y_stride, const S* x, Index x_stride, const S* b, Index b_stride, Index depth) {
  using L = Lanes<S>;
  constexpr Index dots = rows * columns, steps = std::max<Index>(1, dots_at_a_time<S> / dots);
  L sums[steps * dots];
  for_each_constant<steps * dots>([&](auto i) { sums[i] = L(S(0)); });
  const auto step = [&](Index k, auto first) {
    L of_x[rows];
    for_each_constant<rows>([&](auto r) { of_x[r] = L::load(x + k + r * x_stride); });
    for_each_constant<columns>([&](auto c) {
      const L of_b = L::load(b + k + c * b_stride);
      for_each_constant<rows>([&](auto r) {
        L& sum = sums[first + c * rows + r];
        sum = multiply_add(of_x[r], of_b, sum);
      });
    });
  };
  Index k = 0;
  for (; k + steps * L::size <= depth; k += steps * L::size)
    for_each_constant<steps>(
        [&](auto s) { step(k + s * L::size, std::integral_constant<Index, decltype(s)::value * dots>()); });
  if constexpr (steps > 1) {
    for (; k + L::size <= depth; k += L::size) step(k, std::integral_constant<Index, 0>());
    for_each_constant<(steps - 1) * dots>([&](auto i) { sums[i % dots] = sums[i % dots] + sums[i + dots]; });
  }
  S total[dots];
  if constexpr (dots % L::size == 0)
    for_each_constant<dots / L::size>([&](auto i) { sum_each(sums + i * L::size, total + i * L::size); });
  else
    for_each_constant<dots>([&](auto i) { total[i] = Eigen::internal::predux(sums[i].p); });
  for (; k < depth; ++k)
    for_each_constant<columns>([&](auto c) {
      for_each_constant<rows>([&](auto r) { total[c * rows + r] += x[k + r * x_stride] * b[k + c * b_stride]; });
    });
  for_each_constant<columns>(
      [&](auto c) { for_each_constant<rows>([&](auto r) { y[r + c * y_stride] += total[c * rows + r]; }); });
}

/// Calls add(column, constant number of columns) for `columns` columns, `most` (a power of two up to 16) at a time
/// while there are as many.
template <Index most, class Add>
void for_each_columns(Index columns, Add&& add) {
  Index c = 0;
  for (; c + most <= columns; c += most) add(c, std::integral_constant<Index, most>());
  for_each_constant<4>([&](auto halvings) {
    constexpr Index fewer = most >> (halvings + 1);
    if constexpr (fewer > 0)
      if (c + fewer <= columns) {
        add(c, std::integral_constant<Index, fewer>());
        c += fewer;
      }
  });
}

/// The same for one row and columns shorter than a register.
template <Index depth, Real S>
void add_short_dots(S* y, Index y_stride, const S* x, const S* b, Index b_stride, Index columns) {
  S of_x[depth + 1];  // an array has a size
  for_each_constant<depth>([&](auto k) { of_x[k] = x[k]; });
  for (Index c = 0; c < columns; ++c, y += y_stride, b += b_stride) {
    S sum = *y;
    for_each_constant<depth>([&](auto k) { sum += of_x[k] * b[k]; });
    *y = sum;
  }
}

/// add_short_dots by depth.
template <Real S>
inline constexpr auto short_dots = []<Index... depth>(std::integer_sequence<Index, depth...>) {
  return std::array{&add_short_dots<depth, S>...};
}
(std::make_integer_sequence<Index, Lanes<S>::size>());

/// The same for any number of columns.
template <Index rows, Real S>
void add_by_dots(S* y, Index y_stride, const S* x, Index x_stride, const S* b, Index b_stride, Index depth,
                 Index columns) {
  if (depth < Lanes<S>::size) {
    for (Index r = 0; r < rows; ++r)
      short_dots<S>[static_cast<std::size_t>(depth)](y + r, y_stride, x + r * x_stride, b, b_stride, columns);
    return;
  }
  for_each_columns<rows == 3 ? 4 : dots_at_a_time<S> / rows>(columns, [&](Index c, auto count) {
    add_dots<rows, count()>(y + c * y_stride, y_stride, x, x_stride, b + c * b_stride, b_stride, depth);
  });
}

/// Whether rows side by side are worth it: where one instruction loads a number into all lanes (AVX).
template <Real S>
inline constexpr bool fast_across = Lanes<S>::size * sizeof(S) >= 32;

/// y_rc += sum_k x_kr b_kc for r < rows, no more than a register holds, and c < columns, where y_rc lies at y + r +
/// c y_stride, b_kc at b + c b_stride + k, and x_kr at x + k Lanes<S>::size + r. (Inlined it would run out of registers
/// for the columns' addresses.)
template <Index columns, Real S>
[[gnu::noinline]] void add_across_columns(S* y, Index y_stride, Index rows, const S* x, const S* b, Index b_stride,
                                          Index depth) {
  using L = Lanes<S>;
  L sums[columns];
  for_each_constant<columns>([&](auto c) { sums[c] = L(S(0)); });
  for (Index k = 0; k < depth; ++k) {
    const L of_x = L::load(x + k * L::size);
    for_each_constant<columns>([&](auto c) { sums[c] = multiply_add(of_x, L(b[k + c * b_stride]), sums[c]); });
  }
  for_each_constant<columns>([&](auto c) {
    S total[L::size];
    sums[c].store(total);
    for (Index r = 0; r < rows; ++r) y[r + c * y_stride] += total[r];
  });
}

/// The same for any number of columns.
template <Real S>
void add_across(S* y, Index y_stride, Index rows, const S* x, const S* b, Index b_stride, Index depth, Index columns) {
  for_each_columns<8>(columns, [&](Index c, auto count) {
    add_across_columns<count()>(y + c * y_stride, y_stride, rows, x, b + c * b_stride, b_stride, depth);
  });
}

}  // namespace rhei::detail
