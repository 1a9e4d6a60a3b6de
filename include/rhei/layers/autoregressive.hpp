// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Autoregressive layers (Papamakarios et al. 2017, "MAF"; Kingma et al. 2016, "IAF"; Durkan et al. 2019 for splines).
///
/// In a given order of the features, a MADE reads the features of x before i (and the context) and gives the parameters
/// by which a univariate transformer f moves feature i:
///
///   inverse  z_i = f^-1(x_i; made(x_<i, context))     log|det| = sum_i log dz_i/dx_i       one pass of the net
///   forward  x_i = f(z_i; made(x_<i, context))        log|det| = sum_i log dx_i/dz_i       one sweep of the net
///
/// Forward needs x_<i to make x_i. It takes no D passes for that: `Made::sweep` evaluates each unit once, in the order
/// of the features, at about the price of the one pass; and so do the pullbacks. The choice between MAF, which is fast
/// at densities, and IAF, which is fast at samples, costs nothing.

#include <rhei/layers/permutation.hpp>
#include <rhei/nn/made.hpp>
#include <rhei/transformers/affine.hpp>

namespace rhei {

/// What an autoregressive layer is made of.
template <class T>
struct AutoregressiveOptions {
  std::vector<std::int64_t> order = {};  ///< the features, each after those that it depends on; 0 ... D-1 where empty
  MadeOptions net = {};                  ///< hidden layers of the conditioner
  Index context_dim = 0;                 ///< columns of the context
  T transformer = {};                    ///< how each feature is moved
};

/// D - 1, ..., 0.
[[nodiscard]] inline std::vector<std::int64_t> reversed_order(Index dim) {
  auto order = detail::identity_permutation("reversed_order", dim);
  std::reverse(order.begin(), order.end());
  return order;
}

/// An autoregressive layer of transformer T. At first it is the identity.
template <Transformer T>
class Autoregressive {
 public:
  using Scalar = typename T::Scalar;
  using S = Scalar;
  static constexpr std::string_view type = "autoregressive";

  struct Gradient {
    typename Made<S>::Gradient net;  ///< of the conditioner

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("net", self.net);
    }
  };

  struct Cache {
    typename Made<S>::Cache net;                  ///< of the conditioner
    std::vector<typename T::Cache> transformers;  ///< one for each feature; the first for all where rows are few
    Buffer<S> z, x;                               ///< n x D in the order of the layer
    Buffer<S> raw, log_slope;                     ///< n x (D m), n x D
    Buffer<S> d_z, d_x, d_raw, d_log_slope;       ///< scratch of the pullbacks
    Buffer<S> by_parameter, d_by_parameter;       ///< (n D) x m, where rows are few
  };

  /// The identity, with a net drawn from rng.
  /// \throws std::invalid_argument if dim is less than 1 or order does not name each feature once.
  Autoregressive(Index dim, AutoregressiveOptions<T> options, Rng& rng)
      : Autoregressive(Made<S>(dim, options.transformer.parameter_count(), options.context_dim, options.net, rng),
                       std::move(options.transformer), std::move(options.order)) {}
  /// Of these parts; `order` as in the options.
  /// \throws std::invalid_argument if the net does not give as many numbers for each feature as the transformer takes,
  /// or as above.
  Autoregressive(Made<S> net, T transformer, std::vector<std::int64_t> order = {})
      : net_(std::move(net)),
        transformer_(std::move(transformer)),
        order_(order.empty() ? detail::identity_permutation("Autoregressive", net_.features()) : std::move(order)) {
    detail::check_value("Autoregressive", "the net's number of outputs per feature", net_.outputs_per_feature(),
                        net_.outputs_per_feature() == transformer_.parameter_count(),
                        std::to_string(transformer_.parameter_count()));
    detail::check_value("Autoregressive", "the size of order", order_.size(),
                        static_cast<Index>(order_.size()) == this->dim(), std::to_string(this->dim()));
    const std::string defect = detail::permutation_defect(order_);
    if (!defect.empty()) detail::throw_invalid("Autoregressive", "order: " + defect);
  }

