// SPDX-License-Identifier: MIT

/// \file
/// Random conformance: every layer of subjects_*.cpp at random sizes, parameters and inputs, both directions, until the
/// time is up. A case is named by layer, scalar and seed, and is repeated by that name.
/// \code
///   random_conformance [--seconds 60] [--seed 1] [--threads 2] [--only layer]
///   random_conformance --repeat affine_coupling/float/4294967311
/// \endcode
/// It complements the conformance suite, which looks at few sizes thoroughly. What a case checks, in each direction:
///
/// - round trip; the log-dets of the two directions cancel;
/// - log-det against the LU of a numeric Jacobian, and one directional derivative of a random loss per tensor (input,
///   context, each parameter) against differences; in float both, and all derivatives, against the layer in double;
/// - the batch against its rows one by one, derivatives that are declined, evaluations that keep nothing, and a NaN
///   that stays in its row, bit for bit; finite results.
///
/// **Tolerances** follow from the case, because inputs of size 30 and parameters of size 1 are often badly conditioned.
/// Two quantities enter:
///
/// 1. *Conditioning*: how far a result moves, in double, when every number it depends on (parameters, input, context,
///    the loss's weights; on the way back again) is changed by a random relative step (data below the layer's own
///    lengths, mostly 1: by an absolute one). Rounding does no more than such changes of a few epsilon, so an error of
///    `kRounding` epsilon times that is a defect. The largest of a few random steps is an estimate from below, so
///    before a failure is believed it is made from many more. Near a kink a step crosses it where rounding might, so
///    that a derivative in float is compared with both of its sides.
/// 2. *The error of the differences*, from the function alone: central differences of step h against those of 2 h
///    (truncation), those to the right against those to the left (kinks and knots), and rounding / h. For a single kink
///    or knot anywhere within reach of the stencil the true error is at most 1.4 times (a jump of the slope) and 5.8
///    times (of the curvature) that sum; kDifference is above both. The step is the best of a ladder. Differences that
///    remain too vague to say much (5 digits) are counted and printed: `vague`.

#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <Eigen/LU>
#include <limits>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>

#include "fuzz/subjects.hpp"

namespace rhei::fuzz {

namespace {

constexpr double kRounding = 64;  // epsilons, times the conditioning
constexpr double kDifference = 8;
constexpr double kVague = 1e-5;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int kFewSteps = 3, kManySteps = 64;

// ---- a case ----

struct Name {
  std::string layer, scalar;
  std::uint64_t seed = 0;
};
std::string text(const Name& name) { return name.layer + "/" + name.scalar + "/" + std::to_string(name.seed); }

/// What this thread is at, for the message of a sanitizer or an assertion that ends the program.
thread_local Name current;

void print_current(int) {
  std::fprintf(stderr, "aborted in case %s\n", text(current).c_str());
  std::_Exit(1);
}

/// One evaluation and the loss <d_out, out> + <d_log_det, log_det> behind it.
template <Real S>
struct Evaluation {
  AnyLayer<S> layer;
  Direction direction;
  Matrix<S> in, context, d_out;
  Vector<S> d_log_det;
  double length;  ///< as in Subject

