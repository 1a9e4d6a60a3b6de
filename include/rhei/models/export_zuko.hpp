// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A flow for Python: a file that zuko loads, and the module that it is the state_dict of.
///
/// zuko's transforms run from data to latent and take any univariate transform of torch, so that all scale maps have a
/// counterpart; of the splines those do whose map is `SplineMap::clipped`, as zuko's is. See import_zuko.hpp for what
/// zuko has.

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <rhei/io/flow_file.hpp>
#include <rhei/nn/activation.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rhei {
namespace detail {

/// Shortest text that Python reads as the same number.
inline std::string python(double number) {
  char text[32];
  for (int digits = 6; digits <= 17; ++digits) {
    std::snprintf(text, sizeof(text), "%.*g", digits, number);
    if (std::strtod(text, nullptr) == number) break;
  }
  return text;
}
inline std::string python_tuple(const std::vector<Index>& sizes) {
  std::string text = "(";
  for (const Index size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + (sizes.size() == 1 ? ",)" : ")");
}

class ZukoExporter {
 public:
  explicit ZukoExporter(const SafeTensors& flow) : flow_(flow) {
    const Options architecture = read_architecture(flow);
    const auto& base = architecture.get<Options>("base");
    dim_ = base.get_size("dim", 1);
    if (dim_ == 1)
      throw std::invalid_argument("export_zuko: the flow has 1 feature, expected 2 or more as couplings in zuko do");
    write_base(base);
    write_layers(architecture.get<Options>("transform"), "", false);
  }

  [[nodiscard]] const SafeTensors& state_dict() const { return out_; }
  [[nodiscard]] std::string module() const {
    std::string text = "zuko.lazy.Flow([\n";
    for (const std::string& module : modules_) text += "    " + module + ",\n";
    return text +
           "], zuko.lazy.UnconditionalDistribution(\n"
           "    zuko.distributions.DiagNormal, loc=torch.zeros(" +
           std::to_string(dim_) + "), scale=torch.ones(" + std::to_string(dim_) + "), buffer=True))";
  }

 private:
  [[noreturn]] static void refuse(const std::string& layer, const std::string& what) {
    throw std::invalid_argument("export_zuko: layer " + name_in_quotes(layer) + " " + what);
  }

  void write_base(const Options& base) {
    RowVector<double> mean = RowVector<double>::Zero(dim_), log_scale = mean;
    if (base.type() == "diagonal_normal") {
      mean = row("base.mean");
      log_scale = row("base.log_scale");
    } else if (base.type() != "standard_normal") {
      throw std::invalid_argument("export_zuko: the base is " + in_quotes(base.type()) +
                                  ", expected standard_normal or diagonal_normal");
    }
    add("base.loc", mean);
    add("base.scale", log_scale.array().exp().matrix());
  }

  /// From data to latent, so from the last to the first, unless inverted.
  void write_layers(const Options& layer, const std::string& prefix, bool inverted) {
    const std::string& type = layer.type();
    if (layer.has("layers")) {
      const auto& layers = layer.get<Options::List>("layers");
      for (std::size_t i = 0; i < layers.size(); ++i) {
        const std::size_t k = inverted ? i : layers.size() - 1 - i;
        write_layers(layers[k], prefix + "layers." + std::to_string(k) + ".", inverted);
      }
    } else if (type == "inverted") {
      write_layers(layer.get<Options>("layer"), prefix, !inverted);
    } else if (type == "autoregressive") {
      write_autoregressive(layer, prefix, inverted);
    } else if (type == "coupling") {
      write_coupling(layer, prefix, inverted);
    } else if (type == "actnorm" || type == "elementwise_affine") {
      write_affine(prefix, inverted);
    } else {
      refuse(prefix, "is " + in_quotes(type) +
                         ", expected coupling, autoregressive, actnorm or elementwise_affine, which zuko has");
    }
  }

  void write_affine(const std::string& prefix, bool inverted) {
    const RowVector<double> log_scale = row(prefix + "log_scale"), shift = row(prefix + "shift");
    const std::string to = next();
    const RowVector<double> scale = (inverted ? log_scale : -log_scale).array().exp();
    add(to + "_0", inverted ? shift : -shift.cwiseProduct(scale));
    add(to + "_1", scale);
    modules_.push_back(
        "zuko.lazy.UnconditionalTransform(lambda t, scale: torch.distributions.AffineTransform(t, scale, event_dim=1), "
        "torch.zeros(" +
        std::to_string(dim_) + "), torch.ones(" + std::to_string(dim_) + "), buffer=True)");
  }

  void write_coupling(const Options& layer, const std::string& prefix, bool inverted) {
    const auto& net = layer.get<Options>("net");
    if (net.type() != "mlp")
      refuse(prefix, "has a net of type " + name_in_quotes(net.type()) + ", expected mlp, which zuko has");
    const std::string to = next();
    const auto moved = layer.get_sizes("transformed");
    std::string kept(static_cast<std::size_t>(dim_), '\1'), mask;
    for (const Index f : moved) kept[static_cast<std::size_t>(f)] = '\0';
    for (const char flag : kept) mask += (mask.empty() ? "" : ", ") + std::string(flag ? "True" : "False");
    out_.add({to + "mask", Dtype::boolean, {dim_}, kept});
    if (moved.empty() || static_cast<Index>(moved.size()) == dim_)
      refuse(prefix, "keeps or moves all features, expected some of each as in zuko");

    const auto hidden = net.get_sizes("hidden", 1);
    const auto count = static_cast<Index>(moved.size()), numbers = net.get_size("outputs") / count;
    for (std::size_t l = 0; l <= hidden.size(); ++l) {
      Matrix<double> weight = tensor(prefix + "net.weight." + std::to_string(l));
      RowVector<double> bias = row(prefix + "net.bias." + std::to_string(l));
      if (l == 0) weight = with_context(weight, prefix + "net.context_weight");
      if (l == hidden.size()) {  // the numbers of a feature together
        std::vector<Index> columns;
        for (Index f = 0; f < count; ++f)
          for (Index q = 0; q < numbers; ++q) columns.push_back(q * count + f);
        weight = pick(weight, columns);
        bias = pick(bias, columns);
      }
      add_map(to, l, weight, bias);
    }
    modules_.push_back("zuko.flows.GeneralCouplingTransform(" + sizes(net) + "mask=torch.tensor([" + mask + "])" +
                       net_arguments(net) + univariate(layer.get<Options>("transformer"), !inverted, prefix) + ")");
  }

  void write_autoregressive(const Options& layer, const std::string& prefix, bool inverted) {
    const auto& net = layer.get<Options>("net");
    if (net.get<bool>("residual") || net.has("activated_context"))
      refuse(prefix, "has residual blocks or an activated context, expected a plain MADE as zuko's");
    const std::string to = next() + (inverted ? "transform." : "");
    const auto order = flow_.at(prefix + "order").to_int64();
    std::vector<std::int64_t> place(order.size());
    for (std::size_t p = 0; p < order.size(); ++p)
      place[static_cast<std::size_t>(order[p])] = static_cast<std::int64_t>(p);
    out_.add(Tensor::from_values<std::int64_t>(to + "order", place, {dim_}));

    const auto hidden = net.get_sizes("hidden", 1);
    const Index numbers = net.get_size("outputs_per_feature", 1), context = net.get_size("context");
    std::vector<Index> features(place.begin(), place.end()), outputs;  // zuko's by ours
    for (const std::int64_t p : place)
      for (Index q = 0; q < numbers; ++q) outputs.push_back(p * numbers + q);
    std::vector<std::int64_t> degrees;  // of the last map's outputs; an input is seen from its degree on
    for (const std::int64_t p : place) degrees.push_back(p + 1);
    for (std::size_t l = 0; l <= hidden.size(); ++l) {
      const std::string number = std::to_string(l);
      Matrix<double> weight = tensor(prefix + "net.weight." + number);
      RowVector<double> bias = row(prefix + "net.bias." + number);
      std::vector<std::int64_t> next_degrees;
      if (l < hidden.size()) {
        next_degrees = flow_.at(prefix + "net.degrees." + number).to_int64();
      } else {
        weight = pick(weight, outputs);
        bias = pick(bias, outputs);
        for (const std::int64_t p : place)
          next_degrees.insert(next_degrees.end(), static_cast<std::size_t>(numbers), p);
      }
      if (l == 0)
        weight = with_context(pick(weight.transpose(), features).transpose(), prefix + "net.context_weight.0");
      std::string mask;  // outputs x inputs
      for (std::size_t j = 0; j < next_degrees.size(); ++j) {
        for (std::size_t i = 0; i < degrees.size(); ++i) {
          const bool counts = degrees[i] <= next_degrees[j];
          if (!counts) weight(static_cast<Index>(i), static_cast<Index>(j)) = 0;
          mask += counts ? '\1' : '\0';
        }
        if (l == 0) mask.append(static_cast<std::size_t>(context), '\1');
      }
      add_map(to, l, weight, bias);
      out_.add({to + "hyper." + std::to_string(2 * l) + ".mask", Dtype::boolean, {weight.cols(), weight.rows()}, mask});
      degrees = std::move(next_degrees);
    }
    modules_.push_back("zuko.flows.MaskedAutoregressiveTransform(" + sizes(net) + "passes=" + std::to_string(dim_) +
                       net_arguments(net) + univariate(layer.get<Options>("transformer"), true, prefix) + ")" +
                       (inverted ? ".inv" : ""));
  }

  // ---- text
  // -----------------------------------------------------------------------------------------------------------

  /// Features and context.
  [[nodiscard]] std::string sizes(const Options& net) const {
    return std::to_string(dim_) + ", " + std::to_string(net.get_size("context")) + ", ";
  }
  static std::string net_arguments(const Options& net) {
    static constexpr std::array<std::string_view, 9> modules = {"Identity", "ReLU",     "LeakyReLU", "ELU",    "SiLU",
                                                                "GELU",     "Softplus", "Tanh",      "Sigmoid"};
    const auto activation = static_cast<std::size_t>(parse_activation(net.get<std::string>("activation")));
    return ", hidden_features=" + python_tuple(net.get_sizes("hidden", 1)) + ", activation=torch.nn." +
           std::string(modules[activation]);
  }
  /// The transform of one feature from data to latent, where the layer has `transformer`, or its inverse.
  static std::string univariate(const Options& transformer, bool inverse, const std::string& prefix) {
    const std::string& type = transformer.type();
    if (type == "inverted") return univariate(transformer.get<Options>("transformer"), !inverse, prefix);
    const std::string end = inverse ? ".inv" : "";
    if (type == "shift") return ", univariate=lambda t: zuko.transforms.AdditiveTransform(t)" + end + ", shapes=[()]";
    if (type == "affine") {
      const std::string c = python(transformer.get_number("constant"));
      const std::pair<std::string_view, std::string> scales[] = {
          {"exponential", "s.exp()"},
          {"tanh", "(" + c + " * torch.tanh(s / " + c + ")).exp()"},
          {"softsign", "(s / (1 + (s / " + c + ").abs())).exp()"},
          {"sigmoid", "torch.sigmoid(s + 2) + " + c},
          {"softplus", "torch.nn.functional.softplus(s) + " + c}};
      for (const auto& [name, scale] : scales)
        if (name == transformer.get<std::string>("scale_map"))
          return ", univariate=lambda t, s: torch.distributions.AffineTransform(t, " + scale + ")" + end;
    }
    if (type == "rational_quadratic") {
      if (!transformer.has("map") || transformer.get_number("min_width") != 0 ||
          transformer.get_number("min_height") != 0 || transformer.get<std::string>("tails") != "linear")
        refuse(prefix,
               "is of splines with least widths or without linear tails, expected .min_width = 0, .min_height = 0, "
               ".map = SplineMap::clipped as zuko's");
      const std::string bins = std::to_string(transformer.get_size("bins", 1));
      return ", univariate=lambda *p: zuko.transforms.MonotonicRQSTransform(*p, bound=" +
             python(transformer.get_number("bound")) + ", slope=" + python(transformer.get_number("min_slope")) + ")" +
             end + ", shapes=[(" + bins + ",), (" + bins + ",), (" + std::to_string(transformer.get_size("bins") - 1) +
             ",)]";
    }
    refuse(prefix, "has a transformer of type " + in_quotes(type) + ", expected shift, affine or rational_quadratic");
  }

  // ---- tensors
  // --------------------------------------------------------------------------------------------------------

  [[nodiscard]] Matrix<double> tensor(const std::string& name) const { return flow_.at(name).to_matrix<double>(); }
  [[nodiscard]] RowVector<double> row(const std::string& name) const { return tensor(name); }
  static Matrix<double> pick(const Matrix<double>& matrix, const std::vector<Index>& columns) {
    Matrix<double> picked(matrix.rows(), static_cast<Index>(columns.size()));
    for (std::size_t j = 0; j < columns.size(); ++j) picked.col(static_cast<Index>(j)) = matrix.col(columns[j]);
    return picked;
  }
  /// The context comes after the features.
  [[nodiscard]] Matrix<double> with_context(const Matrix<double>& weight, const std::string& name) const {
    if (!flow_.contains(name)) return weight;
    Matrix<double> both(weight.rows() + flow_.at(name).shape.front(), weight.cols());
    both << weight, tensor(name);
    return both;
  }
  /// In single precision, as a new module has it.
  void add(const std::string& name, const RowVector<double>& values) {
    out_.add(Tensor::from_vector(name, values.cast<float>().eval()));
  }
  void add_map(const std::string& to, std::size_t l, const Matrix<double>& weight, const RowVector<double>& bias) {
    const std::string name = to + "hyper." + std::to_string(2 * l);
    out_.add(Tensor::from_matrix(name + ".weight", weight.transpose().cast<float>()));
    add(name + ".bias", bias);
  }
  [[nodiscard]] std::string next() const { return "transform.transforms." + std::to_string(modules_.size()) + "."; }

  const SafeTensors& flow_;
  SafeTensors out_;
  std::vector<std::string> modules_;
  Index dim_ = 0;
};

}  // namespace detail

/// Writes a flow of couplings with MLPs, of autoregressive layers with plain MADEs and of actnorms as the state_dict of
/// a zuko module, and returns the module as a Python expression (of `torch` and `zuko`):
/// \code
///   flow = <that>
///   flow.load_state_dict(safetensors.torch.load_file(path))
/// \endcode
/// What was imported by import_zuko() has the names of the module that it came from, too, such as zuko.flows.MAF.
/// \throws std::invalid_argument naming the layer that zuko has no counterpart of, std::runtime_error naming the path
/// and the system's reason.
template <class Flow>
std::string export_zuko(const Flow& flow, const std::string& path) {
  const SafeTensors file = to_safetensors(flow);
  const detail::ZukoExporter exporter(file);
  write_safetensors(path, exporter.state_dict());
  return exporter.module();
}

}  // namespace rhei
