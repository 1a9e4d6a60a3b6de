// SPDX-License-Identifier: MIT

#include <rhei/models/gaussianization.hpp>

#include "support/flow_work.hpp"

namespace bench {

std::unique_ptr<FlowWork> make_gaussianization(const Case& c, int threads) {
  rhei::Rng rng(7);
  auto flow = rhei::models::gaussianization<float>(c.dim, {.layers = c.layers, .kernels = c.parts}, rng);
  // D reflections are one D x D product, once they are multiplied out. Each kernel has a sigmoid (an exponential and a
  // division), and eight operations to come to its place and to add to both tails and the density. The quantile and the
  // density at it each have a polynomial of twelve terms for the Mills ratio; there are logarithms of the tail, of its
  // approximation and of the slope. To solve for x, a kernel must be seen twice at least: by one step, and to find that
  // it was enough.
  const double dim = c.dim, elements = c.layers * dim, kernels = elements * c.parts;
  const Cost rotation = c.layers * dim * dim * Cost{.multiply_adds = 1};
  const Cost kernel = kernels * Cost{.passes = 4, .exps = 1, .divides = 1};
  const Cost quantile = elements * Cost{.passes = 12, .logs = 3, .divides = 4};
  const RowCost row = cost_of_ends(dim) + RowCost{.evaluation = rotation + kernel + quantile,
                                                  .pullback = 2 * rotation + kernels * Cost{.passes = 4},
                                                  .sampling = rotation + 2 * kernel + quantile};
  return flow_work(c, std::move(flow), row, threads);
}

}  // namespace bench