  Evaluation<double> with(const AnyLayer<double>& wide) const {
    return {wide,
            direction,
            in.template cast<double>(),
            context.template cast<double>(),
            d_out.template cast<double>(),
            d_log_det.template cast<double>(),
            length};
  }
  bool shares_context() const { return context.rows() != in.rows(); }
  Evaluation row(Index i) const {
    Evaluation one = *this;
    one.in = in.row(i);
    if (!shares_context()) one.context = context.row(i);
    one.d_out = d_out.row(i);
    one.d_log_det = d_log_det.segment(i, 1);
    return one;
  }
  Call<S> call(Rng& draws, Keep keep = Keep::everything) const {
    return {
        .context = layer.context_dim() == 0 ? ConstBatch<S>() : ConstBatch<S>(context), .keep = keep, .rng = &draws};
  }
};

template <Real S>
struct Tensor {
  std::string name;
  Matrix<S> values;
};
template <Real S>
using Tensors = std::vector<Tensor<S>>;

/// "output" and "log-det".
template <Real S>
Tensors<S> evaluate(const Evaluation<S>& e, typename AnyLayer<S>::Cache& cache, Keep keep = Keep::everything) {
  Matrix<S> out = Matrix<S>::Constant(e.in.rows(), e.in.cols(), std::numeric_limits<S>::quiet_NaN());
  Vector<S> log_det = Vector<S>::Zero(e.in.rows());
  Rng draws(1);
  const auto direction = e.direction == Direction::forward ? &AnyLayer<S>::forward : &AnyLayer<S>::inverse;
  (e.layer.*direction)(e.call(draws, keep), e.in, out, log_det, cache);
  return {{"output", out}, {"log-det", log_det}};
}

struct Wanted {
  bool d_input = true, d_context = true, d_parameters = true;
};

/// "d input", "d context", "d <parameter>", as far as wanted.
template <Real S>
Tensors<S> pull(const Evaluation<S>& e, const Matrix<S>& out, typename AnyLayer<S>::Cache& cache, Wanted wanted = {}) {
  Matrix<S> d_in = Matrix<S>::Constant(e.in.rows(), e.in.cols(), std::numeric_limits<S>::quiet_NaN());
  Matrix<S> d_context = Matrix<S>::Zero(e.context.rows(), e.context.cols());
  auto gradient = e.layer.make_gradient();
  Batch<S> d_in_view(d_in), d_context_view(d_context);
  wanted.d_context = wanted.d_context && e.layer.context_dim() > 0;
  Rng draws(1);
  const auto pullback =
      e.direction == Direction::forward ? &AnyLayer<S>::forward_pullback : &AnyLayer<S>::inverse_pullback;
  (e.layer.*pullback)(e.call(draws), e.in, out, cache, e.d_out, e.d_log_det, wanted.d_input ? &d_in_view : nullptr,
                      wanted.d_context ? &d_context_view : nullptr, wanted.d_parameters ? &gradient : nullptr);
  Tensors<S> all;
  if (wanted.d_input) all.push_back({"d input", d_in});
  if (wanted.d_context) all.push_back({"d context", d_context});
  if (wanted.d_parameters)
    for_each_parameter(std::as_const(gradient), [&](std::string_view name, ConstBatch<S> values) {
      all.push_back({"d " + std::string(name), values});
    });
  return all;
}

template <Real S>
Tensors<S> evaluate_and_pull(const Evaluation<S>& e) {
  typename AnyLayer<S>::Cache cache;
  Tensors<S> all = evaluate(e, cache);
  for (Tensor<S>& tensor : pull(e, all[0].values, cache)) all.push_back(std::move(tensor));
  return all;
}

/// The same, and how far the way back misses: "round trip", the input, and "log-dets cancel", zero. The layer and the
/// context of the way back are those of `back`; its input says by which factors the output is off (see lengths below).
template <Real S>
Tensors<S> results(const Evaluation<S>& there, Evaluation<S> back) {
  Tensors<S> all = evaluate_and_pull(there);
  back.direction = there.direction == Direction::forward ? Direction::inverse : Direction::forward;
  const auto out = all[0].values.array();
  back.in.array() = out + (back.in.array() - 1) * out.abs().max(static_cast<S>(there.length));
  typename AnyLayer<S>::Cache cache;
  const Tensors<S> returned = evaluate(back, cache);
  all.push_back({"round trip", returned[0].values - there.in});
  all.push_back({"log-dets cancel", returned[1].values + all[1].values});
  return all;
}
template <Real S>
Tensors<S> results(const Evaluation<S>& e) {
  Evaluation<S> back = e;
  back.in.setOnes();
  return results(e, back);
}

// ---- conditioning ----

template <class Values>
void change(Values&& values, double by, Rng& rng) {
  for (Index i = 0; i < values.size(); ++i) values.data()[i] *= 1 + by * (2 * rng.uniform<double>() - 1);
}
/// Data are moved by `by` times the layer's own length at least.
void change(Evaluation<double>& e, double by, Rng& rng) {
  for_each_parameter(e.layer, [&](std::string_view, Batch<double> values) { change(values, by, rng); });
  rhei::check_state(e.layer);
  for (Index i = 0; i < e.in.size(); ++i) {
    double& x = e.in.data()[i];
    x += by * std::max(e.length, std::abs(x)) * (2 * rng.uniform<double>() - 1);
  }
  change(e.context, by, rng);
  change(e.d_out, by, rng);
  change(e.d_log_det, by, rng);
}

double largest(const Matrix<double>& m) {  // and infinity where anything is not finite
  if (m.size() == 0) return 0;
  return m.allFinite() ? m.cwiseAbs().maxCoeff() : kInfinity;
}

bool is_log_det(std::string_view name) { return name == "log-det" || name == "log-dets cancel"; }

/// By result: its size, and how far it moves when its data are changed, in units of the relative change. A log-det's
/// size is at least 1, because it is the logarithm of a product with relative errors; so are an output's and an
/// input's. The size of a derivative is that of the largest derivative of the pullback, times that of the input: where
/// an activation is saturated, its derivative (1 - y^2 of tanh) is the difference of numbers near 1, and the rounding
/// of these comes with all the rest of the chain rule but without the smallness of the derivative.
class Conditioning {
 public:
  Conditioning(const Evaluation<double>& e, const Tensors<double>& exact, double by, Rng rng)
      : e_(e), exact_(exact), by_(by), rng_(rng) {
    double derivatives = 0;
    for (std::size_t t = 2; t + 2 < exact.size(); ++t) derivatives = std::max(derivatives, largest(exact[t].values));
    derivatives *= std::max(1.0, largest(e.in));
    for (std::size_t t = 0; t < exact.size(); ++t) {
      const std::string& name = exact[t].name;
      of_.push_back(name == "output"       ? std::max(1.0, largest(exact[t].values))
                    : name == "round trip" ? std::max(1.0, largest(e.in))
                    : is_log_det(name)     ? std::max(1.0, largest(exact[1].values))
                                           : derivatives);
    }
    more(kFewSteps);
  }
  double operator[](std::size_t t) const { return of_[t]; }
  /// Whether there was more to find out.
  bool look_closer() {
    if (steps_ >= kManySteps) return false;
    more(kManySteps);
    return true;
  }

