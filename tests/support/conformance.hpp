// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The conformance suite: what must hold of every layer, checked in both directions. A layer joins with one line:
/// \code
///   TEMPLATE_TEST_CASE("ActNorm conforms", "[layer]", float, double) {
///     conforms([](Index dim) { return ActNorm<TestType>(dim); });
///   }
/// \endcode
/// The maker takes (dim), (dim, rng) or (dim, context, rng); it may return a layer of another dimension than `dim` (an
/// image of `dim` channels, say). Options, a reason for looser tolerances and the distance to kinks follow it:
/// \code
///     conforms([](Index dim, Index context, Rng& rng) { return AffineCoupling<TestType>(dim, context, net, rng); },
///              {.dims = {2, 3, 8}, .contexts = {0, 3}, .in_float = {.round_trip = 1e-3}, .reason = "..."},
///              [](const auto& layer, Direction direction, const auto& call, auto in) { return distances; });
/// \endcode
/// Everything is compiled once per scalar, on AnyLayer<S>; a line costs only the wrapping of its layer.
///
/// With RHEI_ERROR_TABLE=1 in the environment a test program ends with a table of the worst errors it has seen.

#include <array>
#include <concepts>
#include <functional>
#include <rhei/core/any_layer.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "support/finite_difference.hpp"

