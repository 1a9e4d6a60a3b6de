// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The named cases: flows, shapes and batch sizes that flow_steps times, training_memory weighs, and that the script
/// peers/compare.py, which reads them from `flow_steps --cases`, builds with other libraries too.
///
/// All conditioners have two hidden layers of one width and ReLU.

#include <array>
#include <string_view>

namespace bench {

/// What a flow is made of.
enum class Family {
  realnvp,         ///< affine couplings
  maf,             ///< affine autoregressive layers
  nsf,             ///< rational-quadratic spline couplings
  gaussianization  ///< marginal Gaussianizations and rotations; no net
};
inline constexpr std::array<std::string_view, 4> family_names = {"realnvp", "maf", "nsf", "gaussianization"};

struct Case {
  std::string_view name;
  Family family;
  int dim;
  int layers;
  int width;  ///< of both hidden layers
  int parts;  ///< bins of each spline, or kernels of each marginal Gaussianization
  int rows;   ///< of a batch; 1: the case is timed event by event
};

inline constexpr std::array<Case, 10> cases = {{
    {"realnvp-2d", Family::realnvp, 2, 8, 64, 0, 256},
    {"maf-6d", Family::maf, 6, 5, 100, 0, 512},
    {"maf-43d", Family::maf, 43, 5, 512, 0, 512},
    {"maf-64d", Family::maf, 64, 5, 512, 0, 1024},
    {"nsf-2d", Family::nsf, 2, 4, 64, 8, 256},
    {"nsf-43d", Family::nsf, 43, 5, 128, 8, 512},
    {"gauss-43d", Family::gaussianization, 43, 5, 0, 20, 512},
    {"realnvp-8d", Family::realnvp, 8, 4, 64, 0, 1},
    {"nsf-8d", Family::nsf, 8, 4, 64, 8, 1},
    {"maf-16d", Family::maf, 16, 5, 128, 0, 1},
}};

/// What is done with a flow.
enum class Op { train_step, log_prob, sample };
inline constexpr std::array<std::string_view, 3> op_names = {"train_step", "log_prob", "sample"};

}  // namespace bench
