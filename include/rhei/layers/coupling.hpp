// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Coupling layers (Dinh et al. 2014, "NICE"; 2016, "RealNVP", eq. 4-8).
///
/// The features fall into a kept set A and a transformed set B. A net reads A (and the context) and gives the
/// parameters by which a univariate transformer f moves each feature of B:
///
///   forward  x_A = z_A,  x_B = f(z_B; net(z_A, context))          log|det| = sum_B log f'(z_B)
///   inverse  z_A = x_A,  z_B = f^-1(x_B; net(x_A, context))
///
/// Both directions evaluate the net once and are exact; the Jacobian is triangular. A may be empty (then the map is
/// elementwise, and conditional where there is a context), and so is D = 1 legal.

#include <rhei/core/features.hpp>
#include <rhei/core/layer.hpp>
#include <rhei/nn/mlp.hpp>
#include <rhei/transformers/affine.hpp>
#include <rhei/transformers/shift.hpp>

namespace rhei {

/// What a coupling layer is made of.
template <class T>
struct CouplingOptions {
  std::vector<Index> transformed;  ///< the features of B, in any order; all others are kept
  NetOptions net = {};             ///< hidden layers of the conditioner
  Index context_dim = 0;           ///< columns of the context
  T transformer = {};              ///< how the features of B are moved
};

/// A coupling of transformer T with conditioner N. At first it is the identity.
template <Transformer T, class N>
class Coupling {
 public:
  using Scalar = typename T::Scalar;
  using S = Scalar;
  static constexpr std::string_view type = "coupling";

  struct Gradient {
    typename N::Gradient net;  ///< of the conditioner

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("net", self.net);
    }
  };

  struct Cache {
    typename N::Cache net;                              ///< of the conditioner
    typename T::Cache transformer;                      ///< of f
    Buffer<S> kept, in, out;                            ///< gathered features
    Buffer<S> raw, log_slope;                           ///< n x (|B| m), n x |B|
    Buffer<S> d_out, d_in, d_kept, d_raw, d_log_slope;  ///< scratch of the pullbacks
  };

  /// The identity, with a net drawn from rng.
  /// \throws std::invalid_argument if dim is less than 1, if no feature is named, or one out of 0..dim-1 or twice.
  Coupling(Index dim, CouplingOptions<T> options, Rng& rng)
      : dim_(dim),
        moved_("Coupling", "transformed", dim, std::move(options.transformed)),
        kept_(dim, moved_),
        transformer_(std::move(options.transformer)),
        net_(kept_.size(), options.context_dim, moved_.size() * transformer_.parameter_count(), options.net, rng) {}
  /// Of these parts. The net's outputs are the transformer's parameters in turn, each for all features of B, ascending.
  /// \throws std::invalid_argument if the net has not as many inputs or outputs, or as above.
  Coupling(Index dim, std::vector<Index> transformed, T transformer, N net)
      : dim_(dim),
        moved_("Coupling", "transformed", dim, std::move(transformed)),
        kept_(dim, moved_),
        transformer_(std::move(transformer)),
        net_(std::move(net)) {
    detail::check_value("Coupling", "the net's number of inputs", net_.inputs(), net_.inputs() == kept_.size(),
                        std::to_string(kept_.size()));
    const Index wanted = moved_.size() * transformer_.parameter_count();
    detail::check_value("Coupling", "the net's number of outputs", net_.outputs(), net_.outputs() == wanted,
                        std::to_string(wanted));
  }

  [[nodiscard]] Index dim() const { return dim_; }
  [[nodiscard]] Index context_dim() const { return net_.context_dim(); }
  [[nodiscard]] static constexpr Traits traits() { return {}; }
  [[nodiscard]] Gradient make_gradient() const { return {net_.make_gradient()}; }
  /// The features that change, ascending.
  [[nodiscard]] const std::vector<Index>& transformed() const { return moved_.features(); }
  /// The features that the net reads, ascending.
  [[nodiscard]] const std::vector<Index>& kept() const { return kept_.features(); }
  [[nodiscard]] N& net() { return net_; }
  [[nodiscard]] const N& net() const { return net_; }
  [[nodiscard]] const T& transformer() const { return transformer_; }

  [[nodiscard]] Options options() const {
    const auto& moved = moved_.features();
    return Options(type)
        .set("dim", dim_)
        .set("transformed", Options::Integers(moved.begin(), moved.end()))
        .set("transformer", transformer_.options())
        .set("net", net_.options());
  }
  static Coupling from_options(const Options& options) {
    const Index dim = options.get_size("dim", 1);
    return Coupling(dim, options.get_sizes("transformed"), T::from_options(options.get<Options>("transformer")),
                    N::from_options(options.get<Options>("net")));
  }

