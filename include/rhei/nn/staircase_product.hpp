// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Products with a weight of which a staircase counts: in column j its first ends[j] rows, where ends never fall. Such
/// are the weights of a net whose units are sorted by degree (nn/made.hpp). What a weight holds below the staircase is
/// neither used nor changed, and nearly all the work on it is left out.
///
/// Each stripe of the batch is multiplied with all columns, each of them as deep as it counts. Columns that end at
/// different depths go in fours all the same, as deep as the deepest of them, with zeros in the others: so a value of
/// the batch that is not finite reaches up to three columns that it does not count for, in its own row.

#include <algorithm>
#include <array>
#include <rhei/nn/product.hpp>
#include <utility>
#include <vector>

namespace rhei::detail {

/// The weight's staircase: how many rows of each column count, and how many columns of each row do not.
class Staircase {
 public:
  /// Columns side by side of which the same rows count, or a few that are cut: padded with zeros to the deepest. Or so
  /// many rows.
  struct Group {
    Index first, count;
    Index begin, end;  ///< what counts of the deepest
    bool is_cut;

    [[nodiscard]] Index depth() const { return end - begin; }
  };

  /// ends: for each column, how many of the `rows` rows count; ascending.
  Staircase(Index rows, std::vector<Index> ends) : ends_(std::move(ends)) {
    for (Index i = 0; i < rows; ++i) begins_.push_back(std::upper_bound(ends_.begin(), ends_.end(), i) - ends_.begin());
    for_each_group(ends_, [&](Index first, Index count, bool is_cut) {
      column_groups_.push_back({first, count, 0, end(first + count - 1), is_cut});
    });
    std::reverse(column_groups_.begin(), column_groups_.end());
    for_each_group(begins_, [&](Index first, Index count, bool is_cut) {
      row_groups_.push_back({first, count, begin(first), cols(), is_cut});
    });
  }
  [[nodiscard]] Index rows() const { return static_cast<Index>(begins_.size()); }
  [[nodiscard]] Index cols() const { return static_cast<Index>(ends_.size()); }
  /// Column `col` counts in rows 0 ... end(col) - 1.
  [[nodiscard]] Index end(Index col) const { return ends_[static_cast<std::size_t>(col)]; }
  /// Row `row` counts in columns begin(row) ... cols() - 1: in none, if there is no such row.
  [[nodiscard]] Index begin(Index row) const { return row < rows() ? begins_[static_cast<std::size_t>(row)] : cols(); }
  /// All columns, the deepest first.
  [[nodiscard]] const std::vector<Group>& column_groups() const { return column_groups_; }
  /// All rows, the deepest first.
  [[nodiscard]] const std::vector<Group>& row_groups() const { return row_groups_; }

 private:
  /// Calls f(first, count, is_cut) for runs of one limit, up to eight fours of them, and for fours that runs share.
  template <class F>
  static void for_each_group(const std::vector<Index>& limits, F&& f) {
    constexpr std::ptrdiff_t width = kernel_width<3>, most = 8 * width;
    for (auto at = limits.begin(); at != limits.end();) {
      const std::ptrdiff_t left = limits.end() - at, run = std::upper_bound(at, limits.end(), *at) - at;
      const bool is_cut = run < std::min(width, left);
      const std::ptrdiff_t count = std::min(is_cut ? width : most, run == left || is_cut ? left : run / width * width);
      f(at - limits.begin(), count, is_cut);
      at += count;
    }
  }

  std::vector<Index> ends_, begins_;
  std::vector<Group> column_groups_, row_groups_;
};

/// The three products of a linear map that has such a weight. `scratch` is for what of W is copied.
template <Real S>
class StaircaseProduct {
 public:
  /// y = finish(start + x W), for x of n x p and W of p x q.
  static void multiply(Batch<S> y, ConstBatch<S> x, const Matrix<S>& w, const Staircase& stairs, Start<S> start,
                       Finish<S> finish, Buffer<S>& scratch) {
    run<false>(writable_panel(y), panel(x), panel(w), stairs, start, finish, scratch);
  }
  /// x = finish(y W^T).
  static void multiply_transposed(Batch<S> x, ConstBatch<S> y, const Matrix<S>& w, const Staircase& stairs,
                                  Finish<S> finish, Buffer<S>& scratch) {
    run<true>(writable_panel(x), panel(y), panel(w), stairs, Start<S>::zero(), finish, scratch);
  }

