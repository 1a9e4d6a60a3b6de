// SPDX-License-Identifier: MIT

#include <rhei/models/nsf.hpp>

#include "support/flow_work.hpp"

namespace bench {

std::unique_ptr<FlowWork> make_nsf(const Case& c, int threads) {
  rhei::Rng rng(7);
  auto flow = rhei::models::nsf<float>(
      c.dim, {.layers = c.layers, .hidden = {c.width, c.width}, .spline = {.bins = c.parts}}, rng);
  RowCost row = cost_of_nets(layers_of(flow)) + cost_of_ends(c.dim);
  for (const auto& layer : layers_of(flow)) {
    const auto moved = static_cast<double>(layer.transformed().size());
    // Both softmaxes, the sums of their terms and the search for the bin; the slopes at two knots; the rational
    // function or its inverse, and its log-slope.
    const double bins = c.parts;
    const Cost either = moved * Cost{.passes = 4 * bins + 8, .exps = 2 * bins + 2, .logs = 3, .divides = 6};
    row = row + RowCost{either, moved * Cost{.passes = 6 * bins + 16, .divides = 6}, either};
  }
  return flow_work(c, std::move(flow), row, threads);
}

}  // namespace bench