  /// One pass of the net; log|det| = sum_B log f'(z_B).
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("Coupling::forward", *this, call, z, x, log_det.size());
    apply<&T::forward>(call, z, x, log_det, cache);
  }

  /// One pass of the net; log|det| = sum_B log dz_B/dx_B.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("Coupling::inverse", *this, call, x, z, log_det.size());
    apply<&T::inverse>(call, x, z, log_det, cache);
  }

  /// Through f and then the net: d_z_A = d_x_A + what comes back through the net.
  void forward_pullback(const Call<S>& call, ConstBatch<S> z, ConstBatch<S> x, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>* d_context, Gradient* gradient) const {
    pull_back<&T::forward_pullback>("Coupling::forward_pullback", call, z, x, cache, d_x, d_log_det, d_z, d_context,
                                    gradient);
  }

  /// Through f^-1 and then the net: d_x_A = d_z_A + what comes back through the net.
  void inverse_pullback(const Call<S>& call, ConstBatch<S> x, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>* d_context, Gradient* gradient) const {
    pull_back<&T::inverse_pullback>("Coupling::inverse_pullback", call, x, z, cache, d_z, d_log_det, d_x, d_context,
                                    gradient);
  }

  template <Real U>
  [[nodiscard]] auto cast() const {
    using Other = Coupling<decltype(transformer_.template cast<U>()), decltype(net_.template cast<U>())>;
    return cast_to<Other>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    f("net", self.net_);
  }

 private:
  static Values<S> flat(Batch<S> batch) { return {batch.data(), batch.size()}; }
  static ConstValues<S> flat(ConstBatch<S> batch) { return {batch.data(), batch.size()}; }

  /// Either direction: they differ only in the transformer's.
  template <auto direction>
  void apply(const Call<S>& call, ConstBatch<S> in, Batch<S> out, Values<S> log_det, Cache& cache) const {
    const Index n = in.rows();
    const Index elements = n * moved_.size();
    Batch<S> raw = cache.raw.resize(n, net_.outputs());
    net_.forward(kept_.gather(in, cache.kept), call.context, raw, cache.net);
    Batch<S> log_slope = cache.log_slope.resize(n, moved_.size());
    (transformer_.*direction)(raw.reshaped_as(elements, transformer_.parameter_count()),
                              flat(moved_.gather(in, cache.in)), flat(moved_.writable(out, cache.out)), flat(log_slope),
                              cache.transformer);
    moved_.scatter(cache.out, out);
    kept_.copy(in, out);
    for (Index j = 0; j < moved_.size(); ++j) log_det += log_slope.col(j);
  }

  template <auto pullback>
  void pull_back(std::string_view where, const Call<S>& call, ConstBatch<S> in, ConstBatch<S> out, Cache& cache,
                 ConstBatch<S> d_out, ConstValues<S> d_log_det, Batch<S>* d_in, Batch<S>* d_context,
                 Gradient* gradient) const {
    const Index n = in.rows();
    const Index elements = n * moved_.size();
    detail::check_shape(where, "what the cache holds", cache.raw.view().rows(), cache.raw.view().cols(), n,
                        net_.outputs());
    Batch<S> d_log_slope = cache.d_log_slope.resize(n, moved_.size());
    for (Index j = 0; j < moved_.size(); ++j) d_log_slope.col(j) = d_log_det;
    Batch<S> d_raw = cache.d_raw.resize(n, net_.outputs());
    Batch<S> d_moved = d_in ? moved_.writable(*d_in, cache.d_in) : cache.d_in.resize(n, moved_.size());
    (transformer_.*pullback)(
        cache.raw.view().reshaped_as(elements, transformer_.parameter_count()), flat(moved_.gathered(in, cache.in)),
        flat(moved_.gathered(out, cache.out)), cache.transformer, flat(moved_.gather(d_out, cache.d_out)),
        flat(ConstBatch<S>(d_log_slope)), flat(d_moved), d_raw.reshaped_as(elements, transformer_.parameter_count()));
    if (d_in) moved_.scatter(cache.d_in, *d_in);
    Batch<S> d_kept = cache.d_kept.resize(n, kept_.size());
    net_.pullback(kept_.gathered(in, cache.kept), call.context, cache.net, d_raw, d_in ? &d_kept : nullptr, d_context,
                  gradient ? &gradient->net : nullptr);
    if (!d_in) return;
    for (Index j = 0; j < kept_.size(); ++j) d_in->col(kept_[j]) = d_out.col(kept_[j]) + d_kept.col(j);
  }

  Index dim_;
  detail::Subset moved_, kept_;
  T transformer_;
  N net_;
};

/// NICE: x_B = z_B + t(z_A). Volume preserving.
template <Real S, class N = Mlp<S>>
using AdditiveCoupling = Coupling<Shift<S>, N>;

/// RealNVP: x_B = z_B exp(s(z_A)) + t(z_A), s softly clamped by the transformer's ScaleMap.
template <Real S, class N = Mlp<S>>
using AffineCoupling = Coupling<Affine<S>, N>;

}  // namespace rhei
