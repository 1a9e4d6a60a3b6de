// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A normalizing flow: a base density pushed through a chain of layers.
///
///   log p(x) = log p_base(z) + log|det dz/dx|,  z = inverse(x)
///
/// `Flow` has two faces. The one with plain matrices is what programs use; it takes any number of rows, works through
/// them in chunks that stay in the processor's cache, and so needs bounded memory. The one with `Call`, views and a
/// `Cache` is what training and latency-critical code use: one compact batch, nothing allocated in steady state, and
/// pullbacks. By the latter a flow is itself a Distribution.

#include <algorithm>
#include <rhei/core/chain.hpp>
#include <rhei/core/distribution.hpp>

namespace rhei {

/// A base distribution and the layer (mostly a Chain or Repeat) that shapes it. `Flow{base, a, b, c}` chains its layers
/// in the order in which `forward` applies them.
template <Distribution Base_, Layer Transform_>
class Flow {
 public:
  /// The density of the latent.
  using Base = Base_;
  /// From latent to data.
  using Transform = Transform_;
  using Scalar = typename Transform::Scalar;
  using S = Scalar;
  /// Any matrix of this scalar without a copy; rows are samples.
  using In = const Eigen::Ref<const Matrix<S>>&;
  static_assert(std::same_as<S, typename Base::Scalar>, "base and layers of a flow have different scalars");
  static constexpr std::string_view type = "flow";
  /// Rows that are evaluated at a time: few enough for the activations of wide nets to stay in a core's cache.
  static constexpr Index chunk_rows = 256;

  struct Gradient {
    typename Base::Gradient base;            ///< of the base density
    typename Transform::Gradient transform;  ///< of the layers

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("base", self.base);
      f("", self.transform);
    }
  };

  struct Cache {
    typename Base::Cache base;            ///< of the base density
    typename Transform::Cache transform;  ///< of the layers
    Buffer<S> z, d_z, log_det;            ///< n x D: the latent, dL/dz; n
    Buffer<S> in, context, out;           ///< a chunk of rows, made compact
    Keep kept = Keep::nothing;            ///< by the last log_prob
    /// With Keep::output: the worst |x - x'| / max(1, |x|) of the last pullback's x and the x' rebuilt from its latent.
    double round_trip = 0;
    Buffer<S> rebuilt;         ///< n x D, with Keep::output: x'
    detail::Replay<S> replay;  ///< scratch, with Keep::output
  };

  /// What forward() gives.
  struct Forward {
    Matrix<S> x;        ///< n x D
    Vector<S> log_det;  ///< n, log|det dx/dz|
  };
  /// What inverse() gives.
  struct Inverse {
    Matrix<S> z;        ///< n x D
    Vector<S> log_det;  ///< n, log|det dz/dx|
  };
  /// What sample_and_log_prob() gives.
  struct Sample {
    Matrix<S> x;         ///< n x D
    Vector<S> log_prob;  ///< n
  };
  /// What log_prob_gradient() gives.
  struct LogProbGradient {
    Vector<S> log_prob;  ///< n
    Matrix<S> gradient;  ///< n x D, d log p(x) / dx
  };

  /// Of a base and one layer of the same dimension.
  /// \throws std::invalid_argument where dimensions or contexts of base and layers differ.
  Flow(Base base, Transform transform) : base_(std::move(base)), transform_(std::move(transform)) {
    detail::check_value("Flow", "the dimension of the base", base_.dim(), base_.dim() == transform_.dim(),
                        std::to_string(transform_.dim()) + ", that of the layers");
    detail::check_value(
        "Flow", "the context of the base", base_.context_dim(),
        base_.context_dim() == 0 || transform_.context_dim() == 0 || base_.context_dim() == transform_.context_dim(),
        "0 or " + std::to_string(transform_.context_dim()) + " columns, as the layers");
  }

  /// Of layers in the order in which forward applies them.
  /// \throws std::invalid_argument where dimensions or contexts differ.
  template <class... L>
  requires(sizeof...(L) > 1) explicit Flow(Base base, L... layers)
      : Flow(std::move(base), Transform(std::move(layers)...)) {}

  [[nodiscard]] Index dim() const { return transform_.dim(); }
  /// Columns of the context that every call must then pass; 0 for an unconditional flow.
  [[nodiscard]] Index context_dim() const { return std::max(base_.context_dim(), transform_.context_dim()); }
  /// The density of the latent.
  [[nodiscard]] Base& base() { return base_; }
  [[nodiscard]] const Base& base() const { return base_; }
  /// The layers: mostly one Chain or Repeat of them.
  [[nodiscard]] Transform& transform() { return transform_; }
  [[nodiscard]] const Transform& transform() const { return transform_; }
  [[nodiscard]] Gradient make_gradient() const { return {base_.make_gradient(), transform_.make_gradient()}; }
  [[nodiscard]] Options options() const {
    return Options(type).set("base", base_.options()).set("transform", transform_.options());
  }

