// SPDX-License-Identifier: MIT

/// \file
/// `load`, which compiles every layer there is: everything here is on AnyFlow, so that nothing is compiled twice.

#include <sys/resource.h>
#include <rhei/io/load.hpp>
#include <utility>

#include "support/allocation_counter.hpp"
#include "support/bits.hpp"
#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

using namespace rhei;
using namespace rhei::testing;
using rhei::testing::survivors;
using rhei::testing::TemporaryFolder;

namespace {

constexpr Index dim = 4, context_dim = 2;

template <class S>
using Layers = std::vector<AnyLayer<S>>;

/// Parameters away from what a constructor makes of them.
template <class S>
AnyFlow<S> perturbed(AnyFlow<S> flow, Rng& rng) {
  for_each_parameter(flow, [&](std::string_view, Batch<S> values) {
    rng.fill_normal(values);
    values *= S(0.2);
  });
  return flow;
}

template <class S>
Layers<S> couplings(Rng& rng) {
  const NetOptions mlp{{5, 3}, Activation::silu}, residual{{6, 6}, Activation::elu};
  Layers<S> layers;
  layers.push_back(AdditiveCoupling<S>(dim, {.transformed = {3, 0}, .net = mlp, .context_dim = context_dim}, rng));
  layers.push_back(AffineCoupling<S>(
      dim, {.transformed = {1, 2}, .net = mlp, .transformer = Affine<S>(ScaleMap::softsign(3))}, rng));
  layers.push_back(AdditiveCoupling<S, ResidualMlp<S>>(dim, {.transformed = {2}, .net = residual}, rng));
  layers.push_back(AffineCoupling<S, ResidualMlp<S>>(dim,
                                                     {.transformed = {0, 1, 2, 3},
                                                      .net = residual,
                                                      .context_dim = context_dim,
                                                      .transformer = Affine<S>(ScaleMap::exponential())},
                                                     rng));
  layers.push_back(SplineCoupling<S>(dim, {.transformed = {0}, .net = mlp, .context_dim = context_dim}, rng));
  layers.push_back(SplineCoupling<S, ResidualMlp<S>>(
      dim, {.transformed = {1}, .net = residual, .transformer = RationalQuadratic<S>(SplineOptions{.bins = 3})}, rng));
  return layers;
}

template <class S>
Layers<S> autoregressive(Rng& rng) {
  Layers<S> layers;
  layers.push_back(
      Maf<S>(dim, {.order = reversed_order(dim), .net = {{5, 7}, Activation::tanh}, .context_dim = context_dim}, rng));
  layers.push_back(Maf<S>(dim, {.net = {{6, 6}, Activation::gelu, true, true}}, rng));
  layers.push_back(Autoregressive<RationalQuadratic<S>>(dim, {.net = {{5}}}, rng));
  layers.push_back(Autoregressive<InvertedTransformer<Affine<S>>>(
      dim, {.net = {{6, 6}, Activation::tanh, true, false, true}, .context_dim = context_dim}, rng));
  layers.push_back(Autoregressive<InvertedTransformer<RationalQuadratic<S>>>(
      dim,
      {.net = {{}},
       .context_dim = context_dim,
       .transformer = InvertedTransformer(
           RationalQuadratic<S>({.bins = 3, .min_width = 0, .min_height = 0, .map = SplineMap::clipped}))},
      rng));
  return layers;
}

/// Every layer there is, in chains within chains and inverted.
template <class S>
AnyLayer<S> every_layer(Rng& rng) {
  Layers<S> layers;
  layers.push_back(ElementwiseAffine<S>(dim));
  layers.push_back(Rescaling<S>(dim));
  layers.push_back(AffineMap<S>::from_layer(LuLinear<S>(dim, rng)));
  layers.push_back(Inverted<AnyLayer<S>>(Repeat<AnyLayer<S>>(couplings<S>(rng))));
  layers.push_back(Inverted<AnyLayer<S>>(Repeat<AnyLayer<S>>(autoregressive<S>(rng))));
  layers.push_back(Planar<S>(dim, rng));
  layers.push_back(Radial<S>(dim, rng));
  layers.push_back(Sylvester<S>(dim, 2, rng));
  layers.push_back(Permutation<S>::random(dim, rng));
  layers.push_back(Rotation<S>::random(dim, rng));
  layers.push_back(Householder<S>(dim, 3, rng));
  layers.push_back(DenseLinear<S>(dim, rng));
  layers.push_back(MarginalGaussianization<S>(dim, 3));
  layers.push_back(BatchNorm<S>(dim));
  layers.push_back(OnFeatures<AnyLayer<S>>(dim, {3, 1}, [](Index count) { return ActNorm<S>(count); }));
  SplineCoupling<S, Periodic<Mlp<S>>> periodic(dim, {.transformed = {0}, .net = {{4}}}, rng);
  periodic.net() = Periodic<Mlp<S>>({0}, 3, 0, RationalQuadratic<S>().parameter_count(), {{4}}, rng);
  layers.push_back(std::move(periodic));
  layers.push_back(CircularShift<S>(dim));
  layers.push_back(Domains<S>({Domain::line(), Domain::line(), Domain::circle(-9, 9), Domain::line()}));
  Matrix<S> matrix(dim, dim);
  rng.fill_normal(matrix);
  layers.push_back(LuLinear<S>::from_matrix(matrix));
  layers.push_back(Inverted<AnyLayer<S>>(LuLinear<S>(dim, rng)));
  layers.push_back(ActNorm<S>(dim));
  return Repeat<AnyLayer<S>>(std::move(layers));
}

template <class S>
std::vector<AnyDistribution<S>> every_base(Rng& rng) {
  std::vector<AnyDistribution<S>> bases;
  bases.push_back(StandardNormal<S>(dim));
  bases.push_back(DiagonalNormal<S>(dim));
  bases.push_back(Logistic<S>(dim));
  bases.push_back(Uniform<S>(RowVector<S>::Constant(dim, S(-1.25)), RowVector<S>::Constant(dim, S(2.5))));
  bases.push_back(UniformNormal<S>(dim, {1}));
  bases.push_back(GaussianMixture<S>(dim, 3, rng));
  bases.push_back(MadeMixture<S>(dim, {.components = 3, .net = {{5}}}, rng));
  return bases;
}

template <class S>
AnyFlow<S> make_flow(std::uint64_t seed) {
  Rng rng(seed);
  AnyFlow<S> flow(GaussianMixture<S>(dim, 3, rng), every_layer<S>(rng));
  return perturbed(std::move(flow), rng);
}

/// All of a flow: architecture, parameters and state.
template <class S>
std::string bytes(const AnyFlow<S>& flow) {
  return format_safetensors(to_safetensors(flow));
}

/// A small flow whose text has one of everything that the texts below change, and a file of it.
SafeTensors small_file() {
  Rng rng(8);
  Layers<float> layers;
  layers.push_back(LuLinear<float>(dim, rng));
  layers.push_back(AffineCoupling<float>(dim, {.transformed = {0, 2}, .net = {{5}, Activation::relu}}, rng));
  layers.push_back(Inverted<AnyLayer<float>>(ActNorm<float>(dim)));
  return to_safetensors(AnyFlow<float>(GaussianMixture<float>(dim, 3, rng), Repeat<AnyLayer<float>>(layers)));
}

/// What load says to the small file with another architecture.
std::string refused(const std::string& architecture) {
  SafeTensors file = small_file();
  file.metadata["flow"] = architecture;
  const std::string text = error_text<std::runtime_error>([&] { (void)load<float>(file, {}, "the file"); });
  CHECK(text.starts_with("the file: "));
  return text.substr(10);
}
/// The same where the first `from` after the first `after` has become `to`.
std::string refused_with(const std::string& after, const std::string& from, const std::string& to) {
  std::string text = small_file().metadata.at("flow");
  const std::size_t start = text.find(after);
  REQUIRE(start != std::string::npos);
  const std::size_t at = text.find(from, start);
  REQUIRE(at != std::string::npos);
  return refused(text.replace(at, from.size(), to));
}

/// The most memory that this process has had, in MiB.
double peak_memory() {
  struct ::rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

/// x = z + shift, for the test of a layer that is not rhei's own.
template <Real S>
class Translation {
 public:
  using Scalar = S;
  using Gradient = NoParameters;
  struct Cache {};
  static constexpr std::string_view type = "translation";

  explicit Translation(RowVector<S> shift) : shift_(std::move(shift)) {}
  [[nodiscard]] Index dim() const { return shift_.size(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] static Traits traits() { return {}; }
  [[nodiscard]] Gradient make_gradient() const { return {}; }
  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()); }
  static Translation from_options(const Options& options) {
    return Translation(RowVector<S>::Zero(options.get_size("dim", 1)));
  }
  void forward(const Call<S>&, ConstBatch<S> z, Batch<S> x, Values<S>, Cache&) const { x = z.rowwise() + shift_; }
  void inverse(const Call<S>&, ConstBatch<S> x, Batch<S> z, Values<S>, Cache&) const { z = x.rowwise() - shift_; }
  void forward_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S>, Cache&, ConstBatch<S> d_x, ConstValues<S>,
                        Batch<S>* d_z, Batch<S>*, Gradient*) const {
    if (d_z) *d_z = d_x;
  }
  void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S>, Cache&, ConstBatch<S> d_z, ConstValues<S>,
                        Batch<S>* d_x, Batch<S>*, Gradient*) const {
    if (d_x) *d_x = d_z;
  }
  template <Real T>
  [[nodiscard]] Translation<T> cast() const {
    return cast_to<Translation<T>>(*this);
  }
  template <class Self, class F>
  static void each_state(Self& self, F&& f) {
    f("shift", self.shift_);
  }

 private:
  RowVector<S> shift_;
};

}  // namespace

