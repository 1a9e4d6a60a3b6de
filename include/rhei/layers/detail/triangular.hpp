// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A batch of rows times a triangular matrix, or times the inverse of one, in place.
///
/// For a batch a triangle is halved until few columns remain: what lies beside the two half triangles is a square
/// block, that is an ordinary product, and most of the work. For a few rows, which go one by one, it is a column of
/// small triangles, each with what lies above or below it: eight columns at a time, which are contiguous. Nothing is
/// allocated, and only the triangle that is meant is read, so that one matrix can hold two.

#include <rhei/nn/math.hpp>
#include <rhei/nn/product.hpp>

namespace rhei::detail {

/// Which part of a matrix, its diagonal excluded, is meant.
enum class Triangle { lower, upper };

/// Whether to multiply by a triangular matrix or by its inverse.
enum class Apply { product, solution };

/// A block of this many columns is not halved: each column is one matrix-vector product.
inline constexpr Index triangle_leaf = 16;
/// Fewer rows than this go one by one, this many columns at a time.
inline constexpr Index triangle_row_leaf = 8;
/// Several rows are copied first, each to be contiguous, in parts of this length.
inline constexpr Index triangle_row_length = 1024;

/// y += M x for y of `rows` values and `columns` columns of M, `stride` apart.
template <Index columns, Real S>
void add_columns(S* y, Index rows, const S* m, Index stride, const S* x) {
  Lanes<S> factors[columns];
  for (Index c = 0; c < columns; ++c) factors[c] = Lanes<S>(x[c]);
  Index i = 0;
  for (; i + Lanes<S>::size <= rows; i += Lanes<S>::size) {
    Lanes<S> sum = Lanes<S>::load(y + i);
    for (Index c = 0; c < columns; ++c) sum = multiply_add(Lanes<S>::load(m + i + c * stride), factors[c], sum);
    sum.store(y + i);
  }
  for (; i < rows; ++i) {
    S sum = y[i];
    for (Index c = 0; c < columns; ++c) sum += m[i + c * stride] * x[c];
    y[i] = sum;
  }
}

/// y += M^T x for x of `rows` values and `columns` columns of M, `stride` apart.
template <Index columns, Real S>
void add_dots(S* y, const S* m, Index stride, const S* x, Index rows) {
  Lanes<S> sums[columns];
  S rest[columns] = {};
  for (Index c = 0; c < columns; ++c) sums[c] = Lanes<S>(S(0));
  Index i = 0;
  for (; i + Lanes<S>::size <= rows; i += Lanes<S>::size)
    for (Index c = 0; c < columns; ++c)
      sums[c] = multiply_add(Lanes<S>::load(m + i + c * stride), Lanes<S>::load(x + i), sums[c]);
  for (; i < rows; ++i)
    for (Index c = 0; c < columns; ++c) rest[c] += m[i + c * stride] * x[i];
  for (Index c = 0; c < columns; ++c) y[c] += Eigen::internal::predux(sums[c].p) + rest[c];
}

/// Calls f(0), ..., f(count - 1), without a loop where count is a constant.
template <class Count, class F>
void for_each_index(Count count, F&& f) {
  if constexpr (std::same_as<Count, Index>)
    for (Index i = 0; i < count; ++i) f(i);
  else
    [&]<Index... i>(std::integer_sequence<Index, i...>) { (f(std::integral_constant<Index, i>()), ...); }
  (std::make_integer_sequence<Index, count()>());
}

/// Calls f(row) with every row of columns [first, first + count) of a, as contiguous values that it may change.
template <Real S, class F>
void for_each_row(Batch<S> a, Index first, Index count, F&& f) {
  S* const begin = a.data() + first * a.rows();
  if (a.rows() == 1) {
    f(begin);
    return;
  }
  S row[triangle_row_length];
  for (Index i = 0; i < a.rows(); ++i) {
    for (Index k = 0; k < count; ++k) row[k] = begin[i + k * a.rows()];
    f(static_cast<S*>(row));
    for (Index k = 0; k < count; ++k) begin[i + k * a.rows()] = row[k];
  }
}

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
    if (a.rows() == 1 || (a.rows() < triangle_row_leaf && count <= triangle_row_length)) {
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
    if constexpr (transposed)
      add_product_transposed(target, source, block);
    else
      add_product(target, source, block);
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
    const auto with = [&](auto how_, auto lower_) {
      for_each_row(a, first, count, [&](S* row) { apply_to_row<how_(), lower_()>(row, first, count); });
    };
    using Product = std::integral_constant<Apply, Apply::product>;
    using Solution = std::integral_constant<Apply, Apply::solution>;
    if (how == Apply::product)
      lower() ? with(Product(), std::true_type()) : with(Product(), std::false_type());
    else
      lower() ? with(Solution(), std::true_type()) : with(Solution(), std::false_type());
  }