  // ---- plain matrices -----------------------------------------------------------------------------------------------
  // x, z: n x dim(); context: n x context_dim(), or one row for all samples, or nothing where context_dim() is 0.
  // All throw std::invalid_argument for other shapes. A row with a NaN gives NaN in that row and no other.

  /// Latent to data: x and log|det dx/dz| (nats) of each row of z, n x dim(). The context is n x context_dim(), or one
  /// row for all, or nothing where context_dim() is 0.
  /// \throws std::invalid_argument for other shapes
  [[nodiscard]] Forward forward(In z, In context = Matrix<S>()) const {
    Forward result{Matrix<S>(z.rows(), dim()), Vector<S>::Zero(z.rows())};
    map_chunks("Flow::forward", z, context, result.x, result.log_det,
               [this](auto&&... a) { transform_.forward(std::forward<decltype(a)>(a)...); });
    return result;
  }

  /// Data to latent: z and log|det dz/dx| (nats) of each row of x, n x dim(); context and errors as with forward().
  [[nodiscard]] Inverse inverse(In x, In context = Matrix<S>()) const {
    Inverse result{Matrix<S>(x.rows(), dim()), Vector<S>::Zero(x.rows())};
    map_chunks("Flow::inverse", x, context, result.z, result.log_det,
               [this](auto&&... a) { transform_.inverse(std::forward<decltype(a)>(a)...); });
    return result;
  }

  /// log p(x) of each row of x, n x dim(), in nats; context and errors as with forward().
  [[nodiscard]] Vector<S> log_prob(In x, In context = Matrix<S>()) const {
    Vector<S> log_p(x.rows());
    Cache cache;
    log_prob(x, context, log_p, cache);
    return log_p;
  }
  /// The same into the caller's memory (log_p: n), with the caller's workspace: allocates nothing once the workspace
  /// has grown.
  void log_prob(In x, In context, Eigen::Ref<Vector<S>> log_p, Cache& cache) const {
    check_input("Flow::log_prob", x, context);
    detail::check_shape("Flow::log_prob", "log_p", log_p.size(), 1, x.rows(), 1);
    log_p.setZero();
    for_each_chunk(x, context, cache, Keep::nothing, [&](Index first, const Call<S>& call, ConstBatch<S> rows) {
      log_prob(call, rows, Values<S>(log_p.data() + first, rows.rows()), cache);
    });
  }

  /// n draws, n x dim(), each from the density for its row of the context; context and errors as with forward().
  [[nodiscard]] Matrix<S> sample(Index n, Rng& rng, In context = Matrix<S>()) const {
    Matrix<S> x(n, dim());
    Cache cache;
    sample(rng, context, x, cache);
    return x;
  }
  /// The same into the caller's memory, as many rows as x has.
  void sample(Rng& rng, In context, Eigen::Ref<Matrix<S>> x, Cache& cache) const {
    sample_chunks(rng, context, x, nullptr, cache);
  }

  /// n draws and the log-density of each, for the price of the draws.
  [[nodiscard]] Sample sample_and_log_prob(Index n, Rng& rng, In context = Matrix<S>()) const {
    Sample result{Matrix<S>(n, dim()), Vector<S>(n)};
    Cache cache;
    sample_and_log_prob(rng, context, result.x, result.log_prob, cache);
    return result;
  }
  /// The same into the caller's memory, as many rows as x has; log_p: n, in nats.
  void sample_and_log_prob(Rng& rng, In context, Eigen::Ref<Matrix<S>> x, Eigen::Ref<Vector<S>> log_p,
                           Cache& cache) const {
    detail::check_shape("Flow::sample_and_log_prob", "log_p", log_p.size(), 1, x.rows(), 1);
    sample_chunks(rng, context, x, log_p.data(), cache);
  }

  /// log p and its derivative with respect to x (the score), as samplers and optimizers on the density need it.
  [[nodiscard]] LogProbGradient log_prob_gradient(In x, In context = Matrix<S>()) const {
    check_input("Flow::log_prob_gradient", x, context);
    LogProbGradient result{Vector<S>::Zero(x.rows()), Matrix<S>(x.rows(), dim())};
    Cache cache;
    const Vector<S> ones = Vector<S>::Ones(std::min(x.rows(), chunk_rows));
    for_each_chunk(x, context, cache, Keep::everything, [&](Index first, const Call<S>& call, ConstBatch<S> rows) {
      const Index n = rows.rows();
      log_prob(call, rows, Values<S>(result.log_prob.data() + first, n), cache);
      Batch<S> d_x = cache.out.resize(n, dim());
      log_prob_pullback(call, rows, cache, ConstValues<S>(ones.data(), n), &d_x, nullptr, nullptr);
      result.gradient.middleRows(first, n) = d_x;
    });
    return result;
  }

