// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The parts of a matrix product: column-major panels, and the kernel that multiplies a few rows of one. It is our own
/// because the nets of flows are small: Eigen's copies both factors into blocks before it multiplies, which takes a
/// tenth of the time of a net of 64 units, reads what it adds to and writes the bare sum, where this one can begin with
/// a row, such as the bias, and end with ReLU; and Eigen's expression c += a * b takes those blocks from the heap, and
/// compiles every other kind of product beside it (several seconds in each file that includes this).

#include <algorithm>
#include <array>
#include <rhei/core/types.hpp>
#include <rhei/nn/activation.hpp>
#include <rhei/nn/few_rows.hpp>

namespace rhei::detail {

/// A column-major block: columns of `rows` contiguous values, `stride` apart.
template <class S>
struct Panel {
  S* data;
  Index rows, cols, stride;

  [[nodiscard]] S* at(Index row, Index col) const { return data + row + col * stride; }
  [[nodiscard]] Panel columns(Index first, Index count) const { return {at(0, first), rows, count, stride}; }
};

/// What a product is added to: what is there (no values), or in each row the same values, `step` apart.
template <class S>
struct Start {
  const S* values = nullptr;
  Index step = 1;

  /// Zeros.
  [[nodiscard]] static Start zero() {
    static constexpr S value = 0;
    return {&value, 0};
  }
  [[nodiscard]] S at(Index col) const { return values[col * step]; }
  [[nodiscard]] Start from(Index col) const { return {values ? values + col * step : nullptr, step}; }
};

/// Writes where a product begins, if not with what is there.
template <Real S>
void begin_product(Panel<S> c, Start<S> start) {
  if (!start.values) return;
  const S* value = start.values;
  S* column = c.data;
  if (c.rows == 1 && c.stride == 1 && start.step == 1)
    std::copy_n(value, c.cols, column);
  else if (c.rows < 8)  // fill_n would take longer to begin than to fill
    for (Index j = 0; j < c.cols; ++j, column += c.stride, value += start.step)
      for (Index i = 0; i < c.rows; ++i) column[i] = *value;
  else
    for (Index j = 0; j < c.cols; ++j, column += c.stride, value += start.step) std::fill_n(column, c.rows, *value);
}

/// What becomes of a complete product: nothing, ReLU, or the pullback of ReLU.
template <class S>
struct Finish {
  bool relu = false;
  const S* relu_output = nullptr;  ///< where this is not above 0, the derivative is 0
  Index stride = 0;                ///< of relu_output

  [[nodiscard]] bool is_needed() const { return relu || relu_output; }
  [[nodiscard]] Finish from(Index row, Index col) const {
    return {relu, relu_output ? relu_output + row + col * stride : nullptr, stride};
  }
};

/// Finishes a product that was made without.
template <Real S>
void finish_product(Panel<S> c, Finish<S> finish) {
  if (!finish.is_needed()) return;
  const bool is_one_run = c.stride == c.rows && (finish.relu || finish.stride == c.rows);
  const Index runs = is_one_run ? 1 : c.cols, size = is_one_run ? c.rows * c.cols : c.rows;
  for (Index run = 0; run < runs; ++run) {
    S* const to = c.at(0, run);
    if (finish.relu)
      elementwise(
          size, [](Lanes<S> x) { return activations::Relu::value(x); }, to, to);
    else
      elementwise(
          size, [](Lanes<S> d, Lanes<S> y) { return select(Lanes<S>(0) < y, d, S(0)); }, to, to,
          finish.relu_output + run * finish.stride);
  }
}

/// The right factor of a product: value (k, j) lies at data + k row_step + j col_step, and one of the steps is 1.
template <class S>
struct Right {
  const S* data;
  Index row_step, col_step;

  [[nodiscard]] Right from(Index row, Index col) const {
    return {data + row * row_step + col * col_step, row_step, col_step};
  }
};

/// Rows of the left factor of a product: column k begins at data + k step, and whole registers can be read there.
template <class S>
struct Stripe {
  const S* data;
  Index step;
  bool fetches_result;  ///< whether the result is so large that it is called for before it is needed
  S* copy = nullptr;    ///< where the first product shall leave a copy without gaps, for those that follow

