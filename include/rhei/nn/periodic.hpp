// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A net that is periodic in the angles among its inputs: it reads cos and sin in their place.
///
///   output(x, theta) = N(x, cos theta, sin theta)
///   d theta = cos(theta) d sin - sin(theta) d cos
///
/// So a flow whose conditioners read angles is continuous across the seam at +-pi.

#include <rhei/core/features.hpp>
#include <rhei/nn/net.hpp>
#include <stdexcept>
#include <utility>
#include <vector>

namespace rhei {

/// Net N, which has one input more for each circle: first the inputs that are no angles, then all cosines, then all
/// sines.
template <Net N>
class Periodic {
 public:
  using Scalar = typename N::Scalar;
  using S = Scalar;
  using Gradient = typename N::Gradient;
  static constexpr std::string_view type = "periodic";

  struct Cache {
    typename N::Cache net;           ///< of N
    Buffer<S> features, d_features;  ///< n x the inputs of N
  };

  /// With a net drawn from rng.
  /// \param circles  the inputs that are angles, in radians; may be empty.
  /// \throws std::invalid_argument if a circle is out of 0..inputs-1 or named twice, or as N does.
  Periodic(const std::vector<Index>& circles, Index inputs, Index context, Index outputs, const NetOptions& options,
           Rng& rng)
      : Periodic(circles, N(inputs < 0 ? inputs : inputs + count(circles), context, outputs, options, rng)) {}
  /// Without circles.
  Periodic(Index inputs, Index context, Index outputs, const NetOptions& options, Rng& rng)
      : Periodic({}, inputs, context, outputs, options, rng) {}

  [[nodiscard]] Index inputs() const { return count(lines_) + count(circles_); }
  [[nodiscard]] Index context_dim() const { return net_.context_dim(); }
  [[nodiscard]] Index outputs() const { return net_.outputs(); }
  [[nodiscard]] Gradient make_gradient() const { return net_.make_gradient(); }
  /// The inputs that are angles, ascending.
  [[nodiscard]] const std::vector<Index>& circles() const { return circles_; }
  [[nodiscard]] N& net() { return net_; }
  [[nodiscard]] const N& net() const { return net_; }

  [[nodiscard]] Options options() const {
    return Options(type).set("circles", Options::Integers(circles_.begin(), circles_.end())).set("net", net_.options());
  }
  static Periodic from_options(const Options& options) {
    const auto& described = options.get<Options>("net");
    if (described.type() != N::type)
      throw std::runtime_error("Periodic: the net is '" + described.type().substr(0, 40) + "', expected '" +
                               std::string(N::type) + "'");
    return Periodic(options.get_sizes("circles"), N::from_options(described));
  }

  void forward(ConstBatch<S> input, ConstBatch<S> context, Batch<S> output, Cache& cache) const {
    detail::check_net("Periodic::forward", *this, input, context, ConstBatch<S>(output));
    Batch<S> features = cache.features.resize(input.rows(), net_.inputs());
    Index next = 0;
    for (const Index d : lines_) features.col(next++) = input.col(d);
    for (const Index d : circles_) features.col(next++).array() = input.col(d).array().cos();
    for (const Index d : circles_) features.col(next++).array() = input.col(d).array().sin();
    net_.forward(features, context, output, cache.net);
  }

  void pullback(ConstBatch<S> input, ConstBatch<S> context, Cache& cache, ConstBatch<S> d_output, Batch<S>* d_input,
                Batch<S>* d_context, Gradient* gradient) const {
    const ConstBatch<S> features = std::as_const(cache.features).view();
    detail::check_net_pullback("Periodic::pullback", *this, input, context, features.rows(), d_output, d_input,
                               d_context);
    Batch<S> d = d_input ? cache.d_features.resize(input.rows(), net_.inputs()) : Batch<S>();
    net_.pullback(features, context, cache.net, d_output, d_input ? &d : nullptr, d_context, gradient);
    if (!d_input) return;
    Index next = 0;
    for (const Index j : lines_) d_input->col(j) = d.col(next++);
    for (const Index j : circles_) {
      const Index cosine = next, sine = next + count(circles_);
      d_input->col(j).array() =
          features.col(cosine).array() * d.col(sine).array() - features.col(sine).array() * d.col(cosine).array();
      ++next;
    }
  }

  /// The same net in another scalar.
  template <Real T>
  [[nodiscard]] auto cast() const {
    return cast_to<rhei::Periodic<decltype(net_.template cast<T>())>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    f("", self.net_);
  }

 private:
  /// \throws std::invalid_argument if the circles are not among inputs that N can have.
  Periodic(std::vector<Index> circles, N net) : net_(std::move(net)) {
    const Index inputs = net_.inputs() - count(circles);
    if (circles.empty()) {
      lines_ = feature_range(0, inputs);
      return;
    }
    const detail::Subset angles("Periodic", "circles", inputs, std::move(circles));
    lines_ = detail::Subset(inputs, angles).features();
    circles_ = angles.features();
  }

  static Index count(const std::vector<Index>& list) { return static_cast<Index>(list.size()); }

  std::vector<Index> lines_, circles_;
  N net_;
};

}  // namespace rhei
