// SPDX-License-Identifier: MIT

#include "support/conformance.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <Eigen/LU>
#include <future>
#include <iterator>
#include <limits>
#include <numeric>
#include <optional>
#include <rhei/core/chain.hpp>
#include <rhei/core/inverted.hpp>
#include <rhei/io/flow_file.hpp>
#include <sstream>

#include "support/allocation_counter.hpp"
#include "support/bits.hpp"
#include "support/catch.hpp"

namespace rhei::testing {

namespace {

using std::to_string;

constexpr Index most_entries = 300;  // of a tensor that are differentiated numerically
constexpr Index small_batch = 7;     // up to this many rows finite differences are affordable

/// One named result. Everything an evaluation or a pullback produces is a list of these.
template <Real S>
struct Tensor {
  std::string name;
  Matrix<S> values;
};
template <Real S>
using Tensors = std::vector<Tensor<S>>;

/// One evaluation and the loss L = <output_weight, output> + <log_det_weight, log_det> behind it.
template <Real S>
struct Setup {
  AnyLayer<S> layer;
  Direction direction;
  Matrix<S> in;
  Matrix<S> context;  // n x C or 1 x C
  Matrix<S> output_weight;
  Vector<S> log_det_weight;
  bool training;

  Index rows() const { return in.rows(); }

  /// The same in the scalar of another layer.
  template <Real T>
  Setup<T> with(AnyLayer<T> other) const {
    return {std::move(other),
            direction,
            in.template cast<T>(),
            context.template cast<T>(),
            output_weight.template cast<T>(),
            log_det_weight.template cast<T>(),
            training};
  }
  /// The same of rows [first, first + count).
  Setup part(Index first, Index count) const {
    const bool shared = context.rows() != rows();
    return {layer,
            direction,
            in.middleRows(first, count),
            shared ? context : Matrix<S>(context.middleRows(first, count)),
            output_weight.middleRows(first, count),
            log_det_weight.segment(first, count),
            training};
  }
  Call<S> call(Rng& draws) const {
    return {.context = layer.context_dim() == 0 ? ConstBatch<S>() : ConstBatch<S>(context),
            .training = training,
            .rng = &draws};
  }
};

/// Which derivatives a pullback is asked for.
struct Wanted {
  bool d_input = true, d_context = true, gradient = true;
};

template <Real S>
void run(const Setup<S>& setup, const Call<S>& call, ConstBatch<S> in, Batch<S> out, Values<S> log_det,
         typename AnyLayer<S>::Cache& cache) {
  if (setup.direction == Direction::forward)
    setup.layer.forward(call, in, out, log_det, cache);
  else
    setup.layer.inverse(call, in, out, log_det, cache);
}

/// "output" and "log_det". The output starts from NaN, because it is to be written; the log-det from `start`, because
/// it is to be added to. Every evaluation repeats the same draws.
template <Real S>
Tensors<S> evaluate(const Setup<S>& setup, typename AnyLayer<S>::Cache& cache, Keep keep = Keep::everything,
                    S start = 0) {
  Matrix<S> out = Matrix<S>::Constant(setup.rows(), setup.in.cols(), std::numeric_limits<S>::quiet_NaN());
  Vector<S> log_det = Vector<S>::Constant(setup.rows(), start);
  Rng draws(1);
  Call<S> call = setup.call(draws);
  call.keep = keep;
  run<S>(setup, call, setup.in, out, log_det, cache);
  return {{"output", out}, {"log_det", log_det}};
}
template <Real S>
Tensors<S> evaluate(const Setup<S>& setup) {
  typename AnyLayer<S>::Cache cache;
  return evaluate(setup, cache);
}

/// "d input", "d context" and "d <parameter>" as far as wanted. d input starts from NaN, the others from `start`.
template <Real S>
Tensors<S> pull(const Setup<S>& setup, const Tensors<S>& evaluated, typename AnyLayer<S>::Cache& cache,
                Wanted wanted = {}, S start = 0) {
  const AnyLayer<S>& layer = setup.layer;
  Matrix<S> d_in = Matrix<S>::Constant(setup.rows(), setup.in.cols(), std::numeric_limits<S>::quiet_NaN());
  Matrix<S> d_context = Matrix<S>::Constant(setup.context.rows(), setup.context.cols(), start);
  typename AnyLayer<S>::Gradient gradient = layer.make_gradient();
  for_each_parameter(gradient, [&](std::string_view, Batch<S> values) { values.array() += start; });
  wanted.d_context = wanted.d_context && layer.context_dim() > 0;

  Rng draws(2);
  const Call<S> call = setup.call(draws);
  Batch<S> d_in_view(d_in), d_context_view(d_context);
  const ConstBatch<S> in(setup.in), out(evaluated[0].values), d_out(setup.output_weight);
  Batch<S>* const to_input = wanted.d_input ? &d_in_view : nullptr;
  Batch<S>* const to_context = wanted.d_context ? &d_context_view : nullptr;
  auto* const to_gradient = wanted.gradient ? &gradient : nullptr;
  if (setup.direction == Direction::forward)
    layer.forward_pullback(call, in, out, cache, d_out, setup.log_det_weight, to_input, to_context, to_gradient);
  else
    layer.inverse_pullback(call, in, out, cache, d_out, setup.log_det_weight, to_input, to_context, to_gradient);

  Tensors<S> result;
  if (wanted.d_input) result.push_back({"d input", d_in});
  if (wanted.d_context) result.push_back({"d context", d_context});
  if (wanted.gradient)
    for_each_parameter(std::as_const(gradient), [&](std::string_view name, ConstBatch<S> values) {
      result.push_back({"d " + std::string(name), values});
    });
  return result;
}
template <Real S>
Tensors<S> evaluate_and_pull(const Setup<S>& setup, typename AnyLayer<S>::Cache& cache) {
  Tensors<S> all = evaluate(setup, cache);
  for (Tensor<S>& tensor : pull(setup, all, cache)) all.push_back(std::move(tensor));
  return all;
}
template <Real S>
Tensors<S> evaluate_and_pull(const Setup<S>& setup) {
  typename AnyLayer<S>::Cache cache;
  return evaluate_and_pull(setup, cache);
}

bool is_value(std::string_view name) { return name == "output" || name == "log_det"; }

/// A failure's text with enough digits to tell two doubles apart.
template <class... Part>
std::string text(const Part&... part) {
  std::ostringstream stream;
  stream.precision(std::numeric_limits<double>::max_digits10);
  (stream << ... << part);
  return stream.str();
}

template <Real S>
class Checker {
 public:
  Checker(const Subject<S>& subject, const ConformanceOptions& options) : subject_(subject), options_(options) {
    report_.scalar = is_double ? "double" : "float";
    report_.name = options.name;
  }