TEMPLATE_TEST_CASE("every layer and base comes back bit for bit from a file alone", "[io][load]", RHEI_TEST_SCALARS) {
  using S = TestType;
  TemporaryFolder folder;
  const std::string path = folder / "flow.safetensors";
  Rng rng(1);
  Matrix<S> x(9, dim), context(9, context_dim);
  rng.fill_normal(x);
  rng.fill_normal(context);
  for (auto& base : every_base<S>(rng)) {
    const AnyFlow<S> flow = perturbed(AnyFlow<S>(base, every_layer<S>(rng)), rng);
    CAPTURE(flow.base().options().type());
    save(flow, path);
    const AnyFlow<S> loaded = load<S>(path);
    CHECK(bytes(loaded) == bytes(flow));
    CHECK(loaded.options() == flow.options());
    Rng first(4), second(4);
    CHECK(bits_of(loaded.log_prob(x, context)) == bits_of(flow.log_prob(x, context)));
    CHECK(bits_of(loaded.sample(9, first, context)) == bits_of(flow.sample(9, second, context)));
    CHECK(flow.log_prob(x, context).array().isFinite().any());
  }
}

TEST_CASE("a flow of one layer without a chain is loaded", "[io][load]") {
  const AnyFlow<float> flow(StandardNormal<float>(2), Rescaling<float>(2));
  CHECK(bytes(load<float>(to_safetensors(flow))) == bytes(flow));
}

