// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// From what a table's columns can hold to where a flow works: each feature has a domain of its own (core/domain.hpp).
/// With y the latent value, sigma the logistic function, and u the median of x - a that `initialize` has seen:
///
///   line                x = y                              log dx/dy = 0
///   interval (a, b)     x = a + (b - a) sigma(y)           log dx/dy = log(b - a) - |y| - 2 log(1 + e^-|y|)
///   half-line (a, inf)  x = a + u log(1 + e^y)             log dx/dy = log u - log(1 + e^-y)
///   circle [a, b)       x = (a + b)/2 + y (b - a)/(2 pi)   log dx/dy = log((b - a)/(2 pi)),  y an angle in [-pi, pi)
///
/// and log|det| of the inverse is the negative. With l(y) = log dx/dy the pullbacks are
///
///   forward  d_y = d_x dx/dy + d_log_det l'(y)             inverse  d_x = (d_y - d_log_det l'(y)) / (dx/dy)
///
/// Tails. Near an end, y is the logarithm of the distance to it: a normal base with linear tails puts no mass on an
/// end, and the density of x tends to zero there (or grows slower than 1/distance). Far out on a half-line y = x, so
/// that a normal tail remains normal; log x in its place would make it log-normal, and one sample in thousands would
/// dwarf the rest.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <rhei/core/domain.hpp>
#include <rhei/core/layer.hpp>
#include <rhei/layers/detail/angle.hpp>
#include <stdexcept>
#include <variant>
#include <vector>

namespace rhei {
namespace detail {

/// x, or NaN where it is below `lowest` or above `highest`.
template <Real S>
Lanes<S> only_within(S lowest, S highest, Lanes<S> x) {
  const Lanes<S> nan(std::numeric_limits<S>::quiet_NaN());
  return select(x < lowest, nan, select(Lanes<S>(highest) < x, nan, x));
}

/// The number in [lowest, highest] that is nearest to x; NaN remains.
template <Real S>
Lanes<S> rounded_into(S lowest, S highest, Lanes<S> x) {
  return select(x < lowest, Lanes<S>(lowest), select(Lanes<S>(highest) < x, Lanes<S>(highest), x));
}

/// The smallest number above an end whose distance d to it has an exact logarithm, and so has d / size.
template <Real S>
S first_above(S end, S size) {
  return std::max(std::nextafter(end, std::numeric_limits<S>::max()),
                  end + std::max(S(1), size) * std::numeric_limits<S>::min());
}

// The maps of the file comment. Each has x = to_data(y), y = to_latent(x), dx/dy, l(y) = log dx/dy, and l'(y).

template <Real S>
struct LineMap {
  LineMap(const Domain&, S) {}
  static Lanes<S> to_data(Lanes<S> y) { return y; }
  static Lanes<S> to_latent(Lanes<S> x) { return x; }
  static Lanes<S> slope(Lanes<S>) { return S(1); }
  static Lanes<S> log_slope(Lanes<S>) { return S(0); }
  static Lanes<S> log_slope_derivative(Lanes<S>) { return S(0); }
};

template <Real S>
struct IntervalMap {
  S lower, upper, width, lowest, highest;

  IntervalMap(const Domain& domain, S)
      : lower(static_cast<S>(domain.lower)),
        upper(static_cast<S>(domain.upper)),
        width(upper - lower),
        lowest(first_above(lower, width)),
        highest(-first_above(-upper, width)) {}
  Lanes<S> to_data(Lanes<S> y) const {  // from the nearer end
    const Lanes<S> distance = width * sigmoid(-abs(y));
    return rounded_into(lowest, highest, select(y < S(0), lower + distance, upper - distance));
  }
  Lanes<S> to_latent(Lanes<S> x) const {
    const Lanes<S> inside = only_within(lowest, highest, x);
    return log((inside - lower) / (upper - inside));
  }
  Lanes<S> slope(Lanes<S> y) const { return width * sigmoid(y) * sigmoid(-y); }
  Lanes<S> log_slope(Lanes<S> y) const {
    const Lanes<S> size = abs(y);
    return std::log(width) - size - S(2) * log1p_unit(exp(-size));
  }
  static Lanes<S> log_slope_derivative(Lanes<S> y) { return -tanh(S(0.5) * y); }
};

template <Real S>
struct HalfLineMap {
  S lower, unit, lowest;

  HalfLineMap(const Domain& domain, S own_unit)
      : lower(static_cast<S>(domain.lower)), unit(own_unit), lowest(first_above(lower, unit)) {}
  Lanes<S> to_data(Lanes<S> y) const {
    return rounded_into(lowest, std::numeric_limits<S>::infinity(), lower + unit * softplus(y));
  }
  Lanes<S> to_latent(Lanes<S> x) const {
    const Lanes<S> t = (only_within(lowest, std::numeric_limits<S>::infinity(), x) - lower) / unit;
    return t + log(-expm1_negative(-t));
  }
  Lanes<S> slope(Lanes<S> y) const { return unit * sigmoid(y); }
  Lanes<S> log_slope(Lanes<S> y) const { return std::log(unit) - softplus(-y); }
  static Lanes<S> log_slope_derivative(Lanes<S> y) { return sigmoid(-y); }
};

template <Real S>
struct CircleMap {
  S lower, highest, centre, radius;

