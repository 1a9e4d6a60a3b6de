// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Matrix products that allocate nothing. Every layer's products go through here.
///
/// They are made by a kernel of our own (nn/product_kernel.hpp), stripe by stripe of the left factor's rows. A few
/// rows, or the gradient of a few rows or columns, are products of a matrix and a vector instead, or dot products.
///
/// Arguments are column-major matrices or blocks of such (a row vector counts as a matrix of one row); the result must
/// not overlap the factors.

#include <algorithm>
#include <rhei/core/types.hpp>
#include <rhei/nn/few_rows.hpp>
#include <rhei/nn/product_kernel.hpp>
#include <type_traits>

namespace rhei {
namespace detail {

template <class Derived>
auto panel(const Eigen::MatrixBase<Derived>& matrix) {
  static_assert((Derived::Flags & Eigen::DirectAccessBit) != 0, "a product takes matrices, not expressions");
  static_assert(!Derived::IsRowMajor || Derived::RowsAtCompileTime == 1, "a product takes column-major matrices");
  const Derived& m = matrix.derived();
  return Panel<const typename Derived::Scalar>{m.data(), m.rows(), m.cols(),
                                               Derived::IsRowMajor ? m.innerStride() : m.outerStride()};
}

template <class Derived>
auto writable_panel(const Eigen::MatrixBase<Derived>& matrix) {
  static_assert((Derived::Flags & Eigen::LvalueBit) != 0, "the result of a product must be writable");
  const auto p = panel(matrix);
  return Panel<typename Derived::Scalar>{const_cast<typename Derived::Scalar*>(p.data), p.rows, p.cols, p.stride};
}

/// Calls f(row, rows, col, cols, k, depth) for tiles of at most the given sizes.
template <class F>
void for_each_tile(Index rows, Index cols, Index depth, Index tile_rows, Index tile_cols, Index tile_depth, F f) {
  for (Index k = 0; k < depth; k += tile_depth)
    for (Index j = 0; j < cols; j += tile_cols)
      for (Index i = 0; i < rows; i += tile_rows)
        f(i, std::min(tile_rows, rows - i), j, std::min(tile_cols, cols - j), k, std::min(tile_depth, depth - k));
}

/// y += M x, where M (rows x cols) is stored by columns, or by rows, `stride` apart, and the elements of y and x lie
/// `y_step` and `x_step` apart.
template <bool by_rows, Real S>
void add_matrix_vector(S* y, Index y_step, const S* m, Index rows, Index cols, Index stride, const S* x, Index x_step) {
  using Step = Eigen::InnerStride<>;
  Eigen::Map<Vector<S>, 0, Step> result(y, rows, Step(y_step));
  const Eigen::Map<const Vector<S>, 0, Step> vector(x, cols, Step(x_step));
  using Stored = Eigen::Map<const Matrix<S>, 0, Eigen::OuterStride<>>;
  if constexpr (by_rows)
    result.noalias() += Stored(m, cols, rows, Eigen::OuterStride<>(stride)).transpose() * vector;
  else
    result.noalias() += Stored(m, rows, cols, Eigen::OuterStride<>(stride)) * vector;
}

/// c += op(a) * b for a few rows, where op transposes or does not.
template <bool transpose_a, Real S>
void add_few_rows(Panel<S> c, Panel<const S> a, Panel<const S> b) {
  constexpr Index together = Lanes<S>::size, tile = 256;
  constexpr Index tile_cols = 1024 / static_cast<Index>(sizeof(S));  // 256 KB of b stay in the second-level cache
  S copies[std::max<Index>(4, together) * tile];
  for_each_tile(1, c.cols, b.rows, 1, tile_cols, tile, [&](Index, Index, Index j, Index cols, Index k, Index depth) {
    for (Index i = 0; i < c.rows;) {
      const Index left = c.rows - i;
      const auto add_dots = [&]<Index rows>(std::integral_constant<Index, rows>) {
        const S* x = transpose_a ? a.at(k, i) : a.at(i, k);
        if (!transpose_a && a.stride > 1) {
          for (Index r = 0; r < rows; ++r)
            for (Index m = 0; m < depth; ++m) copies[r * tile + m] = x[r + m * a.stride];
          x = copies;
        }
        add_by_dots<rows>(c.at(i, j), c.stride, x, transpose_a ? a.stride : tile, b.at(k, j), b.stride, depth, cols);
        i += rows;
      };
      if (fast_across<S> && 4 * left >= 3 * together) {
        const Index rows = std::min(left, together);
        if (rows < together) std::fill_n(copies, depth * together, S(0));
        for (Index m = 0; m < depth; ++m)
          for (Index r = 0; r < rows; ++r)
            copies[m * together + r] = transpose_a ? *a.at(k + m, i + r) : *a.at(i + r, k + m);
        add_across(c.at(i, j), c.stride, rows, copies, b.at(k, j), b.stride, depth, cols);
        i += rows;
      } else if (left >= 4) {
        add_dots(std::integral_constant<Index, 4>());
      } else if (left >= 2) {
        add_dots(std::integral_constant<Index, 2>());
      } else {
        add_dots(std::integral_constant<Index, 1>());
      }
    }
  });
}

/// Whether the gradient of a linear map, `rows` x `cols` from a batch of so many samples, is quicker by dot products:
/// where it fills registers only in part, and the batch outweighs what it takes to sum them.
inline bool is_narrow_gradient(Index rows, Index cols, Index samples) {
  const Index smaller = std::min(rows, cols);
  return smaller >= 2 && smaller < 16 && samples >= 256;
}

/// d += x^T y by dot products, in row i for columns from begin(i) on, where `begin` never falls.
template <Real S, class Begin>
void add_narrow_gradient(Panel<S> d, Panel<const S> x, Panel<const S> y, Begin begin) {
  constexpr Index together = 3, tile_cols = 128, tile_depth = 512;
  for_each_tile(1, d.cols, x.rows, 1, tile_cols, tile_depth, [&](Index, Index, Index j, Index cols, Index k, Index n) {
    const auto first_of = [&](Index row) { return std::clamp(begin(row), j, j + cols); };
    for (Index i = 0, rows; i < d.rows; i += rows) {
      rows = std::min(together, d.rows - i);
      // as many rows together as count: the first one alone, where the second one does not yet, and so on
      for_each_constant<together>([&](auto r) {
        constexpr Index count = r + 1;
        if (count > rows) return;
        const Index from = first_of(i + r), to = count == rows ? j + cols : first_of(i + count);
        add_by_dots<count>(d.at(i, from), d.stride, x.at(k, i), x.stride, y.at(k, from), y.stride, n, to - from);
      });
    }
  });
}

/// c = finish(start + op(a) * b), stripe by stripe of its rows.
template <bool transpose_a, Real S>
void multiply_stripes(Panel<S> c, Panel<const S> a, Right<S> b, Start<S> start, Finish<S> finish) {
  using Kernel = ProductKernel<S>;
  typename Kernel::Copy copy;
  const Index whole_depth = transpose_a ? a.rows : a.cols;
  Index k = 0;
  do {
    const Index depth = std::min(b.col_step == 1 ? Kernel::max_depth_across : Kernel::max_depth, whole_depth - k);
    const bool is_last = k + depth == whole_depth;
    for (Index i = 0, rows; i < c.rows; i += rows) {
      rows = Kernel::next_rows(c.rows - i);
      const auto part = transpose_a ? Panel<const S>{a.at(k, i), depth, rows, a.stride}
                                    : Panel<const S>{a.at(i, k), rows, depth, a.stride};
      Stripe<S> left = Kernel::template stripe<transpose_a>(part, c, copy);
      Kernel::multiply({c.at(i, 0), rows, c.cols, c.stride}, left, 0, b.from(k, 0), depth, k == 0 ? start : Start<S>(),
                       is_last ? finish.from(i, 0) : Finish<S>());
    }
    k += depth;
  } while (k < whole_depth);
}

/// Rows or columns below which a product is done vector by vector.
inline constexpr Index few_vectors = 8;

/// Whether c = op(a) * op(b) is one of these. A kernel that copies rows does so for less than 8 columns only where it
/// need not transpose them.
template <bool transpose_a, bool transpose_b, Real S>
bool is_thin(Panel<S> c) {
  return (transpose_a && c.cols < few_vectors) || c.rows < few_vectors + (fast_across<S> && !transpose_b);
}

/// c = start + op(a) * op(b), where one side is thin.
template <bool transpose_a, bool transpose_b, Real S>
void multiply_thin(Panel<S> c, Panel<const S> a, Panel<const S> b, Start<S> start) {
  const Index depth = transpose_a ? a.rows : a.cols;
  const auto left = [&](Index i, Index k) { return transpose_a ? a.at(k, i) : a.at(i, k); };
  const auto right = [&](Index k, Index j) { return transpose_b ? b.at(j, k) : b.at(k, j); };
  // Vector by vector, over blocks of the other factor that stay in the second-level cache meanwhile; for one vector
  // they need not, but Eigen may copy its part of it onto the stack.
  const Index block = std::min(c.rows, c.cols) > 1 ? 256 : 8192;
  begin_product(c, start);
  if (c.rows == 1 && !transpose_b && (transpose_a || a.stride == 1)) {  // nothing is read twice
    add_by_dots<1>(c.data, c.stride, a.data, Index(0), b.data, b.stride, depth, c.cols);
  } else if (c.rows < few_vectors + fast_across<S> && !transpose_b) {
    add_few_rows<transpose_a>(c, a, b);
  } else if (c.rows < few_vectors) {
    for_each_tile(c.rows, c.cols, depth, 1, block, block, [&](Index i, Index, Index j, Index cols, Index k, Index d) {
      add_matrix_vector<false>(c.at(i, j), c.stride, right(k, j), cols, d, b.stride, left(i, k),
                               transpose_a ? 1 : a.stride);
    });
  } else if constexpr (transpose_a) {
    for_each_tile(c.cols, c.rows, depth, 1, block, block, [&](Index j, Index, Index i, Index rows, Index k, Index d) {
      add_matrix_vector<true>(c.at(i, j), Index(1), left(i, k), rows, d, a.stride, right(k, j),
                              transpose_b ? b.stride : 1);
    });
  }
}

/// c = finish(start + op(a) * op(b)), where op transposes or does not.
template <bool transpose_a, bool transpose_b, Real S>
void multiply(Panel<S> c, Panel<const S> a, Panel<const S> b, Start<S> start, Finish<S> finish = {}) {
  if constexpr (transpose_a && !transpose_b)
    if (is_narrow_gradient(c.rows, c.cols, a.rows)) {
      begin_product(c, start);
      add_narrow_gradient(c, a, b, [](Index) { return Index(0); });
      return finish_product(c, finish);
    }
  if (!is_thin<transpose_a, transpose_b>(c))
    return multiply_stripes<transpose_a>(c, a, Right<S>{b.data, transpose_b ? b.stride : 1, transpose_b ? 1 : b.stride},
                                         start, finish);
  multiply_thin<transpose_a, transpose_b>(c, a, b, start);
  finish_product(c, finish);
}

}  // namespace detail

/// c += a * b, where c is m x n, a is m x k and b is k x n.
template <class C, class A, class B>
void add_product(const Eigen::MatrixBase<C>& c, const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  detail::multiply<false, false>(detail::writable_panel(c), detail::panel(a), detail::panel(b), {});
}

/// c += a * b^T, where c is m x n, a is m x k and b is n x k: what a linear map sends back to its input.
template <class C, class A, class B>
void add_product_transposed(const Eigen::MatrixBase<C>& c, const Eigen::MatrixBase<A>& a,
                            const Eigen::MatrixBase<B>& b) {
  detail::multiply<false, true>(detail::writable_panel(c), detail::panel(a), detail::panel(b), {});
}

/// c += a^T * b, where c is m x n, a is k x m and b is k x n: the gradient of a linear map's weights.
template <class C, class A, class B>
void add_transposed_product(const Eigen::MatrixBase<C>& c, const Eigen::MatrixBase<A>& a,
                            const Eigen::MatrixBase<B>& b) {
  detail::multiply<true, false>(detail::writable_panel(c), detail::panel(a), detail::panel(b), {});
}

/// c = a * b; see add_product.
template <class C, class A, class B>
void set_product(const Eigen::MatrixBase<C>& c, const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  using S = typename C::Scalar;
  detail::multiply<false, false>(detail::writable_panel(c), detail::panel(a), detail::panel(b),
                                 detail::Start<S>::zero());
}

/// c = a * b^T; see add_product_transposed.
template <class C, class A, class B>
void set_product_transposed(const Eigen::MatrixBase<C>& c, const Eigen::MatrixBase<A>& a,
                            const Eigen::MatrixBase<B>& b) {
  using S = typename C::Scalar;
  detail::multiply<false, true>(detail::writable_panel(c), detail::panel(a), detail::panel(b),
                                detail::Start<S>::zero());
}

}  // namespace rhei
