// SPDX-License-Identifier: MIT

/// \file
/// Maps of each feature on its own.

#include <cmath>
#include <rhei/layers/circular_shift.hpp>
#include <rhei/layers/domains.hpp>
#include <rhei/layers/marginal_gaussianization.hpp>

#include "fuzz/shapes.hpp"
#include "fuzz/subjects.hpp"

namespace rhei::fuzz {

namespace {

double squeezed(double v) { return v / (1 + std::abs(v)); }

/// One of each kind of domain.
template <Real S>
Domains<S> domains(Index dim, Index, Rng& rng) {
  std::vector<Domain> list;
  for (Index d = 0; d < dim; ++d)
    list.push_back(pick({Domain::line(), Domain::interval(-3, 3), Domain::half_line(-3), Domain::circle(-3, 3)}, rng));
  return Domains<S>(std::move(list));
}

}  // namespace

template <Real S>
std::vector<Subject<S>> elementwise_subjects() {
  return {
      {"circular_shift", made_by([](Index dim, Index, Rng&) { return CircularShift<S>(dim); }),
       [](Direction, double v) { return 3 * squeezed(v); }},
      {"domains", made_by(domains<S>),
       [](Direction d, double v) { return (d == Direction::forward ? 3 : 2.9) * squeezed(v); }},
      {"marginal_gaussianization",
       made_by([](Index dim, Index, Rng& rng) { return MarginalGaussianization<S>(dim, 1 + rng.below(6)); })},
  };
}
template std::vector<Subject<float>> elementwise_subjects();
template std::vector<Subject<double>> elementwise_subjects();

}  // namespace rhei::fuzz
