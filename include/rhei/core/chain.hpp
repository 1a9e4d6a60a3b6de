// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Composition: `Chain{a, b, c}` of layers of different types, `Repeat(count, make)` of layers of one type.
///
/// `forward` applies the layers as they are read (a, then b, then c: from latent to data), `inverse` runs them
/// backwards; the last of the list meets the data first. Log-determinants add up in one accumulator.
///
/// With Keep::output an evaluation keeps nothing between its layers but their memory (see Layer), and the pullback goes
/// through them from the output on: each layer's opposite direction rebuilds its input, an evaluation from there fills
/// the one cache that all share, and its pullback follows (Gomez et al. 2017, "The reversible residual network",
/// algorithm 1). That costs two evaluations more, one of them iterative where the opposite direction is. Rounding adds
/// up on the way: `Cache::round_trip` says how much.

#include <array>
#include <rhei/core/layer.hpp>
#include <tuple>
#include <vector>

namespace rhei {
namespace detail {

/// Calls f(a[i], b[i], ...) for vectors or tuples a, b, ... and a run-time i.
template <class F, class First, class... Rest>
void visit_at(Index i, F&& f, First& first, Rest&... rest) {
  const auto at = static_cast<std::size_t>(i);
  if constexpr (requires { first[at]; })
    f(first[at], rest[at]...);
  else
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      const auto call_at = [&](auto constant) {
        constexpr std::size_t k = decltype(constant)::value;
        f(std::get<k>(first), std::get<k>(rest)...);
      };
      ((I == at ? call_at(std::integral_constant<std::size_t, I>{}) : void()), ...);
    }
  (std::make_index_sequence<std::tuple_size_v<First>>{});
}

/// What a sequence keeps for each of its layers: a tuple beside a tuple, a vector beside a vector.
template <class Layers>
struct Alongside;
template <class... L>
struct Alongside<std::tuple<L...>> {
  using Scalar = typename std::tuple_element_t<0, std::tuple<L...>>::Scalar;
  static_assert((std::same_as<Scalar, typename L::Scalar> && ...), "the layers of a chain have different scalars");
  using Caches = std::tuple<typename L::Cache...>;
  using Gradients = std::tuple<typename L::Gradient...>;
};
template <class L>
struct Alongside<std::vector<L>> {
  using Scalar = typename L::Scalar;
  using Caches = std::vector<typename L::Cache>;
  using Gradients = std::vector<typename L::Gradient>;
};

/// The call as a part sees it: without context where the part takes none.
template <Real S>
Call<S> call_for(const Call<S>& call, Index context_dim) {
  Call<S> own = call;
  if (context_dim == 0) new (&own.context) ConstBatch<S>();
  return own;
}

/// The common part of Chain and Repeat. Layers is a std::tuple or a std::vector of layers, at least one.
///
/// The batches between the layers are b_0 = z, b_1, ..., b_K = x; layer i maps b_i to b_{i+1}.
template <class Layers>
class Sequence {
 public:
  using Scalar = typename Alongside<Layers>::Scalar;
  using S = Scalar;
  static constexpr std::string_view type = "chain";

  struct Gradient {
    typename Alongside<Layers>::Gradients layers;  ///< of each layer, in their order

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("layers", self.layers);
    }
  };

  struct Cache {
    typename Alongside<Layers>::Caches layers;  ///< of each layer, or one that they share unless everything is kept
    std::vector<Buffer<S>> between;             ///< b_1 ... b_{K-1}, or two that take turns unless everything is kept
    std::array<Buffer<S>, 2> d_between{};       ///< their derivatives, which take turns
    Keep kept = Keep::nothing;                  ///< by the last evaluation
    Index rows = 0;                             ///< of the last evaluation, n
    /// With Keep::output: the worst |b - b'| / max(1, |b|) of the true input b of the last pullback and the rebuilt b'.
    double round_trip = 0;
    Buffer<S> rebuilt;    ///< n x D, with Keep::output: the input of the layer whose pullback runs
    Replay<S> replay;     ///< scratch, with Keep::output
    bool stored = false;  ///< whether the layers' memory lies in `memory`, not in their caches
    std::vector<std::vector<Buffer<S>>> memory;  ///< of each layer, where they share a cache and it must outlive that
  };

