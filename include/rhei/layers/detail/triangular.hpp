// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A batch of rows times a triangular matrix, or times the inverse of one, in place.
///
/// A triangle is halved until few columns remain: what lies beside the two half triangles is a square block, that is an
/// ordinary product, and most of the work. Nothing is allocated, and only the triangle that is meant is read, so that
/// one matrix can hold two.

#include <rhei/nn/product.hpp>

namespace rhei::detail {

/// Which part of a matrix, its diagonal excluded, is meant.
enum class Triangle { lower, upper };

/// Whether to multiply by a triangular matrix or by its inverse.
enum class Apply { product, solution };

/// A block of this many columns is not halved: a batch goes column by column (each is one matrix-vector product), a few
/// rows go row by row (scalars, in loops of constant length).
inline constexpr Index triangle_leaf = 16, triangle_row_leaf = 8;

/// The triangular matrix T (D x D) that apply_triangle applies: `part` of the matrix at `values` or of its transpose,
/// with a diagonal of its own. `diagonal` holds T_kk for a product and 1 / T_kk for a solution (D values), or is null
/// for ones.
template <Apply how, Triangle part, bool transposed, Real S>
struct TriangularFactor {
  const S* values;
  Index size;
  const S* diagonal;

  // A column depends on later ones (lower) or earlier ones (upper), as they were before (product) or as they will be
  // (solution): hence the order in which columns are treated.
  static constexpr bool product = how == Apply::product;
  static constexpr bool lower = part == Triangle::lower;
  static constexpr bool ascending = lower == product;

  [[nodiscard]] S at(Index j, Index k) const { return transposed ? values[k + j * size] : values[j + k * size]; }
  [[nodiscard]] S diagonal_at(Index k) const { return diagonal ? diagonal[k] : S(1); }

  /// Treats columns [first, first + count) of a. Solved columns are kept negated, so that all updates are additions.
  void apply(Panel<S> a, Index first, Index count) const {
    if (a.rows < triangle_row_leaf && count <= triangle_row_leaf) {
      for (Index row = 0; row < a.rows; ++row)
        if (count == triangle_row_leaf)
          apply_to_row(a.data + row, a.stride, first, std::integral_constant<Index, triangle_row_leaf>());
        else
          apply_to_row(a.data + row, a.stride, first, count);
    } else if (a.rows >= triangle_row_leaf && count <= triangle_leaf) {
      apply_by_columns(a, first, count);
    } else {
      const Index half = (count + 2 * triangle_row_leaf - 1) / (2 * triangle_row_leaf) * triangle_row_leaf;
      const Index middle = first + half, rest = count - half;
      ascending ? apply(a, first, half) : apply(a, middle, rest);
      lower ? add_block(a, first, half, middle, rest) : add_block(a, middle, rest, first, half);
      ascending ? apply(a, middle, rest) : apply(a, first, half);
    }
  }

 private:
  /// Adds to columns [to, to + count) of a what columns [from, from + depth) contribute.
  void add_block(Panel<S> a, Index to, Index count, Index from, Index depth) const {
    const Index corner = transposed ? to + from * size : from + to * size;
    const Panel<const S> t{values + corner, transposed ? count : depth, transposed ? depth : count, size};
    S* target = a.data + to * a.stride;
    const S* source = a.data + from * a.stride;
    if (a.rows == 1)
      Eigen::Map<RowVector<S>>(target, count).noalias() +=
          Eigen::Map<const RowVector<S>>(source, depth) * t.template block_of<transposed>(0, 0, depth, count);
    else
      add_product<false, transposed>(Panel<S>{target, a.rows, count, a.stride},
                                     Panel<const S>{source, a.rows, depth, a.stride}, t);
  }

  /// The i-th column to be treated of `count` from `first` on.
  [[nodiscard]] static Index nth(Index first, Index count, Index i) { return first + (ascending ? i : count - 1 - i); }

  template <class Count>
  void apply_to_row(S* a, Index stride, Index first, Count count) const {
    for (Index i = 0; i < count; ++i) {
      const Index k = nth(first, count, i);
      S sum = a[k * stride];
      if (product) sum *= diagonal_at(k);
      for (Index m = product ? i + 1 : 0; m < (product ? Index(count) : i); ++m) {  // what was solved last comes last
        const Index j = nth(first, count, m);
        sum += a[j * stride] * at(j, k);
      }
      a[k * stride] = product ? sum : -sum * diagonal_at(k);
    }
  }

  void apply_by_columns(Panel<S> panel, Index first, Index count) const {
    auto a = panel.block(0, 0, panel.rows, panel.cols);
    const Eigen::Map<const Matrix<S>> matrix(values, size, size);
    const auto t = [&] {
      if constexpr (transposed)
        return matrix.transpose();
      else
        return matrix;
    }();
    for (Index i = 0; i < count; ++i) {
      const Index k = nth(first, count, i);
      const Index begin = lower ? k + 1 : first;
      const Index others = lower ? first + count - begin : k - first;
      if (product && diagonal) a.col(k) *= diagonal[k];
      if (others > 0) a.col(k).noalias() += a.middleCols(begin, others) * t.col(k).segment(begin, others);
      if (!product) a.col(k) *= -diagonal_at(k);
    }
  }
};

/// a <- a * T, where T is that part of m (or of its transpose) with the given diagonal, or ones where that is null.
template <Triangle part, bool transposed, Real S>
void multiply_triangle(Batch<S> a, const Matrix<S>& m, const S* diagonal) {
  TriangularFactor<Apply::product, part, transposed, S>{m.data(), m.rows(), diagonal}.apply(writable_panel(a), 0,
                                                                                            a.cols());
}

/// a <- -a * T^-1, for T as in multiply_triangle but given 1 / T_kk. (The sign is free in the copy that comes before.)
template <Triangle part, bool transposed, Real S>
void solve_triangle(Batch<S> a, const Matrix<S>& m, const S* reciprocal_diagonal) {
  TriangularFactor<Apply::solution, part, transposed, S>{m.data(), m.rows(), reciprocal_diagonal}.apply(
      writable_panel(a), 0, a.cols());
}

/// Adds a^T b to that part of m (D x D), for batches a and b (n x D): the gradient of a triangle. The rest of m is not
/// touched.
template <Triangle part, Real S>
void add_triangle_gradient(ConstBatch<S> a, ConstBatch<S> b, Matrix<S>& m, Index first, Index count) {
  constexpr bool lower = part == Triangle::lower;
  if (count <= triangle_leaf || a.rows() == 1) {
    for (Index j = first; j < first + count; ++j) {
      const Index begin = lower ? j + 1 : first;
      const Index others = lower ? first + count - begin : j - first;
      if (others > 0) m.col(j).segment(begin, others).noalias() += a.middleCols(begin, others).transpose() * b.col(j);
    }
    return;
  }
  const Index half = count / 2, middle = first + half, rest = count - half;
  add_triangle_gradient<part>(a, b, m, first, half);
  add_triangle_gradient<part>(a, b, m, middle, rest);
  if (lower)
    add_transposed_product(m.block(middle, first, rest, half), a.features(middle, rest), b.features(first, half));
  else
    add_transposed_product(m.block(first, middle, half, rest), a.features(first, half), b.features(middle, rest));
}

}  // namespace rhei::detail