namespace rhei::testing {

enum class Direction { forward, inverse };

/// The largest errors that pass.
template <Real S>
struct Tolerance {
  static constexpr bool is_double = std::same_as<S, double>;
  double round_trip = is_double ? 1e-10 : 1e-4;  ///< |inverse(forward(x)) - x| / max(1, |x|), and of the log-dets' sum
  double log_det = is_double ? 1e-8 : 1e-4;      ///< against the numeric Jacobian (float: against double)
  double gradient = is_double ? 1e-8 : 1e-4;     ///< of a tensor: max|a - b| / max(max|b|, 1e-3)
  double rounding = is_double ? 1e-11 : 1e-4;    ///< of outputs that differ only in the order of summation
  bool operator==(const Tolerance&) const = default;
};

/// What a layer may say of itself on its line.
struct ConformanceOptions {
  std::string_view name = {};              ///< in messages; options().type() where empty
  std::vector<Index> dims = {1, 2, 3, 8};  ///< what the maker is called with
  std::vector<Index> contexts = {0};       ///< columns of context the maker is called with
  std::vector<Index> batches = {0, 1, 7, 256};
  bool training = false;      ///< of every call
  double perturbation = 0.3;  ///< standard deviation of what is added to each parameter (matrices: / sqrt(larger side))
  double largest_input = 1e3;  ///< inputs up to this must give finite outputs
  /// From a real number to the domain of a direction, where that is not the real line.
  std::function<double(Direction, double)> domain = {};
  /// Rows closer to a kink than this are redrawn before anything is checked: ten times the reach of the difference
  /// stencil (3e-5), and ten again because a pre-activation may move faster than the entry that moves it.
  double kink_margin = 3e-3;
  /// Of the finite differences. A layer without kinks and of many parts may take a longer one, which rounds less.
  double step = difference_step;
  Tolerance<double> in_double = {};
  Tolerance<float> in_float = {};
  std::string_view reason = {};  ///< why a tolerance is not the usual one: must be said where one is not
};

/// A layer under test, made anew for every check.
template <Real S>
struct Subject {
  std::function<AnyLayer<S>(Index dim, Index context, Rng& rng)> make;
  /// One distance per row to the nearest kink or knot of `layer` (which the maker made for dim and context), in units
  /// of the pre-activation; empty for a smooth layer.
  std::function<Vector<S>(const AnyLayer<S>& layer, Index dim, Index context, Direction, const Call<S>&,
                          ConstBatch<S> in)>
      kink_distance;
  /// A float layer in double; empty where the maker makes an AnyLayer, which cannot be cast.
  std::function<AnyLayer<double>(const AnyLayer<S>& layer, Index dim, Index context)> widen;
};

/// The worst errors seen: in double against finite differences, in float against the same layer in double. NaN where
/// nothing was asked.
struct Errors {
  double round_trip = 0, log_det = 0, d_input = 0, d_context = 0, d_parameters = 0;
};

/// What a run of the suite found.
struct Report {
  std::string name;
  std::string scalar;
  std::array<Errors, 2> worst;  ///< by Direction
  std::vector<std::string> failures;
};

/// Runs every check; nothing is asserted.
template <Real S>
Report check_layer(const Subject<S>& subject, const ConformanceOptions& options);
extern template Report check_layer(const Subject<float>&, const ConformanceOptions&);
extern template Report check_layer(const Subject<double>&, const ConformanceOptions&);

/// The layer after a journey through a file; `other` is the same layer made with another seed.
template <Real S>
AnyLayer<S> reload(const AnyLayer<S>& layer, AnyLayer<S> other);
extern template AnyLayer<float> reload(const AnyLayer<float>&, AnyLayer<float>);
extern template AnyLayer<double> reload(const AnyLayer<double>&, AnyLayer<double>);

/// Adds normal numbers to every parameter, so that no test runs at the identity.
template <Real S>
void perturb(AnyLayer<S>& layer, double by, Rng& rng);
extern template void perturb(AnyLayer<float>&, double, Rng&);
extern template void perturb(AnyLayer<double>&, double, Rng&);

/// Whether two trees hold the same bits in the same parameters and state.
template <Real S>
bool same_values(const AnyLayer<S>& a, const AnyLayer<S>& b);
extern template bool same_values(const AnyLayer<float>&, const AnyLayer<float>&);
extern template bool same_values(const AnyLayer<double>&, const AnyLayer<double>&);

/// The reports of this program so far, for the table of errors in the documentation.
std::vector<Report>& error_report();

/// Fails the current test case once for every failure (the first twenty) and files the report.
void assert_conforms(const Report& report);

template <class Make>
auto call_maker(Make& make, Index dim, Index context, Rng& rng) {
  if constexpr (std::invocable<Make&, Index, Index, Rng&>)
    return make(dim, context, rng);
  else if constexpr (std::invocable<Make&, Index, Rng&>)
    return make(dim, rng);
  else
    return make(dim);
}

/// The subject of a maker, and, where the layer is not smooth, of `kink(layer, direction, call, in)`, which is given
/// the maker's own type.
template <class Make, class... Kink>
auto subject_of(Make make, Kink... kink) {
  using L = decltype(call_maker(make, 1, 0, std::declval<Rng&>()));
  using S = typename L::Scalar;
  Subject<S> subject;
  subject.make = [make](Index dim, Index context, Rng& rng) mutable {
    return AnyLayer<S>(call_maker(make, dim, context, rng));
  };
  [[maybe_unused]] auto typed = [make](const AnyLayer<S>& layer, Index dim, Index context) mutable -> L {
    Rng unused(0);
    L copy = call_maker(make, dim, context, unused);
    copy_values(layer, copy);
    rhei::check_state(copy);
    return copy;
  };
  if constexpr (sizeof...(Kink) == 1)
    subject.kink_distance = [typed, kink...](const AnyLayer<S>& layer, Index dim, Index context, Direction direction,
                                             const Call<S>& call, ConstBatch<S> in) mutable -> Vector<S> {
      const L known = typed(layer, dim, context);
      return (kink(known, direction, call, in), ...);
    };
  if constexpr (std::same_as<S, float> && !std::same_as<L, AnyLayer<S>>)
    subject.widen = [typed](const AnyLayer<S>& layer, Index dim, Index context) mutable {
      return AnyLayer<double>(typed(layer, dim, context).template cast<double>());
    };
  return subject;
}

/// The whole suite on the layers that `make` makes.
template <class Make, class... Kink>
void conforms(Make make, const ConformanceOptions& options = {}, Kink... kink) {
  assert_conforms(check_layer(subject_of(make, kink...), options));
}

}  // namespace rhei::testing