  /// \throws std::invalid_argument if there is no layer, or if dimensions or contexts differ.
  explicit Sequence(Layers layers) : layers_(std::move(layers)) {
    check_value("Chain", "the number of layers", size(), size() > 0, "at least 1");
    for_each_element(layers_, [this](const std::string& i, const auto& layer) {
      if (dim_ == 0) dim_ = layer.dim();
      check_value("Chain", "the dimension of layer " + i, layer.dim(), layer.dim() == dim_,
                  std::to_string(dim_) + ", as the layers before it");
      if (context_dim_ == 0) context_dim_ = layer.context_dim();
      check_value("Chain", "the context of layer " + i, layer.context_dim(),
                  layer.context_dim() == 0 || layer.context_dim() == context_dim_,
                  "0 or " + std::to_string(context_dim_) + " columns, as the layers before it");
    });
  }

  [[nodiscard]] Index dim() const { return dim_; }
  [[nodiscard]] Index context_dim() const { return context_dim_; }
  /// The number of layers.
  [[nodiscard]] Index size() const {
    if constexpr (is_vector)
      return static_cast<Index>(layers_.size());
    else
      return static_cast<Index>(std::tuple_size_v<Layers>);
  }
  /// In the order in which forward applies them.
  [[nodiscard]] Layers& layers() { return layers_; }
  [[nodiscard]] const Layers& layers() const { return layers_; }

  [[nodiscard]] Traits traits() const {
    Traits all{.affine = true};
    for_each_element(layers_, [&](const auto&, const auto& layer) { all = all & layer.traits(); });
    return all;
  }

  [[nodiscard]] Gradient make_gradient() const {
    if constexpr (is_vector) {
      Gradient gradient;
      for (const auto& layer : layers_) gradient.layers.push_back(layer.make_gradient());
      return gradient;
    } else {
      return std::apply([](const auto&... layer) { return Gradient{{layer.make_gradient()...}}; }, layers_);
    }
  }