  Report run() {
    if (options_.reason.empty() &&
        !(options_.in_double == Tolerance<double>{} && options_.in_float == Tolerance<float>{}))
      fail("options", "a tolerance was changed without a reason");
    for (const Index dim : options_.dims)
      for (const Index context : options_.contexts) {
        dim_ = dim;
        context_ = context;
        guarded("of one layer", [&] { check_one_layer(); });
        for (const Index n : options_.batches)
          for (const Direction direction : {Direction::forward, Direction::inverse})
            for (const bool shared : {false, true}) {
              if (shared && (context == 0 || n == 1)) continue;
              guarded("of a batch", [&] { check_batch(n, direction, shared); });
            }
      }
    return std::move(report_);
  }

 private:
  static constexpr bool is_double = std::same_as<S, double>;
  using Cache = typename AnyLayer<S>::Cache;

  // ---- what is being checked, for the texts of failures ----

  Index dim_ = 0, context_ = 0;
  std::string batch_;  // "n = 7 forward"
  std::uint64_t seed_ = 0;

  void fail(std::string_view property, const std::string& what) {
    report_.failures.push_back(text(report_.name, "<", report_.scalar, "> dim ", dim_, " context ", context_, " ",
                                    batch_, ": ", property, ": ", what, " (seed ", seed_, ")"));
  }
  template <class F>
  void guarded(std::string_view what, F&& f) {
    try {
      f();
    } catch (const std::exception& error) {
      fail(text("the checks ", what), text("threw: ", error.what()));
    }
  }

  const Tolerance<S>& tolerance() const {
    if constexpr (is_double)
      return options_.in_double;
    else
      return options_.in_float;
  }

  // ---- comparisons ----

  /// Same names, same shapes; false (and a failure) otherwise.
  template <Real A, Real B>
  bool paired(std::string_view property, const Tensors<A>& got, const Tensors<B>& want) {
    bool same = got.size() == want.size();
    for (std::size_t i = 0; same && i < got.size(); ++i)
      same = got[i].name == want[i].name && got[i].values.rows() == want[i].values.rows() &&
             got[i].values.cols() == want[i].values.cols();
    if (!same) fail(property, "the tensors differ in number, name or shape");
    return same;
  }

  /// Same bits; false (and a failure that names the first entry that differs) otherwise.
  bool identical(std::string_view property, const Tensors<S>& got, const Tensors<S>& want) {
    if (!paired(property, got, want)) return false;
    for (std::size_t t = 0; t < got.size(); ++t) {
      const Matrix<S>&a = got[t].values, &b = want[t].values;
      if (same_bits(a, b)) continue;
      for (Index j = 0; j < a.cols(); ++j)
        for (Index i = 0; i < a.rows(); ++i)
          if (std::memcmp(&a(i, j), &b(i, j), sizeof(S)) != 0) {
            fail(property, text(got[t].name, "(", i, ", ", j, ") is ", a(i, j), ", expected the bits of ", b(i, j)));
            return false;
          }
    }
    return true;
  }

