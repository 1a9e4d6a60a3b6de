// SPDX-License-Identifier: MIT

#include <cmath>
#include <rhei/core/any_layer.hpp>
#include <rhei/core/chain.hpp>
#include <rhei/core/inverted.hpp>
#include <rhei/layers/actnorm.hpp>
#include <string>

#include "support/catch.hpp"
#include "support/conformance.hpp"
#include "support/errors.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// x = y + sqrt(1 + y^2) / 2 with y = z + c V: conditional and not linear, so that order, log-dets and context all
/// matter; its slope stays between 1/2 and 3/2, so that a chain of many stays well-conditioned.
template <Real S>
class Warp {
 public:
  using Scalar = S;
  struct Parameters {
    Matrix<S> V;  // C x D

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("V", self.V);
    }
  };
  using Gradient = Parameters;
  struct Cache {};

  Warp(Index dim, Index context, Rng& rng) : parameters_{Matrix<S>(context, dim)} { rng.fill_normal(parameters_.V); }
  Index dim() const { return parameters_.V.cols(); }
  Index context_dim() const { return parameters_.V.rows(); }
  Traits traits() const { return {}; }
  Options options() const { return Options("warp").set("dim", dim()).set("context", context_dim()); }
  Gradient make_gradient() const { return zeros_like(parameters_); }
  static Warp from_options(const Options& options) {
    Rng rng(0);
    return Warp(options.get_size("dim"), options.get_size("context"), rng);
  }
  template <Real T>
  Warp<T> cast() const {
    return cast_to<Warp<T>>(*this);
  }
  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }

  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache&) const {
    detail::check_evaluation("Warp::forward", *this, call, z, x, log_det.size());
    for (Index j = 0; j < dim(); ++j)
      for (Index i = 0; i < z.rows(); ++i) {
        const S y = z(i, j) + shift(call, i, j);
        x(i, j) = y + std::sqrt(1 + y * y) / 2;
        log_det[i] += std::log(slope(y));
      }
  }
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache&) const {
    detail::check_evaluation("Warp::inverse", *this, call, x, z, log_det.size());
    for (Index j = 0; j < dim(); ++j)
      for (Index i = 0; i < x.rows(); ++i) {
        const S y = (4 * x(i, j) - std::sqrt(4 * x(i, j) * x(i, j) + 3)) / 3;
        z(i, j) = y - shift(call, i, j);
        log_det[i] -= std::log(slope(y));
      }
  }
  void forward_pullback(const Call<S>& call, ConstBatch<S> z, ConstBatch<S>, Cache&, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>* d_context, Gradient* gradient) const {
    for (Index j = 0; j < dim(); ++j)
      for (Index i = 0; i < z.rows(); ++i) {
        const S y = z(i, j) + shift(call, i, j);
        const S d_y = d_x(i, j) * slope(y) + d_log_det[i] * log_slope_derivative(y);
        if (d_z) (*d_z)(i, j) = d_y;
        pull_shift(call, i, j, d_y, d_context, gradient);
      }
  }
  void inverse_pullback(const Call<S>& call, ConstBatch<S>, ConstBatch<S> z, Cache&, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>* d_context, Gradient* gradient) const {
    for (Index j = 0; j < dim(); ++j)
      for (Index i = 0; i < z.rows(); ++i) {
        const S y = z(i, j) + shift(call, i, j);
        if (d_x) (*d_x)(i, j) = (d_z(i, j) - d_log_det[i] * log_slope_derivative(y)) / slope(y);
        pull_shift(call, i, j, -d_z(i, j), d_context, gradient);
      }
  }

 private:
  static Index context_row(const Call<S>& call, Index i) { return call.context.rows() == 1 ? 0 : i; }
  static S slope(S y) { return 1 + y / (2 * std::sqrt(1 + y * y)); }
  static S log_slope_derivative(S y) { return 1 / (2 * (1 + y * y) * std::sqrt(1 + y * y) * slope(y)); }
  S shift(const Call<S>& call, Index i, Index j) const {
    S sum = 0;
    for (Index k = 0; k < context_dim(); ++k) sum += call.context(context_row(call, i), k) * parameters_.V(k, j);
    return sum;
  }
  void pull_shift(const Call<S>& call, Index i, Index j, S d_shift, Batch<S>* d_context, Gradient* gradient) const {
    for (Index k = 0; k < context_dim(); ++k) {
      if (d_context) (*d_context)(context_row(call, i), k) += d_shift * parameters_.V(k, j);
      if (gradient) gradient->V(k, j) += d_shift * call.context(context_row(call, i), k);
    }
  }

  Parameters parameters_;
};