  [[nodiscard]] Options options() const {
    Options::List list;
    for_each_element(layers_, [&](const auto&, const auto& layer) { list.push_back(layer.options()); });
    return Options(type).set("layers", std::move(list));
  }

  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    check_evaluation("Chain::forward", *this, call, z, x, log_det.size());
    prepare(call, z.rows(), cache);
    for (Index i = 0; i < size(); ++i)
      evaluate_at(i, call, cache, [&](const auto& layer, const Call<S>& own_call, auto& own) {
        layer.forward(own_call, i == 0 ? z : between(cache, i), i == size() - 1 ? x : between(cache, i + 1), log_det,
                      own);
      });
  }

  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    check_evaluation("Chain::inverse", *this, call, x, z, log_det.size());
    prepare(call, x.rows(), cache);
    for (Index i = size() - 1; i >= 0; --i)
      evaluate_at(i, call, cache, [&](const auto& layer, const Call<S>& own_call, auto& own) {
        layer.inverse(own_call, i == size() - 1 ? x : between(cache, i + 1), i == 0 ? z : between(cache, i), log_det,
                      own);
      });
  }

  void forward_pullback(const Call<S>& call, ConstBatch<S> z, ConstBatch<S> x, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>* d_context, Gradient* gradient) const {
    check_pullback("Chain::forward_pullback", *this, call, z, x, d_x, d_log_det.size(), d_z, d_context);
    check_kept("Chain::forward_pullback", cache, x.rows());
    if (cache.kept == Keep::output) {
      Batch<S> rebuilt = cache.rebuilt.resize(z.rows(), dim());
      replay_forward_pullback(call, rebuilt, x, cache, d_x, d_log_det, d_z, d_context, gradient, cache.replay);
      cache.round_trip = round_trip_error<S>(rebuilt, z);
    } else {
      sweep_forward(
          cache, z.rows(), d_x, d_z, gradient,
          [&](Index i, const auto& layer, auto& own, ConstBatch<S> d_out, Batch<S>* d_in, auto* own_gradient) {
            layer.forward_pullback(call_for(call, layer.context_dim()), i == 0 ? z : between(cache, i),
                                   i == size() - 1 ? x : between(cache, i + 1), own, d_out, d_log_det, d_in,
                                   layer.context_dim() > 0 ? d_context : nullptr, own_gradient);
          });
    }
  }

  void inverse_pullback(const Call<S>& call, ConstBatch<S> x, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>* d_context, Gradient* gradient) const {
    check_pullback("Chain::inverse_pullback", *this, call, x, z, d_z, d_log_det.size(), d_x, d_context);
    check_kept("Chain::inverse_pullback", cache, x.rows());
    if (cache.kept == Keep::output) {
      Batch<S> rebuilt = cache.rebuilt.resize(x.rows(), dim());
      replay_inverse_pullback(call, rebuilt, z, cache, d_z, d_log_det, d_x, d_context, gradient, cache.replay);
      cache.round_trip = round_trip_error<S>(rebuilt, x);
    } else {
      sweep_inverse(
          cache, x.rows(), d_z, d_x, gradient,
          [&](Index i, const auto& layer, auto& own, ConstBatch<S> d_out, Batch<S>* d_in, auto* own_gradient) {
            layer.inverse_pullback(call_for(call, layer.context_dim()), i == size() - 1 ? x : between(cache, i + 1),
                                   i == 0 ? z : between(cache, i), own, d_out, d_log_det, d_in,
                                   layer.context_dim() > 0 ? d_context : nullptr, own_gradient);
          });
    }
  }

  /// See detail::replay_forward_pullback. The evaluation must have been one with Keep::output.
  void replay_forward_pullback(const Call<S>& call, Batch<S> z, ConstBatch<S> x, Cache& cache, ConstBatch<S> d_x,
                               ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>* d_context, Gradient* gradient,
                               Replay<S>& replay) const {
    sweep_forward(cache, x.rows(), d_x, d_z, gradient,
                  [&](Index i, const auto& layer, auto& own, ConstBatch<S> d_out, Batch<S>* d_in, auto* own_gradient) {
                    recall(i, layer, own, cache);
                    detail::replay_forward_pullback(
                        layer, call_for(call, layer.context_dim()), i == 0 ? z : between(cache, i),
                        i == size() - 1 ? x : between(cache, i + 1), own, d_out, d_log_det, d_in,
                        layer.context_dim() > 0 ? d_context : nullptr, own_gradient, replay);
                  });
  }
  void replay_inverse_pullback(const Call<S>& call, Batch<S> x, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                               ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>* d_context, Gradient* gradient,
                               Replay<S>& replay) const {
    sweep_inverse(cache, z.rows(), d_z, d_x, gradient,
                  [&](Index i, const auto& layer, auto& own, ConstBatch<S> d_out, Batch<S>* d_in, auto* own_gradient) {
                    recall(i, layer, own, cache);
                    detail::replay_inverse_pullback(
                        layer, call_for(call, layer.context_dim()), i == size() - 1 ? x : between(cache, i + 1),
                        i == 0 ? z : between(cache, i), own, d_out, d_log_det, d_in,
                        layer.context_dim() > 0 ? d_context : nullptr, own_gradient, replay);
                  });
  }

  /// Initialises the layers from the data side on, each from what the layers behind it make of x.
  void initialize(const Call<S>& call, ConstBatch<S> x) {
    Cache cache;
    Call<S> passing = call;
    passing.keep = Keep::nothing;
    prepare(passing, x.rows(), cache);
    Vector<S> unused = Vector<S>::Zero(x.rows());
    for (Index i = size() - 1; i >= 0; --i)
      visit_at(
          i,
          [&](auto& layer) {
            const Call<S> own = call_for(passing, layer.context_dim());
            const ConstBatch<S> seen = i == size() - 1 ? x : between(cache, i + 1);
            rhei::initialize(layer, own, seen);
            if (i == 0) return;
            typename std::remove_cvref_t<decltype(layer)>::Cache scratch;
            layer.inverse(own, seen, between(cache, i), unused, scratch);
          },
          layers_);
  }

  /// \throws std::invalid_argument unless the evaluation kept everything or its output.
  void update_state(Cache& cache) {
    check_kept("Chain::update_state", cache, cache.rows);
    for (Index i = 0; i < size(); ++i) {
      const auto update = [&](auto& layer, auto& own) {
        recall(i, layer, own, cache);
        rhei::update_state(layer, own);
      };
      if constexpr (is_vector)
        update(layers_[static_cast<std::size_t>(i)], cache.layers[cache_index(i, cache)]);
      else
        visit_at(i, update, layers_, cache.layers);
    }
  }
  template <class F>
  void visit_memory(Cache& cache, F&& f) const {
    if constexpr (is_vector) {
      if (cache.kept != Keep::everything) cache.stored = true;  // also where f is to fill a cache that was never used
      if (cache.stored) grow(cache, 1);
    }
    for (Index i = 0; i < size(); ++i)
      at_layer(i, cache, [&](const auto& layer, auto& own) {
        if (cache.stored)
          with_memory(i, layer, own, cache, [&](Buffer<S>&, Buffer<S>& stored) { f(stored); });
        else
          for_each_memory(layer, own, f);
      });
  }

  /// \throws std::runtime_error that names the layer.
  void check_state() {
    for_each_element(layers_, [](const std::string& i, auto& layer) {
      refuse_at("layers." + i + " (" + layer.options().type() + ")", [&] { rhei::check_state(layer); });
    });
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    f("layers", self.layers_);
  }
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("layers", self.layers_);
  }
  template <class F>
  void visit_layers(F&& f, std::string_view name) const {
    for_each_element(layers_, [&](const std::string& i, const auto& layer) {
      for_each_layer(layer, f, join_names(name, join_names("layers", i)));
    });
  }

 protected:
  static constexpr bool is_vector = requires(Layers layers) { layers.begin(); };

 private:
  void prepare(const Call<S>& call, Index rows, Cache& cache) const {
    if (!call.repeat) cache.stored = is_vector && call.keep == Keep::output;
    // what is to be repeated may lie in a cache of each layer's own
    cache.kept = is_vector && call.repeat && !cache.stored ? Keep::everything : call.keep;
    cache.rows = rows;
    const bool all = cache.kept == Keep::everything;
    if constexpr (is_vector) grow(cache, all ? layers_.size() : 1);
    const auto buffers = static_cast<std::size_t>(all ? size() - 1 : std::min<Index>(2, size() - 1));
    if (cache.between.size() < buffers) cache.between.resize(buffers);
    for (std::size_t i = 0; i < buffers; ++i) cache.between[i].resize(rows, dim());
  }

  /// Room for at least so many layers' caches and, where it lies beside them, for the memory of all.
  void grow(Cache& cache, std::size_t caches) const {
    if (cache.layers.size() < caches) cache.layers.resize(caches);
    if (cache.stored && cache.memory.size() < layers_.size()) cache.memory.resize(layers_.size());
  }

  /// b_i for 0 < i < K.
  Batch<S> between(Cache& cache, Index i) const {
    return cache.between[static_cast<std::size_t>(cache.kept == Keep::everything ? i - 1 : (i - 1) % 2)].view();
  }

  /// The memory for dL/db_i.
  static Buffer<S>& d_between(Cache& cache, Index i) { return cache.d_between[static_cast<std::size_t>(i % 2)]; }

  /// Of layer i among those of a vector: unless everything is kept they share the first.
  static std::size_t cache_index(Index i, const Cache& cache) {
    return cache.kept == Keep::everything ? static_cast<std::size_t>(i) : 0;
  }

  /// f(layer i, its cache).
  template <class F>
  void at_layer(Index i, Cache& cache, F&& f) const {
    if constexpr (is_vector)
      f(layers_[static_cast<std::size_t>(i)], cache.layers[cache_index(i, cache)]);
    else
      visit_at(i, f, layers_, cache.layers);
  }
  /// f(layer i, its cache, its gradient or null).
  template <class F>
  void at_layer(Index i, Cache& cache, Gradient* gradient, F&& f) const {
    if constexpr (is_vector)
      f(layers_[static_cast<std::size_t>(i)], cache.layers[cache_index(i, cache)],
        gradient ? &gradient->layers[static_cast<std::size_t>(i)] : nullptr);
    else if (gradient)
      visit_at(
          i, [&](const auto& layer, auto& own, auto& own_gradient) { f(layer, own, &own_gradient); }, layers_,
          cache.layers, gradient->layers);
    else
      visit_at(
          i,
          [&](const auto& layer, auto& own) {
            f(layer, own, static_cast<typename std::remove_cvref_t<decltype(layer)>::Gradient*>(nullptr));
          },
          layers_, cache.layers);
  }

  /// f(layer i, its call, its cache) before which the layer's memory is there and after which it is kept.
  template <class F>
  void evaluate_at(Index i, const Call<S>& call, Cache& cache, F&& f) const {
    at_layer(i, cache, [&](const auto& layer, auto& own) {
      if (call.repeat) recall(i, layer, own, cache);
      Call<S> own_call = call_for(call, layer.context_dim());
      own_call.keep = cache.kept;
      f(layer, own_call, own);
      if (cache.stored && !call.repeat)
        with_memory(i, layer, own, cache, [](const Buffer<S>& made, Buffer<S>& stored) { copy(made, stored); });
    });
  }
  /// Puts layer i's memory into the cache that it shares, if it does.
  template <class L>
  void recall(Index i, const L& layer, typename L::Cache& own, Cache& cache) const {
    if (cache.stored)
      with_memory(i, layer, own, cache, [](Buffer<S>& wanted, const Buffer<S>& stored) { copy(stored, wanted); });
  }
  /// f(a buffer of layer i's memory in its cache, the same in the store).
  template <class L, class F>
  static void with_memory(Index i, const L& layer, typename L::Cache& own, Cache& cache, F&& f) {
    std::vector<Buffer<S>>& stored = cache.memory[static_cast<std::size_t>(i)];
    std::size_t next = 0;
    for_each_memory(layer, own, [&](Buffer<S>& buffer) {
      if (stored.size() == next) stored.emplace_back();
      f(buffer, stored[next++]);
    });
  }
  static void copy(const Buffer<S>& from, Buffer<S>& to) {
    const ConstBatch<S> values = from.view();
    to.resize(values.rows(), values.cols()) = values;
  }

  /// pull(i, layer i, its cache, dL/db_{i+1}, where dL/db_i goes or null, its gradient or null) from the last layer to
  /// the first. Only the last one of a sweep may find that its input's derivative was declined.
  template <class F>
  void sweep_forward(Cache& cache, Index rows, ConstBatch<S> d_x, Batch<S>* d_z, Gradient* gradient, F&& pull) const {
    for (Index i = size() - 1; i >= 0; --i)
      at_layer(i, cache, gradient, [&](const auto& layer, auto& own, auto* own_gradient) {
        Batch<S> d_in = i == 0 ? Batch<S>() : d_between(cache, i).resize(rows, dim());
        pull(i, layer, own, i == size() - 1 ? d_x : d_between(cache, i + 1).view(), i == 0 ? d_z : &d_in, own_gradient);
      });
  }
  /// The same from the first to the last, from dL/db_i to dL/db_{i+1}.
  template <class F>
  void sweep_inverse(Cache& cache, Index rows, ConstBatch<S> d_z, Batch<S>* d_x, Gradient* gradient, F&& pull) const {
    for (Index i = 0; i < size(); ++i)
      at_layer(i, cache, gradient, [&](const auto& layer, auto& own, auto* own_gradient) {
        const bool last = i == size() - 1;
        Batch<S> d_in = last ? Batch<S>() : d_between(cache, i + 1).resize(rows, dim());
        pull(i, layer, own, i == 0 ? d_z : d_between(cache, i).view(), last ? d_x : &d_in, own_gradient);
      });
  }

  void check_kept(std::string_view where, const Cache& cache, Index rows) const {
    if (cache.kept == Keep::nothing) throw_invalid(where, "the evaluation was called with Keep::nothing");
    if (rows != cache.rows)  // asked here and not in check_value, whose text would be taken from the heap every time
      check_value(where, "the batch's number of rows", rows, false,
                  "that of the evaluation (" + std::to_string(cache.rows) + ")");
  }

  Layers layers_;
  Index dim_ = 0;
  Index context_dim_ = 0;
};

}  // namespace detail

