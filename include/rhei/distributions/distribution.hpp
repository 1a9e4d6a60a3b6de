// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What the base density of a flow is.
///
/// - `log_prob(call, z, log_p, cache)` **adds** log p(z) of each row of z (n x D) to log_p (n).
/// - `log_prob_pullback(call, z, cache, d_log_p, d_z, d_context, gradient)` writes d_z and **adds** to d_context and
///   gradient; each of the last three may be null.
/// - `sample(call, z, cache)` fills z with draws from call.rng.
/// - where draws are a differentiable function of the parameters,
///   `sample_pullback(call, z, cache, d_z, d_context, gradient)` differentiates the draw that `cache` remembers.

#include <concepts>
#include <rhei/core/call.hpp>
#include <rhei/core/options.hpp>
#include <rhei/core/parameters.hpp>
#include <rhei/core/types.hpp>

namespace rhei {

/// \concept Distribution
/// A density on R^D with pullback and sampler; see the file comment for the contract.
// clang-format off
template <class D>
concept Distribution = std::copyable<D> && Real<typename D::Scalar> &&
    std::default_initializable<typename D::Cache> && std::movable<typename D::Gradient> &&
    requires(const D& base, const Call<typename D::Scalar>& call, ConstBatch<typename D::Scalar> in,
             Batch<typename D::Scalar> out, Values<typename D::Scalar> log_p,
             ConstValues<typename D::Scalar> d_log_p, typename D::Cache& cache,
             Batch<typename D::Scalar>* wanted, typename D::Gradient* gradient) {
      { base.dim() } -> std::same_as<Index>;
      { base.context_dim() } -> std::same_as<Index>;
      { base.options() } -> std::same_as<Options>;
      { base.make_gradient() } -> std::same_as<typename D::Gradient>;
      base.log_prob(call, in, log_p, cache);
      base.log_prob_pullback(call, in, cache, d_log_p, wanted, wanted, gradient);
      base.sample(call, out, cache);
    };
// clang-format on

}  // namespace rhei
