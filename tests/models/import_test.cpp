// SPDX-License-Identifier: MIT

/// \file
/// Flows of zuko and nflows, against what these gave (pytorch/make_fixtures.py). (That their layers come back from
/// files of rhei is tested in io/load_test.cpp.)

#include <algorithm>
#include <functional>
#include <rhei/models/export_zuko.hpp>
#include <rhei/models/import_nflows.hpp>
#include <rhei/models/import_zuko.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

/// A fixture, and what its state_dict does not tell.
struct Fixture {
  std::string name;
  Activation activation = Activation::relu;
};
const Fixture kFixtures[] = {{"zuko_maf", Activation::elu},
                             {"zuko_maf_passes"},
                             {"zuko_maf_linear"},
                             {"zuko_nsf"},
                             {"zuko_nsf_coupling"},
                             {"zuko_nsf_1d"},
                             {"zuko_realnvp"},
                             {"zuko_mixed"},
                             {"nflows_maf_residual"},
                             {"nflows_maf_plain"},
                             {"nflows_nsf_ar"},
                             {"nflows_nsf_coupling", Activation::tanh},
                             {"nflows_realnvp"}};

std::string path(const std::string& name) { return RHEI_PYTORCH_FIXTURES "/" + name + ".safetensors"; }

template <Real S>
AnyFlow<S> import(const SafeTensors& file, const Fixture& fixture) {
  if (fixture.name.starts_with("zuko")) return import_zuko<S>(file, {.activation = fixture.activation});
  return import_nflows<S>(file, {.tail_bound = 3, .activation = fixture.activation});
}
AnyFlow<double> import(const std::string& name) {
  const auto* fixture =
      std::find_if(std::begin(kFixtures), std::end(kFixtures), [&](auto& f) { return f.name == name; });
  return import <double>(read_safetensors(path(name)), *fixture);
}

struct Evaluation {
  Matrix<double> x, context, z, back;
  Vector<double> log_det, log_prob;
};

Evaluation expected_values(const std::string& name) {
  const SafeTensors file = read_safetensors(path(name + ".io"));
  return {file.at("x").to_matrix<double>(),
          file.contains("context") ? file.at("context").to_matrix<double>() : Matrix<double>(),
          file.at("z").to_matrix<double>(),
          file.at("x_round_trip").to_matrix<double>(),
          file.at("log_abs_det").to_vector<double>(),
          file.at("log_prob").to_vector<double>()};
}

template <Real S>
Evaluation evaluate(const AnyFlow<S>& flow, const Evaluation& at) {
  const Matrix<S> x = at.x.cast<S>(), context = at.context.cast<S>();
  const auto [z, log_det] = flow.inverse(x, context);
  const auto [back, back_log_det] = flow.forward(z, context);
  return {at.x,
          at.context,
          z.template cast<double>(),
          back.template cast<double>(),
          log_det.template cast<double>(),
          flow.log_prob(x, context).template cast<double>()};
}

/// The largest |a - b| / (1 + |b|).
template <class A, class B>
double disagreement(const A& a, const B& b) {
  return ((a - b).array().abs() / (1 + b.array().abs())).maxCoeff();
}

/// A file with its tensors changed, or left out where `change` returns false.
SafeTensors changed(const SafeTensors& file, const std::function<bool(Tensor&)>& change) {
  SafeTensors other;
  for (Tensor tensor : file)
    if (change(tensor)) other.add(std::move(tensor));
  return other;
}
SafeTensors changed(const std::string& name, const std::function<bool(Tensor&)>& change) {
  return changed(read_safetensors(path(name)), change);
}
SafeTensors renamed(const std::string& name, const std::string& from, const std::string& to) {
  return changed(name, [&](Tensor& tensor) {
    if (tensor.name.starts_with(from)) tensor.name.replace(0, from.size(), to);
    return true;
  });
}
SafeTensors without(const std::string& name, const std::string& tensor) {
  return changed(name, [&](const Tensor& t) { return t.name != tensor; });
}
SafeTensors with(const std::string& name, const std::string& tensor) {
  SafeTensors file = read_safetensors(path(name));
  file.add(Tensor::from_vector(tensor, RowVector<float>::Zero(3).eval()));
  return file;
}
std::string zuko_refusal(const SafeTensors& file, const ZukoOptions& options = {}) {
  return error_text<std::runtime_error>([&] { (void)import_zuko<double>(file, options); });
}
std::string nflows_refusal(const SafeTensors& file, const NflowsOptions& options = {}) {
  return error_text<std::runtime_error>([&] { (void)import_nflows<double>(file, options); });
}

}  // namespace

TEMPLATE_TEST_CASE("imported flows give what they gave in Python", "[import]", RHEI_TEST_SCALARS) {
  const double tolerance = sizeof(TestType) == 8 ? 1e-5 : 5e-5;
  for (const Fixture& fixture : kFixtures) {
    CAPTURE(fixture.name);
    const Evaluation expected = expected_values(fixture.name);
    const Evaluation got = evaluate(import <TestType>(read_safetensors(path(fixture.name)), fixture), expected);
    CHECK(disagreement(got.z, expected.z) < tolerance);
    CHECK(disagreement(got.log_det, expected.log_det) < tolerance);
    CHECK(disagreement(got.log_prob, expected.log_prob) < tolerance);
    const double theirs = (expected.back - expected.x).cwiseAbs().maxCoeff();
    CHECK(disagreement(got.back, expected.x) < (sizeof(TestType) == 8 ? 1e-5 : std::max(1e-5, 4 * theirs)));
  }
}

