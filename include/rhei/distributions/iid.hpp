// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What the standard bases have in common: D independent features that all follow one univariate density without
/// parameters, log p(z) = sum_d log f(z_d).

#include <rhei/core/distribution.hpp>

namespace rhei {

/// `dim` independent features, each of density f. `Density` is the description of f:
///
/// - `type`, its name in files, and `name`, its name in messages;
/// - `log_density(z)` and `derivative(z)`: log f and (log f)' of an Eigen array, as expressions;
/// - `draw(rng, z)`: fills a batch.
template <Real S, class Density>
class Iid {
 public:
  using Scalar = S;
  static constexpr std::string_view type = Density::type;
  using Gradient = NoParameters;
  struct Cache {};

  /// Of `dim` features.
  /// \throws std::invalid_argument if dim < 1.
  explicit Iid(Index dim) : dim_(dim) { detail::check_value(Density::name, "dim", dim, dim >= 1, "at least 1"); }

  [[nodiscard]] Index dim() const { return dim_; }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] Gradient make_gradient() const { return {}; }

  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()); }
  static Iid from_options(const Options& options) { return Iid(options.get_size("dim", 1)); }

  void log_prob(const Call<S>& call, ConstBatch<S> z, Values<S> log_p, Cache&) const {
    detail::check_log_prob(Density::name, *this, call, z, log_p.size());
    if (z.rows() == 1)  // a sample alone is contiguous
      log_p[0] += Density::log_density(z.array()).sum();
    else
      for (Index d = 0; d < dim(); ++d) log_p.array() += Density::log_density(z.col(d).array());
  }

  void log_prob_pullback(const Call<S>&, ConstBatch<S> z, Cache&, ConstValues<S> d_log_p, Batch<S>* d_z, Batch<S>*,
                         Gradient*) const {
    detail::check_log_prob_pullback(Density::name, *this, z, d_log_p.size(), d_z);
    if (!d_z) return;
    for (Index d = 0; d < dim(); ++d) d_z->col(d).array() = d_log_p.array() * Density::derivative(z.col(d).array());
  }

  void sample(const Call<S>& call, Batch<S> z, Cache&) const {
    Density::draw(detail::check_sample(Density::name, *this, call, z), z);
  }

  /// The draws depend on no parameter: there is nothing to add.
  void sample_pullback(const Call<S>&, ConstBatch<S>, Cache&, ConstBatch<S>, Batch<S>*, Gradient*) const {}

  /// The same distribution in another scalar.
  template <Real T>
  [[nodiscard]] Iid<T, Density> cast() const {
    return Iid<T, Density>(dim());
  }

 private:
  Index dim_;
};

}  // namespace rhei
