// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What a caller tells every layer about one evaluation, and what a layer promises about itself.

#include <rhei/core/errors.hpp>
#include <rhei/core/random.hpp>
#include <rhei/core/types.hpp>

namespace rhei {

/// How much an evaluation must remember.
enum class Keep {
  nothing,     ///< no pullback follows: intermediate batches and caches may be shared and overwritten
  everything,  ///< a pullback may follow
  output,      ///< a pullback may follow and rebuilds each layer's input from its output: memory independent of depth
};

/// One evaluation of a layer. New needs of later layers join here, without a change to the others.
template <Real S>
struct Call {
  ConstBatch<S> context = {};    ///< n x C, or 1 x C for all samples, or 0 columns where nothing is conditional
  bool training = false;         ///< statistics of this batch rather than stored ones, where a layer has any
  bool repeat = false;           ///< batch statistics and draws are those that the cache holds, not new ones
  Keep keep = Keep::everything;  ///< what a pullback will need
  Rng* rng = nullptr;            ///< for layers that draw
};

/// What a test, an optimizer or a reader may assume about a layer.
struct Traits {
  bool forward_exact = true;     ///< forward is a formula, not an iteration
  bool inverse_exact = true;     ///< inverse is a formula, not an iteration
  bool log_det_exact = true;     ///< not an unbiased estimate
  bool rows_independent = true;  ///< no sample influences another
  bool affine = false;           ///< outside of training an affine map in either direction, the log-det a constant

  friend constexpr Traits operator&(Traits a, Traits b) {
    return {a.forward_exact && b.forward_exact, a.inverse_exact && b.inverse_exact, a.log_det_exact && b.log_det_exact,
            a.rows_independent && b.rows_independent, a.affine && b.affine};
  }
  bool operator==(const Traits&) const = default;
};

namespace detail {

/// Checks a call's context against what a layer needs: `columns` columns and either `rows` rows or one.
template <Real S>
void check_context(std::string_view where, const ConstBatch<S>& context, Index rows, Index columns) {
  if (context.cols() == columns && (columns == 0 || context.rows() == rows || context.rows() == 1)) [[likely]]
    return;
  throw_invalid(where, "context is " + shape_text(context.rows(), context.cols()) + ", expected " +
                           shape_text(rows, columns) + (columns == 0 ? "" : " or " + shape_text(1, columns)));
}

}  // namespace detail
}  // namespace rhei
