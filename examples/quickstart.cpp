#include <rhei/rhei.hpp>

int main() {
  rhei::Rng rng(7);
  Eigen::MatrixXf x = rhei::data::two_moons<float>(20'000, rng);  // rows are samples: n x 2

  auto flow = rhei::models::realnvp<float>(2, {.layers = 8, .hidden = {64, 64}}, rng);
  rhei::fit(flow, x, {.epochs = 10, .learning_rate = 2e-3, .progress = true}, rng);

  Eigen::VectorXf log_p = flow.log_prob(x);           // n, in nats
  Eigen::MatrixXf samples = flow.sample(1'000, rng);  // 1000 x 2
  auto [z, log_det] = flow.inverse(x);                // data -> latent, log|det dz/dx| of each row
  rhei::save(flow, "moons.safetensors");              // rhei::load<float>("moons.safetensors") reads it back
}