  /// Every tensor within its tolerance: values relative to at least 1, derivatives to at least 1e-3. Returns the error
  /// of each tensor.
  template <Real A, Real B, class ToleranceOf>
  std::vector<double> close(std::string_view property, const Tensors<A>& got, const Tensors<B>& want,
                            ToleranceOf&& tolerance_of) {
    std::vector<double> errors;
    if (!paired(property, got, want)) return errors;
    for (std::size_t t = 0; t < got.size(); ++t) {
      const auto& a = got[t].values;
      const auto& b = want[t].values;
      const double tolerance = tolerance_of(got[t].name);
      errors.push_back(relative_error(a, b, is_value(got[t].name) ? 1 : 1e-3));
      if (errors.back() <= tolerance) continue;
      Index row = 0, col = 0;
      double worst = -1;
      for (Index j = 0; j < a.cols(); ++j)
        for (Index i = 0; i < a.rows(); ++i) {
          const double d = std::abs(static_cast<double>(a(i, j)) - static_cast<double>(b(i, j)));
          if (std::isnan(d) || d > worst) {
            row = i;
            col = j;
            if (std::isnan(d)) break;
            worst = d;
          }
        }
      fail(property, text(got[t].name, "(", row, ", ", col, ") is ", a(row, col), ", expected ", b(row, col),
                          "; error ", errors.back(), ", tolerance ", tolerance));
    }
    return errors;
  }
  template <Real A, Real B>
  std::vector<double> close(std::string_view property, const Tensors<A>& got, const Tensors<B>& want,
                            double tolerance) {
    return close(property, got, want, [&](std::string_view) { return tolerance; });
  }

  /// Files the errors of evaluate_and_pull's tensors under their headings.
  template <Real A>
  void note(Direction direction, const Tensors<A>& tensors, const std::vector<double>& errors) {
    Errors& worst = report_.worst[static_cast<std::size_t>(direction)];
    for (std::size_t t = 0; t < errors.size(); ++t) {
      const std::string& name = tensors[t].name;
      if (name == "output") continue;
      double& kind = name == "log_det"     ? worst.log_det
                     : name == "d input"   ? worst.d_input
                     : name == "d context" ? worst.d_context
                                           : worst.d_parameters;
      kind = std::max(kind, errors[t]);
    }
  }

  // ---- layers and batches ----

  AnyLayer<S> fresh(std::uint64_t seed) const {
    Rng rng(seed);
    return subject_.make(dim_, context_, rng);
  }
  AnyLayer<S> away_from_identity(Rng& rng) const {
    AnyLayer<S> layer = subject_.make(dim_, context_, rng);
    perturb(layer, options_.perturbation, rng);
    return layer;
  }

  S in_domain(Direction direction, double value) const {
    return static_cast<S>(options_.domain ? options_.domain(direction, value) : value);
  }

  /// A layer away from the identity, inputs of deviation 1.5 (the first of several rows all zero), and random weights.
  Setup<S> setup(Index n, Direction direction, bool shared_context, Rng& rng) const {
    AnyLayer<S> layer = away_from_identity(rng);
    const Index dim = layer.dim();
    Setup<S> made{std::move(layer),  direction,    Matrix<S>(n, dim), Matrix<S>(shared_context ? 1 : n, context_),
                  Matrix<S>(n, dim), Vector<S>(n), options_.training};
    const auto draw_row = [&](Index i, double deviation) {
      for (Index j = 0; j < dim; ++j) made.in(i, j) = in_domain(direction, deviation * rng.normal<double>());
      if (!shared_context) rng.fill_normal(made.context.row(i));
    };
    for (Index i = 0; i < n; ++i) draw_row(i, i == 0 && n > 1 ? 0.0 : 1.5);
    if (shared_context) rng.fill_normal(made.context);
    rng.fill_normal(made.output_weight);
    rng.fill_normal(made.log_det_weight);

    if (!subject_.kink_distance) return made;
    for (int round = 1;; ++round) {
      Rng draws(1);
      const Vector<S> distance =
          subject_.kink_distance(made.layer, dim_, context_, direction, made.call(draws), made.in);
      if (distance.size() != n) throw std::runtime_error("kink_distance must return one value per row");
      bool redrawn = false;
      for (Index i = 0; i < n; ++i)
        if (!(static_cast<double>(distance[i]) > options_.kink_margin)) {
          draw_row(i, 1.5);
          redrawn = true;
        }
      if (!redrawn) return made;
      if (round == 1000) throw std::runtime_error("no input keeps kink_margin's distance from every kink");
      if (shared_context && round % 20 == 0) rng.fill_normal(made.context);  // it may be the culprit for every row
    }
  }

