// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// `AnyDistribution<S>`: a base density whose type is known only at run time.

#include <rhei/core/distribution.hpp>
#include <rhei/core/erasure.hpp>

namespace rhei {
namespace detail {

template <Real S>
struct DistributionInterface : ErasedInterface<DistributionInterface<S>, S> {
  virtual void log_prob(const Call<S>&, ConstBatch<S>, Values<S>, AnyCache&) const = 0;
  virtual void log_prob_pullback(const Call<S>&, ConstBatch<S>, AnyCache&, ConstValues<S>, Batch<S>*, Batch<S>*,
                                 AnyGradient<S>*) const = 0;
  virtual void sample(const Call<S>&, Batch<S>, AnyCache&) const = 0;
  virtual void sample_pullback(const Call<S>&, ConstBatch<S>, AnyCache&, ConstBatch<S>, Batch<S>*,
                               AnyGradient<S>*) const = 0;
};

template <class D>
struct DistributionModel final : ErasedModel<DistributionModel<D>, DistributionInterface<typename D::Scalar>, D> {
  using S = typename D::Scalar;
  using DistributionModel::ErasedModel::ErasedModel;
  using DistributionModel::ErasedModel::held;
  static typename D::Cache& own(AnyCache& cache) { return cache.template as<typename D::Cache>(); }

  void log_prob(const Call<S>& call, ConstBatch<S> z, Values<S> log_p, AnyCache& cache) const override {
    held.log_prob(call, z, log_p, own(cache));
  }
  void log_prob_pullback(const Call<S>& call, ConstBatch<S> z, AnyCache& cache, ConstValues<S> d_log_p, Batch<S>* d_z,
                         Batch<S>* d_context, AnyGradient<S>* gradient) const override {
    held.log_prob_pullback(call, z, own(cache), d_log_p, d_z, d_context, typed<typename D::Gradient>(gradient));
  }
  void sample(const Call<S>& call, Batch<S> z, AnyCache& cache) const override { held.sample(call, z, own(cache)); }
  void sample_pullback(const Call<S>& call, ConstBatch<S> z, AnyCache& cache, ConstBatch<S> d_z, Batch<S>* d_context,
                       AnyGradient<S>* gradient) const override {
    if constexpr (Reparameterized<D>)
      held.sample_pullback(call, z, own(cache), d_z, d_context, typed<typename D::Gradient>(gradient));
    else
      throw_invalid("AnyDistribution::sample_pullback",
                    "the draws of '" + std::string(D::type) + "' are no differentiable function of its parameters");
  }
};

}  // namespace detail

/// Holds any distribution over the scalar S by value.
template <Real S>
class AnyDistribution : public detail::Erased<detail::DistributionInterface<S>, S> {
  using Base = detail::Erased<detail::DistributionInterface<S>, S>;
  using Base::held_;

 public:
  using typename Base::Cache;
  using typename Base::Gradient;

  /// From any distribution (see AnyLayer on why the constraint asks for names only).
  template <class D, class Held = std::remove_cvref_t<D>>
  requires(!std::same_as<Held, AnyDistribution> && std::same_as<typename Held::Scalar, S> &&
           std::is_class_v<typename Held::Cache>) AnyDistribution(D&& distribution)
      : Base(std::make_unique<detail::DistributionModel<Held>>(std::forward<D>(distribution))) {
    static_assert(Distribution<Held>);
  }

  void log_prob(const Call<S>& call, ConstBatch<S> z, Values<S> log_p, Cache& cache) const {
    held_->log_prob(call, z, log_p, cache);
  }
  void log_prob_pullback(const Call<S>& call, ConstBatch<S> z, Cache& cache, ConstValues<S> d_log_p, Batch<S>* d_z,
                         Batch<S>* d_context, Gradient* gradient) const {
    held_->log_prob_pullback(call, z, cache, d_log_p, d_z, d_context, gradient);
  }
  void sample(const Call<S>& call, Batch<S> z, Cache& cache) const { held_->sample(call, z, cache); }
  /// \throws std::invalid_argument if what is held is not Reparameterized.
  void sample_pullback(const Call<S>& call, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z, Batch<S>* d_context,
                       Gradient* gradient) const {
    held_->sample_pullback(call, z, cache, d_z, d_context, gradient);
  }
};

}  // namespace rhei
