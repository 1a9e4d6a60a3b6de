// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The floor: what a case must cost at least, from its own arithmetic and what this machine does with arithmetic.
///
///   floor = 2 multiply-adds / GEMM rate + sum over kinds of elementwise work (elements x time of an element)
///
/// - Multiply-adds are those whose weight is not masked away, whatever a program does with the zeros. A training step
///   has three times those of log_prob: forward, the gradient of the weights, the gradient of what enters.
/// - The GEMM rate is the best that Eigen or rhei reaches with square matrices of 256 to 1024: so it is no excuse that
///   a case's own products are thin or small. Of exponentials and logarithms, too, the faster of both counts.
/// - Elementwise work is counted as if all that is done to an element were fused, in memory that is in the cache, and
///   nothing were computed twice. What follows is not counted: loads and stores of weights, calls, remainders of
///   registers, batches that leave the cache.

#include <rhei/core/types.hpp>

namespace bench {

using rhei::Index;

/// Seconds for one unit of each kind of work, on one core.
struct Rates {
  double multiply_add = 0;  ///< in a large product
  double pass = 0;          ///< y = max(x + b, 0): load, two operations, store
  double exp = 0;
  double log = 0;
  double tanh = 0;
  double divide = 0;    ///< y = sqrt(x) / (c + x)
  double normal = 0;    ///< one draw
  double adam = 0;      ///< one parameter's step, moments included
  Index best_size = 0;  ///< of the square matrices that gave multiply_add
};

/// Measures them; takes a few seconds. The best of several tries, so that a busy moment does not lower the floor.
Rates measure_rates();

/// How much of each kind there is.
struct Cost {
  double multiply_adds = 0, passes = 0, exps = 0, logs = 0, tanhs = 0, divides = 0, normals = 0, adam = 0;

  friend Cost operator*(double n, const Cost& c) {
    return {n * c.multiply_adds, n * c.passes,  n * c.exps,    n * c.logs,
            n * c.tanhs,         n * c.divides, n * c.normals, n * c.adam};
  }
  friend Cost operator+(const Cost& a, const Cost& b) {
    return {a.multiply_adds + b.multiply_adds,
            a.passes + b.passes,
            a.exps + b.exps,
            a.logs + b.logs,
            a.tanhs + b.tanhs,
            a.divides + b.divides,
            a.normals + b.normals,
            a.adam + b.adam};
  }
  [[nodiscard]] double seconds(const Rates& r) const {
    return multiply_adds * r.multiply_add + passes * r.pass + exps * r.exp + logs * r.log + tanhs * r.tanh +
           divides * r.divide + normals * r.normal + adam * r.adam;
  }
};

}  // namespace bench
