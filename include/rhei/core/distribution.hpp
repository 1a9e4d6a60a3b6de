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
///   `sample_pullback(call, z, cache, d_z, d_context, gradient)` differentiates the draw that `cache` remembers: it
///   **adds** to d_context and gradient, each of which may be null.
///
/// A row of z that holds a NaN has a NaN log-density, an infinite one -infinity or NaN; neither touches other rows.

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

/// \concept Reparameterized
/// A distribution whose draws are a differentiable function of its parameters; also where it has none to move.
template <class D>
concept Reparameterized = Distribution<D> &&
    requires(const D& base, const Call<typename D::Scalar>& call, ConstBatch<typename D::Scalar> in,
             typename D::Cache& cache, Batch<typename D::Scalar>* wanted, typename D::Gradient* gradient) {
      base.sample_pullback(call, in, cache, in, wanted, gradient);
    };
// clang-format on

namespace detail {

/// log(2 pi) / 2, the log-normalizer of one standard normal feature.
inline constexpr double half_log_two_pi = 0.91893853320467274178;

/// The checks that start every log_prob: D columns, one value of log_p for each row, a context of the right shape.
template <Distribution D>
void check_log_prob(std::string_view where, const D& base, const Call<typename D::Scalar>& call,
                    const ConstBatch<typename D::Scalar>& z, Index log_p_size) {
  check_shape(where, "z", z.rows(), z.cols(), -1, base.dim());
  check_shape(where, "log_p", log_p_size, 1, z.rows(), 1);
  check_context(where, call.context, z.rows(), base.context_dim());
}

/// The checks that start every log_prob_pullback.
template <Distribution D>
void check_log_prob_pullback(std::string_view where, const D& base, const ConstBatch<typename D::Scalar>& z,
                             Index d_log_p_size, const Batch<typename D::Scalar>* d_z) {
  check_shape(where, "z", z.rows(), z.cols(), -1, base.dim());
  check_shape(where, "d_log_p", d_log_p_size, 1, z.rows(), 1);
  if (d_z) check_shape(where, "d_z", d_z->rows(), d_z->cols(), z.rows(), z.cols());
}

/// The checks that start every sample; returns the generator to draw from.
template <Distribution D>
Rng& check_sample(std::string_view where, const D& base, const Call<typename D::Scalar>& call,
                  const Batch<typename D::Scalar>& z) {
  check_shape(where, "z", z.rows(), z.cols(), -1, base.dim());
  check_context(where, call.context, z.rows(), base.context_dim());
  if (call.rng == nullptr) throw_invalid(where, "call.rng is null, expected a generator to draw from");
  return *call.rng;
}

}  // namespace detail
}  // namespace rhei