 private:
  void more(int steps) {
    for (; steps_ < steps; ++steps_) {
      Evaluation<double> there = e_, back = e_;
      change(there, by_, rng_);
      back.in.setOnes();
      change(back, by_, rng_);
      const Tensors<double> moved = results(there, back);
      for (std::size_t t = 0; t < of_.size(); ++t)
        of_[t] = std::max(of_[t], largest(moved[t].values - exact_[t].values) / by_);
    }
  }

  const Evaluation<double>& e_;
  const Tensors<double>& exact_;
  double by_;
  Rng rng_;
  std::vector<double> of_;
  int steps_ = 0;
};

// ---- differences ----

struct Slope {
  Matrix<double> value, error;
};

/// df/dt at 0 and an estimate of its error, entry by entry; `rounding` is that of f. See the top of the file.
template <class F>
Slope slope(F&& f, double rounding) {
  const Matrix<double> f0 = f(0.0);
  Slope best{f0, Matrix<double>::Constant(f0.rows(), f0.cols(), kInfinity)};
  for (double h = 0x1p-9; h > 0x1p-22; h /= 8) {
    const auto at = [&](double t) { return Matrix<double>(f(t) - f0); };
    const Matrix<double> r1 = at(h), r2 = at(2 * h), r3 = at(3 * h), r4 = at(4 * h), r6 = at(6 * h);
    const Matrix<double> l1 = at(-h), l2 = at(-2 * h), l3 = at(-3 * h), l4 = at(-4 * h), l6 = at(-6 * h);
    const Matrix<double> central = (45 * (r1 - l1) - 9 * (r2 - l2) + (r3 - l3)) / (60 * h);
    const Matrix<double> wider = (45 * (r2 - l2) - 9 * (r4 - l4) + (r6 - l6)) / (120 * h);
    const Matrix<double> right = (48 * r1 - 36 * r2 + 16 * r3 - 3 * r4) / (12 * h);
    const Matrix<double> left = (-48 * l1 + 36 * l2 - 16 * l3 + 3 * l4) / (12 * h);
    bool only_rounding = true;
    for (Index i = 0; i < f0.size(); ++i) {
      const double seen = std::abs(central(i) - wider(i)) + std::abs(right(i) - left(i));
      const double error = seen + 2 * rounding / h;
      if (error < best.error(i)) {  // false where it is NaN: outside a domain
        best.error(i) = error;
        best.value(i) = central(i);
      }
      only_rounding = only_rounding && seen < 8 * rounding / h;
    }
    if (only_rounding) break;
  }
  return best;
}

// ---- what was seen ----

/// The largest error over its tolerance, and whose.
struct Worst {
  double ratio = 0;
  std::uint64_t seed = 0;
  void join(const Worst& other) {
    if (other.ratio > ratio) *this = other;
  }
};
constexpr const char* kKinds[] = {"round trip", "log-dets cancel", "log-det",   "d input",
                                  "d context",  "d parameters",    "row by row"};
constexpr std::size_t kKindCount = std::size(kKinds);

struct Seen {
  std::uint64_t cases = 0, compared = 0, vague = 0;
  Worst worst[kKindCount];
  void join(const Seen& other) {
    cases += other.cases;
    compared += other.compared;
    vague += other.vague;
    for (std::size_t k = 0; k < kKindCount; ++k) worst[k].join(other.worst[k]);
  }
};

std::size_t kind_of(std::string_view tensor) {
  for (std::size_t k = 0; k < kKindCount; ++k)
    if (tensor == kKinds[k]) return k;
  return 5;  // a parameter
}

// ---- the checks of one case ----

template <Real S>
class Case {
 public:
  Case(const Subject<S>& subject, std::uint64_t seed, Seen& seen, std::vector<std::string>& failures)
      : subject_(subject), seed_(seed), rng_(seed), seen_(seen), failures_(failures) {}

