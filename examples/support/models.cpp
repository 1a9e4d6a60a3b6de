// SPDX-License-Identifier: MIT

#include "support/models.hpp"

#include <algorithm>
#include <rhei/models/gaussianization.hpp>
#include <rhei/models/glow.hpp>
#include <rhei/models/maf.hpp>
#include <rhei/models/nice.hpp>
#include <rhei/models/nsf.hpp>
#include <rhei/models/planar.hpp>
#include <rhei/models/rbig.hpp>
#include <rhei/models/realnvp.hpp>

namespace examples {
namespace {

using Rows = const Eigen::MatrixXf&;

}  // namespace

const std::vector<NamedModel>& models() {
  namespace m = rhei::models;
  using rhei::Rng;
  static const std::vector<NamedModel> table = {
      {"nice", [](Rows x, Rng& rng) { return rhei::erase(m::nice<float>(x.cols(), {}, rng)); }, true, 5e-4},
      {"realnvp", [](Rows x, Rng& rng) { return rhei::erase(m::realnvp<float>(x.cols(), {}, rng)); }, true, 5e-4},
      {"glow", [](Rows x, Rng& rng) { return rhei::erase(m::glow<float>(x.cols(), {}, rng)); }, true, 5e-4},
      {"maf", [](Rows x, Rng& rng) { return rhei::erase(m::maf<float>(x.cols(), {}, rng)); }},
      {"maf_mog", [](Rows x, Rng& rng) { return rhei::erase(m::maf_mog<float>(x.cols(), {}, rng)); }},
      {"iaf", [](Rows x, Rng& rng) { return rhei::erase(m::iaf<float>(x.cols(), {}, rng)); }},
      {"nsf", [](Rows x, Rng& rng) { return rhei::erase(m::nsf<float>(x.cols(), {}, rng)); }},
      {"nsf_ar", [](Rows x, Rng& rng) { return rhei::erase(m::nsf_ar<float>(x.cols(), {}, rng)); }},
      {"planar", [](Rows x, Rng& rng) { return rhei::erase(m::planar<float>(x.cols(), {}, rng)); }, true, 5e-3},
      {"gaussianization", [](Rows x, Rng& rng) { return rhei::erase(m::gaussianization<float>(x.cols(), {}, rng)); },
       true, 5e-3},
      {"rbig", [](Rows x, Rng& rng) { return rhei::erase(m::rbig<float>(x, {}, rng)); }, false},
  };
  return table;
}

const NamedModel& model(const std::string& name) {
  return *std::find_if(models().begin(), models().end(), [&](const NamedModel& m) { return m.name == name; });
}

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const NamedModel& m : models()) names.push_back(m.name);
  return names;
}

}  // namespace examples
