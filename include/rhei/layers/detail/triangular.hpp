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

/// The triangular matrix T (D x D) that is applied: `part` of `matrix` or of its transpose, with a diagonal of its own.
/// Which triangle it is is known at run time, so that products are compiled once for all; only the loops over scalars
/// know it earlier.
template <bool transposed, Real S>
struct TriangularFactor {
  Apply how;
  Triangle part;
  ConstBatch<S> matrix;  ///< D x D
  const S* diagonal;     ///< D, T_kk for a product and 1 / T_kk for a solution, or null for ones

  /// Treats columns [first, first + count) of a. Solved columns are kept negated, so that all updates are additions.
  void apply(Batch<S> a, Index first, Index count) const {
    if (a.rows() < triangle_row_leaf && count <= triangle_row_leaf) {
      apply_to_rows(a, first, count);
    } else if (a.rows() >= triangle_row_leaf && count <= triangle_leaf) {
      apply_by_columns(a, first, count);
    } else {
      const Index half = (count + 2 * triangle_row_leaf - 1) / (2 * triangle_row_leaf) * triangle_row_leaf;
      const Index middle = first + half, rest = count - half;
      ascending() ? apply(a, first, half) : apply(a, middle, rest);
      lower() ? add_block(a, first, half, middle, rest) : add_block(a, middle, rest, first, half);
      ascending() ? apply(a, middle, rest) : apply(a, first, half);
    }
  }

 private:
  [[nodiscard]] bool lower() const { return part == Triangle::lower; }
  /// A column depends on later ones (lower) or earlier ones (upper), as they were before (product) or as they will be
  /// (solution): hence the order in which columns are treated.
  [[nodiscard]] bool ascending() const { return lower() == (how == Apply::product); }
  [[nodiscard]] S at(Index j, Index k) const { return transposed ? matrix.coeff(k, j) : matrix.coeff(j, k); }
  [[nodiscard]] S diagonal_at(Index k) const { return diagonal ? diagonal[k] : S(1); }

  /// Adds to columns [to, to + count) of a what columns [from, from + depth) contribute.
  void add_block(Batch<S> a, Index to, Index count, Index from, Index depth) const {
    Batch<S> target = a.features(to, count);
    const Batch<S> source = a.features(from, depth);
    const auto block = transposed ? matrix.block(to, from, count, depth) : matrix.block(from, to, depth, count);
    if (a.rows() == 1)
      add_to_one_row(target, source, block);
    else if constexpr (transposed)
      add_product_transposed(target, source, block);
    else
      add_product(target, source, block);
  }

  template <class Block>
  static void add_to_one_row(Batch<S> target, ConstBatch<S> source, const Block& block) {
    Eigen::Map<Vector<S>> y(target.data(), target.cols());
    const Eigen::Map<const Vector<S>> x(source.data(), source.cols());
    if constexpr (transposed)
      y.noalias() += block * x;
    else
      y.noalias() += block.transpose() * x;
  }

  void apply_by_columns(Batch<S> a, Index first, Index count) const {
    const auto t = [&] {
      if constexpr (transposed)
        return matrix.transpose();
      else
        return matrix;
    }();
    for (Index i = 0; i < count; ++i) {
      const Index k = ascending() ? first + i : first + count - 1 - i;
      const Index begin = lower() ? k + 1 : first;
      const Index others = lower() ? first + count - begin : k - first;
      if (how == Apply::product && diagonal) a.col(k) *= diagonal[k];
      if (others > 0) a.col(k).noalias() += a.middleCols(begin, others) * t.col(k).segment(begin, others);
      if (how == Apply::solution) a.col(k) *= -diagonal_at(k);
    }
  }

  void apply_to_rows(Batch<S> a, Index first, Index count) const {
    const auto with_count = [&](auto how_, auto lower_) {
      for (Index row = 0; row < a.rows(); ++row)
        if (count == triangle_row_leaf)
          apply_to_row<how_(), lower_()>(a.data() + row, a.rows(), first,
                                         std::integral_constant<Index, triangle_row_leaf>());
        else
          apply_to_row<how_(), lower_()>(a.data() + row, a.rows(), first, count);
    };
    using Product = std::integral_constant<Apply, Apply::product>;
    using Solution = std::integral_constant<Apply, Apply::solution>;
    if (how == Apply::product)
      lower() ? with_count(Product(), std::true_type()) : with_count(Product(), std::false_type());
    else
      lower() ? with_count(Solution(), std::true_type()) : with_count(Solution(), std::false_type());
  }

  template <Apply known_how, bool known_lower, class Count>
  void apply_to_row(S* a, Index stride, Index first, Count count) const {
    constexpr bool product = known_how == Apply::product;
    const auto nth = [&](Index i) { return known_lower == product ? first + i : first + count - 1 - i; };
    for (Index i = 0; i < count; ++i) {
      const Index k = nth(i);
      S sum = a[k * stride];
      if (product) sum *= diagonal_at(k);
      for (Index m = product ? i + 1 : 0; m < (product ? Index(count) : i); ++m)  // what was solved last comes last
        sum += a[nth(m) * stride] * at(nth(m), k);
      a[k * stride] = product ? sum : -sum * diagonal_at(k);
    }
  }
};

/// a <- a * T, where T is that part of m (or of its transpose) with the given diagonal, or ones where that is null.
template <Triangle part, bool transposed, Real S>
void multiply_triangle(Batch<S> a, const Matrix<S>& m, const S* diagonal) {
  const TriangularFactor<transposed, S> factor{Apply::product, part, m, diagonal};
  factor.apply(a, 0, a.cols());
}

/// a <- -a * T^-1, for T as in multiply_triangle but given 1 / T_kk. (The sign is free in the copy that comes before.)
template <Triangle part, bool transposed, Real S>
void solve_triangle(Batch<S> a, const Matrix<S>& m, const S* reciprocal_diagonal) {
  const TriangularFactor<transposed, S> factor{Apply::solution, part, m, reciprocal_diagonal};
  factor.apply(a, 0, a.cols());
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
      auto target = m.col(j).segment(begin, others);
      if (a.rows() == 1)
        target += b.coeff(0, j) * Eigen::Map<const Vector<S>>(a.data() + begin, others);
      else if (others > 0)
        target.noalias() += a.middleCols(begin, others).transpose() * b.col(j);
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
