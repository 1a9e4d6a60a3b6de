// SPDX-License-Identifier: MIT

/// \file
/// The second translation unit of the consumer.

#include <cstdint>
#include <rhei/rhei.hpp>

rhei::Matrix<float> draw_elsewhere(std::uint64_t seed);

rhei::Matrix<float> draw_elsewhere(std::uint64_t seed) {
  rhei::Rng rng(seed);
  rhei::Matrix<float> there(100, 2);
  rng.fill_normal(there);
  return there;
}