/// x = exp(log_scale) z + shift in one dimension.
ActNorm<double> affine(double log_scale, double shift) {
  ActNorm<double> layer(1);
  layer.parameters().log_scale[0] = log_scale;
  layer.parameters().shift[0] = shift;
  return layer;
}

template <class Node>
std::string names(const Node& node) {
  std::string all;
  for_each_parameter(node, [&](std::string_view name, const auto&) { all += std::string(name) + " "; });
  return all;
}

/// A conditional chain of everything that composes.
template <Real S>
auto nested(Index dim, Index context, Rng& rng) {
  return Chain{ActNorm<S>(dim),
               Inverted{Repeat(3,
                               [&](int) {
                                 return Chain{Warp<S>(dim, context, rng), ActNorm<S>(dim)};
                               })},
               Inverted{Warp<S>(dim, 0, rng)}};
}

}  // namespace

TEMPLATE_TEST_CASE("nested chains conform", "[chain]", RHEI_TEST_SCALARS) {
  conforms(nested<TestType>, {.name = "nested chain", .dims = {1, 3}, .contexts = {0, 2}, .step = 0x1p-12});
}

TEMPLATE_TEST_CASE("run-time sequences of different layers conform", "[chain]", RHEI_TEST_SCALARS) {
  using Any = AnyLayer<TestType>;
  conforms(
      [](Index dim, Index context, Rng& rng) {
        return Any(Repeat<Any>(std::vector<Any>{ActNorm<TestType>(dim), Warp<TestType>(dim, context, rng),
                                                Inverted<Any>(ActNorm<TestType>(dim))}));
      },
      {.name = "run-time sequence", .dims = {1, 3}, .contexts = {0, 2}});
}

TEST_CASE("forward applies the layers as they are read", "[chain]") {
  const Chain chain{affine(std::log(2.0), 0), affine(0, 1)};
  const Matrix<double> z = Matrix<double>::Constant(1, 1, 3);
  Matrix<double> x(1, 1), back(1, 1);
  Vector<double> log_det = Vector<double>::Zero(1);
  decltype(chain)::Cache cache;
  chain.forward({}, z, x, log_det, cache);
  CHECK(x(0, 0) == Approx(2 * 3 + 1));
  CHECK(log_det[0] == Approx(std::log(2.0)));
  chain.inverse({}, x, back, log_det, cache);
  CHECK(back(0, 0) == Approx(3));
  CHECK(log_det[0] == Approx(0).margin(1e-15));
}

TEST_CASE("compositions name their parameters by position", "[chain]") {
  Rng rng(1);
  const auto layer = nested<float>(2, 1, rng);
  const std::string expected =
      "layers.0.log_scale layers.0.shift "
      "layers.1.layers.0.layers.0.V layers.1.layers.0.layers.1.log_scale layers.1.layers.0.layers.1.shift "
      "layers.1.layers.1.layers.0.V layers.1.layers.1.layers.1.log_scale layers.1.layers.1.layers.1.shift "
      "layers.1.layers.2.layers.0.V layers.1.layers.2.layers.1.log_scale layers.1.layers.2.layers.1.shift "
      "layers.2.V ";
  CHECK(names(layer) == expected);
  CHECK(names(layer.make_gradient()) == expected);
  const AnyLayer<float> any(layer);
  CHECK(names(any) == expected);
  CHECK(names(any.make_gradient()) == expected);
  CHECK(count_parameters(layer) == 4 + 3 * (2 + 4));
}

TEST_CASE("for_each_layer meets the parts of chains", "[chain]") {
  const Chain chain{affine(0, 0), Repeat(2, [](int) { return affine(0, 0); })};
  std::string all;
  for_each_layer(chain, [&](std::string_view name, const auto& layer) {
    all += std::string(name) + ":" + layer.options().type() + " ";
  });
  CHECK(all == "layers.0:actnorm layers.1.layers.0:actnorm layers.1.layers.1:actnorm ");
}

