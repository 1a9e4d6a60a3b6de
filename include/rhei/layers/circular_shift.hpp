// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A trainable rotation of each angle (Rezende et al. 2020, "Normalizing flows on tori and spheres", section 2.1.1,
/// "phase translation"):
///
///   forward  x = z + shift mod 2 pi        inverse  z = x - shift mod 2 pi        log|det| = 0
///
/// A circular spline leaves -pi where it is. With rotations between them, that point lies elsewhere for each.

#include <rhei/core/layer.hpp>
#include <rhei/layers/detail/angle.hpp>

namespace rhei {

/// Rotation of `dim` angles; starts as the identity. Takes any real number, returns angles in [-pi, pi).
template <Real S>
class CircularShift {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "circular_shift";

  struct Parameters {
    RowVector<S> shift;  ///< D, radians from latent to data

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("shift", self.shift);
    }
  };
  using Gradient = Parameters;
  struct Cache {};

  /// No shift.
  /// \throws std::invalid_argument if dim < 1.
  explicit CircularShift(Index dim) {
    detail::check_value("CircularShift", "dim", dim, dim >= 1, "at least 1");
    parameters_.shift = RowVector<S>::Zero(dim);
  }

  [[nodiscard]] Index dim() const { return parameters_.shift.size(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] static constexpr Traits traits() { return {}; }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }

  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()); }
  static CircularShift from_options(const Options& options) { return CircularShift(options.get_size("dim", 1)); }

  /// x = z + shift mod 2 pi; log|det| = 0.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache&) const {
    detail::check_evaluation("CircularShift::forward", *this, call, z, x, log_det.size());
    for (Index d = 0; d < dim(); ++d) rotate(z, parameters_.shift[d], d, x);
  }

  /// z = x - shift mod 2 pi; log|det| = 0.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache&) const {
    detail::check_evaluation("CircularShift::inverse", *this, call, x, z, log_det.size());
    for (Index d = 0; d < dim(); ++d) rotate(x, -parameters_.shift[d], d, z);
  }

  /// d_z = d_x, d_shift = sum d_x.
  void forward_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S>, Cache&, ConstBatch<S> d_x, ConstValues<S>,
                        Batch<S>* d_z, Batch<S>*, Gradient* gradient) const {
    if (d_z) *d_z = d_x;
    if (gradient) gradient->shift += d_x.colwise().sum();
  }

  /// d_x = d_z, d_shift = -sum d_z.
  void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S>, Cache&, ConstBatch<S> d_z, ConstValues<S>,
                        Batch<S>* d_x, Batch<S>*, Gradient* gradient) const {
    if (d_x) *d_x = d_z;
    if (gradient) gradient->shift -= d_z.colwise().sum();
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] CircularShift<T> cast() const {
    return cast_to<CircularShift<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }

 private:
  static void rotate(ConstBatch<S> in, S by, Index d, Batch<S> out) {
    elementwise(
        in.rows(), [by](Lanes<S> angle) { return detail::wrap_angle(angle + by); }, out.col(d).data(),
        in.col(d).data());
  }

  Parameters parameters_;
};

}  // namespace rhei
