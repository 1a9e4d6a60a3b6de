// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What a transformer is: a monotone map of one real number to another, with parameters that differ from element to
/// element (they come from a conditioner).
///
/// A transformer knows neither samples nor features, only N elements: an n x F batch is N = n * F of them. `raw`
/// holds m = parameter_count() unconstrained parameters for each as an N x m batch (one contiguous column each), so
/// that all work runs flat over N, for one sample as for many.
///
/// - `forward(raw, z, x, log_slope, cache)` writes x = f(z) and log f'(z); `inverse(raw, x, z, log_slope, cache)`
///   writes z and log dz/dx. Either may leave in `raw`, in place of parameters, what its pullback will need of them.
/// - `forward_pullback(raw, z, x, cache, d_x, d_log_slope, d_z, d_raw)` is shown what forward saw, made and left;
///   it writes d_z and d_raw (N x m), the derivative by the parameters. `inverse_pullback` mirrors it.
///
/// All zero in `raw` is the identity, so that a fresh flow is one.

#include <concepts>
#include <rhei/core/options.hpp>
#include <rhei/core/types.hpp>

namespace rhei {

/// \concept Transformer
/// A univariate bijection with parameters per element; see the file comment for the contract.
// clang-format off
template <class T>
concept Transformer = std::copyable<T> && Real<typename T::Scalar> && std::default_initializable<typename T::Cache> &&
    requires(const T& t, Batch<typename T::Scalar> raw, ConstValues<typename T::Scalar> in,
             Values<typename T::Scalar> out, Batch<typename T::Scalar> d_raw, typename T::Cache& cache) {
      { t.parameter_count() } -> std::same_as<Index>;
      { t.options() } -> std::same_as<Options>;
      { T::from_options(Options()) } -> std::same_as<T>;
      t.forward(raw, in, out, out, cache);
      t.inverse(raw, in, out, out, cache);
      t.forward_pullback(raw, in, in, cache, in, in, out, d_raw);
      t.inverse_pullback(raw, in, in, cache, in, in, out, d_raw);
    };
// clang-format on

}  // namespace rhei