/// Layers of different types, applied in the order in which they are given.
template <Layer... L>
class Chain : public detail::Sequence<std::tuple<L...>> {
 public:
  using Base = detail::Sequence<std::tuple<L...>>;
  /// In the order in which forward applies them.
  explicit Chain(L... layers) : Base(std::tuple<L...>(std::move(layers)...)) {}

  /// The same layers in another scalar.
  template <Real T>
  requires(detail::Castable<L, T>&&...) [[nodiscard]] auto cast() const {
    return std::apply(
        [](const auto&... layer) {
          return rhei::Chain<decltype(layer.template cast<T>())...>(layer.template cast<T>()...);
        },
        this->layers());
  }
};
template <class... L>
Chain(L...) -> Chain<L...>;

/// Layers of one type, as many as there are at run time.
template <Layer L>
class Repeat : public detail::Sequence<std::vector<L>> {
 public:
  using Base = detail::Sequence<std::vector<L>>;
  /// At least one; in the order in which forward applies them.
  explicit Repeat(std::vector<L> layers) : Base(std::move(layers)) {}
  /// `count` layers made by make(0), make(1), ... in this order.
  template <std::invocable<int> Make>
  Repeat(int count, Make&& make) : Base(make_all(count, make)) {}

  /// The same layers in another scalar.
  template <Real T>
  requires detail::Castable<L, T>
  [[nodiscard]] auto cast() const {
    std::vector<decltype(std::declval<const L&>().template cast<T>())> other;
    for (const L& layer : this->layers()) other.push_back(layer.template cast<T>());
    return rhei::Repeat(std::move(other));
  }

 private:
  static std::vector<L> make_all(int count, auto& make) {
    std::vector<L> layers;
    layers.reserve(static_cast<std::size_t>(std::max(count, 0)));
    for (int i = 0; i < count; ++i) layers.push_back(make(i));
    return layers;
  }
};
template <class Make>
Repeat(int, Make&&) -> Repeat<std::invoke_result_t<Make&, int>>;

}  // namespace rhei