  void run() {
    ++seen_.cases;
    try {
      dim_ = 1 + rng_.below(6);
      context_ = 2 * rng_.below(2);
      rows_ = rng_.below(6);
      shared_ = context_ > 0 && rng_.below(3) == 0;
      perturbation_ = log_uniform(1e-3, 1);
      scale_ = log_uniform(1e-3, 30);
      const Made<S> made = subject_.make(dim_, context_, perturbation_, rng_);
      for (const Direction direction : {Direction::forward, Direction::inverse}) {
        direction_ = direction;
        check(evaluation(made.layer), made.wide);
      }
    } catch (const std::exception& error) {
      fail("threw", error.what());
    }
  }

 private:
  static constexpr bool is_double = std::same_as<S, double>;
  static constexpr double epsilon = std::numeric_limits<S>::epsilon();

  template <class... Part>
  void fail(const std::string& property, const Part&... part) {
    std::ostringstream stream;
    stream.precision(std::numeric_limits<double>::max_digits10);
    stream << subject_.name << '<' << (is_double ? "double" : "float") << "> dim " << dim_ << " context " << context_
           << (shared_ ? " (one row)" : "") << " rows " << rows_ << " parameters " << perturbation_ << " inputs "
           << scale_ << (direction_ == Direction::forward ? " forward: " : " inverse: ") << property << ": ";
    (stream << ... << part) << "\n  --repeat " << text(current);
    failures_.push_back(stream.str());
  }

  double log_uniform(double low, double high) { return low * std::pow(high / low, rng_.uniform<double>()); }

