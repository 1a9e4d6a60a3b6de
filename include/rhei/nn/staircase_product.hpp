// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Products with a weight of which a staircase counts: in column j its first ends[j] rows, where ends never fall. Such
/// are the weights of a net whose units are sorted by degree (nn/made.hpp). What a weight holds below the staircase is
/// neither used nor changed, and nearly all the work on it is left out.
///
/// The loops are those of a dense product (Goto & van de Geijn 2008, Anatomy of high-performance matrix
/// multiplication): both factors are packed once, by blocks of the depth, and Eigen's kernel multiplies what is packed.
/// Columns within whose block the staircase ends go in small groups, as deep as the deepest of them counts, with zeros
/// in the others: so a value of the batch that is not finite reaches a few columns that it does not count for, in its
/// own row. (Cutting the staircase into dense blocks instead packs the batch again for every one of them.)

#include <algorithm>
#include <array>
#include <rhei/nn/product.hpp>
#include <utility>
#include <vector>

namespace rhei::detail {

/// The weight's staircase: how many rows of each column count, and how many columns of each row do not.
class Staircase {
 public:
  /// ends: for each column, how many of the `rows` rows count; ascending.
  Staircase(Index rows, std::vector<Index> ends) : ends_(std::move(ends)) {
    for (Index i = 0; i < rows; ++i) begins_.push_back(std::upper_bound(ends_.begin(), ends_.end(), i) - ends_.begin());
  }
  [[nodiscard]] Index rows() const { return static_cast<Index>(begins_.size()); }
  [[nodiscard]] Index cols() const { return static_cast<Index>(ends_.size()); }
  /// Column `col` counts in rows 0 ... end(col) - 1.
  [[nodiscard]] Index end(Index col) const { return ends_[static_cast<std::size_t>(col)]; }
  /// Row `row` counts in columns begin(row) ... cols() - 1: in none, if there is no such row.
  [[nodiscard]] Index begin(Index row) const { return row < rows() ? begins_[static_cast<std::size_t>(row)] : cols(); }

 private:
  std::vector<Index> ends_, begins_;
};

/// The three products of a linear map that has such a weight. `packed` is scratch.
template <Real S>
class StaircaseProduct {
 public:
  /// y = finish(start + x W), for x of n x p and W of p x q.
  static void multiply(Batch<S> y, ConstBatch<S> x, const Matrix<S>& w, const Staircase& stairs, Start<S> start,
                       Finish<S> finish, Buffer<S>& packed) {
    run<false>(writable_panel(y), panel(x), panel(w), stairs, start, finish, packed);
  }
  /// x = finish(y W^T).
  static void multiply_transposed(Batch<S> x, ConstBatch<S> y, const Matrix<S>& w, const Staircase& stairs,
                                  Finish<S> finish, Buffer<S>& packed) {
    run<true>(writable_panel(x), panel(y), panel(w), stairs, Start<S>::zero(), finish, packed);
  }

  /// d += x^T y, for those elements of d (p x q) that count.
  static void add_gradient(Matrix<S>& d, ConstBatch<S> x, ConstBatch<S> y, const Staircase& stairs, Buffer<S>& packed) {
    // One register's worth of rows at a time: what is computed below the staircase is then least. So low a block may be
    // twice as deep in the first-level cache.
    constexpr Index height = Traits::mr, max_depth = 2 * Kernel::max_depth;
    std::array<S, height * cut_cols> below;
    const auto target = writable_panel(d);
    const auto left = panel(x), right = panel(y);
    for (Index k = 0, depth; k < x.rows(); k += depth) {
      depth = std::min(max_depth, x.rows() - k);
      S* const a = packed.resize((height + d.cols()) * depth, 1).data();
      S* const b = a + height * depth;
      PackRight<Eigen::ColMajor>()(b, {right.at(k, 0), right.stride}, depth, d.cols());
      for (Index i = 0, rows; i < d.rows(); i += rows) {
        rows = std::min(height, d.rows() - i);
        const Index first = stairs.begin(i) / Traits::nr * Traits::nr;  // whole groups of packed columns
        if (first >= d.cols()) break;
        const Index whole = std::min(round_up(stairs.begin(i + rows - 1), Traits::nr), d.cols());
        PackLeft<Eigen::RowMajor>()(a, {left.at(k, i), left.stride}, depth, rows);
        for (Index j = first, cols; j < whole; j += cols) {
          cols = std::min(cut_cols, whole - j);
          Kernel::multiply(below.data(), height, Start<S>::zero(), {}, a, b + j * depth, rows, depth, cols);
          for (Index c = 0; c < cols; ++c)
            for (Index r = 0, end = std::min(rows, stairs.end(j + c) - i); r < end; ++r)
              *target.at(i + r, j + c) += below[static_cast<std::size_t>(r + c * height)];
        }
        Kernel::multiply(target.at(i, whole), target.stride, {}, {}, a, b + whole * depth, rows, depth,
                         d.cols() - whole);
      }
    }
  }

