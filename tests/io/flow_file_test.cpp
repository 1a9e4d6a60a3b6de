// SPDX-License-Identifier: MIT

#include <bit>
#include <cstring>
#include <limits>
#include <rhei/core/flow.hpp>
#include <rhei/distributions/uniform.hpp>
#include <rhei/io/flow_file.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/coupling.hpp>
#include <rhei/layers/permutation.hpp>
#include <utility>

#include "support/bits.hpp"
#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

using namespace rhei;
using namespace rhei::testing;
using rhei::testing::TemporaryFolder;

namespace {

/// A flow with parameters, real state and integer state, none of it as a constructor leaves it.
template <class S>
auto make_flow(std::uint64_t seed) {
  Rng rng(seed);
  RowVector<S> lower(3), upper(3);
  rng.fill_uniform(lower);
  rng.fill_uniform(upper);
  lower.array() -= S(9), upper.array() += S(9);
  Flow flow{Uniform<S>(lower, upper),
            AffineCoupling<S>(3, {.transformed = {0, 2}, .net = {{4, 5}, Activation::relu}, .context_dim = 2}, rng),
            Permutation<S>::random(3, rng), ActNorm<S>(3)};
  for_each_parameter(flow, [&](std::string_view, Batch<S> values) {
    rng.fill_normal(values);
    values *= S(0.3);
  });
  return flow;
}

/// All of a flow: architecture, parameters and state.
template <class Model>
std::string bytes(const Model& model) {
  return format_safetensors(to_safetensors(model));
}

/// A file whose tensors `edit` has changed; one left without a name is dropped.
template <class Edit>
SafeTensors edited(const SafeTensors& file, Edit&& edit) {
  SafeTensors other;
  other.metadata = file.metadata;
  for (Tensor tensor : file) {
    edit(tensor);
    if (!tensor.name.empty()) other.add(std::move(tensor));
  }
  return other;
}
SafeTensors with_tensor(const SafeTensors& file, const Tensor& replacement) {
  return edited(file, [&](Tensor& tensor) {
    if (tensor.name == replacement.name) tensor = replacement;
  });
}
SafeTensors with_metadata(SafeTensors file, const std::string& key, const std::string& value) {
  file.metadata[key] = value;
  return file;
}
/// A file in whose architecture the first `from` is now `to`.
SafeTensors with_architecture(SafeTensors file, const std::string& from, const std::string& to) {
  std::string& text = file.metadata.at("flow");
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  text.replace(at, from.size(), to);
  return file;
}

/// What load_into says to a file that it must refuse; the flow must stay as it was.
std::string refused(const SafeTensors& file) {
  auto flow = make_flow<float>(2);
  const std::string before = bytes(flow);
  const std::string text = error_text<std::runtime_error>([&] { load_into(flow, file, "the file"); });
  CHECK(bytes(flow) == before);
  CHECK(text.starts_with("the file: "));
  return text;
}

}  // namespace

TEMPLATE_TEST_CASE("a flow of a known type comes back bit for bit", "[io][flow_file]", RHEI_TEST_SCALARS) {
  using S = TestType;
  TemporaryFolder folder;
  const std::string path = folder / "flow.safetensors";
  const auto flow = make_flow<S>(1);
  save(flow, path);
  auto other = make_flow<S>(2);
  REQUIRE(bytes(other) != bytes(flow));
  const auto weight = [&] { return std::get<0>(other.transform().layers()).net().parameters().weight[0].data(); };
  const S* const place = weight();
  load_into(other, path);
  CHECK(bytes(other) == bytes(flow));
  CHECK(weight() == place);

  Rng rng(3);
  Matrix<S> x(9, 3), context(9, 2);
  rng.fill_normal(x);
  rng.fill_normal(context);
  Rng first(4), second(4);
  CHECK(bits_of(other.log_prob(x, context)) == bits_of(flow.log_prob(x, context)));
  CHECK(bits_of(other.sample(9, first, context)) == bits_of(flow.sample(9, second, context)));
}

