// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A ready-made flow as a whole: it learns a toy distribution, remains a density while it does, and draws what it says.

#include <functional>
#include <rhei/core/any_flow.hpp>
#include <rhei/data/toys.hpp>
#include <string_view>

#include "support/catch.hpp"

namespace rhei::testing {

/// The Kullback-Leibler divergence of the Gaussian with the mean and covariance of x (n x 2).
double gaussian_divergence(const Matrix<double>& x, double entropy);

/// Fits, then checks what must hold of a flow after training. Its divergence must be below `part` of that of a fitted
/// Gaussian. `log_prob_in_double` evaluates the flow that it is given in double. (On erased flows, so that the fit is
/// compiled once.)
void learns(AnyFlow<float> flow,
            const std::function<Vector<double>(const AnyFlow<float>&, const Matrix<double>&)>& log_prob_in_double,
            std::string_view toy, Index steps, double part);

/// The same for a flow of a type that can be cast.
template <class Base, class Transform>
void learns(const Flow<Base, Transform>& flow, std::string_view toy, Index steps, double part) {
  learns(
      erase(flow),
      [typed = flow](const AnyFlow<float>& trained, const Matrix<double>& x) mutable {
        copy_values(trained, typed);
        typed.check_state();
        return typed.template cast<double>().log_prob(x);
      },
      toy, steps, part);
}

}  // namespace rhei::testing
