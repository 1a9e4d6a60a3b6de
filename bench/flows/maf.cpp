// SPDX-License-Identifier: MIT

#include <rhei/models/maf.hpp>

#include "support/flow_work.hpp"

namespace bench {

std::unique_ptr<FlowWork> make_maf(const Case& c, int threads) {
  rhei::Rng rng(7);
  auto flow = rhei::models::maf<float>(c.dim, {.layers = c.layers, .net = {.hidden = {c.width, c.width}}}, rng);
  const Cost either = (c.layers * c.dim) * Cost{.passes = 2, .exps = 1, .divides = 1};  // softsign, exp, fma, sum
  const RowCost row = cost_of_nets(layers_of(flow)) + cost_of_ends(c.dim) +
                      RowCost{either, (c.layers * c.dim) * Cost{.passes = 4}, either};
  return flow_work(c, std::move(flow), row, threads);
}

}  // namespace bench