TEST_CASE("a file of one scalar is loaded in another", "[io][load]") {
  const auto single = make_flow<float>(2);
  const auto wide = load<double>(to_safetensors(single));
  CHECK(wide.options() == single.options());
  std::vector<Matrix<double>> values;
  for_each_parameter(single,
                     [&](std::string_view, ConstBatch<float> tensor) { values.emplace_back(tensor.cast<double>()); });
  std::size_t next = 0;
  for_each_parameter(wide, [&](std::string_view, ConstBatch<double> tensor) { CHECK(tensor == values.at(next++)); });
  CHECK(next == values.size());
  CHECK(bytes(load<float>(to_safetensors(wide))) == bytes(single));
}

TEST_CASE("a loaded flow is not initialised again", "[io][load]") {
  Rng rng(3);
  Matrix<float> x(30, dim);
  const Matrix<float> context = Matrix<float>::Ones(1, context_dim);
  rng.fill_normal(x);
  auto flow = make_flow<float>(2);
  flow.initialize(x, context);
  auto loaded = load<float>(to_safetensors(flow));
  loaded.initialize(x * 5, context);
  CHECK(bytes(loaded) == bytes(flow));
}

TEST_CASE("a description that is wrong is refused with its place", "[io][load]") {
  REQUIRE_NOTHROW(load<float>(small_file()));
  CHECK(contains(refused_with("", "\"flow\"", "\"chain\""), "the type is \"chain\", expected \"flow\""));
  CHECK(contains(refused_with("", "\"base\"", "\"bass\""), "description of 'flow': 'base' is missing"));
  CHECK(contains(refused_with("", "\"gaussian_mixture\"", "\"cauchy\""), "base: \"cauchy\" is no type"));
  CHECK(
      contains(refused_with("", "\"components\":3", "\"components\":0"), "base: description of 'gaussian_mixture': "));
  CHECK(contains(refused_with("", "\"lu_linear\"", "\"qr\""), "transform: layers.0: \"qr\" is no type"));
  CHECK(contains(refused_with("", "\"affine\"", "\"spline\""),
                 "transform: layers.1: \"coupling/spline/mlp\" is no type"));
  CHECK(contains(refused_with("", "\"actnorm\"", "\"batchnorm\""),
                 "transform: layers.2: layer: \"batchnorm\" is no type"));
  CHECK(contains(refused_with("", "\"relu\"", "\"sinh\""), "layers.1: parse_activation: 'sinh' is not an activation"));
  CHECK(contains(refused_with("", "\"tanh\"", "\"tan\""), "layers.1: scale_map is 'tan'"));
  CHECK(contains(refused_with("", "[0,2]", "[0,4]"), "layers.1: Coupling: a feature of transformed is 4"));
  CHECK(contains(refused_with("", "[0,2]", "[0,0]"), "layers.1: Coupling: transformed names feature 0 twice"));
  CHECK(contains(refused_with("", "[0,2]", "[0]"), "layers.1: Coupling: the net's number of inputs is 2, expected 3"));
  CHECK(contains(refused_with("", "[5]", "5"), "'hidden' is an integer, expected a list of integers"));
  CHECK(contains(refused_with("", "\"type\":\"flow\"", "\"type\":7"), "'type' is an integer, expected a text"));
  CHECK(contains(refused_with("actnorm", "\"dim\":4", "\"dim\":5"), "transform: Chain: the dimension of layer 2 is 5"));
  CHECK(contains(refused_with("", "\"dim\":4", "\"dim\":5"), "Flow: the dimension of the base is 5"));
  CHECK(contains(refused("{\"type\":\"flow\",\"base\":{\"type\":\"logistic\",\"dim\":2},"
                         "\"transform\":{\"type\":\"chain\",\"layers\":[]}}"),
                 "'layers' is a list of integers, expected a list of descriptions"));
  // right as a description, but of other tensors
  CHECK(
      contains(refused_with("", "[5]", "[6]"), "tensor 'layers.1.net.weight.0' has the shape [2, 5], expected [2, 6]"));
  CHECK(contains(refused_with("", "\"actnorm\"", "\"rescaling\""), "tensor \"layers.2."));
}