  // ---- checks of a layer that no batch size is needed for ----

  void check_one_layer() {
    seed_ = static_cast<std::uint64_t>(dim_ * 1000 + context_ * 100 + 99);
    batch_ = "";
    AnyLayer<S> layer = fresh(seed_);
    const Options options = layer.options();
    if (report_.name.empty() && options.has("type")) report_.name = options.type();
    if (!options.has("type") || options.type().empty()) fail("options", "the type is missing or empty");

    std::vector<std::string> parameters, gradients;
    const auto described = [](std::string_view name, ConstBatch<S> values) {
      return text(name, ": ", values.rows(), " x ", values.cols());
    };
    for_each_parameter(std::as_const(layer), [&](std::string_view name, ConstBatch<S> values) {
      parameters.push_back(described(name, values));
    });
    const typename AnyLayer<S>::Gradient gradient = layer.make_gradient();
    for_each_parameter(gradient, [&](std::string_view name, ConstBatch<S> values) {
      gradients.push_back(described(name, values));
      if (!(values.array() == S(0)).all()) fail("gradient structure", text(name, " does not start from zero"));
    });
    if (parameters != gradients) fail("gradient structure", "names or shapes differ from those of the parameters");

    check_initialize(layer);
  }

  void check_initialize(AnyLayer<S> layer) {
    Rng rng(seed_);
    Matrix<S> x(256, layer.dim()), other(256, layer.dim()), context(256, context_);
    for (Index j = 0; j < x.cols(); ++j)
      for (Index i = 0; i < x.rows(); ++i) {
        x(i, j) = in_domain(Direction::inverse, 2 * rng.normal<double>() + 1);
        other(i, j) = in_domain(Direction::inverse, rng.normal<double>());
      }
    rng.fill_normal(context);
    Rng draws(1);
    const Call<S> call{.context = context_ == 0 ? ConstBatch<S>() : ConstBatch<S>(context), .rng = &draws};
    layer.initialize(call, x);
    AnyLayer<S> twice = layer;
    twice.initialize(call, other);
    if (!same_values(layer, twice)) fail("initialize", "a second call changed parameters or state");
  }

  // ---- checks of one batch ----

  void check_batch(Index n, Direction direction, bool shared) {
    seed_ = static_cast<std::uint64_t>(((dim_ * 100 + context_) * 1000 + n) * 4 + (shared ? 2 : 0)) +
            static_cast<std::uint64_t>(direction);
    batch_ =
        text("n = ", n, direction == Direction::forward ? " forward" : " inverse", shared ? " shared context" : "");
    Rng rng(seed_);
    const Setup<S> s = setup(n, direction, shared, rng);
    Cache cache;
    const Tensors<S> result = evaluate_and_pull(s, cache);
    const Traits traits = s.layer.traits();
    const bool rows_separable = traits.rows_independent && traits.log_det_exact;  // estimates draw for a whole batch

    check_round_trip(s, result);
    check_added(s, result, cache);
    check_declined(s, result, cache);
    check_cache(s, result, cache);
    if (n <= small_batch) check_output_kept(s);
    check_copies(s, result);
    check_shapes(s);
    if (n > 0) check_finite(s, rng);
    if (n > 0 && n <= small_batch) {
      if constexpr (is_double) {
        if (rows_separable) check_log_det(s, result);
        check_gradients(s, result, rng);
      }
      if (rows_separable && n > 1) check_parts(s, result, 1);
      if (traits.rows_independent && n > 1) check_nan_rows(s);
      if (traits.affine && !s.training) check_affine(s, result);
    }
    if (n > small_batch && rows_separable) check_parts(s, result, small_batch);
    if constexpr (!is_double) check_against_double(s, result);
    if (n > 0) {
      check_threads(s, result);
      check_allocations(s);
    }
  }

  void check_round_trip(const Setup<S>& s, const Tensors<S>& result) {
    Setup<S> back = s;
    back.direction = s.direction == Direction::forward ? Direction::inverse : Direction::forward;
    back.in = result[0].values;
    const Tensors<S> returned = evaluate(back);
    double worst = 0;
    for (Index i = 0; i < s.rows(); ++i) {
      for (Index j = 0; j < s.in.cols(); ++j) {
        const double x = s.in(i, j), y = returned[0].values(i, j);
        const double error = std::abs(y - x) / std::max(1.0, std::abs(x));
        if (!(error <= tolerance().round_trip))
          return fail("round trip", text("input(", i, ", ", j, ") is ", x, ", came back as ", y, "; error ", error,
                                         ", tolerance ", tolerance().round_trip));
        worst = std::max(worst, error);
      }
      const double there = result[1].values(i, 0), here = returned[1].values(i, 0);
      const double error = std::abs(there + here) / std::max(1.0, std::abs(there));
      if (s.layer.traits().log_det_exact && !(error <= tolerance().round_trip))
        return fail("log-dets cancel", text("log_det(", i, ") is ", there, " there and ", here, " back"));
    }
    double& noted = report_.worst[static_cast<std::size_t>(s.direction)].round_trip;
    noted = std::isinf(tolerance().round_trip) ? std::numeric_limits<double>::quiet_NaN() : std::max(noted, worst);
  }