TEST_CASE("compositions describe their parts", "[chain]") {
  const Options options = Chain{affine(0, 0), Inverted{affine(0, 0)}}.options();
  CHECK(options.type() == "chain");
  const auto& list = options.get<Options::List>("layers");
  REQUIRE(list.size() == 2);
  CHECK(list[0].type() == "actnorm");
  CHECK(list[1].type() == "inverted");
  CHECK(list[1].get<Options>("layer").type() == "actnorm");
}

TEST_CASE("chains refuse layers that do not fit", "[chain]") {
  Rng rng(1);
  using Any = AnyLayer<float>;
  const std::string dims = error_text([] { Chain{ActNorm<float>(2), ActNorm<float>(3)}; });
  CHECK(contains(dims, "dimension of layer 1"));
  CHECK(contains(dims, "is 3, expected 2"));
  const std::string contexts = error_text([&] {
    Chain{Warp<float>(2, 3, rng), ActNorm<float>(2), Warp<float>(2, 4, rng)};
  });
  CHECK(contains(contexts, "context of layer 2"));
  CHECK(contains(contexts, "is 4"));
  CHECK(contains(error_text([] { Repeat(0, [](int) { return ActNorm<float>(2); }); }), "number of layers is 0"));
  CHECK(contains(error_text([] { Repeat(-1, [](int) { return ActNorm<float>(2); }); }), "number of layers is 0"));
  CHECK(contains(error_text([] { Repeat<Any>(std::vector<Any>{}); }), "number of layers is 0"));
}

TEST_CASE("a pullback needs an evaluation that kept everything", "[chain]") {
  Rng rng(1);
  const Chain chain{ActNorm<double>(2), Warp<double>(2, 0, rng)};
  Matrix<double> z(3, 2), x(3, 2);
  rng.fill_normal(z);
  Vector<double> log_det = Vector<double>::Zero(3);
  decltype(chain)::Cache cache;
  const auto pull_back = [&](Index rows) {
    const Matrix<double> in = z.topRows(rows), out = x.topRows(rows);
    Matrix<double> d(rows, 2);
    Batch<double> d_z(d);
    return error_text([&] {
      chain.forward_pullback({}, in, out, cache, out, Vector<double>(log_det.head(rows)), &d_z, nullptr, nullptr);
    });
  };
  CHECK(contains(pull_back(3), "Keep::nothing"));  // not evaluated at all
  chain.forward({.keep = Keep::nothing}, z, x, log_det, cache);
  CHECK(contains(pull_back(3), "Keep::nothing"));
  chain.forward({}, z, x, log_det, cache);
  CHECK(contains(pull_back(2), "number of rows is 2"));
  CHECK(pull_back(3).empty());
}

TEST_CASE("a pullback names the argument of a wrong shape", "[chain]") {
  Rng rng(1);
  const Chain chain{ActNorm<double>(2), Warp<double>(2, 3, rng)};
  const Matrix<double> in = Matrix<double>::Zero(4, 2), context = Matrix<double>::Zero(1, 3);
  Matrix<double> out(4, 2);
  Vector<double> log_det = Vector<double>::Zero(4);
  decltype(chain)::Cache cache;
  const Call<double> call{.context = context};
  const auto zeros = [](Index rows, Index cols) { return Matrix<double>(Matrix<double>::Zero(rows, cols)); };
  const auto refused = [&](const Matrix<double>& x, const Matrix<double>& d_z, Index n, Matrix<double> d_x,
                           Matrix<double> d_context) {
    Batch<double> to_x(d_x), to_context(d_context);
    const Vector<double> d_log_det = Vector<double>::Zero(n);
    return error_text(
        [&] { chain.inverse_pullback(call, x, out, cache, d_z, d_log_det, &to_x, &to_context, nullptr); });
  };
  chain.inverse(call, in, out, log_det, cache);
  CHECK(refused(in, out, 4, zeros(4, 2), zeros(1, 3)).empty());
  CHECK(contains(refused(zeros(4, 1), out, 4, zeros(4, 2), zeros(1, 3)), "the input is 4 x 1"));
  CHECK(contains(refused(zeros(5, 2), out, 4, zeros(4, 2), zeros(1, 3)), "the output is 4 x 2"));
  CHECK(contains(refused(in, zeros(4, 3), 4, zeros(4, 2), zeros(1, 3)), "the derivative of the output is 4 x 3"));
  CHECK(contains(refused(in, out, 5, zeros(4, 2), zeros(1, 3)), "d_log_det is 5 x 1"));
  CHECK(contains(refused(in, out, 4, zeros(3, 2), zeros(1, 3)), "the derivative of the input is 3 x 2"));
  CHECK(contains(refused(in, out, 4, zeros(4, 2), zeros(4, 3)), "d_context is 4 x 3"));
}

