// SPDX-License-Identifier: MIT

/// \file
/// Writes the flows of export_test.py into a folder: NAME.safetensors, the module in NAME.py, and in
/// NAME.io.safetensors a batch with its log_prob.

#include <fstream>
#include <rhei/models/export_zuko.hpp>
#include <rhei/models/import_zuko.hpp>
#include <rhei/models/maf.hpp>
#include <rhei/models/nsf.hpp>
#include <rhei/models/realnvp.hpp>
#include <string>

using namespace rhei;

namespace {

/// With parameters away from the identity, but near enough to it for single precision.
template <class Flow>
void write(const std::string& name, Flow flow) {
  Rng rng(3);
  for_each_parameter(flow, [&](std::string_view, Batch<double> values) {
    for (Index i = 0; i < values.size(); ++i) values.data()[i] += 0.15 * rng.normal<double>();
  });
  std::ofstream(name + ".py") << export_zuko(flow, name + ".safetensors") << '\n';
  Matrix<double> x(50, flow.dim()), context(50, flow.context_dim());
  rng.fill_normal(x);
  rng.fill_normal(context);
  SafeTensors io;
  io.add(Tensor::from_matrix("x", x));
  if (context.size() > 0) io.add(Tensor::from_matrix("context", context));
  io.add(Tensor::from_vector("log_prob", flow.log_prob(x, context)));
  write_safetensors(name + ".io.safetensors", io);
}

}  // namespace

int main(int, char** argv) {
  const std::string folder = std::string(argv[1]) + "/";
  const SplineOptions spline{.bins = 6, .min_width = 0, .min_height = 0, .map = SplineMap::clipped};
  Rng rng(1);
  write(folder + "maf", models::maf<double>(3, {.layers = 3, .net = {.hidden = {16, 9}}, .context_dim = 2}, rng));
  write(folder + "iaf",
        models::iaf<double>(
            4, {.layers = 2, .net = {.hidden = {16}, .activation = Activation::tanh, .random_degrees = true}}, rng));
  write(folder + "realnvp", models::realnvp<double>(5, {.layers = 4, .context_dim = 1}, rng));
  write(folder + "nsf_ar", models::nsf_ar<double>(4, {.layers = 2, .net = {.hidden = {12}}, .spline = spline}, rng));
  write(folder + "nsf", models::nsf<double>(4, {.layers = 2, .hidden = {12, 12}, .spline = spline}, rng));
  for (const std::string name : {"zuko_nsf", "zuko_realnvp"})
    write(folder + name, import_zuko<double>(RHEI_PYTORCH_FIXTURES "/" + name + ".safetensors"));
}
