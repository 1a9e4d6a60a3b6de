// SPDX-License-Identifier: MIT

/// \file
/// The conformance suite tested itself: it passes correct layers and catches each of many broken ones.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>

#include "support/allocation_counter.hpp"
#include "support/catch.hpp"
#include "support/conformance.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// What can be wrong with a layer.
enum class Defect {
  none,
  log_det_sign,
  inverse_log_det_not_negated,
  log_det_overwritten,
  log_det_gradient_missing,
  log_det_gradient_sign,
  d_input_without_log_det,
  inverse_scaled,
  output_off_in_large_batches,
  d_input_added,
  d_context_missing,
  d_context_overwritten,
  d_context_of_first_row_only,
  parameter_gradient_missing,
  gradient_overwritten,
  gradient_needs_d_input,
  gradient_not_zero,
  rows_leak,
  nan_swallowed,
  stale_cache,
  pullback_consumes_cache,
  keep_nothing_differs,
  repeat_draws_again,
  scratch_in_layer,
  shallow_copy,
  state_not_visited,
  initialize_again,
  log_det_unchecked,
  context_unchecked,
  argument_not_named,
  written_before_checked,
  overflow,
  no_type,
  float_inaccurate,
  throws_on_empty,
  allocates,
  not_affine,
};

/// x = z * exp(log_scale + tanh(c W)) + c V + offset: a small conditional layer, correct but for its defect.
template <Real S>
class Specimen {
 public:
  using Scalar = S;
  struct Parameters {
    RowVector<S> log_scale;  // D
    Matrix<S> W, V;          // C x D

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("log_scale", self.log_scale);
      f("W", self.W);
      f("V", self.V);
    }
  };
  using Gradient = Parameters;
  struct Cache {
    Matrix<S> tanh, scale, shift;  // n x D
  };

  Specimen(Index dim, Index context, Rng& rng, Defect defect)
      : parameters_(new Parameters{RowVector<S>(dim), Matrix<S>(context, dim), Matrix<S>(context, dim)}),
        offset_(dim),
        defect_(defect) {
    for_each_parameter(*parameters_, [&](std::string_view, Batch<S> values) {
      rng.fill_normal(values);
      values *= S(0.3);
    });
    rng.fill_normal(offset_);
  }
  Specimen(const Specimen& other)
      : parameters_(other.has(Defect::shallow_copy) ? other.parameters_
                                                    : std::make_shared<Parameters>(*other.parameters_)),
        offset_(other.offset_),
        initialized_(other.initialized_),
        defect_(other.defect_) {}
  Specimen& operator=(const Specimen& other) {
    Specimen copy(other);
    std::swap(parameters_, copy.parameters_);
    std::swap(offset_, copy.offset_);
    initialized_ = copy.initialized_;
    defect_ = copy.defect_;
    return *this;
  }

  Index dim() const { return offset_.size(); }
  Index context_dim() const { return parameters_->W.rows(); }
  Traits traits() const { return {}; }
  Options options() const { return has(Defect::no_type) ? Options() : Options("specimen"); }
  Gradient make_gradient() const { return has(Defect::gradient_not_zero) ? *parameters_ : zeros_like(*parameters_); }

  void initialize(const Call<S>&, ConstBatch<S> x) {
    if (initialized_ && !has(Defect::initialize_again)) return;
    offset_ = x.colwise().mean();
    initialized_ = 1;
  }

  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    prepare(call, z, x, log_det, cache);
    for (Index e = 0; e < z.size(); ++e) x.data()[e] = z.data()[e] * cache.scale.data()[e] + cache.shift.data()[e];
    add_log_det(log_det, has(Defect::log_det_sign) ? -1 : 1, cache);
    spoil(call, z, x, log_det);
  }
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    prepare(call, x, z, log_det, cache);
    const S factor = has(Defect::inverse_scaled) ? S(1.001) : S(1);
    for (Index e = 0; e < x.size(); ++e)
      z.data()[e] = factor * (x.data()[e] - cache.shift.data()[e]) / cache.scale.data()[e];
    add_log_det(log_det, has(Defect::log_det_sign) || has(Defect::inverse_log_det_not_negated) ? 1 : -1, cache);
    spoil(call, x, z, log_det);
  }

  void forward_pullback(const Call<S>& call, ConstBatch<S> z, ConstBatch<S>, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>* d_context, Gradient* gradient) const {
    const auto derivatives = [&](Index i, Index j) -> Derivatives {
      const S d_input = d_x(i, j) * cache.scale(i, j);
      return {d_input, d_input * z(i, j) + through_log_det(d_log_det[i]), d_x(i, j)};
    };
    pull(call, derivatives, d_z, d_context, gradient, cache);
  }
  void inverse_pullback(const Call<S>& call, ConstBatch<S>, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>* d_context, Gradient* gradient) const {
    const auto derivatives = [&](Index i, Index j) -> Derivatives {
      const S d_input = d_z(i, j) / cache.scale(i, j);
      return {d_input, -d_z(i, j) * z(i, j) - through_log_det(d_log_det[i]), -d_input};
    };
    pull(call, derivatives, d_x, d_context, gradient, cache);
  }

  template <Real T>
  Specimen<T> cast() const {
    Rng rng(0);
    Specimen<T> other(dim(), context_dim(), rng, defect_);
    copy_values(*this, other);
    return other;
  }
  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    f("", *self.parameters_);
  }
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("initialized", self.initialized_);
    if (!self.has(Defect::state_not_visited)) f("offset", self.offset_);
  }

 private:
  bool has(Defect defect) const { return defect == defect_; }

  /// Checks the shapes and fills the cache.
  void prepare(const Call<S>& call, ConstBatch<S> in, Batch<S> out, Values<S> log_det, Cache& cache) const {
    const Index n = in.rows();
    if (has(Defect::throws_on_empty) && n == 0) throw std::runtime_error("an empty batch");
    if (has(Defect::written_before_checked) && log_det.size() > 0) log_det[0] *= S(1.01);
    if (has(Defect::argument_not_named) && in.cols() != dim()) throw std::invalid_argument("bad shape");
    Call<S> checked = call;
    if (has(Defect::context_unchecked) && call.context.cols() > context_dim())
      new (&checked.context) ConstBatch<S>(call.context.features(0, context_dim()));
    detail::check_evaluation("Specimen", *this, checked, in, out, has(Defect::log_det_unchecked) ? n : log_det.size());

    if (has(Defect::stale_cache) && n > 0 && cache.scale.size() == n * dim()) return;
    if (has(Defect::allocates)) cache.shift.resize(n + 1, dim());
    for (Matrix<S>* matrix : {&cache.tanh, &cache.scale, &cache.shift}) matrix->resize(n, dim());
    for (Index j = 0; j < dim(); ++j)
      for (Index i = 0; i < n; ++i) {
        S sum = 0, shift = offset_[j] + (has(Defect::repeat_draws_again) ? call.rng->template uniform<S>() : S(0));
        for (Index k = 0; k < context_dim(); ++k) {
          const S c = call.context(context_row(call, i), k);
          sum += c * parameters_->W(k, j);
          shift += c * parameters_->V(k, j);
        }
        cache.tanh(i, j) = std::tanh(sum);
        cache.scale(i, j) = std::exp(parameters_->log_scale[j] + cache.tanh(i, j));
        cache.shift(i, j) = shift;
      }
  }
  static Index context_row(const Call<S>& call, Index i) { return call.context.rows() == 1 ? 0 : i; }

  void add_log_det(Values<S> log_det, int sign, Cache& cache) const {
    for (Index i = 0; i < cache.scale.rows(); ++i) {
      if (has(Defect::log_det_overwritten)) log_det[i] = 0;
      for (Index j = 0; j < dim(); ++j) log_det[i] += S(sign) * (parameters_->log_scale[j] + cache.tanh(i, j));
    }
  }

  /// The defects of an evaluation that do not fit in one place above.
  void spoil(const Call<S>& call, ConstBatch<S> in, Batch<S> out, Values<S> log_det) const {
    if (in.rows() == 0) return;
    const auto each = [](auto batch, auto&& f) {
      for (Index e = 0; e < batch.size(); ++e) batch.data()[e] = f(batch.data()[e]);
    };
    S& first = out(0, 0);
    if (has(Defect::rows_leak)) each(log_det, [&](S value) { return value + S(1e-3) * in(0, 0); });
    if (has(Defect::output_off_in_large_batches) && in.rows() > 100) out(in.rows() - 1, 0) += S(1e-2);
    if (has(Defect::keep_nothing_differs) && call.keep == Keep::nothing) first += S(1e-3);
    if (has(Defect::float_inaccurate) && std::same_as<S, float>) first += S(1e-2);
    if (has(Defect::overflow)) each(out, [](S value) { return std::log(std::exp(value)); });
    if (has(Defect::nan_swallowed)) each(out, [](S value) { return std::isnan(value) ? S(0) : value; });
    if (has(Defect::scratch_in_layer)) first += std::atomic_ref<S>(scratch_).exchange(S(1e-3) * in(0, 0));
  }

  /// Of the loss by an entry of the input, of log(scale) and of c V + offset.
  struct Derivatives {
    S input, log_scale, shift;
  };
  S through_log_det(S d_log_det) const {
    return has(Defect::log_det_gradient_missing) ? 0 : has(Defect::log_det_gradient_sign) ? -d_log_det : d_log_det;
  }
  template <class F>
  void pull(const Call<S>& call, F&& derivatives, Batch<S>* d_in, Batch<S>* d_context, Gradient* gradient,
            Cache& cache) const {
    if (has(Defect::d_context_missing)) d_context = nullptr;
    if (has(Defect::gradient_needs_d_input) && !d_in) gradient = nullptr;
    if (has(Defect::d_context_overwritten) && d_context) d_context->setZero();
    if (has(Defect::gradient_overwritten) && gradient) set_zero(*gradient);
    const auto& [log_scale, W, V] = *parameters_;
    for (Index j = 0; j < dim(); ++j)
      for (Index i = 0; i < cache.scale.rows(); ++i) {
        const Derivatives d = derivatives(i, j);
        const S d_sum = d.log_scale * (1 - cache.tanh(i, j) * cache.tanh(i, j));
        if (d_in) (*d_in)(i, j) = has(Defect::d_input_added) ? (*d_in)(i, j) + d.input : d.input;
        if (gradient && !has(Defect::parameter_gradient_missing)) gradient->log_scale[j] += d.log_scale;
        for (Index k = 0; k < context_dim(); ++k) {
          const Index row = context_row(call, i);
          if (gradient) gradient->W(k, j) += d_sum * call.context(row, k);
          if (gradient) gradient->V(k, j) += d.shift * call.context(row, k);
          if (d_context && !(has(Defect::d_context_of_first_row_only) && row != i))
            (*d_context)(row, k) += d_sum * W(k, j) + d.shift * V(k, j);
        }
      }
    if (has(Defect::pullback_consumes_cache)) cache.tanh.setZero();
  }

  std::shared_ptr<Parameters> parameters_;
  RowVector<S> offset_;
  std::int64_t initialized_ = 0;
  Defect defect_;
  mutable S scratch_ = 0;
};