  /// log|det| of the numeric Jacobian, per row. Its error is an absolute one: a log-det's error is a determinant's
  /// relative one.
  void check_log_det(const Setup<S>& s, const Tensors<S>& result) {
    const Index n = s.rows(), dim = s.in.cols();
    std::vector<Matrix<double>> columns;  // d output / d input_j for all rows at once
    for (Index j = 0; j < dim; ++j)
      columns.push_back(central_difference(
          [&](double t) {
            Setup<S> moved = s;
            moved.in.col(j).array() += static_cast<S>(t);
            return Matrix<double>(evaluate(moved)[0].values.template cast<double>());
          },
          options_.step));
    Matrix<double> log_det(n, 1);
    for (Index i = 0; i < n; ++i) {
      Matrix<double> jacobian(dim, dim);
      for (Index j = 0; j < dim; ++j) jacobian.col(j) = columns[static_cast<std::size_t>(j)].row(i).transpose();
      log_det(i, 0) = Eigen::PartialPivLU<Matrix<double>>(jacobian).matrixLU().diagonal().array().abs().log().sum();
    }
    const Tensors<S> got{result[1]};
    note(
        s.direction, got,
        close("log-det against the numeric Jacobian", got, Tensors<double>{{"log_det", log_det}}, tolerance().log_det));
  }

  /// Every derivative of L entry by entry; of a large tensor a random choice of entries.
  void check_gradients(Setup<double> s, const Tensors<double>& result, Rng& rng) {
    AnyLayer<double>::Cache cache;
    const auto derivative = [&](double& entry) {
      const Vector<double> slope = differentiate(
          entry,
          [&] {
            const Tensors<double> now = evaluate(s, cache);
            Vector<double> all(now[0].values.size() + now[1].values.size());
            all << now[0].values.reshaped(), now[1].values;
            return all;
          },
          options_.step);
      return slope.head(s.in.size()).dot(s.output_weight.reshaped()) + slope.tail(s.rows()).dot(s.log_det_weight);
    };
    std::vector<Batch<double>> inputs{Batch<double>(s.in)};
    if (s.layer.context_dim() > 0) inputs.emplace_back(s.context);
    for (auto& parameter : parameter_list<double>(s.layer)) inputs.push_back(parameter.values);

    Tensors<double> got(result.begin() + 2, result.end()), want;
    if (inputs.size() != got.size()) return fail("gradients", "there are not as many as inputs and parameters");
    for (std::size_t t = 0; t < got.size(); ++t) {
      Batch<double>& input = inputs[t];
      Matrix<double> checked = Matrix<double>::Zero(input.rows(), input.cols());  // entries left out are 0 in both
      Matrix<double> numeric = checked;
      if (got[t].values.rows() != input.rows() || got[t].values.cols() != input.cols())
        return fail("gradients", text(got[t].name, " has another shape than what it is the derivative of"));
      std::vector<Index> entries(static_cast<std::size_t>(input.size()));
      std::iota(entries.begin(), entries.end(), Index(0));
      if (input.size() > most_entries) {
        rng.shuffle(entries);
        entries.resize(static_cast<std::size_t>(most_entries));
      }
      for (const Index e : entries) {
        numeric.data()[e] = derivative(input.data()[e]);
        checked.data()[e] = got[t].values.data()[e];
      }
      got[t].values = checked;
      want.push_back({got[t].name, numeric});
    }
    note(s.direction, got, close("gradient against finite differences", got, want, tolerance().gradient));
  }

  /// A batch in parts: outputs and derivatives of the inputs row by row, those of what is shared summed.
  void check_parts(const Setup<S>& s, const Tensors<S>& result, Index size) {
    Tensors<S> sum = result;
    for (Tensor<S>& tensor : sum) tensor.values.setZero();
    const bool shared = s.context.rows() != s.rows();
    Cache cache;
    for (Index first = 0; first < s.rows(); first += size) {
      const Index count = std::min(size, s.rows() - first);
      const Tensors<S> part = evaluate_and_pull(s.part(first, count), cache);
      for (std::size_t t = 0; t < sum.size(); ++t) {
        const bool per_row =
            is_value(sum[t].name) || sum[t].name == "d input" || (sum[t].name == "d context" && !shared);
        if (per_row)
          sum[t].values.middleRows(first, count) = part[t].values;
        else
          sum[t].values += part[t].values;
      }
    }
    close(text("against batches of ", size), result, sum,
          [&](std::string_view name) { return is_value(name) ? tolerance().rounding : tolerance().gradient; });
  }

