// SPDX-License-Identifier: MIT

/// \file
/// What training holds in memory, at depths 4 and 64, with and without the option to rebuild inputs (Keep::output): a
/// JSON list. `held` are the bytes of caches and batches between the layers at their peak in two training steps;
/// parameters, gradients and moments of Adam are counted apart.

#include <cstdio>
#include <rhei/io/json.hpp>
#include <rhei/models/maf.hpp>
#include <rhei/models/realnvp.hpp>
#include <rhei/train/trainer.hpp>

#include "support/live_bytes.hpp"

namespace {

using rhei::Index, rhei::Json, rhei::Keep;

template <class Make>
void weigh(Json& list, const char* name, Index dim, Index rows, Make make) {
  for (const Keep keep : {Keep::everything, Keep::output})
    for (const int depth : {4, 64}) {
      rhei::Rng rng(7);
      rhei::Matrix<float> x(rows, dim);
      rng.fill_normal(x);
      const std::size_t before = bench::live_bytes();
      auto flow = make(depth, rng);
      rhei::Trainer trainer(flow, {}, 1, keep);
      const std::size_t begin = bench::live_bytes();
      bench::reset_peak();
      for (int step = 0; step < 2; ++step) trainer.step({.x = x}, 1e-4);
      list.push_back(Json::Object{{"flow", name},
                                  {"rows", rows},
                                  {"depth", depth},
                                  {"rebuild_inputs", keep == Keep::output},
                                  {"held", bench::peak_bytes() - begin},
                                  {"parameters_gradients_moments", begin - before}});
    }
}

}  // namespace

int main() {
  Json list = Json::Array{};
  weigh(list, "realnvp, 16 features, 64-64", 16, 256, [](int depth, rhei::Rng& rng) {
    return rhei::models::realnvp<float>(16, {.layers = depth, .hidden = {64, 64}}, rng);
  });
  weigh(list, "maf, 16 features, 64-64", 16, 256, [](int depth, rhei::Rng& rng) {
    return rhei::models::maf<float>(16, {.layers = depth, .net = {.hidden = {64, 64}}}, rng);
  });
  std::puts(list.text(2).c_str());
}