/// A layer without parameters: x = f(z), feature by feature.
template <Real S>
class Curve {
 public:
  using Scalar = S;
  using Gradient = NoParameters;
  struct Cache {};
  enum class Kind {
    bend,   ///< z sqrt(1 + z^2)
    leaky,  ///< z or z / 2, with a kink at 0
    exp,    ///< e^z: its inverse is defined for x > 0 only
  };

  Curve(Index dim, Kind kind, Defect defect = Defect::none) : dim_(dim), kind_(kind), defect_(defect) {}
  Index dim() const { return dim_; }
  Index context_dim() const { return 0; }
  Traits traits() const { return {.affine = defect_ == Defect::not_affine}; }
  Options options() const { return Options("curve"); }
  Gradient make_gradient() const { return {}; }

  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache&) const {
    detail::check_evaluation("Curve", *this, call, z, x, log_det.size());
    x = z.unaryExpr([this](S v) { return value(v); });
    log_det += z.unaryExpr([this](S v) { return std::log(slope(v)); }).rowwise().sum();
  }
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache&) const {
    detail::check_evaluation("Curve", *this, call, x, z, log_det.size());
    z = x.unaryExpr([this](S v) { return inverse_value(v); });
    log_det -= z.unaryExpr([this](S v) { return std::log(slope(v)); }).rowwise().sum();
  }
  void forward_pullback(const Call<S>&, ConstBatch<S> z, ConstBatch<S>, Cache&, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>*, Gradient*) const {
    if (!d_z) return;
    for (Index j = 0; j < dim_; ++j)
      for (Index i = 0; i < z.rows(); ++i)
        (*d_z)(i, j) = d_x(i, j) * slope(z(i, j)) + d_log_det[i] * log_slope_derivative(z(i, j));
  }
  void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S> z, Cache&, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>*, Gradient*) const {
    if (!d_x) return;
    for (Index j = 0; j < dim_; ++j)
      for (Index i = 0; i < z.rows(); ++i)
        (*d_x)(i, j) = (d_z(i, j) - d_log_det[i] * log_slope_derivative(z(i, j))) / slope(z(i, j));
  }
  template <Real T>
  Curve<T> cast() const {
    return Curve<T>(dim_, static_cast<typename Curve<T>::Kind>(kind_), defect_);
  }

 private:
  S value(S z) const {
    return kind_ == Kind::bend ? z * std::sqrt(1 + z * z) : kind_ == Kind::leaky ? (z > 0 ? z : z / 2) : std::exp(z);
  }
  S inverse_value(S x) const {
    return kind_ == Kind::bend    ? x * std::sqrt(2 / (1 + std::sqrt(1 + 4 * x * x)))
           : kind_ == Kind::leaky ? (x > 0 ? x : 2 * x)
                                  : std::log(x);
  }
  S slope(S z) const {
    return kind_ == Kind::bend    ? (1 + 2 * z * z) / std::sqrt(1 + z * z)
           : kind_ == Kind::leaky ? (z > 0 ? S(1) : S(0.5))
                                  : std::exp(z);
  }
  S log_slope_derivative(S z) const {
    if (defect_ == Defect::d_input_without_log_det) return 0;
    return kind_ == Kind::bend ? 4 * z / (1 + 2 * z * z) - z / (1 + z * z) : kind_ == Kind::leaky ? S(0) : S(1);
  }

  Index dim_;
  Kind kind_;
  Defect defect_;
};

