// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Matrix products that allocate nothing. Every layer's products go through here.
///
/// Eigen's product packs blocks of its factors, and takes them from the heap at every call once a block passes 128 KB
/// (EIGEN_STACK_ALLOCATION_LIMIT). Tiles whose packed blocks stay on the stack keep 94 to 98 % of its speed. Shapes
/// with a thin side (few rows, few columns, tiny depth) are products of a matrix and a vector, or sums of columns,
/// instead: two to four times as fast there as packing.
///
/// Arguments are column-major matrices or blocks of such (a row vector counts as a matrix of one row); the result must
/// not overlap the factors.

#include <algorithm>
#include <rhei/core/types.hpp>
#include <type_traits>

namespace rhei {
namespace detail {

/// A column-major block: columns of `rows` contiguous values, `stride` apart.
template <class S>
struct Panel {
  S* data;
  Index rows, cols, stride;

  [[nodiscard]] auto block(Index row, Index col, Index n, Index m) const {
    using Plain = Matrix<std::remove_const_t<S>>;
    using Target = std::conditional_t<std::is_const_v<S>, const Plain, Plain>;
    return Eigen::Map<Target, 0, Eigen::OuterStride<>>(data + row + col * stride, n, m, Eigen::OuterStride<>(stride));
  }
  /// The same block of the transposed matrix (where `transposed`), as an expression.
  template <bool transposed>
  [[nodiscard]] auto block_of(Index row, Index col, Index n, Index m) const {
    if constexpr (transposed)
      return block(col, row, m, n).transpose();
    else
      return block(row, col, n, m);
  }
};

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

/// c += op(a) * op(b), where op transposes or does not.
template <bool transpose_a, bool transpose_b, Real S>
void add_product(Panel<S> c, Panel<const S> a, Panel<const S> b) {
  const Index depth = transpose_a ? a.rows : a.cols;
  constexpr Index few = 8;       // below this a product is done vector by vector
  constexpr Index long_ = 8192;  // and Eigen may copy one vector of this length onto the stack
  if (c.rows < few) {
    for_each_tile(c.rows, c.cols, depth, 1, long_, long_, [&](Index i, Index, Index j, Index cols, Index k, Index d) {
      c.block(i, j, 1, cols).row(0).noalias() +=
          a.template block_of<transpose_a>(i, k, 1, d).row(0) * b.template block_of<transpose_b>(k, j, d, cols);
    });
  } else if (c.cols < few) {
    for_each_tile(c.rows, c.cols, depth, long_, 1, long_, [&](Index i, Index rows, Index j, Index, Index k, Index d) {
      c.block(i, j, rows, 1).col(0).noalias() +=
          a.template block_of<transpose_a>(i, k, rows, d) * b.template block_of<transpose_b>(k, j, d, 1).col(0);
    });
  } else if (!transpose_a && depth <= 2) {
    const auto left = a.block(0, 0, a.rows, a.cols);
    const auto right = b.template block_of<transpose_b>(0, 0, depth, c.cols);
    auto result = c.block(0, 0, c.rows, c.cols);
    for (Index j = 0; j < c.cols; ++j) {
      if (depth == 1) result.col(j) += right.coeff(0, j) * left.col(0);
      if (depth == 2) result.col(j) += right.coeff(0, j) * left.col(0) + right.coeff(1, j) * left.col(1);
    }
  } else {
    constexpr Index tile = 256;
    constexpr Index tile_depth = 512 / static_cast<Index>(sizeof(S));  // tile * tile_depth values are 128 KB
    for_each_tile(
        c.rows, c.cols, depth, tile, tile, tile_depth, [&](Index i, Index rows, Index j, Index cols, Index k, Index d) {
          c.block(i, j, rows, cols).noalias() +=
              a.template block_of<transpose_a>(i, k, rows, d) * b.template block_of<transpose_b>(k, j, d, cols);
        });
  }
}

}  // namespace detail

/// c += a * b, where c is m x n, a is m x k and b is k x n.
template <class C, class A, class B>
void add_product(const Eigen::MatrixBase<C>& c, const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  detail::add_product<false, false>(detail::writable_panel(c), detail::panel(a), detail::panel(b));
}

/// c += a * b^T, where c is m x n, a is m x k and b is n x k: what a linear map sends back to its input.
template <class C, class A, class B>
void add_product_transposed(const Eigen::MatrixBase<C>& c, const Eigen::MatrixBase<A>& a,
                            const Eigen::MatrixBase<B>& b) {
  detail::add_product<false, true>(detail::writable_panel(c), detail::panel(a), detail::panel(b));
}

/// c += a^T * b, where c is m x n, a is k x m and b is k x n: the gradient of a linear map's weights.
template <class C, class A, class B>
void add_transposed_product(const Eigen::MatrixBase<C>& c, const Eigen::MatrixBase<A>& a,
                            const Eigen::MatrixBase<B>& b) {
  detail::add_product<true, false>(detail::writable_panel(c), detail::panel(a), detail::panel(b));
}

/// c = a * b; see add_product.
template <class C, class A, class B>
void set_product(const Eigen::MatrixBase<C>& c, const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  c.const_cast_derived().setZero();
  add_product(c, a, b);
}

/// c = a * b^T; see add_product_transposed.
template <class C, class A, class B>
void set_product_transposed(const Eigen::MatrixBase<C>& c, const Eigen::MatrixBase<A>& a,
                            const Eigen::MatrixBase<B>& b) {
  c.const_cast_derived().setZero();
  add_product_transposed(c, a, b);
}

}  // namespace rhei
