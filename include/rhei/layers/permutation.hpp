// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A fixed permutation of the features: what lets the next coupling or autoregressive layer see them in another order.
///
///   inverse  z_d = x_{indices[d]}       forward  x_{indices[d]} = z_d       log|det| = 0
///
/// So `indices` reads from data to latent, as the permutations of nflows and FrEIA do. Both directions copy columns.

#include <algorithm>
#include <numeric>
#include <rhei/core/layer.hpp>
#include <stdexcept>
#include <utility>

namespace rhei {
namespace detail {

/// Says why `indices` does not list each of 0, ..., size - 1 once; an empty text where it does.
inline std::string permutation_defect(const std::vector<std::int64_t>& indices) {
  const auto size = static_cast<std::int64_t>(indices.size());
  std::vector<std::int64_t> seen_at(indices.size(), -1);
  const auto entry = [&](std::int64_t d) {
    return "indices[" + std::to_string(d) + "] is " + std::to_string(indices[static_cast<std::size_t>(d)]);
  };
  for (std::int64_t d = 0; d < size; ++d) {
    const std::int64_t index = indices[static_cast<std::size_t>(d)];
    if (index < 0 || index >= size) return entry(d) + ", expected 0 to " + std::to_string(size - 1);
    std::int64_t& first = seen_at[static_cast<std::size_t>(index)];
    if (first >= 0) return entry(d) + " and " + entry(first) + ", expected each index once";
    first = d;
  }
  return {};
}

/// 0, 1, ..., dim - 1.
inline std::vector<std::int64_t> identity_permutation(std::string_view where, Index dim) {
  check_value(where, "dim", dim, dim >= 1, "at least 1");
  std::vector<std::int64_t> indices(static_cast<std::size_t>(dim));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

/// to_d = from_{indices[d]}, feature by feature.
template <Real S>
void gather_features(ConstBatch<S> from, const std::vector<std::int64_t>& indices, Batch<S> to) {
  Index d = 0;
  if (from.rows() == 1)  // a column of one value is not worth an expression
    for (const std::int64_t index : indices) to.data()[d++] = from.data()[index];
  else
    for (const std::int64_t index : indices) to.col(d++) = from.col(index);
}

/// to_{indices[d]} = from_d, feature by feature: undoes gather_features.
template <Real S>
void scatter_features(ConstBatch<S> from, const std::vector<std::int64_t>& indices, Batch<S> to) {
  Index d = 0;
  if (from.rows() == 1)
    for (const std::int64_t index : indices) to.data()[index] = from.data()[d++];
  else
    for (const std::int64_t index : indices) to.col(index) = from.col(d++);
}

}  // namespace detail

/// Moves feature indices[d] of the data to place d of the latent.
template <Real S>
class Permutation {
 public:
  using Scalar = S;
  using Gradient = NoParameters;
  struct Cache {};
  static constexpr std::string_view type = "permutation";

  /// z_d = x_{indices[d]}.
  /// \throws std::invalid_argument unless `indices` lists each of 0, ..., D - 1 once, D >= 1.
  explicit Permutation(std::vector<std::int64_t> indices) : indices_(std::move(indices)) {
    detail::check_value("Permutation", "the number of indices", indices_.size(), !indices_.empty(), "at least 1");
    const std::string defect = detail::permutation_defect(indices_);
    if (!defect.empty()) detail::throw_invalid("Permutation", defect);
  }
  /// Last feature first.
  static Permutation reverse(Index dim) {
    auto indices = detail::identity_permutation("Permutation::reverse", dim);
    std::reverse(indices.begin(), indices.end());
    return Permutation(std::move(indices));
  }
  /// Drawn uniformly from all permutations of `dim` features.
  static Permutation random(Index dim, Rng& rng) {
    auto indices = detail::identity_permutation("Permutation::random", dim);
    rng.shuffle(indices);
    return Permutation(std::move(indices));
  }

  [[nodiscard]] Index dim() const { return static_cast<Index>(indices_.size()); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] static constexpr Traits traits() { return {.affine = true}; }
  [[nodiscard]] Gradient make_gradient() const { return {}; }
  /// z_d = x_{indices[d]} (D).
  [[nodiscard]] const std::vector<std::int64_t>& indices() const { return indices_; }

  /// The indices themselves are state: a reader fills them in after this.
  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()); }
  static Permutation from_options(const Options& options) {
    return Permutation(detail::identity_permutation("Permutation", options.get_size("dim", 1)));
  }
  /// \throws std::runtime_error unless the indices that were read are a permutation.
  void check_state() const {
    const std::string defect = detail::permutation_defect(indices_);
    if (!defect.empty()) throw std::runtime_error("Permutation: " + defect);
  }

  /// x_{indices[d]} = z_d; log|det| = 0.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache&) const {
    detail::check_evaluation("Permutation::forward", *this, call, z, x, log_det.size());
    detail::scatter_features(z, indices_, x);
  }
  /// z_d = x_{indices[d]}; log|det| = 0.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache&) const {
    detail::check_evaluation("Permutation::inverse", *this, call, x, z, log_det.size());
    detail::gather_features(x, indices_, z);
  }
  /// d_z_d = d_x_{indices[d]}.
  void forward_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S>, Cache&, ConstBatch<S> d_x, ConstValues<S>,
                        Batch<S>* d_z, Batch<S>*, Gradient*) const {
    if (d_z) detail::gather_features(d_x, indices_, *d_z);
  }
  /// d_x_{indices[d]} = d_z_d.
  void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S>, Cache&, ConstBatch<S> d_z, ConstValues<S>,
                        Batch<S>* d_x, Batch<S>*, Gradient*) const {
    if (d_x) detail::scatter_features(d_z, indices_, *d_x);
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] Permutation<T> cast() const {
    return cast_to<Permutation<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self&, F&&) {}
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("indices", self.indices_);
  }

 private:
  std::vector<std::int64_t> indices_;
};

}  // namespace rhei