template <Real S>
auto specimen(Defect defect) {
  return subject_of([defect](Index dim, Index context, Rng& rng) { return Specimen<S>(dim, context, rng, defect); });
}
template <Real S>
auto curve(typename Curve<S>::Kind kind, Defect defect = Defect::none) {
  return subject_of([=](Index dim) { return Curve<S>(dim, kind, defect); });
}

bool caught(const Report& report, std::string_view property) {
  return std::any_of(report.failures.begin(), report.failures.end(),
                     [&](const std::string& text) { return text.find(property) != std::string::npos; });
}
std::string all_of(const Report& report) {
  std::string all;
  for (const std::string& failure : report.failures) all += failure + "\n";
  return all;
}

}  // namespace

TEMPLATE_TEST_CASE("a correct conditional layer conforms", "[conformance]", RHEI_TEST_SCALARS) {
  conforms([](Index dim, Index context, Rng& rng) { return Specimen<TestType>(dim, context, rng, Defect::none); },
           {.contexts = {0, 3}});
}

TEMPLATE_TEST_CASE("curves conform", "[conformance]", RHEI_TEST_SCALARS) {
  using Kind = typename Curve<TestType>::Kind;
  conforms([](Index dim) { return Curve<TestType>(dim, Kind::bend); }, {.name = "bend"});
  conforms([](Index dim) { return Curve<TestType>(dim, Kind::leaky); }, {.name = "leaky"},
           [](const Curve<TestType>&, Direction, const auto&, const auto& in) -> Vector<TestType> {
             return in.cwiseAbs().rowwise().minCoeff();
           });
  conforms([](Index dim) { return Curve<TestType>(dim, Kind::exp); },
           {.name = "exp", .largest_input = 80, .domain = [](Direction direction, double value) {
              return direction == Direction::inverse ? std::exp(value) : value;
            }});
}

