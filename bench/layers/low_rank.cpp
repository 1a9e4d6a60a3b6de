// SPDX-License-Identifier: MIT

/// \file
/// Bends across one or a few directions.

#include <algorithm>
#include <rhei/layers/planar.hpp>
#include <rhei/layers/radial.hpp>
#include <rhei/layers/sylvester.hpp>

#include "layers/subjects.hpp"

namespace bench {

std::vector<Subject> low_rank_subjects() {
  using namespace rhei;
  return {
      {"planar", [](Index dim, Rng& rng) { return Planar<float>(dim, rng); }},
      {"radial", [](Index dim, Rng& rng) { return Radial<float>(dim, rng); }},
      {"sylvester", [](Index dim, Rng& rng) { return Sylvester<float>(dim, std::min<Index>(dim, 8), rng); }},
  };
}

}  // namespace bench