 private:
  using Kernel = ProductKernel<S>;
  using Traits = typename Kernel::Traits;
  template <int order>
  using PackLeft = typename Kernel::template PackLeft<order>;
  template <int order>
  using PackRight = typename Kernel::template PackRight<order>;

  static constexpr Index max_rows = 12 * Traits::mr;
  static constexpr Index cut_cols = 2 * Traits::nr;

  static Index round_up(Index n, Index step) { return (n + step - 1) / step * step; }

  /// Columns of the result that reach from `offset` to `offset + depth` of a block.
  struct Group {
    Index col, cols, offset, depth;
    bool is_cut;  ///< whether some columns count less deep than others

    /// The kernel loads whole registers of what is packed, where each group must therefore begin aligned.
    [[nodiscard]] Index packed_size() const { return round_up(depth * cols, Traits::nr); }
  };

  /// Calls f for the groups of a block of W's rows (of its columns, where transposed).
  template <bool transposed, class F>
  static void for_each_group(const Staircase& stairs, Index k, Index depth, F&& f) {
    if constexpr (transposed) {
      const Index whole = stairs.end(k), last = stairs.end(k + depth - 1);
      if (whole > 0) f(Group{0, whole, 0, depth, false});
      for (Index i = whole, cols; i < last; i += cols) {
        cols = std::min(cut_cols, last - i);
        const Index offset = stairs.begin(i) - k;
        f(Group{i, cols, offset, depth - offset, stairs.begin(i + cols - 1) - k != offset});
      }
    } else {
      const Index first = stairs.begin(k), whole = stairs.begin(k + depth - 1);
      for (Index j = first, cols; j < whole; j += cols) {
        cols = std::min(cut_cols, whole - j);
        const Index used = stairs.end(j + cols - 1) - k;
        f(Group{j, cols, 0, used, stairs.end(j) - k != used});
      }
      if (whole < stairs.cols()) f(Group{whole, stairs.cols() - whole, 0, depth, false});
    }
  }

  template <bool transposed>
  static void run(Panel<S> result, Panel<const S> left, Panel<const S> w, const Staircase& stairs, Start<S> start,
                  Finish<S> finish, Buffer<S>& packed) {
    constexpr int order = transposed ? Eigen::RowMajor : Eigen::ColMajor;
    const auto at = [&](Index k, Index col) { return transposed ? w.at(col, k) : w.at(k, col); };
    const Index whole_depth = transposed ? w.cols : w.rows;
    const bool is_one_block = 0 < whole_depth && whole_depth <= Kernel::max_depth;
    if (whole_depth == 0) begin_product(result, start);
    std::array<S, cut_cols * Kernel::max_depth> copy;
    for (Index k = 0, depth; k < whole_depth; k += depth) {
      depth = std::min(Kernel::max_depth, whole_depth - k);
      if (k == 0) {  // the columns that the first block reaches begin in the kernel, those that it does not here
        const Index from = transposed ? stairs.end(depth - 1) : 0;
        const Index end = transposed ? result.cols : stairs.begin(0);
        begin_product(result.columns(from, end - from), start.from(from));
        if (is_one_block) finish_product(result.columns(from, end - from), finish.from(0, from));
      }
      S* const a = packed.resize((max_rows + round_up(result.cols, Traits::nr)) * depth + result.cols, 1).data();
      S* b = a + max_rows * depth;
      for_each_group<transposed>(stairs, k, depth, [&](const Group& g) {
        const Index from = k + g.offset;
        if (g.is_cut) {
          for (Index c = 0; c < g.cols; ++c) {
            const Index first = transposed ? stairs.begin(g.col + c) - from : 0;
            const Index end = transposed ? g.depth : std::min(g.depth, stairs.end(g.col + c) - from);
            S* const column = copy.data() + c * g.depth;
            std::fill_n(column, g.depth, S(0));
            for (Index r = first; r < end; ++r) column[r] = *at(from + r, g.col + c);
          }
          PackRight<Eigen::ColMajor>()(b, {copy.data(), g.depth}, g.depth, g.cols);
        } else {
          PackRight<order>()(b, {at(from, g.col), w.stride}, g.depth, g.cols);
        }
        b += g.packed_size();
      });
      for (Index i = 0, rows; i < result.rows; i += rows) {
        rows = std::min(max_rows, result.rows - i);
        PackLeft<Eigen::ColMajor>()(a, {left.at(i, k), left.stride}, depth, rows);
        const S* from = a + max_rows * depth;
        for_each_group<transposed>(stairs, k, depth, [&](const Group& g) {
          Kernel::multiply(result.at(i, g.col), result.stride, k == 0 ? start.from(g.col) : Start<S>(),
                           is_one_block ? finish.from(i, g.col) : Finish<S>(), a, from, rows, g.depth, g.cols, depth,
                           g.depth, g.offset);
          from += g.packed_size();
        });
      }
    }
    if (!is_one_block) finish_product(result, finish);
  }
};

}  // namespace rhei::detail