TEST_CASE("each defect is caught by the check that looks for it", "[conformance]") {
  struct Expected {
    Defect defect;
    std::string_view property;
  };
  const Expected expected[] = {
      {Defect::log_det_sign, "log-det against the numeric Jacobian"},
      {Defect::inverse_log_det_not_negated, "log-dets cancel"},
      {Defect::inverse_log_det_not_negated, "inverse: log-det against the numeric Jacobian"},
      {Defect::log_det_overwritten, "added to what is there: log_det"},
      {Defect::log_det_gradient_missing, "gradient against finite differences: d log_scale"},
      {Defect::log_det_gradient_missing, "gradient against finite differences: d context"},
      {Defect::log_det_gradient_sign, "gradient against finite differences: d W"},
      {Defect::inverse_scaled, "round trip"},
      {Defect::output_off_in_large_batches, "against batches of 7: output"},
      {Defect::d_input_added, "gradient against finite differences: d input"},
      {Defect::d_context_missing, "gradient against finite differences: d context"},
      {Defect::d_context_overwritten, "added to what is there: d context"},
      {Defect::d_context_of_first_row_only, "shared context: gradient against finite differences: d context"},
      {Defect::parameter_gradient_missing, "gradient against finite differences: d log_scale"},
      {Defect::gradient_overwritten, "added to what is there: d log_scale"},
      {Defect::gradient_needs_d_input, "with derivatives declined"},
      {Defect::gradient_not_zero, "gradient structure"},
      {Defect::rows_leak, "rows beside a NaN"},
      {Defect::rows_leak, "against batches of 1: log_det"},
      {Defect::nan_swallowed, "NaN rows"},
      {Defect::stale_cache, "gradient against finite differences"},
      {Defect::pullback_consumes_cache, "a second pullback with the same cache"},
      {Defect::keep_nothing_differs, "with Keep::nothing"},
      {Defect::repeat_draws_again, "with Keep::output: d layers.0.log_scale"},
      {Defect::scratch_in_layer, "with a cache used before"},
      {Defect::shallow_copy, "after a copy was changed"},
      {Defect::state_not_visited, "reloaded: output"},
      {Defect::initialize_again, "initialize"},
      {Defect::log_det_unchecked, "bad shapes: a wrong log_det"},
      {Defect::context_unchecked, "bad shapes: a wrong context"},
      {Defect::argument_not_named, "bad shapes: a wrong input is not named"},
      {Defect::written_before_checked, "noticed after something had been written"},
      {Defect::overflow, "large inputs"},
      {Defect::no_type, "options"},
      {Defect::throws_on_empty, "an empty batch"},
  };
  for (const auto& [defect, property] : expected) {
    const Report report = check_layer(specimen<double>(defect), {.dims = {1, 3}, .contexts = {2}});
    INFO("defect " << static_cast<int>(defect) << " expects '" << property << "' among\n" << all_of(report));
    CHECK(caught(report, property));
  }
}