TEST_CASE("state that is refused is refused by name", "[chain]") {
  struct Picky : ActNorm<double> {
    using ActNorm::ActNorm;
    void check_state() { throw std::runtime_error("not that"); }
  };
  Chain chain{ActNorm<double>(2), Repeat(1, [](int) { return Inverted{Picky(2)}; })};
  std::string text;
  try {
    chain.check_state();
  } catch (const std::runtime_error& error) {
    text = error.what();
  }
  CHECK(text == "layers.1 (chain): layers.0 (inverted): not that");
}

TEST_CASE("chains are initialised from the data side", "[chain]") {
  Rng rng(5);
  Chain chain{ActNorm<double>(2), Warp<double>(2, 0, rng), ActNorm<double>(2)};
  Matrix<double> x(200, 2), z(200, 2);
  rng.fill_normal(x);
  x = 3 * x.array() + 7;
  chain.initialize({}, x);
  const auto& [first, warp, last] = chain.layers();
  for (Index d = 0; d < 2; ++d) CHECK(last.parameters().shift[d] == Approx(x.col(d).mean()));
  Vector<double> log_det = Vector<double>::Zero(200);
  decltype(chain)::Cache cache;
  chain.inverse({}, x, z, log_det, cache);
  for (Index d = 0; d < 2; ++d) {
    CHECK(z.col(d).mean() == Approx(0).margin(1e-12));
    CHECK(z.col(d).squaredNorm() / 200 == Approx(1));
  }
}

TEST_CASE("AnyLayer is a value", "[chain]") {
  AnyLayer<double> a = affine(0.5, 1);
  AnyLayer<double> b = a;
  for_each_parameter(b, [](std::string_view, Batch<double> values) { values.array() += 1; });
  CHECK_FALSE(same_values(a, b));
  AnyLayer<double> c = affine(0, 0);
  c = a;
  CHECK(same_values(a, c));
  AnyLayer<double>& self = c;
  c = self;
  CHECK(same_values(a, c));
  const AnyLayer<double> moved = std::move(c);
  CHECK(same_values(a, moved));
}

TEST_CASE("AnyLayer refuses the gradient of another layer", "[chain]") {
  Rng rng(1);
  const AnyLayer<double> a = affine(0, 0), b = Warp<double>(1, 1, rng);
  auto gradient = b.make_gradient();
  const Matrix<double> z = Matrix<double>::Zero(2, 1);
  Matrix<double> x(2, 1);
  Vector<double> log_det = Vector<double>::Zero(2);
  AnyLayer<double>::Cache cache;
  a.forward({}, z, x, log_det, cache);
  CHECK(contains(error_text([&] { a.forward_pullback({}, z, x, cache, x, log_det, nullptr, nullptr, &gradient); }),
                 "gradient"));
}

TEST_CASE("one cache may serve layers of different types in turn", "[chain]") {
  Rng rng(1);
  const AnyLayer<double> a = Chain{affine(0.5, 1), affine(0.25, 0)}, b = Warp<double>(1, 0, rng);
  Matrix<double> z(4, 1), x(4, 1), again(4, 1);
  rng.fill_normal(z);
  Vector<double> log_det = Vector<double>::Zero(4);
  AnyLayer<double>::Cache cache;
  a.forward({}, z, x, log_det, cache);
  b.forward({}, z, again, log_det, cache);
  a.forward({}, z, again, log_det, cache);
  CHECK(x == again);
}

TEST_CASE("a cast keeps the values to the precision of float", "[chain]") {
  Rng rng(3);
  const auto layer = nested<double>(2, 1, rng);
  const auto back = layer.cast<float>().cast<double>();
  CHECK(names(back) == names(layer));
  std::vector<Matrix<double>> want;
  for_each_parameter(layer, [&](std::string_view, ConstBatch<double> values) { want.emplace_back(values); });
  std::size_t next = 0;
  for_each_parameter(back, [&](std::string_view, ConstBatch<double> values) {
    CHECK(values == want[next++].cast<float>().cast<double>());
  });
}