  Evaluation<S> evaluation(const AnyLayer<S>& layer) {
    Evaluation<S> e{layer,
                    direction_,
                    Matrix<S>(rows_, layer.dim()),
                    Matrix<S>(shared_ ? 1 : rows_, context_),
                    Matrix<S>(rows_, layer.dim()),
                    Vector<S>(rows_),
                    subject_.length};
    for (Index i = 0; i < e.in.size(); ++i) {
      const double value = scale_ * rng_.normal<double>();
      e.in.data()[i] = static_cast<S>(subject_.domain ? subject_.domain(direction_, value) : value);
    }
    rng_.fill_normal(e.context);
    rng_.fill_normal(e.d_out);
    rng_.fill_normal(e.d_log_det);
    return e;
  }

  /// Files an error; above its tolerance it is a failure, unless `tolerance` finds a better one.
  template <class Tolerance>
  void judge(std::size_t kind, const std::string& property, double error, Conditioning& conditioning,
             Tolerance&& tolerance) {
    ++seen_.compared;
    double allowed = tolerance();
    if (!(error <= allowed) && conditioning.look_closer()) allowed = tolerance();
    if (!std::isfinite(allowed)) {
      ++seen_.vague;
      return;
    }
    if (error > 0) seen_.worst[kind].join({error / allowed, seed_});
    if (!(error <= allowed)) fail(property, "error ", error, ", tolerance ", allowed);
  }

  /// `got` against `want`, which is result t of the conditioning.
  template <class A, class B>
  void compare(std::size_t kind, const std::string& property, const A& got, const B& want, Conditioning& conditioning,
               std::size_t t) {
    judge(kind, property, largest(got.template cast<double>() - want.template cast<double>()), conditioning,
          [&] { return kRounding * epsilon * conditioning[t]; });
  }

  void identical(const std::string& property, const Tensors<S>& got, const Tensors<S>& want) {
    for (std::size_t t = 0; t < want.size(); ++t) {
      const Matrix<S>&a = got[t].values, &b = want[t].values;
      if (b.size() > 0 && std::memcmp(a.data(), b.data(), sizeof(S) * static_cast<std::size_t>(b.size())) != 0)
        return fail(property, want[t].name, " has other bits");
    }
  }

  void check(const Evaluation<S>& e, const AnyLayer<double>& wide_layer) {
    const Traits traits = e.layer.traits();
    const bool separable = traits.rows_independent && traits.log_det_exact;
    const Tensors<S> got = results(e);
    for (const Tensor<S>& tensor : got)
      if (!tensor.values.allFinite()) return fail("finite numbers", tensor.name, " has others, the input has none");
    const Evaluation<double> wide = e.with(wide_layer);
    const Tensors<double> exact = results(wide);
    // steps that no rounding of the double hides; of the size of a float's rounding, where that decides about kinks
    Conditioning conditioning(wide, exact, is_double ? 0x1p-30 : 32 * epsilon, Rng(rng_()));

    for (std::size_t t = got.size() - 2; t < got.size(); ++t)
      if (t != got.size() - 1 || traits.log_det_exact)
        judge(kind_of(got[t].name), got[t].name, largest(got[t].values.template cast<double>()), conditioning,
              [&] { return kRounding * epsilon * conditioning[t]; });
    if constexpr (is_double) {
      if (separable) check_log_det(e, got, conditioning);
      check_gradients(e, got, conditioning);
    } else {
      for (std::size_t t = 0; t + 2 < got.size(); ++t)
        compare(kind_of(got[t].name), "float against double: " + got[t].name, got[t].values, exact[t].values,
                conditioning, t);
    }
    if (separable && rows_ > 1) check_rows(e, got, conditioning);
    check_declined(e, got);
    if (traits.rows_independent && rows_ > 0 && rng_.below(4) == 0) check_nan_row(e, got);
  }