TEST_CASE("a NaN keeps its payload in a file", "[io][flow_file]") {
  auto flow = make_flow<float>(1);
  auto& shift = std::get<2>(flow.transform().layers()).parameters().shift;
  const std::uint32_t quiet = 0x7fc12345, signalling = 0xff812345, minus_zero = 0x80000000;
  std::memcpy(&shift[0], &quiet, 4);
  std::memcpy(&shift[1], &signalling, 4);
  std::memcpy(&shift[2], &minus_zero, 4);
  auto other = make_flow<float>(2);
  load_into(other, parse_safetensors(bytes(flow)));
  const auto& read = std::get<2>(other.transform().layers()).parameters().shift;
  CHECK(std::bit_cast<std::uint32_t>(read[0]) == quiet);
  CHECK(std::bit_cast<std::uint32_t>(read[1]) == signalling);
  CHECK(std::bit_cast<std::uint32_t>(read[2]) == minus_zero);
}

TEST_CASE("a file of one scalar fills a flow of another", "[io][flow_file]") {
  const auto single = make_flow<float>(1);
  auto wide = make_flow<double>(2);
  load_into(wide, to_safetensors(single));
  CHECK(bytes(wide) == bytes(single.cast<double>()));
  auto back = make_flow<float>(3);
  load_into(back, to_safetensors(wide));
  CHECK(bytes(back) == bytes(single));

  std::get<2>(wide.transform().layers()).parameters().shift[1] = 0.1;
  load_into(back, to_safetensors(wide));
  CHECK(std::get<2>(back.transform().layers()).parameters().shift[1] == 0.1f);
  std::get<2>(wide.transform().layers()).parameters().shift[1] = 1e300;
  CHECK(contains(refused(to_safetensors(wide)), "tensor \"layers.2.shift\" holds 1"));
}

TEST_CASE("an initialised actnorm is never initialised again after it was read", "[io][flow_file]") {
  Rng rng(5);
  Matrix<float> x(20, 3), far(20, 3);
  const Matrix<float> context = Matrix<float>::Zero(20, 2);
  rng.fill_normal(x);
  far.array() = x.array() * 7 + 50;
  auto flow = make_flow<float>(1), other = make_flow<float>(2), untouched = make_flow<float>(1);
  flow.initialize(x, context);
  load_into(other, to_safetensors(flow));
  CHECK(std::get<2>(other.transform().layers()).initialized());
  other.initialize(far, context);
  CHECK(bytes(other) == bytes(flow));
  // and one that was not, will be: the file decides, not the flow that is filled
  load_into(other, to_safetensors(untouched));
  CHECK_FALSE(std::get<2>(other.transform().layers()).initialized());
  other.initialize(far, context);
  CHECK(bytes(other) != bytes(untouched));
}

TEST_CASE("another architecture is refused with its first difference", "[io][flow_file]") {
  const SafeTensors file = to_safetensors(make_flow<float>(1));
  const auto difference = [&](const std::string& from, const std::string& to) {
    return refused(with_architecture(file, from, to));
  };
  CHECK(contains(difference("\"actnorm\"", "\"rescaling\""),
                 "flow.transform.layers.2.type is \"rescaling\", expected \"actnorm\""));
  CHECK(contains(difference("[4,5]", "[4,6]"), "flow.transform.layers.0.net.hidden.1 is 6, expected 5"));
  CHECK(contains(difference("[4,5]", "[4]"), "flow.transform.layers.0.net.hidden has 1 entries, expected 2"));
  CHECK(contains(difference("\"relu\"", "\"tanh\""), "net.activation is \"tanh\", expected \"relu\""));
  CHECK(contains(difference("[0,2]", "[1,2]"), "flow.transform.layers.0.transformed.0 is 1, expected 0"));
  CHECK(contains(difference("\"dim\":3", "\"dim\":4"), "flow.base.dim is 4, expected 3"));
  CHECK(contains(difference("\"context\":2", "\"context\":0"), "net.context is 0, expected 2"));
  CHECK(contains(difference("\"constant\":2.0", "\"constant\":3.0"), "transformer.constant is 3.0, expected 2.0"));
  CHECK(contains(difference("\"constant\"", "\"other\""), "transformer has no 'constant'"));
  CHECK(contains(difference("\"constant\"", "\"other\":1,\"constant\""),
                 "transformer has \"other\", which is not expected"));
  CHECK(contains(difference("\"layers\"", "\"parts\""), "flow.transform has no 'layers'"));

  auto flow = make_flow<float>(2);  // the order of entries says nothing
  load_into(flow, with_architecture(file, "\"type\":\"uniform\",\"dim\":3", "\"dim\":3,\"type\":\"uniform\""));
  CHECK(bytes(flow) == bytes(make_flow<float>(1)));
}