  void check_against_double(const Setup<S>& s, const Tensors<S>& result) {
    if (!subject_.widen) return;
    const Tensors<double> want = evaluate_and_pull(s.with(subject_.widen(s.layer, dim_, context_)));
    note(s.direction, result, close("float against double", result, want, [&](std::string_view name) {
           return name == "log_det" ? tolerance().log_det : tolerance().gradient;
         }));
  }

  /// log_det, d_context and gradient are added to what is there.
  void check_added(const Setup<S>& s, const Tensors<S>& result, Cache& cache) {
    Tensors<S> added = evaluate(s, cache, Keep::everything, S(2.5));
    for (Tensor<S>& tensor : pull(s, added, cache, {}, S(-1.5))) added.push_back(std::move(tensor));
    Tensors<S> want = result;
    for (Tensor<S>& tensor : want)
      if (tensor.name == "log_det")
        tensor.values.array() += S(2.5);
      else if (tensor.name != "output" && tensor.name != "d input")
        tensor.values.array() -= S(1.5);
    close("added to what is there", added, want, tolerance().rounding);
  }

  /// A layer that says so is affine: half way between two inputs lies half way between their outputs.
  void check_affine(const Setup<S>& s, const Tensors<S>& result) {
    Setup<S> between = s;
    between.in = (s.in + s.in.colwise().reverse()) / S(2);
    const Matrix<S>& out = result[0].values;
    const Vector<S> log_det = Vector<S>::Constant(s.rows(), result[1].values(0, 0));
    close("affine", evaluate(between),
          Tensors<S>{{"output", (out + out.colwise().reverse()) / S(2)}, {"log_det", log_det}}, tolerance().rounding);
  }