  /// d += x^T y, for those elements of d (p x q) that count.
  static void add_gradient(Matrix<S>& d, ConstBatch<S> x, ConstBatch<S> y, const Staircase& stairs) {
    typename Kernel::Copy copy;
    constexpr Index width = kernel_width<3>, most_cols = kernel_width<1>;
    std::array<S, Kernel::height * most_cols> cut;
    const auto target = writable_panel(d);
    const auto left = panel(x), right = panel(y);
    if (is_quicker_by_dots(d, left, right))
      return add_narrow_gradient(target, left, right, [&](Index row) { return stairs.begin(row); });
    for (Index k = 0, depth; k < x.rows(); k += depth) {
      depth = std::min(Kernel::max_depth, x.rows() - k);
      for (Index i = 0, rows; i < d.rows(); i += rows) {
        rows = Kernel::next_rows(d.rows() - i);
        const Index first = stairs.begin(i);
        if (first == d.cols()) break;
        const Index whole = d.cols() - (d.cols() - stairs.begin(i + rows - 1)) / width * width;
        Stripe<S> stripe = Kernel::template stripe<true>({left.at(k, i), depth, rows, left.stride}, target, copy);
        for (Index j = first, cols; j < whole; j += cols) {
          cols = std::min(rows <= Kernel::lanes ? most_cols : width, whole - j);
          const Index used = std::min(rows, stairs.end(j + cols - 1) - i);
          Kernel::multiply({cut.data(), round_up(used, Kernel::lanes), cols, Kernel::height}, stripe, 0,
                           {right.at(k, j), 1, right.stride}, depth, Start<S>::zero(), {});
          for (Index c = 0; c < cols; ++c)
            for (Index r = 0, end = std::min(rows, stairs.end(j + c) - i); r < end; ++r)
              *target.at(i + r, j + c) += cut[static_cast<std::size_t>(r + c * Kernel::height)];
        }
        if (whole < d.cols())
          Kernel::multiply({target.at(i, whole), rows, d.cols() - whole, target.stride}, stripe, 0,
                           {right.at(k, whole), 1, right.stride}, depth, {}, {});
      }
    }
  }

 private:
  using Kernel = ProductKernel<S>;

  /// Whether that gradient is: where it is narrow, and where a step is hardly wider than a stripe, of which much does
  /// not count, while dot products are only of what does. Unless all columns meet in the same places of the cache.
  static bool is_quicker_by_dots(const Matrix<S>& d, const Panel<const S>& x, const Panel<const S>& y) {
    const auto columns_meet = [](Index stride) { return stride * static_cast<Index>(sizeof(S)) % 4096 == 0; };
    return is_narrow_gradient(d.rows(), d.cols(), x.rows) ||
           (std::max(d.rows(), d.cols()) <= 128 && x.rows >= 256 && !columns_meet(x.stride) && !columns_meet(y.stride));
  }

  static Index round_up(Index n, Index step) { return (n + step - 1) / step * step; }

  template <bool transposed>
  static const std::vector<Staircase::Group>& groups_of(const Staircase& stairs) {
    return transposed ? stairs.row_groups() : stairs.column_groups();
  }

  /// Of which groups the weight is copied: of those that are cut, and of rows of a large weight, whose values lie on as
  /// many pages.
  template <bool transposed>
  static bool is_copied(const Staircase::Group& g, Panel<const S> w) {
    return g.is_cut || (transposed && w.rows * w.cols > 128 * 256);
  }

  /// What these groups multiply with, one after the other.
  template <bool transposed>
  static const S* copy_weight(Panel<const S> w, const Staircase& stairs, Buffer<S>& scratch) {
    Index size = 0;
    for (const auto& g : groups_of<transposed>(stairs)) size += is_copied<transposed>(g, w) ? g.count * g.depth() : 0;
    S* const copies = scratch.resize(size, 1).data();
    S* to = copies;
    for (const auto& g : groups_of<transposed>(stairs)) {
      if (!is_copied<transposed>(g, w)) continue;
      if constexpr (transposed) {
        for (Index k = g.begin; k < g.end; ++k)
          for (Index i = g.first; i < g.first + g.count; ++i) *to++ = stairs.begin(i) <= k ? *w.at(i, k) : S(0);
      } else {
        for (Index j = g.first; j < g.first + g.count; ++j, to += g.depth())
          std::fill(std::copy_n(w.at(0, j), stairs.end(j), to), to + g.depth(), S(0));
      }
    }
    return copies;
  }

  template <bool transposed>
  static void run(Panel<S> result, Panel<const S> left, Panel<const S> w, const Staircase& stairs, Start<S> start,
                  Finish<S> finish, Buffer<S>& scratch) {
    const Right<S> weight{w.data, transposed ? w.stride : 1, transposed ? 1 : w.stride};
    const S* const copies = copy_weight<transposed>(w, stairs, scratch);
    typename Kernel::Copy copy;
    Index k = 0;
    do {
      const Index end = std::min(k + (transposed ? Kernel::max_depth_across : Kernel::max_depth), left.cols);
      for (Index i = 0, rows; i < result.rows; i += rows) {
        rows = Kernel::next_rows(result.rows - i);
        Stripe<S> stripe = Kernel::template stripe<false>({left.at(i, k), rows, end - k, left.stride}, result, copy);
        const S* own = copies;
        for (const auto& g : groups_of<transposed>(stairs)) {
          const Index from = std::max(g.begin, k), to = std::min(g.end, end);
          const bool is_empty = g.depth() == 0;  // it has a start and a finish all the same
          if (from < to || (is_empty && k == 0)) {
            const Right<S> right = !is_copied<transposed>(g, w) ? weight.from(from, g.first)
                                   : transposed                 ? Right<S>{own, g.count, 1}.from(from - g.begin, 0)
                                                                : Right<S>{own, 1, g.depth()}.from(from, 0);
            Kernel::multiply({result.at(i, g.first), rows, g.count, result.stride}, stripe, is_empty ? 0 : from - k,
                             right, is_empty ? 0 : to - from,
                             is_empty || from == g.begin ? start.from(g.first) : Start<S>(),
                             is_empty || to == g.end ? finish.from(i, g.first) : Finish<S>());
          }
          if (is_copied<transposed>(g, w)) own += g.count * g.depth();
        }
      }
      k = end;
    } while (k < left.cols);
  }
};

}  // namespace rhei::detail
