// SPDX-License-Identifier: MIT

/// \file
/// The second translation unit of the consumer, which has included headers of its own whose names could get in the way.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <numeric>
#include <random>

#include <rhei/rhei.hpp>

rhei::Matrix<float> draw_elsewhere(std::uint64_t seed);

rhei::Matrix<float> draw_elsewhere(std::uint64_t seed) {
  rhei::Rng rng(seed);
  rhei::Matrix<float> there(100, 2);
  rng.fill_normal(there);
  return there;
}
