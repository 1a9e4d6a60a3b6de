// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Spline couplings (Durkan et al. 2019, "Neural spline flows", RQ-NSF (C)): a coupling whose transformer is a
/// rational-quadratic spline.

#include <rhei/layers/coupling.hpp>
#include <rhei/transformers/rational_quadratic.hpp>

namespace rhei {

/// x_B = spline(z_B; net(z_A)).
template <Real S, class N = Mlp<S>>
using SplineCoupling = Coupling<RationalQuadratic<S>, N>;

}  // namespace rhei