  /// log|det| of the numeric Jacobian; its error is, to first order, sum |J^-1|_kj |dJ|_jk.
  void check_log_det(const Evaluation<double>& e, const Tensors<double>& got, Conditioning& conditioning) {
    const Index dim = e.in.cols();
    AnyLayer<double>::Cache cache;
    Evaluation<double> moved = e;
    std::vector<Slope> columns;
    for (Index j = 0; j < dim; ++j) {
      columns.push_back(slope(
          [&](double t) {
            moved.in.col(j).array() = e.in.col(j).array() + t;
            return evaluate(moved, cache, Keep::nothing)[0].values;
          },
          epsilon * conditioning[0]));
      moved.in.col(j) = e.in.col(j);
    }
    for (Index i = 0; i < rows_; ++i) {
      Matrix<double> jacobian(dim, dim), error(dim, dim);
      for (Index j = 0; j < dim; ++j) {
        jacobian.col(j) = columns[static_cast<std::size_t>(j)].value.row(i).transpose();
        error.col(j) = columns[static_cast<std::size_t>(j)].error.row(i).transpose();
      }
      const Eigen::PartialPivLU<Matrix<double>> lu(jacobian);
      const double log_det = lu.matrixLU().diagonal().array().abs().log().sum();
      const double uncertain = (lu.inverse().cwiseAbs().array() * error.transpose().array()).sum();
      if (!(uncertain * kDifference < kVague)) ++seen_.vague;
      judge(2, "log-det against the numeric Jacobian", std::abs(got[1].values(i, 0) - log_det), conditioning, [&] {
        return kDifference * uncertain < 0.5 ? 2 * kDifference * uncertain + kRounding * epsilon * conditioning[1]
                                             : kInfinity;  // no longer first order
      });
    }
  }

  /// One directional derivative of the loss per tensor.
  void check_gradients(const Evaluation<double>& e, const Tensors<double>& got, Conditioning& conditioning) {
    AnyLayer<double>::Cache cache;
    Evaluation<double> moved = e;
    std::vector<Batch<double>> inputs{Batch<double>(moved.in)};
    if (e.layer.context_dim() > 0) inputs.emplace_back(moved.context);
    for (auto& parameter : parameter_list<double>(moved.layer)) inputs.push_back(parameter.values);
    if (inputs.size() + 4 != got.size()) return fail("gradients", "there are not as many as inputs and parameters");

    const double rounding =
        epsilon * (conditioning[0] * e.d_out.cwiseAbs().sum() + conditioning[1] * e.d_log_det.cwiseAbs().sum());
    for (std::size_t t = 2; t + 2 < got.size(); ++t) {
      Batch<double>& input = inputs[t - 2];
      const Matrix<double>& gradient = got[t].values;
      const Matrix<double> value = input;
      Matrix<double> along(input.rows(), input.cols());
      rng_.fill_normal(along);
      if (gradient.rows() != input.rows() || gradient.cols() != input.cols())
        return fail("gradients", got[t].name, " has another shape than what it is the derivative of");
      const Slope numeric = slope(
          [&](double step) -> Matrix<double> {
            input = value + step * along;
            const Tensors<double> now = evaluate(moved, cache, Keep::nothing);
            return Matrix<double>::Constant(1, 1,
                                            ((now[0].values - got[0].values).array() * e.d_out.array()).sum() +
                                                (now[1].values - got[1].values).col(0).dot(e.d_log_det));
          },
          rounding);
      input = value;
      const double slope_got = (gradient.array() * along.array()).sum();
      const double terms = (gradient.array() * along.array()).abs().sum();
      if (!(kDifference * numeric.error(0) < kVague * std::max(terms, 1e-3))) ++seen_.vague;
      judge(kind_of(got[t].name), got[t].name + " against differences", std::abs(slope_got - numeric.value(0)),
            conditioning, [&] {
              return kDifference * numeric.error(0) + kRounding * epsilon * conditioning[t] * along.cwiseAbs().sum();
            });
    }
  }