TEST_CASE("defects that need another layer or scalar are caught", "[conformance]") {
  CHECK(caught(check_layer(curve<double>(Curve<double>::Kind::bend, Defect::d_input_without_log_det), {}),
               "gradient against finite differences: d input"));
  const Report not_affine = check_layer(curve<double>(Curve<double>::Kind::bend, Defect::not_affine), {});
  CHECK(caught(not_affine, "affine: output"));
  CHECK(caught(not_affine, "affine: log_det"));
  CHECK(caught(check_layer(specimen<float>(Defect::float_inaccurate), {}), "float against double: output"));
  CHECK(caught(check_layer(specimen<float>(Defect::inverse_scaled), {}), "round trip"));
  if (testing::counts_allocations()) CHECK(caught(check_layer(specimen<float>(Defect::allocates), {}), "steady state"));
  // an input on a kink, where no callback says so
  CHECK(caught(check_layer(curve<double>(Curve<double>::Kind::leaky), {}), "gradient against finite differences"));
}

TEST_CASE("a failure says where it was", "[conformance]") {
  const Report report = check_layer(specimen<double>(Defect::parameter_gradient_missing),
                                    {.name = "Broken", .dims = {3}, .batches = {7}});
  REQUIRE_FALSE(report.failures.empty());
  const std::string& text = report.failures.front();
  INFO(text);
  for (const char* part : {"Broken<double>", "dim 3", "n = 7", "forward", "d log_scale(0, ", "expected", "seed "})
    CHECK(text.find(part) != std::string::npos);
}

TEST_CASE("a looser tolerance needs a reason", "[conformance]") {
  CHECK(caught(check_layer(specimen<float>(Defect::none), {.in_float = {.gradient = 1e-3}}), "without a reason"));
  CHECK(check_layer(specimen<float>(Defect::none), {.in_float = {.gradient = 1e-3}, .reason = "a test"})
            .failures.empty());
}

TEST_CASE("the report holds the worst errors", "[conformance]") {
  const Report report = check_layer(specimen<double>(Defect::none), {.dims = {2}, .contexts = {2}});
  for (const Errors& worst : report.worst)
    for (const double error : {worst.log_det, worst.d_input, worst.d_context, worst.d_parameters}) {
      CHECK(error > 0);
      CHECK(error < 1e-8);
    }
}