  /// `a` holds values [first, first + count) of a row. What lies beside a small triangle takes its values as they were
  /// (transposed: it is their contribution to others) or adds to them, before a solution and after a product.
  template <Apply known_how, bool known_lower>
  void apply_to_row(S* a, Index first, Index count) const {
    constexpr bool product = known_how == Apply::product;
    constexpr bool beside_first = transposed == product, after = known_lower != transposed;
    using Leaf = std::integral_constant<Index, triangle_row_leaf>;
    for (Index done = 0; done < count; done += Leaf()) {
      const Index width = std::min<Index>(Leaf(), count - done);
      const Index begin = known_lower == product ? done : count - done - width;
      const Index from = after ? begin + width : 0, others = after ? count - from : begin;
      if (beside_first) add_beside(a, first, begin, width, from, others);
      if (width == Leaf())
        apply_small<known_how, known_lower>(a + begin, first + begin, Leaf());
      else
        apply_small<known_how, known_lower>(a + begin, first + begin, width);
      if (!beside_first) add_beside(a, first, begin, width, from, others);
    }
  }

  /// What rows [from, from + others) of the matrix in columns [begin, begin + width) contribute; counted from `first`.
  void add_beside(S* a, Index first, Index begin, Index width, Index from, Index others) const {
    if (others == 0) return;
    const auto add = [&]<Index columns>(std::integral_constant<Index, columns>, Index at) {
      const S* block = matrix.data() + first + from + (first + at) * matrix.rows();
      if constexpr (transposed)
        add_columns<columns>(a + from, others, block, matrix.rows(), a + at);
      else
        add_dots<columns>(a + at, block, matrix.rows(), a + from, others);
    };
    if (width == triangle_row_leaf)
      add(std::integral_constant<Index, triangle_row_leaf>(), begin);
    else
      for (Index at = begin; at < begin + width; ++at) add(std::integral_constant<Index, 1>(), at);
  }

  template <Apply known_how, bool known_lower, class Count>
  void apply_small(S* a, Index first, Count count) const {
    constexpr bool product = known_how == Apply::product;
    const auto nth = [&](Index i) { return known_lower == product ? i : count - 1 - i; };
    S x[triangle_row_leaf];  // registers, where count is a constant
    for_each_index(count, [&](auto k) { x[k] = a[k]; });
    for_each_index(count, [&](auto i) {
      const Index k = nth(i);
      S sum = x[k];
      if (product) sum *= diagonal_at(first + k);
      for (Index m = product ? i + 1 : 0; m < (product ? Index(count) : Index(i)); ++m)  // the last solved comes last
        sum += x[nth(m)] * at(first + nth(m), first + k);
      x[k] = product ? sum : -sum * diagonal_at(first + k);
    });
    for_each_index(count, [&](auto k) { a[k] = x[k]; });
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
  if (a.rows() == 1 || (a.rows() < triangle_row_leaf && count <= triangle_row_length)) {
    S row[triangle_row_length];
    for (Index i = 0; i < a.rows(); ++i) {
      const S* of_a = a.data() + first;
      if (a.rows() > 1) {
        for (Index k = 0; k < count; ++k) row[k] = a.coeff(i, first + k);
        of_a = row;
      }
      for (Index j = 0; j < count; ++j) {
        const Index begin = lower ? j + 1 : 0, others = lower ? count - begin : j;
        const S factor = b.coeff(i, first + j);
        add_columns<1>(m.data() + first + begin + (first + j) * m.rows(), others, of_a + begin, Index(0), &factor);
      }
    }
    return;
  }
  if (count <= triangle_leaf) {
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