TEST_CASE("tensors that do not fit the architecture are refused", "[io][flow_file]") {
  const SafeTensors file = to_safetensors(make_flow<float>(1));
  const auto integers = [](const std::string& name, std::vector<std::int64_t> values, std::vector<Index> shape) {
    return Tensor::from_values<std::int64_t>(name, values, std::move(shape));
  };
  CHECK(contains(refused(edited(file,
                                [](Tensor& tensor) {
                                  if (tensor.name == "layers.0.net.bias.1") tensor.name.clear();
                                })),
                 "there is no tensor 'layers.0.net.bias.1'"));
  SafeTensors more = file;
  more.add(integers("layers.3.scale", {1}, {1}));
  CHECK(contains(refused(more), "tensor \"layers.3.scale\" belongs to no part"));
  CHECK(contains(refused(with_tensor(file, Tensor::from_matrix("layers.2.shift", Matrix<float>::Zero(3, 1)))),
                 "tensor 'layers.2.shift' has the shape [3, 1], expected [1, 3]"));
  CHECK(contains(refused(with_tensor(file, integers("layers.1.indices", {0, 1}, {2}))),
                 "tensor 'layers.1.indices' has the shape [2], expected [3]"));
  CHECK(contains(refused(with_tensor(file, integers("layers.1.indices", {2, 0, 2}, {3}))),
                 "Permutation: indices[2] is 2"));
  CHECK(contains(refused(with_tensor(file, integers("layers.1.indices", {2, 0, -1}, {3}))),
                 "Permutation: indices[2] is -1"));
  CHECK(contains(refused(with_tensor(file, Tensor::from_vector("layers.1.indices", Vector<float>::Zero(3)))),
                 "tensor \"layers.1.indices\" is of type F32"));
  CHECK(contains(refused(with_tensor(file, Tensor::from_matrix("base.lower", Matrix<float>::Constant(1, 3, 99)))),
                 "Uniform: feature 0 has bounds"));
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(contains(refused(with_tensor(file, Tensor::from_matrix("base.upper", Matrix<float>::Constant(1, 3, infinity)))),
                 "Uniform: feature 0 has bounds"));
}

TEST_CASE("what is no flow of a known version is refused", "[io][flow_file]") {
  const SafeTensors file = to_safetensors(make_flow<float>(1));
  SafeTensors bare = file;
  bare.metadata.clear();
  CHECK(contains(refused(bare), "the metadata has no 'format'"));
  CHECK(contains(refused(with_metadata(file, "format", "pt")), "format is \"pt\", expected \"rhei\""));
  CHECK(contains(refused(with_metadata(file, "format_version", "2")), "format_version is \"2\", expected \"1\""));
  CHECK(contains(refused(with_metadata(file, "format_version", "")), "format_version is \"\""));
  bare.metadata = {{"format", "rhei"}, {"format_version", "1"}};
  CHECK(contains(refused(bare), "the metadata has no 'flow'"));
  CHECK(contains(refused(with_metadata(file, "flow", "{\"type\":")), "the metadata's 'flow': byte 8: "));
  CHECK(contains(refused(with_metadata(file, "flow", "[1]")), "is an array of 1, expected an object"));
  CHECK(contains(refused(with_metadata(file, "flow", "{}")), "flow has no 'type'"));
  CHECK(contains(refused(with_architecture(file, "\"dim\":3", "\"dim\":null")), "the architecture.base.dim is null"));
  CHECK(contains(refused(with_architecture(file, "[0,2]", "[0,{}]")),
                 "transformed[1] is an object, expected an integer"));
  CHECK(contains(refused(with_architecture(file, "[4,5]", "[{},5]")), "hidden.1 is 5, expected an object"));
}

TEST_CASE("an infinite option is refused when it is written", "[io][flow_file]") {
  Options options("flow");
  options.set("constant", std::numeric_limits<double>::infinity());
  CHECK(contains(error_text<std::invalid_argument>([&] { (void)detail::to_json(options).text(); }),
                 "expected a finite one"));
}