  [[nodiscard]] const S* at(Index col) const { return data + col * step; }
};

/// Columns of a result whose sums are held in registers, beside those of the left factor and a value of the right one:
/// 12 sums, or 8 where a stripe fills one register. Fewer would wait for each other.
template <Index registers>
inline constexpr Index kernel_width = std::array<Index, 3>{8, 6, 4}[registers - 1];

/// c = finish(start + left * right) for a stripe of rows, so few that the sums of several columns are held in
/// registers (Goto & van de Geijn 2008, Anatomy of high-performance matrix multiplication).
///
/// Of the factors only the left one is copied, so that its columns lie side by side in the first-level cache: while the
/// first columns of the result are computed, when its values are in registers anyway.
template <Real S>
class ProductKernel {
 public:
  static constexpr Index lanes = Lanes<S>::size;
  static constexpr Index height = 3 * lanes;                                ///< the most rows of a stripe
  static constexpr Index max_depth = 2048 / static_cast<Index>(sizeof(S));  ///< of a copied stripe
  /// The same where the columns of the right factor lie side by side: the lines of a few of them hold more, and all of
  /// them shall still be in the first-level cache for the next few.
  static constexpr Index max_depth_across = max_depth / 2;

  /// A place for the copy of a stripe.
  struct alignas(64) Copy {
    S values[height * max_depth];
  };

  /// Rows of the next stripe, where so many are left. Four registers are two and two: one alone waits for its sums.
  static Index next_rows(Index left) { return std::min(left, lanes * (left > 3 * lanes && left <= 4 * lanes ? 2 : 3)); }

  /// Rows of op(a): a.rows of them and a.cols columns, or the other way round where op transposes. Of the whole result
  /// as large as `result`.
  template <bool transpose>
  static Stripe<S> stripe(Panel<const S> a, const Panel<S>& result, Copy& copy) {
    const bool fetches = result.rows * result.cols > 65536;  // more than the second-level cache has to spare
    if constexpr (transpose) {
      copy_transposed(copy.values, a);
    } else {
      if (a.rows % lanes == 0) return {a.data, a.stride, fetches, copy.values};
      for (Index k = 0; k < a.cols; ++k) {
        S* const end = std::copy_n(a.at(0, k), a.rows, copy.values + k * height);
        std::fill(end, copy.values + (k + 1) * height, S(0));
      }
    }
    return {copy.values, height, fetches};
  }

  /// The product, with the columns of `left` from `first` on, which becomes the copy where it asked for one.
  static void multiply(const Panel<S>& c, Stripe<S>& left, Index first, const Right<S>& right, Index depth,
                       const Start<S>& start, const Finish<S>& finish) {
    static constexpr std::array by_registers = {&multiply_columns<1>, &multiply_columns<2>, &multiply_columns<3>};
    const Index registers = (c.rows + lanes - 1) / lanes;
    if (c.rows > 0) by_registers[static_cast<std::size_t>(registers - 1)](c, left, first, right, depth, start, finish);
  }

 private:
  static void copy_transposed(S* to, Panel<const S> a) {
    const Index whole = a.rows / lanes * lanes;
    for (Index r = 0; r < a.cols; r += lanes) {
      const Index rows = std::min(lanes, a.cols - r);
      for (Index k = 0; k < whole; k += lanes) {
        Lanes<S> square[lanes];
        for_each_constant<lanes>([&](auto i) { square[i] = i < rows ? Lanes<S>::load(a.at(k, r + i)) : S(0); });
        transpose(square);
        for_each_constant<lanes>([&](auto i) { square[i].store(to + (k + i) * height + r); });
      }
      for (Index k = whole; k < a.rows; ++k)
        for (Index i = 0; i < lanes; ++i) to[k * height + r + i] = i < rows ? *a.at(k, r + i) : S(0);
    }
  }

  template <Index registers>
  static void multiply_columns(const Panel<S>& c, Stripe<S>& left, Index first, const Right<S>& right, Index depth,
                               const Start<S>& start, const Finish<S>& finish) {
    if (c.rows % lanes != 0) return multiply_part<registers>(c, left, first, right, depth, start, finish);
    constexpr Index width = kernel_width<registers>;
    Index j = 0;
    if (left.copy && c.cols >= width) {
      multiply_tile<registers, width, true>(c.data, c.stride, left, first, right, depth, start, finish);
      left = {left.copy, height, left.fetches_result};
      j = width;
    }
    const auto multiply_rest = [&]<Index cols>(std::integral_constant<Index, cols>) {
      for (; j + cols <= c.cols; j += cols)
        multiply_tile<registers, cols, false>(c.at(0, j), c.stride, left, first, right.from(0, j), depth, start.from(j),
                                              finish.from(0, j));
    };
    for_each_constant<width>([&](auto fewer) { multiply_rest(std::integral_constant<Index, width - fewer>()); });
  }