  void check_rows(const Evaluation<S>& e, const Tensors<S>& got, Conditioning& conditioning) {
    Tensors<S> parts(got.begin(), got.end() - 2);
    for (Tensor<S>& part : parts) part.values.setZero();
    for (Index i = 0; i < rows_; ++i) {
      const Tensors<S> one = evaluate_and_pull(e.row(i));
      for (std::size_t t = 0; t < parts.size(); ++t) {
        const bool per_row = t < 3 || (parts[t].name == "d context" && !e.shares_context());
        if (per_row)
          parts[t].values.row(i) = one[t].values;
        else
          parts[t].values += one[t].values;
      }
    }
    for (std::size_t t = 0; t < parts.size(); ++t)
      compare(6, "row by row: " + parts[t].name, parts[t].values, got[t].values, conditioning, t);
  }

  /// What is declined, or not kept, changes nothing of the rest.
  void check_declined(const Evaluation<S>& e, const Tensors<S>& got) {
    typename AnyLayer<S>::Cache cache;
    identical("with Keep::nothing", evaluate(e, cache, Keep::nothing), {got[0], got[1]});
    identical("with Keep::output", evaluate(e, cache, Keep::output), {got[0], got[1]});
    evaluate(e, cache);
    const Index mask = rng_.below(8);
    const Wanted wanted{(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0};
    Tensors<S> rest;
    for (std::size_t t = 2; t + 2 < got.size(); ++t)
      if (got[t].name == "d input"     ? wanted.d_input
          : got[t].name == "d context" ? wanted.d_context
                                       : wanted.d_parameters)
        rest.push_back(got[t]);
    const Tensors<S> pulled = pull(e, got[0].values, cache, wanted);
    if (pulled.size() != rest.size()) return fail("declined", "other derivatives are given than were asked for");
    identical("with derivatives declined", pulled, rest);
  }

  void check_nan_row(Evaluation<S> e, const Tensors<S>& got) {
    const Index row = rng_.below(rows_);
    e.in(row, rng_.below(e.in.cols())) = std::numeric_limits<S>::quiet_NaN();
    Tensors<S> dirty = evaluate_and_pull(e);
    if (!dirty[0].values.row(row).hasNaN() && !dirty[1].values.row(row).hasNaN())
      fail("a NaN row", "output and log-det are finite");
    dirty.resize(3);  // of the derivatives that of the input alone is kept apart by rows
    for (std::size_t t = 0; t < 3; ++t) dirty[t].values.row(row) = got[t].values.row(row);
    identical("rows beside a NaN", dirty, {got[0], got[1], got[2]});
  }

  const Subject<S>& subject_;
  std::uint64_t seed_;
  Rng rng_;
  Seen& seen_;
  std::vector<std::string>& failures_;
  Index dim_ = 0, context_ = 0, rows_ = 0;
  bool shared_ = false;
  double perturbation_ = 0, scale_ = 0;
  Direction direction_ = Direction::forward;
};

// ---- the program ----

using Runner = std::function<void(std::uint64_t seed, Seen&, std::vector<std::string>& failures)>;

/// "layer/scalar" -> one case of it.
using Runners = std::map<std::string, Runner>;

template <Real S>
void add_runners(const std::string& scalar, const std::string& only, Runners& runners) {
  for (const Subject<S>& subject : subjects<S>()) {
    const std::string layer(subject.name);
    if (!only.empty() && layer != only) continue;
    runners[layer + "/" + scalar] = [subject, layer, scalar](std::uint64_t seed, Seen& seen,
                                                             std::vector<std::string>& failures) {
      current = {layer, scalar, seed};
      Case<S>(subject, seed, seen, failures).run();
    };
  }
}
Runners make_runners(const std::string& only) {
  Runners runners;
  add_runners<float>("float", only, runners);
  add_runners<double>("double", only, runners);
  return runners;
}

int report(const std::map<std::string, Seen>& all, const std::vector<std::string>& failures) {
  Seen sum;
  std::printf("worst error / tolerance, and its seed\n");
  for (const auto& [name, seen] : all) {
    std::printf("%-36s %9llu cases, %llu of %llu comparisons vague\n", name.c_str(),
                static_cast<unsigned long long>(seen.cases), static_cast<unsigned long long>(seen.vague),
                static_cast<unsigned long long>(seen.compared));
    for (std::size_t k = 0; k < kKindCount; ++k)
      if (seen.worst[k].ratio > 0)
        std::printf("    %-16s %8.1e  %llu\n", kKinds[k], seen.worst[k].ratio,
                    static_cast<unsigned long long>(seen.worst[k].seed));
    sum.join(seen);
  }
  for (std::size_t i = 0; i < std::min<std::size_t>(failures.size(), 20); ++i)
    std::printf("FAILED %s\n", failures[i].c_str());
  std::printf("%llu cases, %llu of %llu comparisons vague, %zu failures\n", static_cast<unsigned long long>(sum.cases),
              static_cast<unsigned long long>(sum.vague), static_cast<unsigned long long>(sum.compared),
              failures.size());
  return failures.empty() && sum.cases > 0 ? 0 : 1;
}

int repeat(const std::string& name) {
  const std::size_t slash = name.rfind('/');
  const Runners runners = make_runners("");
  const auto found = slash == std::string::npos ? runners.end() : runners.find(name.substr(0, slash));
  if (found == runners.end()) throw std::runtime_error("--repeat " + name + ": expected layer/scalar/seed");
  std::map<std::string, Seen> seen;
  std::vector<std::string> failures;
  found->second(std::stoull(name.substr(slash + 1)), seen[found->first], failures);
  return report(seen, failures);
}

int explore(double seconds, std::uint64_t seed, unsigned threads, const std::string& only) {
  const Runners runners = make_runners(only);
  if (runners.empty()) throw std::runtime_error("--only " + only + ": there is no such layer");
  const std::vector<std::pair<std::string, Runner>> list(runners.begin(), runners.end());
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  std::atomic<std::uint64_t> next{0};
  std::mutex mutex;
  std::map<std::string, Seen> all;
  std::vector<std::string> failures;
  const auto work = [&] {
    std::map<std::string, Seen> seen;
    std::vector<std::string> own;
    while (std::chrono::steady_clock::now() < end && own.size() < 20) {
      const std::uint64_t i = next++;
      const auto& [name, run] = list[i % list.size()];
      run((seed << 32) + i, seen[name], own);
    }
    const std::lock_guard lock(mutex);
    for (const auto& [name, what] : seen) all[name].join(what);
    failures.insert(failures.end(), own.begin(), own.end());
  };
  std::vector<std::thread> others;
  for (unsigned t = 1; t < threads; ++t) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  return report(all, failures);
}

int run(const std::vector<std::string>& arguments) {
  std::map<std::string, std::string> given{
      {"--seconds", "60"}, {"--seed", "1"}, {"--threads", "2"}, {"--only", ""}, {"--repeat", ""}};
  for (std::size_t i = 0; i < arguments.size(); i += 2) {
    const auto found = given.find(arguments[i]);
    if (found == given.end() || i + 1 == arguments.size())
      throw std::runtime_error("expected --seconds, --seed, --threads, --only or --repeat and a value, got " +
                               arguments[i]);
    found->second = arguments[i + 1];
  }
  if (!given["--repeat"].empty()) return repeat(given["--repeat"]);
  return explore(std::stod(given["--seconds"]), std::stoull(given["--seed"]),
                 static_cast<unsigned>(std::stoul(given["--threads"])), given["--only"]);
}

}  // namespace
}  // namespace rhei::fuzz

// A sanitizer's report ends in abort(), so that the case is named.
extern "C" const char* __asan_default_options() { return "abort_on_error=1"; }
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

int main(int count, char** arguments) {
  std::signal(SIGABRT, rhei::fuzz::print_current);
  try {
    return rhei::fuzz::run({arguments + 1, arguments + count});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "random_conformance: %s\n", error.what());
    return 2;
  }
}