  CircleMap(const Domain& domain, S)
      : lower(static_cast<S>(domain.lower)),
        highest(std::nextafter(static_cast<S>(domain.upper), lower)),
        centre(lower + (static_cast<S>(domain.upper) - lower) / 2),
        radius((static_cast<S>(domain.upper) - lower) / (2 * std::numbers::pi_v<S>)) {}
  Lanes<S> to_data(Lanes<S> y) const {
    const Lanes<S> x = centre + radius * wrap_angle(y);
    return select(Lanes<S>(highest) < x, Lanes<S>(lower), select(x < lower, Lanes<S>(lower), x));
  }
  Lanes<S> to_latent(Lanes<S> x) const { return wrap_angle((x - centre) / radius); }
  Lanes<S> slope(Lanes<S>) const { return radius; }
  Lanes<S> log_slope(Lanes<S>) const { return std::log(radius); }
  static Lanes<S> log_slope_derivative(Lanes<S>) { return S(0); }
};

}  // namespace detail

/// The data side of a flow for mixed tables: what lies behind it sees lines, and circles as angles in [-pi, pi).
///
/// `inverse` takes any real number on a circle. Outside an interval or half-line, and on its ends, where the density of
/// such a flow is not defined, it gives NaN in that row: a column that holds them (a share of exactly 0 or 1, say)
/// needs a wider domain or noise. `forward` never leaves a domain: it rounds to numbers inside.
template <Real S>
class Domains {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "domains";
  using Gradient = NoParameters;
  struct Cache {};

  /// One domain for each feature; the unit of half-lines is 1 until `initialize` has seen data.
  /// \throws std::invalid_argument if there is no domain, or one whose ends cannot be told apart in S.
  explicit Domains(std::vector<Domain> domains) : domains_(std::move(domains)), unit_(RowVector<S>::Ones(dim())) {
    detail::check_value("Domains", "the number of domains", dim(), dim() >= 1, "at least 1");
    for (const Domain& domain : domains_) {
      const S lower = static_cast<S>(domain.lower), upper = static_cast<S>(domain.upper);
      const bool bounded = domain.kind == Domain::Kind::interval || domain.is_circle();
      if (!(lower < upper) || (bounded && !std::isfinite(upper - lower)))
        detail::throw_invalid("Domains", "the ends " + std::to_string(domain.lower) + " and " +
                                             std::to_string(domain.upper) + " are not a domain in this scalar");
    }
  }

  [[nodiscard]] Index dim() const { return static_cast<Index>(domains_.size()); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] static constexpr Traits traits() { return {}; }
  [[nodiscard]] Gradient make_gradient() const { return {}; }
  /// What each feature of the data can be (D).
  [[nodiscard]] const std::vector<Domain>& domains() const { return domains_; }
  /// D: where a half-line turns from logarithmic to linear, as a distance from its end; 1 for the other kinds.
  [[nodiscard]] const RowVector<S>& unit() const { return unit_; }

  [[nodiscard]] Options options() const {
    Options::List list;
    for (const Domain& domain : domains_) list.push_back(domain.options());
    return Options(type).set("domains", std::move(list));
  }
  static Domains from_options(const Options& options) {
    std::vector<Domain> domains;
    for (const Options& item : options.get<Options::List>("domains")) domains.push_back(Domain::from_options(item));
    return Domains(std::move(domains));
  }

  /// Each feature into its domain.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache&) const {
    detail::check_evaluation("Domains::forward", *this, call, z, x, log_det.size());
    for_each_map([&](Index d, const auto& map) {
      const S* y = z.col(d).data();
      const auto to_data = [&map](Lanes<S> value) { return map.to_data(value); };
      const auto add_log_slope = [&map](Lanes<S> sum, Lanes<S> value) { return sum + map.log_slope(value); };
      elementwise(z.rows(), to_data, x.col(d).data(), y);
      elementwise(z.rows(), add_log_slope, log_det.data(), log_det.data(), y);
    });
  }