TEST_CASE("sizes that lie are refused before memory is taken", "[io][load]") {
  (void)refused("{}");
  const double before = peak_memory();
  for (const std::string size : {"1000000000000", "9223372036854775807", "-1", "-9223372036854775808", "2000000000"}) {
    CAPTURE(size);
    CHECK(contains(refused_with("", "\"dim\":4", "\"dim\":" + size),
                   "base: description of 'gaussian_mixture': 'dim' is " + size));
    CHECK(contains(refused_with("", "\"components\":3", "\"components\":" + size), "'components' is " + size));
    CHECK(contains(refused_with("lu_linear", "\"dim\":4", "\"dim\":" + size),
                   "layers.0: description of 'lu_linear': 'dim'"));
    CHECK(contains(refused_with("coupling", "\"dim\":4", "\"dim\":" + size),
                   "layers.1: description of 'coupling': 'dim'"));
    CHECK(
        contains(refused_with("actnorm", "\"dim\":4", "\"dim\":" + size), "layer: description of 'actnorm': 'dim' is"));
    CHECK(
        contains(refused_with("", "\"inputs\":2", "\"inputs\":" + size), "description of 'mlp': 'inputs' is " + size));
    CHECK(contains(refused_with("", "\"outputs\":4", "\"outputs\":" + size),
                   "description of 'mlp': 'outputs' is " + size));
    CHECK(contains(refused_with("", "\"context\":0", "\"context\":" + size),
                   "description of 'mlp': 'context' is " + size));
    CHECK(contains(refused_with("", "[5]", "[" + size + "]"), "description of 'mlp': 'hidden' is " + size));
    CHECK(
        contains(refused_with("", "[0,2]", "[0," + size + "]"), "description of 'coupling': 'transformed' is " + size));
  }
  // each size could be, their product not
  CHECK(
      contains(refused_with("lu_linear", "\"dim\":4", "\"dim\":60000"), "'lu_linear': with a tensor of 60000 x 60000"));
  CHECK(contains(refused_with("", "[5]", "[20000,20000]"), "'mlp': with a tensor of 20001 x 20000"));
  CHECK(
      contains(refused_with("", "\"dim\":4,\"components\":3", "\"dim\":60000,\"components\":60000"), "60000 x 60000"));
  std::string residual = small_file().metadata.at("flow");
  residual.replace(residual.find("\"mlp\""), 5, "\"residual_mlp\"");
  residual.replace(residual.find("[5]"), 3, "[60000]");
  CHECK(contains(refused(residual), "'residual_mlp': with a tensor of "));
  // each tensor could be, all of them not: ten thousand widths, ten thousand layers
  std::string widths = "5", layers = "{\"type\":\"actnorm\",\"dim\":60000}";
  for (int i = 0; i < 10'000; ++i) {
    widths += ",250";
    layers += ",{\"type\":\"permutation\",\"dim\":60000}";
  }
  CHECK(contains(refused_with("", "[5]", "[" + widths + "]"), "description of 'mlp': with a tensor of 251 x 250"));
  CHECK(contains(refused("{\"type\":\"flow\",\"base\":{\"type\":\"logistic\",\"dim\":60000},\"transform\":{\"type\":"
                         "\"chain\",\"layers\":[" +
                         layers + "]}}"),
                 "transform: layers."));
  CHECK(peak_memory() - before < 64);
}

