// SPDX-License-Identifier: MIT
#include <cstdio>
#include <rhei/models/import_zuko.hpp>

int main() {
  const rhei::AnyFlow<float> flow = rhei::import_zuko<float>("moons.safetensors");

  Eigen::MatrixXf x(3, 2);
  x << 0.0f, 1.0f, 0.5f, 0.25f, 2.0f, 2.0f;
  const Eigen::VectorXf log_p = flow.log_prob(x);
  for (Eigen::Index i = 0; i < 3; ++i) std::printf("%.4f\n", log_p[i]);

  rhei::Rng rng(1);
  const Eigen::MatrixXf samples = flow.sample(1'000, rng);  // each unit of the nets is evaluated once
  return samples.allFinite() ? 0 : 1;
}
