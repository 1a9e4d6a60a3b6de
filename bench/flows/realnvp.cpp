// SPDX-License-Identifier: MIT

#include <rhei/models/realnvp.hpp>

#include "support/flow_work.hpp"

namespace bench {

std::unique_ptr<FlowWork> make_realnvp(const Case& c, int threads) {
  rhei::Rng rng(7);
  auto flow = rhei::models::realnvp<float>(c.dim, {.layers = c.layers, .hidden = {c.width, c.width}}, rng);
  RowCost row = cost_of_nets(layers_of(flow)) + cost_of_ends(c.dim);
  for (const auto& layer : layers_of(flow)) {
    const auto moved = static_cast<double>(layer.transformed().size());
    const Cost either = moved * Cost{.passes = 2, .exps = 1, .tanhs = 1};  // x = z e^s + t, log-det += s
    row = row + RowCost{either, moved * Cost{.passes = 4}, either};
  }
  return flow_work(c, std::move(flow), row, threads);
}

}  // namespace bench