TEST_CASE("an imported MADE has its units in order, so that sampling evaluates each once", "[import]") {
  const SafeTensors file = read_safetensors(path("zuko_maf_passes"));  // 7 features of 3 degrees, drawn
  detail::StateDict dict(file);
  const std::string layer = "transform.transforms.1.";
  const auto keys = dict.integers(layer + "order", 7);
  CHECK(*std::max_element(keys.begin(), keys.end()) == 2);
  detail::MaskedNet net;
  for (const Index inputs : {7, 12})
    net.maps.push_back(detail::read_masked(dict, layer + "hyper." + (inputs == 7 ? "0." : "2."), inputs, -1));
  const auto [made, order] = detail::make_made<double>(net, {{0}, {1}}, keys, Activation::relu, "net");
  for (std::size_t place = 1; place < 7; ++place)
    CHECK(keys[static_cast<std::size_t>(order[place - 1])] <= keys[static_cast<std::size_t>(order[place])]);
  for (const std::int64_t degree : made.degrees().front()) CHECK((degree == 3 || degree == 6));

  Matrix<double> x = Matrix<double>::Zero(20, 7), raw(20, 14);
  Made<double>::Cache cache;
  Index made_features = 0;
  made.sweep(x, {}, raw, cache, [&](Index i) {
    x.col(i).setConstant(static_cast<double>(i));
    ++made_features;
  });
  CHECK(cache.units == 12);
  CHECK(made_features == 7);
  // and its outputs are those of the masked net in the file's order
  Matrix<double> in_file(20, 7);
  for (Index i = 0; i < 7; ++i) in_file.col(order[static_cast<std::size_t>(i)]) = x.col(i);
  const Matrix<double> hidden = ((in_file * net.maps[0].weight).rowwise() + net.maps[0].bias).cwiseMax(0.0);
  const Matrix<double> theirs = (hidden * net.maps[1].weight).rowwise() + net.maps[1].bias;
  for (Index i = 0; i < 7; ++i)
    CHECK(disagreement(raw.middleCols(2 * i, 2), theirs.middleCols(2 * order[static_cast<std::size_t>(i)], 2)) < 1e-13);
}

TEST_CASE("files that hold anything else than a flow of zuko are refused", "[import]") {
  const std::string hyper = "transform.transforms.0.hyper.";
  CHECK(contains(zuko_refusal(with("zuko_maf_passes", "encoder.weight")),
                 "tensor \"encoder.weight\" is not expected in the state_dict of a zuko flow"));
  CHECK(zuko_refusal(without("zuko_maf_passes", "base.scale")) == "file: there is no tensor \"base.scale\"");
  CHECK(zuko_refusal(without("zuko_maf_passes", hyper + "2.bias")) ==
        "file: there is no tensor \"" + hyper + "2.bias\"");
  CHECK(zuko_refusal(changed("zuko_maf_passes", [&](Tensor& tensor) {
          if (tensor.name == hyper + "2.bias")
            tensor = Tensor::from_vector(tensor.name, RowVector<float>::Zero(13).eval());
          return true;
        })) == "file: tensor \"" + hyper + "2.bias\" has the shape [13], expected [14]");
  CHECK(zuko_refusal(changed("zuko_maf_passes", [&](Tensor& tensor) {
          if (tensor.name == hyper + "0.mask")
            tensor = Tensor::from_matrix(tensor.name, Matrix<float>::Constant(12, 7, 0.5f));
          return true;
        })) == "file: tensor \"" + hyper + "0.mask\" holds numbers that are neither 0 nor 1");
  CHECK(contains(zuko_refusal(changed("zuko_maf_passes",
                                      [&](Tensor& tensor) {
                                        if (contains(tensor.name, "mask"))
                                          std::fill(tensor.bytes.begin(), tensor.bytes.end(), '\1');
                                        return true;
                                      })),
                 "features depend on each other in a circle"));
  CHECK(contains(
      zuko_refusal(renamed("zuko_maf_passes", hyper + "2.", hyper + "1.0.")),
      "\"" + hyper + "1.0.bias\" is not expected: names that begin with \"" + hyper + "\" must go on with 0., 2., 4."));
  CHECK(contains(zuko_refusal(renamed("zuko_maf_passes", "transform.transforms.1.", "transform.transforms.2.")),
                 "no tensor's name begins with \"transform.transforms.1\", though some with a higher number do"));
  CHECK(contains(zuko_refusal(renamed("zuko_mixed", "transform.transforms.2.phi.", "transform.transforms.2._")),
                 "tensor \"transform.transforms.2._0\" is of a transform that is not known, expected"));
  CHECK(contains(zuko_refusal(read_safetensors(path("zuko_nsf")), {.bins = 10}),
                 "gives 14 numbers for each feature, expected 2 (affine) or 29 (a spline of 10 bins)"));
  CHECK(zuko_refusal(read_safetensors(path("nflows_nsf_ar"))) == "file: there is no tensor \"base.loc\"");
  CHECK(contains(error_text<std::runtime_error>([] { (void)import_zuko<float>(path("zuko_maf.io")); }),
                 "zuko_maf.io.safetensors: there is no tensor"));
}

