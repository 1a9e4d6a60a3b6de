// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What must hold for every base distribution. A test hands over a distribution in double, an independent formula of
/// its log-density and, where not every input is fair, a way to draw inputs.

#include <algorithm>
#include <cmath>
#include <limits>
#include <rhei/core/distribution.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/allocation_counter.hpp"
#include "support/catch.hpp"
#include "support/chi_square.hpp"
#include "support/finite_difference.hpp"

namespace rhei::testing {

using LongRow = Eigen::Matrix<long double, 1, Eigen::Dynamic>;

/// Equal bit for bit, but for the sign of zero. (A CHECK of the comparison itself would compile a printer of matrices.)
template <class A, class B>
bool same(const A& a, const B& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() && std::equal(a.data(), a.data() + a.size(), b.data());
}

/// The text of the std::invalid_argument that f throws, empty if it throws none.
template <class F>
std::string complaint(F&& f) {
  try {
    f();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

template <class Base>
Matrix<typename Base::Scalar> draw(const Base& base, Index n, std::uint64_t seed) {
  using S = typename Base::Scalar;
  Rng rng(seed);
  typename Base::Cache cache;
  Matrix<S> z(n, base.dim());
  base.sample(Call<S>{.rng = &rng}, z, cache);
  return z;
}

template <class Base>
Vector<typename Base::Scalar> log_prob(const Base& base, const Matrix<typename Base::Scalar>& z) {
  using S = typename Base::Scalar;
  typename Base::Cache cache;
  Vector<S> log_p = Vector<S>::Zero(z.rows());
  base.log_prob({}, z, log_p, cache);
  return log_p;
}

/// The gradients of sum_i weight_i log p(z_i), added to what `start` stands for in the parameters.
template <class Base>
struct Gradients {
  using S = typename Base::Scalar;
  Matrix<S> d_z;
  typename Base::Gradient gradient;

  Gradients(const Base& base, const Matrix<S>& z, const Vector<S>& weight, S start = 0)
      : d_z(Matrix<S>::Constant(z.rows(), z.cols(), S(99))), gradient(base.make_gradient()) {
    for_each_parameter(gradient, [&](std::string_view, auto tensor) { tensor.setConstant(start); });
    typename Base::Cache cache;
    Vector<S> log_p = Vector<S>::Zero(z.rows());
    base.log_prob({}, z, log_p, cache);
    Batch<S> out(d_z);
    base.log_prob_pullback({}, z, cache, weight, &out, nullptr, &gradient);
  }
};

template <class S>
Vector<S> weights(Index n) {
  Rng rng(77);
  Vector<S> w(n);
  rng.fill_normal(w);
  return w;
}

template <class Base, class Oracle>
void check_values(const Base& base, const Matrix<double>& inputs, const Oracle& oracle) {
  using S = typename Base::Scalar;
  INFO("log_prob against the formula, " << sizeof(S) << " bytes, n = " << inputs.rows());
  const Matrix<S> z = inputs.cast<S>();
  Vector<S> log_p = Vector<S>::Constant(z.rows(), S(0.5));  // added to, not overwritten
  typename Base::Cache cache;
  base.log_prob({}, z, log_p, cache);
  for (Index i = 0; i < z.rows(); ++i) {
    const double want = static_cast<double>(oracle(base, LongRow(z.row(i).template cast<long double>())));
    const double tolerance = (sizeof(S) == 4 ? 3e-6 : 1e-13) * std::max(1.0, std::abs(want));
    CAPTURE(i, want, log_p[i]);
    CHECK(std::abs(static_cast<double>(log_p[i]) - 0.5 - want) <= tolerance);
  }
}

/// All gradients of a batch of 7 by finite differences; a batch of 256 against the sum of its parts.
template <class Base>
void check_gradients(const Base& base, const Matrix<double>& inputs) {
  const Matrix<double> z = inputs.topRows(7);
  const Vector<double> w = weights<double>(inputs.rows());
  const Vector<double> w7 = w.head(7);
  Gradients<Base> analytic(base, z, w7);
  Matrix<double> moved_z = z, numeric(z.rows(), z.cols());
  for (Index e = 0; e < z.size(); ++e)
    numeric.data()[e] = differentiate(moved_z.data()[e], [&] { return w7.dot(log_prob(base, moved_z)); });
  CHECK(relative_error(analytic.d_z, numeric) <= 1e-8);

  Base moved = base;
  const auto parameters = parameter_list<double>(moved);
  const auto gradients = parameter_list<double>(analytic.gradient);
  REQUIRE(parameters.size() == gradients.size());
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    INFO("gradient of " << parameters[p].name);
    CHECK(parameters[p].name == gradients[p].name);
    Batch<double> values = parameters[p].values;
    Matrix<double> slopes(values.rows(), values.cols());
    for (Index e = 0; e < values.size(); ++e)
      slopes.data()[e] = differentiate(values.data()[e], [&] { return w7.dot(log_prob(moved, z)); });
    CHECK(relative_error(gradients[p].values, slopes) <= 1e-8);
  }

  INFO("a large batch is the sum of small ones");
  Gradients<Base> whole(base, inputs, w);
  typename Base::Gradient sum = base.make_gradient();
  Matrix<double> d_z(inputs.rows(), inputs.cols());
  for (Index first = 0; first < inputs.rows(); first += 7) {
    const Index count = std::min<Index>(7, inputs.rows() - first);
    Gradients<Base> part(base, inputs.middleRows(first, count), w.segment(first, count));
    d_z.middleRows(first, count) = part.d_z;
    const auto from = parameter_list<double>(part.gradient), to = parameter_list<double>(sum);
    for (std::size_t p = 0; p < to.size(); ++p) Batch<double>(to[p].values) += from[p].values;
  }
  CHECK(relative_error(whole.d_z, d_z) <= 1e-12);
  const auto from = parameter_list<double>(whole.gradient), to = parameter_list<double>(sum);
  for (std::size_t p = 0; p < to.size(); ++p) CHECK(relative_error(from[p].values, to[p].values) <= 1e-11);
}

/// Gradients in float against the same distribution in double.
template <class Base>
void check_float(const Base& base, const Matrix<double>& inputs) {
  const auto narrow = base.template cast<float>();
  const auto wide = narrow.template cast<double>();
  const Matrix<float> z = inputs.cast<float>();
  Gradients got(narrow, z, weights<float>(z.rows()));
  Gradients want(wide, z.cast<double>(), weights<float>(z.rows()).template cast<double>());
  CHECK(relative_error(got.d_z, want.d_z) <= 1e-4);
  const auto a = parameter_list<float>(got.gradient);
  const auto b = parameter_list<double>(want.gradient);
  REQUIRE(a.size() == b.size());
  for (std::size_t p = 0; p < a.size(); ++p) {
    INFO("float gradient of " << a[p].name);
    CHECK(relative_error(a[p].values, b[p].values) <= 1e-4);
  }
}

/// Parameter gradients are added; each output can be declined without a change to the other.
template <class Base>
void check_optional_outputs(const Base& base, const Matrix<double>& z) {
  const Vector<double> w = weights<double>(z.rows());
  Gradients<Base> plain(base, z, w), shifted(base, z, w, 3.0);
  const auto a = parameter_list<double>(plain.gradient), b = parameter_list<double>(shifted.gradient);
  for (std::size_t p = 0; p < a.size(); ++p)
    CHECK(relative_error((b[p].values.array() - 3.0).matrix(), a[p].values) <= 1e-12);

  typename Base::Cache cache;
  Vector<double> log_p = Vector<double>::Zero(z.rows());
  base.log_prob({}, z, log_p, cache);
  base.log_prob_pullback({}, z, cache, w, nullptr, nullptr, nullptr);
  Matrix<double> d_z(z.rows(), z.cols());
  Batch<double> out(d_z);
  base.log_prob_pullback({}, z, cache, w, &out, nullptr, nullptr);
  CHECK(same(d_z, plain.d_z));
  auto gradient = base.make_gradient();
  base.log_prob_pullback({}, z, cache, w, nullptr, nullptr, &gradient);  // the third use of one cache
  const auto c = parameter_list<double>(gradient);
  for (std::size_t p = 0; p < a.size(); ++p) CHECK(same(c[p].values, a[p].values));
}

/// NaN and infinities stay in their row.
template <class Base>
void check_bad_rows(const Base& base, const Matrix<double>& inputs) {
  using S = typename Base::Scalar;
  constexpr S infinity = std::numeric_limits<S>::infinity();
  for (const S bad : {std::numeric_limits<S>::quiet_NaN(), infinity, -infinity})
    for (const Index n : {1, 7, 33})  // 33: whole packets and a rest
      for (Index row = 0; row < n; row += 3) {
        Matrix<S> z = inputs.topRows(n).template cast<S>();
        const Vector<S> w = Vector<S>::Ones(n);
        const Vector<S> good = log_prob(base, z);
        const Gradients<Base> good_gradients(base, z, w);
        z(row, z.cols() - 1) = bad;
        const Vector<S> got = log_prob(base, z);
        const Gradients<Base> got_gradients(base, z, w);
        CAPTURE(bad, n, row, got[row]);
        CHECK((std::isnan(got[row]) || (!std::isnan(bad) && got[row] == -infinity)));
        bool others_same = true;
        for (Index i = 0; i < n; ++i)
          if (i != row)
            others_same = others_same && got[i] == good[i] && got_gradients.d_z.row(i) == good_gradients.d_z.row(i);
        CHECK(others_same);
        if (std::isnan(bad) && !good_gradients.d_z.isZero(0))  // a gradient that is zero everywhere stays zero
          CHECK(std::isnan(got_gradients.d_z(row, z.cols() - 1)));
      }
}

/// Mistakes are named.
template <class Base>
void check_complaints(const Base& base) {
  using S = typename Base::Scalar;
  const Index dim = base.dim();
  typename Base::Cache cache;
  Rng rng(1);
  Matrix<S> z = draw(base, 4, 2), wide = Matrix<S>::Zero(4, dim + 1), d_z(4, dim);
  Vector<S> values = Vector<S>::Zero(4), longer = Vector<S>::Zero(5);
  base.log_prob({}, z, values, cache);
  const auto says = [](const std::string& text, const std::string& what) {
    INFO("'" << text << "' should speak of " << what);
    CHECK(text.find(what) != std::string::npos);
    CHECK(text.find("expected") != std::string::npos);
  };
  Batch<S> out(d_z), wide_out(wide);
  const ConstBatch<S> context(wide);
  says(complaint([&] { base.log_prob({}, wide, values, cache); }), " z ");
  says(complaint([&] { base.log_prob({}, z, longer, cache); }), "log_p");
  says(complaint([&] { base.log_prob({.context = context}, z, values, cache); }), "context");
  says(complaint([&] { base.log_prob_pullback({}, wide, cache, values, &out, nullptr, nullptr); }), " z ");
  says(complaint([&] { base.log_prob_pullback({}, z, cache, longer, &out, nullptr, nullptr); }), "d_log_p");
  says(complaint([&] { base.log_prob_pullback({}, z, cache, values, &wide_out, nullptr, nullptr); }), "d_z");
  says(complaint([&] { base.sample({.rng = &rng}, wide, cache); }), " z ");
  says(complaint([&] { base.sample({.context = context, .rng = &rng}, z, cache); }), "context");
  says(complaint([&] { base.sample({}, z, cache); }), "call.rng");

  Options none(Base::type);
  none.set("dim", 0);
  CHECK_THROWS_AS(Base::from_options(none), std::runtime_error);
}

/// Description and values are the whole of a distribution.
template <class Base>
void check_round_trip(const Base& base, const Matrix<double>& z) {
  CHECK(base.options().type() == Base::type);
  Base other = Base::from_options(base.options());
  copy_values(base, other);
  if constexpr (requires { other.check_state(); }) other.check_state();  // as a reader does
  CHECK((other.options() == base.options()));
  CHECK(same(log_prob(other, z), log_prob(base, z)));
  const Base copy = base;
  CHECK(same(log_prob(copy, z), log_prob(base, z)));
}

/// Same seed, same bits, whatever the cache has seen before.
template <class Base>
void check_repeatable(const Base& base) {
  using S = typename Base::Scalar;
  typename Base::Cache cache;
  Rng rng(5);
  for (const Index n : {256, 0, 1, 7}) {
    Matrix<S> z(n, base.dim());
    Rng start = rng;
    base.sample({.rng = &rng}, z, cache);
    typename Base::Cache fresh;
    Matrix<S> again(n, base.dim());
    base.sample({.rng = &start}, again, fresh);
    CHECK(same(z, again));
    CHECK((rng == start));
    CHECK(z.allFinite());
    CHECK(log_prob(base, z).allFinite());
  }
}

/// The derivative of <A, sample> with the generator's state held fixed.
template <class Base>
void check_sample_gradient(const Base& base) {
  const Index n = 7;
  Rng rng(12);
  Matrix<double> A(n, base.dim()), z(n, base.dim());
  rng.fill_normal(A);
  typename Base::Cache cache;
  auto gradient = base.make_gradient();
  for_each_parameter(gradient, [](std::string_view, auto tensor) { tensor.setConstant(2.0); });
  Rng start(3);
  const Call<double> call{.rng = &start};
  base.sample(call, z, cache);
  base.sample_pullback(call, z, cache, A, nullptr, &gradient);
  base.sample_pullback(call, z, cache, A, nullptr, nullptr);

  Base moved = base;
  const auto parameters = parameter_list<double>(moved), gradients = parameter_list<double>(gradient);
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    INFO("gradient of a draw with respect to " << parameters[p].name);
    Batch<double> values = parameters[p].values;
    Matrix<double> slopes(values.rows(), values.cols());
    for (Index e = 0; e < values.size(); ++e)
      slopes.data()[e] = differentiate(values.data()[e], [&] { return A.cwiseProduct(draw(moved, n, 3)).sum(); });
    CHECK(relative_error((gradients[p].values.array() - 2.0).matrix(), slopes) <= 1e-8);
  }
}

/// After one evaluation of each kind, the next ones take nothing from the heap.
template <class Base>
void check_allocations(const Base& base) {
  using S = typename Base::Scalar;
  Rng rng(4);
  typename Base::Cache cache;
  Matrix<S> z = draw(base, 256, 1), d_z(256, base.dim());
  Vector<S> log_p = Vector<S>::Zero(256), w = weights<S>(256);
  auto gradient = base.make_gradient();
  Batch<S> out(d_z);
  const Call<S> call{.rng = &rng};
  const auto everything = [&] {
    base.log_prob(call, z, log_p, cache);
    base.log_prob_pullback(call, z, cache, w, &out, nullptr, &gradient);
    base.sample(call, z, cache);
    if constexpr (Reparameterized<Base>) base.sample_pullback(call, z, cache, out, nullptr, &gradient);
  };
  everything();
  CHECK(testing::allocations_in(everything) == 0);
}

/// Everything above. `inputs` holds at least 256 rows, none within 1e-4 of a jump of the density.
template <class Base, class Oracle>
void check_distribution(const Base& base, const Matrix<double>& inputs, const Oracle& oracle) {
  using Narrow = decltype(base.template cast<float>());
  static_assert(Distribution<Base> && Distribution<Narrow>);
  static_assert(std::is_same_v<typename Base::Scalar, double> && std::is_same_v<typename Narrow::Scalar, float>);
  INFO(std::string(Base::type) << ", D = " << base.dim());
  const Narrow narrow = base.template cast<float>();
  for (const Index n : {0, 1, 7, 256}) {
    check_values(base, inputs.topRows(n), oracle);
    check_values(narrow, inputs.topRows(n), oracle);
    check_optional_outputs(base, inputs.topRows(n));
  }
  check_gradients(base, inputs);
  check_float(base, inputs);
  check_bad_rows(base, inputs);
  check_bad_rows(narrow, inputs);
  check_complaints(base);
  check_round_trip(base, inputs);
  check_repeatable(base);
  check_repeatable(narrow);
  if constexpr (Reparameterized<Base>) check_sample_gradient(base);
  check_allocations(base);
  check_allocations(narrow);
}

/// The density on a box (D <= 2) by the midpoint rule: its mass is 1 within `tolerance`, and 10^5 draws fall into its
/// cells as it says (chi-square). The box must hold all but `tolerance` of the mass.
template <class Base>
void check_mass_and_samples(const Base& base, const RowVector<double>& lower, const RowVector<double>& upper,
                            double tolerance = 1e-7) {
  const Index dim = base.dim(), cells = dim == 1 ? 200 : 40, points = dim == 1 ? 20 : 10;
  const Index per_axis = cells * points, total_cells = dim == 1 ? cells : cells * cells;
  INFO(std::string(Base::type) << ", D = " << dim);
  REQUIRE(dim <= 2);
  const RowVector<double> step = (upper - lower) / static_cast<double>(per_axis);
  Vector<double> mass = Vector<double>::Zero(total_cells);
  Matrix<double> line(per_axis, dim);
  for (Index j = 0; j < (dim == 1 ? 1 : per_axis); ++j) {
    for (Index i = 0; i < per_axis; ++i) {
      line(i, 0) = lower[0] + (static_cast<double>(i) + 0.5) * step[0];
      if (dim == 2) line(i, 1) = lower[1] + (static_cast<double>(j) + 0.5) * step[1];
    }
    const Vector<double> log_p = log_prob(base, line);
    for (Index i = 0; i < per_axis; ++i) mass[i / points + cells * (j / points)] += std::exp(log_p[i]) * step.prod();
  }
  CHECK(std::abs(mass.sum() - 1) <= tolerance);

  const auto check_draws = [&](const auto& sampler) {
    INFO("draws of " << sizeof(typename std::remove_cvref_t<decltype(sampler)>::Scalar) << "-byte scalars");
    const Index n = 100'000;
    const Matrix<double> z = draw(sampler, n, 2024).template cast<double>();
    Vector<double> count = Vector<double>::Zero(total_cells);
    for (Index i = 0; i < n; ++i) {
      Index cell = 0, stride = 1;
      bool inside = true;
      for (Index d = 0; d < dim; ++d, stride *= cells) {
        const double position = std::floor((z(i, d) - lower[d]) / (step[d] * static_cast<double>(points)));
        inside = inside && position >= 0 && position < static_cast<double>(cells);
        if (inside) cell += stride * static_cast<Index>(position);
      }
      if (inside) count[cell] += 1;
    }
    const ChiSquare result = chi_square(mass, count, n);
    CAPTURE(result.statistic, result.degrees);
    CHECK(result.degrees > 15);
    CHECK(result.statistic <= result.threshold);
  };
  check_draws(base);
  check_draws(base.template cast<float>());
}

}  // namespace rhei::testing