  /// What is declined changes nothing of the rest.
  void check_declined(const Setup<S>& s, const Tensors<S>& result, Cache& cache) {
    const Tensors<S> evaluated = evaluate(s, cache);
    const auto without = [&](const Wanted& wanted) {
      Tensors<S> rest;
      for (std::size_t t = 2; t < result.size(); ++t) {
        const std::string& name = result[t].name;
        if (name == "d input" ? wanted.d_input : name == "d context" ? wanted.d_context : wanted.gradient)
          rest.push_back(result[t]);
      }
      return rest;
    };
    for (int mask = 0; mask < 8; ++mask) {
      const Wanted wanted{(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0};
      identical("with derivatives declined", pull(s, evaluated, cache, wanted), without(wanted));
    }
  }

  /// A cache that has served another batch size and direction, one that keeps nothing, and a second pullback.
  void check_cache(const Setup<S>& s, const Tensors<S>& result, Cache& used) {
    identical("a second pullback with the same cache", pull(s, result, used),
              Tensors<S>(result.begin() + 2, result.end()));
    Rng rng(seed_ + 1);
    Setup<S> other = setup(s.rows() == 3 ? 5 : 3, s.direction, false, rng);
    other.layer = s.layer;
    Cache cache;
    for (const Direction direction :
         {s.direction, s.direction == Direction::forward ? Direction::inverse : Direction::forward}) {
      other.in = evaluate(other, cache)[0].values;  // so that it lies in the domain of the next direction
      other.direction = direction == Direction::forward ? Direction::inverse : Direction::forward;
    }
    identical("with a cache used before", evaluate_and_pull(s, cache), result);
    identical("with Keep::nothing", evaluate(s, cache, Keep::nothing), {result[0], result[1]});
  }

  /// A pullback that rebuilds every input from the output does what one that remembers them does: of the layer, there
  /// and back and there again, through one shared cache.
  void check_output_kept(const Setup<S>& s) {
    Setup<S> thrice = s;
    thrice.layer = Repeat<AnyLayer<S>>({s.layer, Inverted<AnyLayer<S>>(s.layer), s.layer});
    Cache everything, output;
    const Tensors<S> want = evaluate_and_pull(thrice, everything);
    const Tensors<S> evaluated = evaluate(thrice, output, Keep::output);
    identical("with Keep::output", evaluated, {want[0], want[1]});
    for (const char* which : {"with Keep::output", "a second pullback with Keep::output"})
      close(which, pull(thrice, evaluated, output), Tensors<S>(want.begin() + 2, want.end()), tolerance().gradient);
  }

  void check_copies(const Setup<S>& s, const Tensors<S>& result) {
    Setup<S> copy = s;
    identical("of a copy", evaluate_and_pull(copy), result);
    Rng rng(seed_ + 2);
    perturb(copy.layer, 0.5, rng);
    identical("after a copy was changed", evaluate_and_pull(s), result);
    Setup<S> read = s;
    read.layer = reload(s.layer, fresh(seed_ + 3));
    if (!same_values(read.layer, s.layer)) fail("reloaded", "parameters or state differ");
    identical("reloaded", evaluate_and_pull(read), result);
  }

  void check_threads(const Setup<S>& s, const Tensors<S>& result) {
    const auto work = [&s] {
      Cache cache;
      evaluate_and_pull(s, cache);
      return evaluate_and_pull(s, cache);
    };
    auto other = std::async(std::launch::async, work);
    const Tensors<S> here = work();
    identical("in two threads", here, result);
    identical("in two threads", other.get(), result);
  }

  /// A NaN stays in its row.
  void check_nan_rows(const Setup<S>& s) {
    const Tensors<S> clean = evaluate(s);
    for (Index row = 0; row < s.rows(); ++row)
      for (Index j = 0; j < s.in.cols(); ++j) {
        Setup<S> dirty = s;
        dirty.in(row, j) = std::numeric_limits<S>::quiet_NaN();
        Tensors<S> got = evaluate(dirty);
        if (!got[0].values.row(row).hasNaN() && !got[1].values.row(row).hasNaN())
          return fail("NaN rows", text("NaN in input(", row, ", ", j, ") has left output and log_det finite"));
        for (Tensor<S>& tensor : got) tensor.values.row(row) = clean[tensor.name == "output" ? 0 : 1].values.row(row);
        if (!identical("rows beside a NaN", got, clean)) return;
      }
  }

  /// Finite inputs up to the largest give finite outputs.
  void check_finite(const Setup<S>& s, Rng& rng) {
    Setup<S> large = s;
    for (Index j = 0; j < s.in.cols(); ++j)
      for (Index i = 0; i < s.rows(); ++i) {
        const double size = options_.largest_input * std::pow(10.0, -rng.uniform<double>());
        large.in(i, j) = in_domain(s.direction, rng.uniform<double>() < 0.5 ? size : -size);
      }
    for (const Tensor<S>& tensor : evaluate(large))
      for (Index j = 0; j < tensor.values.cols(); ++j)
        for (Index i = 0; i < tensor.values.rows(); ++i)
          if (!std::isfinite(tensor.values(i, j)))
            return fail("large inputs", text(tensor.name, "(", i, ", ", j, ") is ", tensor.values(i, j), " where row ",
                                             i, " of the input is ", large.in.row(i)));
  }

  /// Wrong shapes throw std::invalid_argument, name the argument and write nothing.
  void check_shapes(const Setup<S>& s) {
    const Index n = s.rows(), dim = s.in.cols(), columns = s.layer.context_dim();
    struct Shapes {
      std::string_view argument;
      Index in_rows, in_cols, out_rows, out_cols, log_dets, context_rows, context_cols;
    };
    const Index context_rows = columns == 0 ? 0 : n;
    std::vector<Shapes> wrong{{"input", n, dim + 1, n, dim, n, context_rows, columns},
                              {"input", n, dim - 1, n, dim - 1, n, context_rows, columns},
                              {"output", n, dim, n + 1, dim, n, context_rows, columns},
                              {"output", n, dim, n, dim + 1, n, context_rows, columns},
                              {"log_det", n, dim, n, dim, n + 1, context_rows, columns},
                              {"context", n, dim, n, dim, n, n, columns + 1}};
    if (columns > 0) wrong.push_back({"context", n, dim, n, dim, n, n + 2, columns});
    if (columns > 0) wrong.push_back({"context", n, dim, n, dim, n, 0, 0});
    for (const Shapes& w : wrong) {
      const S mark = S(7.25);
      const Matrix<S> in = Matrix<S>::Constant(w.in_rows, w.in_cols, in_domain(s.direction, 0.5));
      const Matrix<S> context = Matrix<S>::Zero(w.context_rows, w.context_cols);
      Matrix<S> out = Matrix<S>::Constant(w.out_rows, w.out_cols, mark);
      Vector<S> log_det = Vector<S>::Constant(w.log_dets, mark);
      Rng draws(1);
      Call<S> call{.context = context, .training = s.training, .rng = &draws};
      Cache cache;
      std::optional<std::string> message;
      try {
        testing::run<S>(s, call, in, out, log_det, cache);
      } catch (const std::invalid_argument& error) {
        message = error.what();
      }
      const std::string which = text("a wrong ", w.argument);
      if (!message)
        fail("bad shapes", which + " does not throw std::invalid_argument");
      else if (message->find(w.argument) == std::string::npos)
        fail("bad shapes", text(which, " is not named in '", *message, "'"));
      if (!(out.array() == mark).all() || !(log_det.array() == mark).all())
        fail("bad shapes", which + " was noticed after something had been written");
    }
  }

  /// The third evaluation and pullback take nothing from the heap.
  void check_allocations(const Setup<S>& s) {
    if (!testing::counts_allocations()) return;
    Matrix<S> out(s.rows(), s.in.cols()), d_in(s.rows(), s.in.cols()), d_context(s.context.rows(), s.context.cols());
    Vector<S> log_det(s.rows());
    auto gradient = s.layer.make_gradient();
    Batch<S> d_in_view(d_in), d_context_view(d_context);
    Rng draws(1);
    const Call<S> call = s.call(draws);
    Batch<S>* const to_context = s.layer.context_dim() > 0 ? &d_context_view : nullptr;
    Cache cache;
    std::size_t taken = 0;
    for (int pass = 0; pass < 3; ++pass) {
      log_det.setZero();
      taken = testing::allocations_in([&] {
        testing::run<S>(s, call, s.in, out, log_det, cache);
        if (s.direction == Direction::forward)
          s.layer.forward_pullback(call, s.in, out, cache, s.output_weight, s.log_det_weight, &d_in_view, to_context,
                                   &gradient);
        else
          s.layer.inverse_pullback(call, s.in, out, cache, s.output_weight, s.log_det_weight, &d_in_view, to_context,
                                   &gradient);
      });
    }
    if (taken != 0) fail("steady state", text("an evaluation and its pullback allocate ", taken, " times"));
  }

  const Subject<S>& subject_;
  const ConformanceOptions& options_;
  Report report_;
};

/// The reports of a program, printed at its end where the environment asks for them.
struct Reports {
  std::vector<Report> list;
  ~Reports() {
    if (std::getenv("RHEI_ERROR_TABLE") == nullptr) return;
    std::printf("| layer | scalar | direction | round trip | log-det | d input | d context | d parameters |\n");
    std::printf("|---|---|---|---|---|---|---|---|\n");
    for (const Report& report : list)
      for (std::size_t d = 0; d < 2; ++d) {
        const Errors& e = report.worst[d];
        std::printf("| %s | %s | %s | %.1e | %.1e | %.1e | %.1e | %.1e |\n", report.name.c_str(), report.scalar.c_str(),
                    d == 0 ? "forward" : "inverse", e.round_trip, e.log_det, e.d_input, e.d_context, e.d_parameters);
      }
  }
};

}  // namespace

template <Real S>
void perturb(AnyLayer<S>& layer, double by, Rng& rng) {
  for_each_parameter(layer, [&](std::string_view, Batch<S> values) {
    const bool is_matrix = values.rows() > 1 && values.cols() > 1;
    const double scale = is_matrix ? by / std::sqrt(static_cast<double>(std::max(values.rows(), values.cols()))) : by;
    for (Index i = 0; i < values.size(); ++i) values.data()[i] += static_cast<S>(scale * rng.normal<double>());
  });
  rhei::check_state(layer);
}
template void perturb(AnyLayer<float>&, double, Rng&);
template void perturb(AnyLayer<double>&, double, Rng&);

template <Real S>
bool same_values(const AnyLayer<S>& a, const AnyLayer<S>& b) {
  using Bytes = std::pair<std::string, std::string>;  // of a tensor: its name and its memory
  const auto all = [](const AnyLayer<S>& layer) {
    std::vector<Bytes> list;
    const auto add = [&](std::string_view name, const auto& values) {
      const std::size_t size = sizeof(*values.data()) * static_cast<std::size_t>(values.size());
      list.emplace_back(name, std::string(reinterpret_cast<const char*>(values.data()), size));
    };
    for_each_parameter(layer, add);
    for_each_state(layer, add);
    return list;
  };
  return all(a) == all(b);
}
template bool same_values(const AnyLayer<float>&, const AnyLayer<float>&);
template bool same_values(const AnyLayer<double>&, const AnyLayer<double>&);

template <Real S>
AnyLayer<S> reload(const AnyLayer<S>& layer, AnyLayer<S> other) {
  load_into(other, parse_safetensors(format_safetensors(to_safetensors(layer))));
  return other;
}
template AnyLayer<float> reload(const AnyLayer<float>&, AnyLayer<float>);
template AnyLayer<double> reload(const AnyLayer<double>&, AnyLayer<double>);

template <Real S>
Report check_layer(const Subject<S>& subject, const ConformanceOptions& options) {
  return Checker<S>(subject, options).run();
}
template Report check_layer(const Subject<float>&, const ConformanceOptions&);
template Report check_layer(const Subject<double>&, const ConformanceOptions&);

std::vector<Report>& error_report() {
  static Reports reports;
  return reports.list;
}

void assert_conforms(const Report& report) {
  constexpr std::size_t most = 20;
  for (std::size_t i = 0; i < std::min(most, report.failures.size()); ++i) FAIL_CHECK(report.failures[i]);
  if (report.failures.size() > most) FAIL_CHECK("... and " << report.failures.size() - most << " more");
  CHECK(report.failures.empty());
  error_report().push_back(report);
}

}  // namespace rhei::testing
