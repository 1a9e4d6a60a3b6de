// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Subsets of the features of a batch, as couplings use them.

#include <algorithm>
#include <rhei/core/errors.hpp>
#include <rhei/core/types.hpp>
#include <string>
#include <vector>

namespace rhei {

/// Features 0, 2, 4, ...
inline std::vector<Index> even_features(Index dim) {
  std::vector<Index> list;
  for (Index d = 0; d < dim; d += 2) list.push_back(d);
  return list;
}
/// Features 1, 3, 5, ...
inline std::vector<Index> odd_features(Index dim) {
  std::vector<Index> list;
  for (Index d = 1; d < dim; d += 2) list.push_back(d);
  return list;
}
/// What layer i of an alternating flow moves: odd and even features in turn, or the only one where dim is 1.
inline std::vector<Index> alternating_features(Index dim, int i) {
  return i % 2 == 0 && dim > 1 ? odd_features(dim) : even_features(dim);
}
/// Features first, ..., first + count - 1.
inline std::vector<Index> feature_range(Index first, Index count) {
  std::vector<Index> list;
  for (Index d = first; d < first + count; ++d) list.push_back(d);
  return list;
}

namespace detail {

/// An ascending list of features. A contiguous one is read in place, any other is gathered into a buffer.
class Subset {
 public:
  /// \throws std::invalid_argument unless dim is at least 1 and the list names at least one feature, each in range and
  /// once.
  Subset(std::string_view where, std::string_view argument, Index dim, std::vector<Index> features)
      : features_(std::move(features)) {
    check_value(where, "dim", dim, dim >= 1, "at least 1");
    if (features_.empty()) throw_invalid(where, std::string(argument) + " is empty, expected at least one feature");
    std::vector<bool> seen(static_cast<std::size_t>(dim), false);
    for (const Index d : features_) {
      check_value(where, std::string("a feature of ") + std::string(argument), d, d >= 0 && d < dim,
                  "0 to " + std::to_string(dim - 1));
      if (seen[static_cast<std::size_t>(d)])
        throw_invalid(where, std::string(argument) + " names feature " + std::to_string(d) + " twice");
      seen[static_cast<std::size_t>(d)] = true;
    }
    std::sort(features_.begin(), features_.end());
  }
  /// All features of 0, ..., dim - 1 that are not in `other`.
  Subset(Index dim, const Subset& other) {
    std::size_t next = 0;
    for (Index d = 0; d < dim; ++d) {
      if (next < other.features_.size() && other.features_[next] == d)
        ++next;
      else
        features_.push_back(d);
    }
  }

  [[nodiscard]] Index size() const { return static_cast<Index>(features_.size()); }
  [[nodiscard]] const std::vector<Index>& features() const { return features_; }

  /// These features of `all`, in place or copied into `buffer`.
  template <class S>
  ConstBatch<S> gather(ConstBatch<S> all, Buffer<S>& buffer) const {
    if (contiguous()) return all.features(first(), size());
    Batch<S> out = buffer.resize(all.rows(), size());
    for (Index j = 0; j < size(); ++j) out.col(j) = all.col((*this)[j]);
    return out;
  }
  /// What gather() returned for the same arguments, without copying again.
  template <class S>
  ConstBatch<S> gathered(ConstBatch<S> all, const Buffer<S>& buffer) const {
    return contiguous() ? all.features(first(), size()) : buffer.view();
  }
  /// Where these features of `all` can be written: in place, or in `buffer` (then scatter() brings them home).
  template <class S>
  Batch<S> writable(Batch<S> all, Buffer<S>& buffer) const {
    return contiguous() ? all.features(first(), size()) : buffer.resize(all.rows(), size());
  }
  /// Copies what was written through writable() into `all`.
  template <class S>
  void scatter(const Buffer<S>& buffer, Batch<S> all) const {
    if (contiguous()) return;
    const ConstBatch<S> from = buffer.view();
    for (Index j = 0; j < size(); ++j) all.col((*this)[j]) = from.col(j);
  }
  /// Copies these features from one batch to another.
  template <class S>
  void copy(ConstBatch<S> from, Batch<S> to) const {
    for (const Index d : features_) to.col(d) = from.col(d);
  }

  Index operator[](Index j) const { return features_[static_cast<std::size_t>(j)]; }

 private:
  [[nodiscard]] bool contiguous() const {
    return features_.empty() || features_.back() - features_.front() + 1 == size();
  }
  [[nodiscard]] Index first() const { return features_.empty() ? 0 : features_.front(); }

  std::vector<Index> features_;
};

}  // namespace detail
}  // namespace rhei
