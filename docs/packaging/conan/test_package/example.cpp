// SPDX-License-Identifier: MIT
#include <cmath>
#include <rhei/rhei.hpp>

/// log N(0; 0, 1) in two dimensions.
int main() {
  const rhei::Flow flow{rhei::StandardNormal<double>(2), rhei::ElementwiseAffine<double>(2)};
  const double log_p = flow.log_prob(Eigen::MatrixXd::Zero(1, 2))[0];
  return std::abs(log_p + std::log(2 * std::numbers::pi)) < 1e-12 ? 0 : 1;
}