TEST_CASE("a damaged file is loaded or refused", "[io][load]") {
  const SafeTensors file = small_file();
  const std::string architecture = file.metadata.at("flow"), whole = format_safetensors(file);
  const double before = peak_memory();
  const int of_architecture = survivors(architecture, 4000, [&](const std::string& text) {
    SafeTensors damaged = file;
    damaged.metadata["flow"] = text;
    return load<float>(damaged);
  });
  CHECK(of_architecture < 1000);  // a change of the "constant" of a scale map is one that passes
  const std::size_t header = whole.find("}}") + 2;
  survivors(whole.substr(0, header), 4000,
            [&](std::string text) { return load<float>(parse_safetensors(text + whole.substr(header))); });
  const std::string plain(whole.size() - header, '\0');
  survivors(plain, 500, [&](const std::string& text) {  // tensors: any bits are parameters, but not any bits are state
    return load<float>(parse_safetensors(whole.substr(0, header) + text));
  });
  // a sanitizer holds on to what was freed
  if (testing::counts_allocations()) CHECK(peak_memory() - before < 64);
}

TEST_CASE("a layer of one's own is loaded through the registry", "[io][load]") {
  RowVector<float> shift(2);
  shift << 3, -4;
  const AnyFlow<float> flow(StandardNormal<float>(2), Inverted<AnyLayer<float>>(Translation<float>(shift)));
  const SafeTensors file = to_safetensors(flow);
  CHECK(contains(error_text<std::runtime_error>([&] { (void)load<float>(file); }),
                 "file: transform: layer: \"translation\" is no type"));
  Registry<float> registry;
  registry.add_layer<Translation<float>>();
  const auto loaded = load<float>(file, registry);
  CHECK(bytes(loaded) == bytes(flow));
  CHECK(loaded.inverse(Matrix<float>::Zero(1, 2)).z == Matrix<float>(shift));
}
