// SPDX-License-Identifier: MIT
// expect: satisf[^R]*Real
#include <rhei/core/random.hpp>

double draw(rhei::Rng& rng) {
#ifdef MISUSE
  return rng.uniform<int>();  // draws are float or double; whole numbers come from below()
#else
  return rng.uniform<double>();
#endif
}
