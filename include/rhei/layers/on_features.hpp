// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A layer on some of the features; the others pass unchanged:
///
///   forward  x_B = f(z_B),  x_A = z_A        log|det| = that of f
///
/// where B are the chosen features in ascending order and A all others. B may be empty: a list of features is often
/// found out at run time (the circles of a table).

#include <optional>
#include <rhei/core/features.hpp>
#include <rhei/core/layer.hpp>
#include <utility>
#include <vector>

namespace rhei {

/// `OnFeatures(5, {0, 3}, ActNorm<float>(2))`: layer L on features 0 and 3 of 5. Without features there is no layer.
template <Layer L>
class OnFeatures {
 public:
  using Scalar = typename L::Scalar;
  using S = Scalar;
  static constexpr std::string_view type = "on_features";

  struct Gradient {
    std::optional<typename L::Gradient> layer;  ///< nothing where there are no features

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      if (self.layer) f("", *self.layer);
    }
  };

  struct Cache {
    typename L::Cache layer;         ///< of the layer
    Buffer<S> in, out, d_in, d_out;  ///< gathered features
  };

  /// A layer on some of `dim` features, in any order.
  /// \throws std::invalid_argument if dim < 1, if a feature is out of 0..dim-1 or named twice, or if the layer has not
  /// as many.
  OnFeatures(Index dim, std::vector<Index> features, L layer)
      : OnFeatures(dim, std::move(features), std::optional<L>(std::move(layer))) {}
  /// The layer that `make(count)` makes for so many features, where there are any.
  template <std::invocable<Index> Make>
  OnFeatures(Index dim, const std::vector<Index>& features, Make&& make)
      : OnFeatures(dim, features, features.empty() ? std::optional<L>() : make(static_cast<Index>(features.size()))) {}

  [[nodiscard]] Index dim() const { return dim_; }
  [[nodiscard]] Index context_dim() const { return layer_ ? layer_->context_dim() : 0; }
  [[nodiscard]] Traits traits() const { return layer_ ? layer_->traits() : Traits{.affine = true}; }
  [[nodiscard]] Gradient make_gradient() const {
    Gradient gradient;
    if (layer_) gradient.layer.emplace(layer_->make_gradient());
    return gradient;
  }
  /// Ascending.
  [[nodiscard]] const std::vector<Index>& features() const { return chosen_.features(); }
  /// The layer on the features; nothing where there are none.
  [[nodiscard]] std::optional<L>& layer() { return layer_; }
  [[nodiscard]] const std::optional<L>& layer() const { return layer_; }

  [[nodiscard]] Options options() const {
    const auto& chosen = chosen_.features();
    Options own(type);
    own.set("dim", dim_).set("features", Options::Integers(chosen.begin(), chosen.end()));
    if (layer_) own.set("layer", layer_->options());
    return own;
  }
  static OnFeatures from_options(const Options& options) {
    return OnFeatures(options.get_size("dim", 1), options.get_sizes("features"),
                      [&](Index) { return L::from_options(options.get<Options>("layer")); });
  }

  /// x_B = f(z_B), x_A = z_A.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("OnFeatures::forward", *this, call, z, x, log_det.size());
    if (layer_)
      layer_->forward(call, chosen_.gather(z, cache.in), chosen_.writable(x, cache.out), log_det, cache.layer);
    chosen_.scatter(cache.out, x);
    others_.copy(z, x);
  }

  /// z_B = f^-1(x_B), z_A = x_A.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("OnFeatures::inverse", *this, call, x, z, log_det.size());
    if (layer_)
      layer_->inverse(call, chosen_.gather(x, cache.in), chosen_.writable(z, cache.out), log_det, cache.layer);
    chosen_.scatter(cache.out, z);
    others_.copy(x, z);
  }

  /// Of the layer for B; d_z_A = d_x_A.
  void forward_pullback(const Call<S>& call, ConstBatch<S> z, ConstBatch<S> x, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>* d_context, Gradient* gradient) const {
    pull_back<true>(call, z, x, cache, d_x, d_log_det, d_z, d_context, gradient);
  }

  /// Of the layer for B; d_x_A = d_z_A.
  void inverse_pullback(const Call<S>& call, ConstBatch<S> x, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>* d_context, Gradient* gradient) const {
    pull_back<false>(call, x, z, cache, d_z, d_log_det, d_x, d_context, gradient);
  }

  /// Shows the layer its features of x.
  void initialize(const Call<S>& call, ConstBatch<S> x) {
    Buffer<S> buffer;
    if (layer_) rhei::initialize(*layer_, call, chosen_.gather(x, buffer));
  }
  void update_state(Cache& cache) {
    if (layer_) rhei::update_state(*layer_, cache.layer);
  }
  template <class F>
  void visit_memory(Cache& cache, F&& f) const {
    if (layer_) for_each_memory(*layer_, cache.layer, f);
  }
  void check_state() {
    if (layer_) rhei::check_state(*layer_);
  }

  /// The same layer in another scalar.
  template <Real T>
  requires detail::Castable<L, T>
  [[nodiscard]] auto cast() const {
    using Other = rhei::OnFeatures<decltype(layer_->template cast<T>())>;
    return Other(dim_, chosen_.features(), [&](Index) { return layer_->template cast<T>(); });
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    if (self.layer_) f("", *self.layer_);
  }
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    if (self.layer_) f("", *self.layer_);
  }

 private:
  OnFeatures(Index dim, std::vector<Index> features, std::optional<L> layer)
      : dim_(dim), chosen_(subset(dim, std::move(features))), others_(dim, chosen_), layer_(std::move(layer)) {
    const Index count = layer_ ? layer_->dim() : 0;
    detail::check_value("OnFeatures", "the dimension of the layer", count, count == chosen_.size(),
                        std::to_string(chosen_.size()) + ", the number of features");
  }

  static detail::Subset subset(Index dim, std::vector<Index> features) {
    if (!features.empty()) return {"OnFeatures", "features", dim, std::move(features)};
    return {dim, detail::Subset("OnFeatures", "features", dim, feature_range(0, dim))};  // all but all
  }

  template <bool of_forward>
  void pull_back(const Call<S>& call, ConstBatch<S> in, ConstBatch<S> out, Cache& cache, ConstBatch<S> d_out,
                 ConstValues<S> d_log_det, Batch<S>* d_in, Batch<S>* d_context, Gradient* gradient) const {
    if (layer_) {
      Batch<S> d_chosen = d_in ? chosen_.writable(*d_in, cache.d_in) : Batch<S>();
      const auto pull = [&](auto&&... batches) {
        if constexpr (of_forward)
          layer_->forward_pullback(batches...);
        else
          layer_->inverse_pullback(batches...);
      };
      pull(call, chosen_.gathered(in, cache.in), chosen_.gathered(out, cache.out), cache.layer,
           chosen_.gather(d_out, cache.d_out), d_log_det, d_in ? &d_chosen : nullptr, d_context,
           gradient ? &*gradient->layer : nullptr);
    }
    if (!d_in) return;
    chosen_.scatter(cache.d_in, *d_in);
    others_.copy(d_out, *d_in);
  }

  Index dim_;
  detail::Subset chosen_, others_;
  std::optional<L> layer_;  ///< where there are features
};

}  // namespace rhei
