// SPDX-License-Identifier: MIT

/// \file
/// A program of two translation units that use the same parts of rhei: it links only if every definition in the headers
/// is inline, and succeeds only if both see the same library.

#include <cstdint>
#include <iomanip>  // argument-dependent lookup must not find what others define (std::quoted, once)
#include <rhei/rhei.hpp>

rhei::Matrix<float> draw_elsewhere(std::uint64_t seed);

int main() {
  rhei::Rng rng(7);
  rhei::Matrix<float> here(100, 2);
  rng.fill_normal(here);
  return here == draw_elsewhere(7) ? 0 : 1;
}