  /// Out of the domains; NaN where a value does not lie in its own.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache&) const {
    detail::check_evaluation("Domains::inverse", *this, call, x, z, log_det.size());
    for_each_map([&](Index d, const auto& map) {
      S* y = z.col(d).data();
      const auto to_latent = [&map](Lanes<S> value) { return map.to_latent(value); };
      const auto take_log_slope = [&map](Lanes<S> sum, Lanes<S> value) { return sum - map.log_slope(value); };
      elementwise(x.rows(), to_latent, y, x.col(d).data());
      elementwise(x.rows(), take_log_slope, log_det.data(), log_det.data(), y);
    });
  }

  /// d_z = d_x dx/dz + d_log_det l'(z).
  void forward_pullback(const Call<S>&, ConstBatch<S> z, ConstBatch<S>, Cache&, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>*, Gradient*) const {
    if (!d_z) return;
    for_each_map([&](Index d, const auto& map) {
      const auto pull = [&map](Lanes<S> y, Lanes<S> d_out, Lanes<S> d_log_slope) {
        return d_out * map.slope(y) + d_log_slope * map.log_slope_derivative(y);
      };
      elementwise(z.rows(), pull, d_z->col(d).data(), z.col(d).data(), d_x.col(d).data(), d_log_det.data());
    });
  }

  /// d_x = (d_z - d_log_det l'(z)) / (dx/dz).
  void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S> z, Cache&, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>*, Gradient*) const {
    if (!d_x) return;
    for_each_map([&](Index d, const auto& map) {
      const auto pull = [&map](Lanes<S> y, Lanes<S> d_out, Lanes<S> d_log_slope) {
        return (d_out - d_log_slope * map.log_slope_derivative(y)) / map.slope(y);
      };
      elementwise(z.rows(), pull, d_x->col(d).data(), z.col(d).data(), d_z.col(d).data(), d_log_det.data());
    });
  }

  /// Sets the unit of each half-line to the median distance of its column from its end, unless that has been done
  /// before.
  /// \throws std::invalid_argument if x has no rows, not D columns, or a value outside its domain: says which.
  void initialize(const Call<S>&, ConstBatch<S> x) {
    if (initialized_ != 0) return;
    detail::check_shape("Domains::initialize", "x", x.rows(), x.cols(), -1, dim());
    detail::check_value("Domains::initialize", "the number of rows", x.rows(), x.rows() > 0, "at least 1");
    for_each_map([&](Index d, const auto& map) {
      Vector<S> y(x.rows());
      elementwise(
          x.rows(), [&map](Lanes<S> value) { return map.to_latent(value); }, y.data(), x.col(d).data());
      for (Index i = 0; i < x.rows(); ++i)
        detail::check_value("Domains::initialize", "a value of column " + std::to_string(d) + " of x", x(i, d),
                            std::isfinite(y[i]), expected_in(d));
    });
    for (Index d = 0; d < dim(); ++d) {
      if (domains_[static_cast<std::size_t>(d)].kind != Domain::Kind::half_line) continue;
      Vector<S> distance = x.col(d).array() - static_cast<S>(domains_[static_cast<std::size_t>(d)].lower);
      S* const middle = distance.data() + distance.size() / 2;
      std::nth_element(distance.data(), middle, distance.data() + distance.size());
      unit_[d] = *middle;
    }
    initialized_ = 1;
  }

  /// \throws std::runtime_error if a reader has set a unit that is not positive and finite.
  void check_state() const {
    for (Index d = 0; d < dim(); ++d)
      if (!(unit_[d] > 0) || !std::isfinite(unit_[d]))
        throw std::runtime_error("Domains: unit " + std::to_string(d) + " is " + std::to_string(unit_[d]) +
                                 ", expected a positive number");
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] Domains<T> cast() const {
    return cast_to<Domains<T>>(*this);
  }

  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("unit", self.unit_);
    f("initialized", self.initialized_);
  }

 private:
  using Map = std::variant<detail::LineMap<S>, detail::IntervalMap<S>, detail::HalfLineMap<S>, detail::CircleMap<S>>;
  template <class M>
  static Map make_map(const Domain& domain, S unit) {
    return M(domain, unit);
  }
  static constexpr std::array<Map (*)(const Domain&, S), std::variant_size_v<Map>> make_by_kind = {
      &make_map<detail::LineMap<S>>, &make_map<detail::IntervalMap<S>>, &make_map<detail::HalfLineMap<S>>,
      &make_map<detail::CircleMap<S>>};

  /// Calls f(d, map) for every feature.
  template <class F>
  void for_each_map(F&& f) const {
    for (Index d = 0; d < dim(); ++d) {
      const Domain& domain = domains_[static_cast<std::size_t>(d)];
      const Map map = make_by_kind[static_cast<std::size_t>(domain.kind)](domain, unit_[d]);
      std::visit([&](const auto& own) { f(d, own); }, map);
    }
  }

  [[nodiscard]] std::string expected_in(Index d) const {
    const Domain& domain = domains_[static_cast<std::size_t>(d)];
    if (domain.kind == Domain::Kind::interval)
      return "a number between " + std::to_string(domain.lower) + " and " + std::to_string(domain.upper) +
             ", the ends not included";
    if (domain.kind == Domain::Kind::half_line) return "a finite number above " + std::to_string(domain.lower);
    return "a finite number";
  }

  std::vector<Domain> domains_;
  RowVector<S> unit_;
  std::int64_t initialized_ = 0;
};

}  // namespace rhei
