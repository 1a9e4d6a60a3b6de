// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What a flow's own draws are compared with: an unnormalised log-density log p~(x) = log p(x) + log Z and its
/// gradient.

#include <rhei/core/distribution.hpp>

namespace rhei {

/// \concept LogDensity
/// A callable target(x, log_p, d_x), or target(x, context, log_p, d_x), that fills log_p (n) with log p~ of each row of
/// x (n x D) and d_x (n x D) with its derivative by that row; context is the flow's (n x C, 1 x C or empty). Several
/// threads may call it at once, each on rows of its own.
// clang-format off
template <class T, class S>
concept LogDensity = std::copy_constructible<T> && (
    std::invocable<const T&, ConstBatch<S>, Values<S>, Batch<S>> ||
    std::invocable<const T&, ConstBatch<S>, ConstBatch<S>, Values<S>, Batch<S>> ||
    requires(const T& target, ConstBatch<S> x, Values<S> log_p, Batch<S> d_x, typename T::Cache& cache) {
      target(x, x, log_p, d_x, cache);
    });
// clang-format on

/// The log-density of a distribution or flow as a target: its parameters are fixed, their gradient is never computed.
/// Refers to the distribution, which must outlive it.
template <Distribution D>
class FixedDensity {
 public:
  using S = typename D::Scalar;
  struct Cache {
    typename D::Cache density;  ///< of the distribution
    Buffer<S> ones;             ///< n
  };

  /// Keeps a pointer to `density`.
  explicit FixedDensity(const D& density) : density_(&density) {}

  /// The context is passed on if the distribution takes any.
  void operator()(ConstBatch<S> x, ConstBatch<S> context, Values<S> log_p, Batch<S> d_x, Cache& cache) const {
    const Call<S> call{.context = density_->context_dim() > 0 ? context : ConstBatch<S>()};
    Values<S> ones = cache.ones.resize(x.rows());
    ones.setOnes();
    log_p.setZero();
    density_->log_prob(call, x, log_p, cache.density);
    density_->log_prob_pullback(call, x, cache.density, ones, &d_x, nullptr, nullptr);
  }

 private:
  const D* density_;
};

namespace detail {

struct NoCache {};
template <class Target>
struct TargetCache {
  using type = NoCache;
};
template <class Target>
requires requires { typename Target::Cache; }
struct TargetCache<Target> {
  using type = typename Target::Cache;
};

/// Calls a target in whichever of its forms it has.
template <Real S, LogDensity<S> Target>
void evaluate(const Target& target, ConstBatch<S> x, ConstBatch<S> context, Values<S> log_p, Batch<S> d_x,
              typename TargetCache<Target>::type& cache) {
  if constexpr (requires { target(x, context, log_p, d_x, cache); })
    target(x, context, log_p, d_x, cache);
  else if constexpr (requires { target(x, context, log_p, d_x); })
    target(x, context, log_p, d_x);
  else
    target(x, log_p, d_x);
}

}  // namespace detail
}  // namespace rhei