TEST_CASE("files that hold anything else than a flow of nflows are refused", "[import]") {
  const std::string layer = "_transform._transforms.0.", net = layer + "autoregressive_net.";
  CHECK(contains(nflows_refusal(with("nflows_nsf_ar", "_embedding_net.weight")),
                 "tensor \"_embedding_net.weight\" is not expected in the state_dict of a nflows Flow"));
  CHECK(nflows_refusal(without("nflows_nsf_ar", net + "blocks.1.linear_layers.0.weight")) ==
        "file: there is no tensor \"" + net + "blocks.1.linear_layers.0.weight\"");
  CHECK(contains(
      nflows_refusal(renamed("nflows_nsf_coupling", layer + "_transforms.1.upper", layer + "_transforms.1.over")),
      "there is no tensor \"" + layer + "_transforms.1.upper_entries\""));
  CHECK(contains(
      nflows_refusal(renamed("nflows_nsf_coupling", layer + "_transforms.0._permutation", layer + "_transforms.0.bn")),
      "tensor \"" + layer + "_transforms.0.bn\" is of a transform that is not known"));
  CHECK(contains(
      nflows_refusal(changed(
          "nflows_nsf_coupling",
          [&](Tensor& tensor) {
            if (contains(tensor.name, "_permutation"))
              tensor = Tensor::from_values<std::int64_t>(tensor.name, std::vector<std::int64_t>{0, 1, 1, 3, 4}, {5});
            return true;
          })),
      "Permutation: indices[2] is 1 and indices[1] is 1"));
  CHECK(contains(nflows_refusal(changed("nflows_nsf_ar",
                                        [&](Tensor& tensor) {
                                          if (tensor.name == net + "initial_layer.degrees")
                                            tensor = Tensor::from_values<std::int64_t>(
                                                tensor.name, std::vector<std::int64_t>(8, 1), {8});
                                          return true;
                                        })),
                 "initial_layer.mask\" and 'degrees' contradict each other"));
  CHECK(contains(nflows_refusal(read_safetensors(path("nflows_nsf_ar")), {.bins = 10}),
                 "gives 17 numbers for each feature, expected 2 (affine) or 29 (a spline of 10 bins)"));
  CHECK(contains(nflows_refusal(read_safetensors(path("zuko_maf"))), "no tensor's name begins with '_transform.'"));
}

TEST_CASE("what zuko made goes back to zuko under the same names", "[export]") {
  TemporaryFolder folder;
  for (const std::string name : {"zuko_maf_passes", "zuko_nsf", "zuko_nsf_coupling", "zuko_realnvp"}) {
    CAPTURE(name);
    const AnyFlow<double> flow = import(name);
    const std::string module = export_zuko(flow, folder / "flow.safetensors");
    CHECK(contains(module, name == "zuko_realnvp" ? "zuko.flows.GeneralCouplingTransform(5, 2, "
                                                  : "zuko.flows.MaskedAutoregressiveTransform("));
    const SafeTensors theirs = read_safetensors(path(name)), ours = read_safetensors(folder / "flow.safetensors");
    CHECK(ours.size() == theirs.size());
    for (const Tensor& tensor : theirs) {
      REQUIRE(ours.contains(tensor.name));
      CHECK(ours.at(tensor.name).shape == tensor.shape);
      CHECK(ours.at(tensor.name).dtype == tensor.dtype);
    }
    const Evaluation at = expected_values(name), again = evaluate(import_zuko<double>(ours), at);
    CHECK(disagreement(again.log_prob, evaluate(flow, at).log_prob) < 1e-13);
  }
}

TEST_CASE("what zuko has no counterpart of is not exported", "[export]") {
  const auto text = [](const std::string& name) {
    return error_text<std::invalid_argument>([&] { (void)export_zuko(import(name), "/nowhere/flow.safetensors"); });
  };
  CHECK(contains(text("zuko_nsf_1d"), "export_zuko: the flow has 1 feature, expected 2 or more"));
  CHECK(contains(text("nflows_maf_residual"), "is \"permutation\", expected coupling, autoregressive, actnorm or"));
  CHECK(contains(text("nflows_nsf_ar"), "has residual blocks or an activated context, expected a plain MADE"));
  CHECK(contains(text("nflows_realnvp"), "has a net of type \"residual_mlp\", expected mlp"));
  Rng rng(1);
  const AnyFlow<double> floored(StandardNormal<double>(3), SplineCoupling<double>(3, {.transformed = {0}}, rng));
  CHECK(contains(error_text<std::invalid_argument>([&] { (void)export_zuko(floored, "/nowhere/flow.safetensors"); }),
                 "is of splines with least widths"));
}