  /// The mean of -log p over the rows of x, whose derivative is **added** to `gradient`. Needs at least one row.
  S mean_negative_log_likelihood(In x, Gradient& gradient, Cache& cache, In context = Matrix<S>()) const {
    check_input("Flow::mean_negative_log_likelihood", x, context);
    detail::check_value("Flow::mean_negative_log_likelihood", "the number of rows", x.rows(), x.rows() > 0,
                        "at least 1");
    const Vector<S> weight = Vector<S>::Constant(std::min(x.rows(), chunk_rows), S(-1) / static_cast<S>(x.rows()));
    double sum = 0;
    for_each_chunk(x, context, cache, Keep::everything, [&](Index, const Call<S>& call, ConstBatch<S> rows) {
      Values<S> log_p = cache.log_det.resize(rows.rows());
      log_p.setZero();
      log_prob(call, rows, log_p, cache);
      sum += log_p.template cast<double>().sum();
      log_prob_pullback(call, rows, cache, ConstValues<S>(weight.data(), rows.rows()), nullptr, nullptr, &gradient);
    });
    return static_cast<S>(-sum / static_cast<double>(x.rows()));
  }

  /// Data-dependent initialisation of the layers that have one and were not initialised (or loaded) before, from at
  /// most 16384 rows of x, evenly chosen. `fit` calls this.
  void initialize(In x, In context = Matrix<S>()) {
    check_input("Flow::initialize", x, context);
    const Index n = std::min<Index>(x.rows(), 16384);
    Matrix<S> rows(n, dim());
    Matrix<S> own_context(context.rows() == 1 ? 1 : n, context.cols());
    for (Index i = 0; i < n; ++i) {
      const Index chosen = i * (x.rows() / n) + i * (x.rows() % n) / n;
      rows.row(i) = x.row(chosen);
      if (context.rows() > 1) own_context.row(i) = context.row(chosen);
    }
    if (context.rows() == 1) own_context = context;
    rhei::initialize(transform_, detail::call_for(Call<S>{.context = own_context}, transform_.context_dim()), rows);
  }

  // ---- one compact batch --------------------------------------------------------------------------------------------

  /// Adds log p(x) to log_p; see Distribution.
  void log_prob(const Call<S>& call, ConstBatch<S> x, Values<S> log_p, Cache& cache) const {
    cache.kept = call.keep;
    Batch<S> z = cache.z.resize(x.rows(), dim());
    transform_.inverse(detail::call_for(call, transform_.context_dim()), x, z, log_p, cache.transform);
    base_.log_prob(detail::call_for(call, base_.context_dim()), z, log_p, cache.base);
  }

  void log_prob_pullback(const Call<S>& call, ConstBatch<S> x, Cache& cache, ConstValues<S> d_log_p, Batch<S>* d_x,
                         Batch<S>* d_context, Gradient* gradient) const {
    constexpr std::string_view where = "Flow::log_prob_pullback";
    const ConstBatch<S> z = cache.z.view();
    detail::check_shape(where, "what the cache holds", z.rows(), z.cols(), x.rows(), dim());
    detail::check_pullback(where, *this, call, x, z, z, d_log_p.size(), d_x, d_context);
    Batch<S> d_z = cache.d_z.resize(x.rows(), dim());
    base_.log_prob_pullback(detail::call_for(call, base_.context_dim()), z, cache.base, d_log_p, &d_z,
                            base_.context_dim() > 0 ? d_context : nullptr, gradient ? &gradient->base : nullptr);
    const Call<S> own_call = detail::call_for(call, transform_.context_dim());
    Batch<S>* const own_context = transform_.context_dim() > 0 ? d_context : nullptr;
    auto* const own_gradient = gradient ? &gradient->transform : nullptr;
    if (cache.kept == Keep::output) {
      Batch<S> rebuilt = cache.rebuilt.resize(x.rows(), dim());
      detail::replay_inverse_pullback(transform_, own_call, rebuilt, z, cache.transform, ConstBatch<S>(d_z), d_log_p,
                                      d_x, own_context, own_gradient, cache.replay);
      cache.round_trip = detail::round_trip_error<S>(rebuilt, x);
    } else {
      transform_.inverse_pullback(own_call, x, z, cache.transform, d_z, d_log_p, d_x, own_context, own_gradient);
    }
  }