  /// The same for rows that do not fill their registers.
  template <Index registers>
  static void multiply_part(const Panel<S>& c, Stripe<S>& left, Index first, const Right<S>& right, Index depth,
                            const Start<S>& start, const Finish<S>& finish) {
    constexpr Index width = kernel_width<registers>, rows = registers * lanes;
    S whole[rows * width];
    for (Index j = 0; j < c.cols; j += width) {
      const Panel<S> part = c.columns(j, std::min(width, c.cols - j));
      if (!start.values)
        for (Index i = 0; i < part.cols; ++i)
          std::fill(std::copy_n(part.at(0, i), c.rows, whole + i * rows), whole + (i + 1) * rows, S(0));
      multiply_columns<registers>({whole, rows, part.cols, rows}, left, first, right.from(0, j), depth, start.from(j),
                                  {});
      for (Index i = 0; i < part.cols; ++i) std::copy_n(whole + i * rows, c.rows, part.at(0, i));
    }
    finish_product(c, finish);
  }

  // Plain loops, unrolled at any level of optimization: so that the sums are registers.
  template <Index registers, Index cols, bool copies>
  [[gnu::always_inline]] static inline void multiply_tile(S* c, Index stride, const Stripe<S>& left, Index first,
                                                          const Right<S>& right, Index depth, const Start<S>& start,
                                                          const Finish<S>& finish) {
    using L = Lanes<S>;
    namespace e = Eigen::internal;
    L sums[cols][registers];
    if (start.values) {
#pragma GCC unroll 8
      for (Index j = 0; j < cols; ++j)
#pragma GCC unroll 3
        for (Index r = 0; r < registers; ++r) sums[j][r] = L(start.at(j));
    } else {
#pragma GCC unroll 8
      for (Index j = 0; j < cols; ++j)
#pragma GCC unroll 3
        for (Index r = 0; r < registers; ++r) sums[j][r] = L::load(c + r * lanes + j * stride);
    }
    if (left.fetches_result) {
      for (Index j = 0; j < cols; ++j) {
        __builtin_prefetch(c + j * stride, 1);
        __builtin_prefetch(c + registers * lanes - 1 + j * stride, 1);
        if (!finish.relu_output) continue;
        __builtin_prefetch(finish.relu_output + j * finish.stride);
        __builtin_prefetch(finish.relu_output + registers * lanes - 1 + j * finish.stride);
      }
    }
    const S *a = left.at(first), *b = right.data;
    [[maybe_unused]] S* copy = copies ? left.copy + first * height : nullptr;
    for (Index k = 0; k < depth; ++k) {
      L of_a[registers];
#pragma GCC unroll 3
      for (Index r = 0; r < registers; ++r) of_a[r] = L::load(a + r * lanes);
      if constexpr (copies) {
#pragma GCC unroll 3
        for (Index r = 0; r < registers; ++r) of_a[r].store(copy + r * lanes);
        copy += height;
        __builtin_prefetch(a + height, 0, 2);  // the next stripe, if there is one: nothing is read
        __builtin_prefetch(a + 2 * height - 1, 0, 2);
      }
#pragma GCC unroll 8
      for (Index j = 0; j < cols; ++j) {
        const L of_b(b[j * right.col_step]);
#pragma GCC unroll 3
        for (Index r = 0; r < registers; ++r) sums[j][r] = multiply_add(of_a[r], of_b, sums[j][r]);
      }
      a += left.step;
      b += right.row_step;
    }
    // Bits are cleared, not selected: one constant more would take a register from the sums.
    if (finish.relu) {
#pragma GCC unroll 8
      for (Index j = 0; j < cols; ++j)
#pragma GCC unroll 3
        for (Index r = 0; r < registers; ++r) sums[j][r] = L::of(e::pandnot(sums[j][r].p, (sums[j][r] < L(0)).p));
    }
    if (finish.relu_output) {
#pragma GCC unroll 8
      for (Index j = 0; j < cols; ++j)
#pragma GCC unroll 3
        for (Index r = 0; r < registers; ++r)
          sums[j][r] =
              L::of(e::pand(sums[j][r].p, (L(0) < L::load(finish.relu_output + r * lanes + j * finish.stride)).p));
    }
#pragma GCC unroll 8
    for (Index j = 0; j < cols; ++j)
#pragma GCC unroll 3
      for (Index r = 0; r < registers; ++r) sums[j][r].store(c + r * lanes + j * stride);
  }
};

}  // namespace rhei::detail