  [[nodiscard]] Index dim() const { return net_.features(); }
  [[nodiscard]] Index context_dim() const { return net_.context_dim(); }
  [[nodiscard]] static constexpr Traits traits() { return {}; }
  [[nodiscard]] Gradient make_gradient() const { return {net_.make_gradient()}; }
  /// The features, each after those that it depends on (D).
  [[nodiscard]] const std::vector<std::int64_t>& order() const { return order_; }
  [[nodiscard]] Made<S>& net() { return net_; }
  [[nodiscard]] const Made<S>& net() const { return net_; }
  [[nodiscard]] const T& transformer() const { return transformer_; }

  /// Order and degrees are state: a reader fills them in after this.
  [[nodiscard]] Options options() const {
    return Options(type).set("transformer", transformer_.options()).set("net", net_.options());
  }
  static Autoregressive from_options(const Options& options) {
    return Autoregressive(Made<S>::from_options(options.get<Options>("net")),
                          T::from_options(options.get<Options>("transformer")));
  }
  /// \throws std::runtime_error unless order and degrees that were read are legal.
  void check_state() {
    const std::string defect = detail::permutation_defect(order_);
    if (!defect.empty()) throw std::runtime_error("Autoregressive: order: " + defect);
    net_.check_state();
  }

  /// One sweep of the net.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("Autoregressive::forward", *this, call, z, x, log_det.size());
    prepare(z.rows(), cache);
    detail::gather_features<S>(z, order_, cache.z.view());
    Batch<S> raw = cache.raw.view(), out = cache.x.view(), log_slope = cache.log_slope.view();
    net_.sweep(out, call.context, raw, cache.net, [&](Index i) {
      transformer_.forward(parameters(raw, i), column(cache.z.view(), i), column(out, i), column(log_slope, i),
                           cache.transformers[at(i)]);
    });
    detail::scatter_features<S>(out, order_, x);
    for (Index i = 0; i < dim(); ++i) log_det += log_slope.col(i);
  }

  /// One pass of the net.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("Autoregressive::inverse", *this, call, x, z, log_det.size());
    prepare(x.rows(), cache);
    detail::gather_features<S>(x, order_, cache.x.view());
    Batch<S> raw = cache.raw.view(), out = cache.z.view(), log_slope = cache.log_slope.view();
    net_.forward(cache.x.view(), call.context, raw, cache.net);
    if (flat(x.rows())) {
      regroup(raw, cache.by_parameter.resize(raw.rows() * dim(), transformer_.parameter_count()));
      transformer_.inverse(cache.by_parameter.view(), all(cache.x.view()), all(out), all(log_slope),
                           cache.transformers.front());
    } else {
      for (Index i = 0; i < dim(); ++i)
        transformer_.inverse(parameters(raw, i), column(cache.x.view(), i), column(out, i), column(log_slope, i),
                             cache.transformers[at(i)]);
    }
    detail::scatter_features<S>(out, order_, z);
    for (Index i = 0; i < dim(); ++i) log_det += log_slope.col(i);
  }

  /// From the last feature to the first: what comes back to x_i through the net is complete when all after it are done.
  void forward_pullback(const Call<S>& call, ConstBatch<S> z, ConstBatch<S>, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>* d_context, Gradient* gradient) const {
    check_cache("Autoregressive::forward_pullback", cache, z.rows());
    const Index n = z.rows();
    Batch<S> d_in = cache.d_z.resize(n, dim()), d_out = cache.d_x.resize(n, dim());
    Batch<S> d_raw = cache.d_raw.resize(n, net_.outputs());
    detail::gather_features<S>(d_x, order_, d_out);
    net_.sweep_pullback(cache.x.view(), call.context, cache.net, d_out, d_raw, d_context,
                        gradient ? &gradient->net : nullptr, [&](Index i) {
                          transformer_.forward_pullback(parameters(cache.raw.view(), i), column(cache.z.view(), i),
                                                        column(cache.x.view(), i), cache.transformers[at(i)],
                                                        column(d_out, i), d_log_det, column(d_in, i),
                                                        parameters(d_raw, i));
                        });
    if (d_z) detail::scatter_features<S>(d_in, order_, *d_z);
  }

  /// One pullback of the net, whose d_x comes on top of the one through f^-1.
  void inverse_pullback(const Call<S>& call, ConstBatch<S> x, ConstBatch<S>, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>* d_context, Gradient* gradient) const {
    check_cache("Autoregressive::inverse_pullback", cache, x.rows());
    const Index n = x.rows();
    Batch<S> d_in = cache.d_x.resize(n, dim()), d_out = cache.d_z.resize(n, dim());
    Batch<S> d_raw = cache.d_raw.resize(n, net_.outputs());
    detail::gather_features<S>(d_z, order_, d_out);
    if (flat(n)) {
      Batch<S> d_log_slope = cache.d_log_slope.resize(n, dim());
      for (Index i = 0; i < dim(); ++i) d_log_slope.col(i) = d_log_det;
      Batch<S> d_by_parameter = cache.d_by_parameter.resize(n * dim(), transformer_.parameter_count());
      transformer_.inverse_pullback(cache.by_parameter.view(), all(cache.x.view()), all(cache.z.view()),
                                    cache.transformers.front(), all(d_out), all(d_log_slope), all(d_in),
                                    d_by_parameter);
      regroup_back(d_by_parameter, d_raw);
    } else {
      for (Index i = 0; i < dim(); ++i)
        transformer_.inverse_pullback(parameters(cache.raw.view(), i), column(cache.x.view(), i),
                                      column(cache.z.view(), i), cache.transformers[at(i)], column(d_out, i), d_log_det,
                                      column(d_in, i), parameters(d_raw, i));
    }
    Batch<S> d_through_net = d_out;  // what came in has been read
    net_.pullback(cache.x.view(), call.context, cache.net, d_raw, d_x ? &d_through_net : nullptr, d_context,
                  gradient ? &gradient->net : nullptr);
    if (!d_x) return;
    d_through_net += d_in;
    detail::scatter_features<S>(d_through_net, order_, *d_x);
  }

  template <Real U>
  [[nodiscard]] auto cast() const {
    return cast_to<rhei::Autoregressive<decltype(transformer_.template cast<U>())>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    f("net", self.net_);
  }
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("order", self.order_);
    f("net", self.net_);
  }

 private:
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
  /// A feature of few rows does not fill the processor's vectors: then all features are transformed together.
  static bool flat(Index rows) { return rows < 16; }
  /// The parameters of feature i.
  Batch<S> parameters(const Batch<S>& raw, Index i) const {
    return raw.features(i * transformer_.parameter_count(), transformer_.parameter_count());
  }
  static Values<S> column(const Batch<S>& batch, Index i) {
    return {const_cast<S*>(batch.data()) + i * batch.rows(), batch.rows()};
  }
  static Values<S> all(const Batch<S>& batch) { return {const_cast<S*>(batch.data()), batch.size()}; }
  /// From parameters that lie together by feature to one column for each parameter, and back.
  void regroup(const Batch<S>& by_feature, Batch<S> by_parameter) const {
    const Index n = by_feature.rows(), count = by_parameter.cols();
    for (Index i = 0; i < dim(); ++i) by_parameter.middleRows(i * n, n) = by_feature.middleCols(i * count, count);
  }
  void regroup_back(const Batch<S>& by_parameter, Batch<S> by_feature) const {
    const Index n = by_feature.rows(), count = by_parameter.cols();
    for (Index i = 0; i < dim(); ++i) by_feature.middleCols(i * count, count) = by_parameter.middleRows(i * n, n);
  }

  void prepare(Index n, Cache& cache) const {
    if (cache.transformers.size() != at(dim())) cache.transformers.resize(at(dim()));
    for (Buffer<S>* buffer : {&cache.z, &cache.x, &cache.log_slope}) buffer->resize(n, dim());
    cache.raw.resize(n, net_.outputs());
  }
  void check_cache(std::string_view where, const Cache& cache, Index n) const {
    detail::check_shape(where, "what the cache holds", cache.raw.view().rows(), cache.raw.view().cols(), n,
                        net_.outputs());
  }

  Made<S> net_;
  T transformer_;
  std::vector<std::int64_t> order_;
};

/// A layer of a masked autoregressive flow: x_i = z_i exp(s(x_<i)) + t(x_<i). Its Inverted is one of an inverse
/// autoregressive flow.
template <Real S>
using Maf = Autoregressive<Affine<S>>;

}  // namespace rhei