  /// Fills x with draws from call.rng.
  void sample(const Call<S>& call, Batch<S> x, Cache& cache) const {
    Batch<S> z = cache.z.resize(x.rows(), dim());
    base_.sample(detail::call_for(call, base_.context_dim()), z, cache.base);
    Values<S> log_det = cache.log_det.resize(x.rows());
    log_det.setZero();
    transform_.forward(detail::call_for(call, transform_.context_dim()), z, x, log_det, cache.transform);
  }

  // ---- the rest of a model ------------------------------------------------------------------------------------------

  /// Lets the layers' state follow the batch of a log_prob that kept everything or its output.
  void update_state(Cache& cache) { rhei::update_state(transform_, cache.transform); }

  void check_state() {
    rhei::check_state(base_);
    rhei::check_state(transform_);
  }

  /// The same flow in another scalar. (An AnyFlow has none: see io/load.hpp.)
  template <Real T>
  requires(detail::Castable<Base, T>&& detail::Castable<Transform, T>) [[nodiscard]] auto cast() const {
    using Other = rhei::Flow<decltype(base_.template cast<T>()), decltype(transform_.template cast<T>())>;
    return Other(base_.template cast<T>(), transform_.template cast<T>());
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    f("base", self.base_);
    f("", self.transform_);
  }
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("base", self.base_);
    f("", self.transform_);
  }
  template <class F>
  void visit_layers(F&& f, std::string_view name) const {
    for_each_layer(transform_, f, name);
  }

 private:
  void check_input(std::string_view where, In rows, In context) const {
    detail::check_shape(where, "the input", rows.rows(), rows.cols(), -1, dim());
    detail::check_context(where, ConstBatch<S>(context.data(), context.rows(), context.cols()), rows.rows(),
                          context_dim());
  }

  /// Rows [first, first + n) of m as a compact batch: m itself where it is one, else a copy.
  static ConstBatch<S> compact_rows(In m, Index first, Index n, Buffer<S>& buffer) {
    if (n == m.rows() && (m.outerStride() == n || m.cols() <= 1)) return {m.data(), n, m.cols()};
    Batch<S> copy = buffer.resize(n, m.cols());
    copy = m.middleRows(first, n);
    return copy;
  }

  template <class F>
  void for_each_chunk(In rows, In context, Cache& cache, Keep keep, F&& f) const {
    for (Index first = 0; first < rows.rows(); first += chunk_rows) {
      const Index n = std::min(chunk_rows, rows.rows() - first);
      const Call<S> call{.context = chunk_context(context, first, n, cache), .keep = keep};
      f(first, call, compact_rows(rows, first, n, cache.in));
    }
  }
  static ConstBatch<S> chunk_context(In context, Index first, Index n, Cache& cache) {
    return context.rows() <= 1 ? compact_rows(context, 0, context.rows(), cache.context)
                               : compact_rows(context, first, n, cache.context);
  }

  template <class F>
  void map_chunks(std::string_view where, In in, In context, Matrix<S>& out, Vector<S>& log_det, F&& map) const {
    check_input(where, in, context);
    Cache cache;
    for_each_chunk(in, context, cache, Keep::nothing, [&](Index first, const Call<S>& call, ConstBatch<S> rows) {
      Batch<S> mapped = cache.out.resize(rows.rows(), dim());
      map(detail::call_for(call, transform_.context_dim()), rows, mapped,
          Values<S>(log_det.data() + first, rows.rows()), cache.transform);
      out.middleRows(first, rows.rows()) = mapped;
    });
  }

  void sample_chunks(Rng& rng, In context, Eigen::Ref<Matrix<S>> x, S* log_p, Cache& cache) const {
    check_input("Flow::sample", x, context);
    for (Index first = 0; first < x.rows(); first += chunk_rows) {
      const Index n = std::min(chunk_rows, x.rows() - first);
      const Call<S> call{.context = chunk_context(context, first, n, cache), .keep = Keep::nothing, .rng = &rng};
      Batch<S> drawn = cache.out.resize(n, dim());
      sample(call, drawn, cache);
      x.middleRows(first, n) = drawn;
      if (log_p == nullptr) continue;
      Values<S> out(log_p + first, n);
      out = -cache.log_det.values();
      base_.log_prob(detail::call_for(call, base_.context_dim()), cache.z.view(), out, cache.base);
    }
  }

  Base base_;
  Transform transform_;
};
template <class Base, class Transform>
Flow(Base, Transform) -> Flow<Base, Transform>;
template <class Base, class First, class Second, class... Rest>
Flow(Base, First, Second, Rest...) -> Flow<Base, Chain<First, Second, Rest...>>;

}  // namespace rhei
