// SPDX-License-Identifier: MIT

/// \file
/// Bends across one or a few directions.

#include <rhei/layers/planar.hpp>
#include <rhei/layers/radial.hpp>
#include <rhei/layers/sylvester.hpp>

#include "fuzz/subjects.hpp"

namespace rhei::fuzz {

template <Real S>
std::vector<Subject<S>> low_rank_subjects() {
  return {
      {"planar", made_by([](Index dim, Index, Rng& rng) { return Planar<S>(dim, rng); })},
      {"radial", made_by([](Index dim, Index, Rng& rng) { return Radial<S>(dim, rng); })},
      {"sylvester", made_by([](Index dim, Index, Rng& rng) { return Sylvester<S>(dim, 1 + rng.below(dim), rng); })},
  };
}
template std::vector<Subject<float>> low_rank_subjects();
template std::vector<Subject<double>> low_rank_subjects();

}  // namespace rhei::fuzz
