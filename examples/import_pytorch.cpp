// SPDX-License-Identifier: MIT

/// \file
/// Opens a flow that was trained with zuko or nflows: the state_dict of the module, as a safetensors file. Prints what
/// it is made of, compares it with what the library computed, and saves it as a file of rhei.

#include <algorithm>
#include <cmath>
#include <optional>
#include <rhei/io/flow_file.hpp>
#include <rhei/models/import_nflows.hpp>
#include <rhei/models/import_zuko.hpp>

#include "support/command_line.hpp"

namespace {

struct Arguments {
  std::string model, library, activation = "relu", check, save;
  rhei::Index bins = 0;
  std::optional<double> tail_bound;
};

template <rhei::Real S>
rhei::AnyFlow<S> import(const Arguments& arguments) {
  const auto with = [&](auto options) {
    options.bins = arguments.bins;
    options.tail_bound = arguments.tail_bound.value_or(options.tail_bound);
    options.activation = rhei::parse_activation(arguments.activation);
    return options;
  };
  return arguments.library == "zuko" ? rhei::import_zuko<S>(arguments.model, with(rhei::ZukoOptions{}))
                                     : rhei::import_nflows<S>(arguments.model, with(rhei::NflowsOptions{}));
}

std::string short_text(double number) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g", number);
  return text;
}

/// A description as text, the entries of lists on lines of their own.
std::string describe(const rhei::Options& options, const std::string& indent = "  ") {
  std::string text = options.type(), separator = " (", lines;
  const auto add = [&](const std::string& name, const std::string& value) {
    text += separator + name + " " + value;
    separator = ", ";
  };
  for (const auto& [name, value] : options.entries()) {
    if (const auto* flag = std::get_if<bool>(&value)) add(name, *flag ? "true" : "false");
    if (const auto* number = std::get_if<std::int64_t>(&value)) add(name, std::to_string(*number));
    if (const auto* number = std::get_if<double>(&value)) add(name, short_text(*number));
    if (const auto* inner = std::get_if<rhei::Options>(&value)) add(name, describe(*inner, indent + "  "));
    if (const auto* word = std::get_if<std::string>(&value); word && name != "type") add(name, *word);
    if (const auto* integers = std::get_if<rhei::Options::Integers>(&value)) {
      std::string list;
      for (const std::int64_t integer : *integers) list += (list.empty() ? "" : " ") + std::to_string(integer);
      add(name, "[" + list + "]");
    }
    if (const auto* list = std::get_if<rhei::Options::List>(&value))
      for (const rhei::Options& item : *list) lines += "\n" + indent + describe(item, indent + "  ");
  }
  return text + (separator == ", " ? ")" : "") + lines;
}

/// What the library gave for a batch; those quantities that the file lacks are empty.
struct Reference {
  Eigen::MatrixXd x, context, z, log_det, log_prob, x_round_trip;
};

Reference read_reference(const std::string& path) {
  const rhei::SafeTensors file = rhei::read_safetensors(path);
  const auto column = [&](const std::string& name) {
    return file.contains(name) ? Eigen::MatrixXd(file.at(name).to_vector<double>()) : Eigen::MatrixXd();
  };
  const auto batch = [&](const std::string& name) {
    return file.contains(name) ? file.at(name).to_matrix<double>() : Eigen::MatrixXd();
  };
  return {file.at("x").to_matrix<double>(),
          batch("context"),
          batch("z"),
          column("log_abs_det"),
          column("log_prob"),
          batch("x_round_trip")};
}

/// How far one batch is from another: the largest of each.
struct Disagreement {
  double largest = 0;   ///< |came - expected| / (1 + |expected|), infinite where a number is NaN
  double absolute = 0;  ///< |came - expected|
  double share = 0;     ///< |came - expected| in units of what is allowed there
};

/// `relative` (1 + |expected|) is allowed, or `absolute` if that is more.
Disagreement disagreement(const std::string& what, const Eigen::MatrixXd& came, const Eigen::MatrixXd& expected,
                          double relative, double absolute = 0) {
  if (came.rows() != expected.rows() || came.cols() != expected.cols())
    throw std::runtime_error(what + " of the file is " + std::to_string(expected.rows()) + " x " +
                             std::to_string(expected.cols()) + ", expected " + std::to_string(came.rows()) + " x " +
                             std::to_string(came.cols()));
  Disagreement worst;
  for (Eigen::Index i = 0; i < came.size(); ++i) {
    const double a = came.data()[i], b = expected.data()[i], size = 1 + std::abs(b);
    const double error = std::isnan(a - b) ? HUGE_VAL : std::abs(a - b);
    worst.largest = std::max(worst.largest, error / size);
    worst.absolute = std::max(worst.absolute, error);
    worst.share = std::max(worst.share, error / std::max(relative * size, absolute));
  }
  return worst;
}

/// Compares a flow in one scalar. Returns whether all is within the tolerance.
template <rhei::Real S>
bool compare(const rhei::AnyFlow<S>& flow, const Reference& reference) {
  const bool is_double = sizeof(S) == sizeof(double);
  const rhei::Matrix<S> x = reference.x.cast<S>(), context = reference.context.cast<S>();
  if (flow.context_dim() > 0 && context.size() == 0)
    throw std::runtime_error("the flow takes a context of " + std::to_string(flow.context_dim()) +
                             " numbers, and the file to check with has no tensor 'context'");
  const auto [z, log_det] = flow.inverse(x, context);
  const rhei::Vector<S> log_prob = flow.log_prob(x, context);
  const auto [back, back_log_det] = flow.forward(z, context);

  bool agrees = true;
  const auto judge = [&](const char* what, const auto& came, const Eigen::MatrixXd& expected, double relative,
                         double absolute = 0) {
    if (expected.size() == 0) return;
    const auto worst = disagreement(what, came.template cast<double>(), expected, relative, absolute);
    std::printf("  %-12s %-8s %10.2g %14.3f%s\n", what, is_double ? "double" : "float", worst.largest, worst.share,
                worst.share <= 1 ? "" : "  too far");
    agrees = agrees && worst.share <= 1;
  };
  const double tolerance = is_double ? 1e-5 : 5e-5;
  judge("z", z, reference.z, tolerance);
  judge("log_abs_det", log_det, reference.log_det, tolerance);
  judge("log_prob", log_prob, reference.log_prob, tolerance);
  double theirs = 0;  // the library's own worst error, of which in float 4 times are as good
  if (!is_double && reference.x_round_trip.size() > 0)
    theirs = disagreement("x_round_trip", reference.x_round_trip, reference.x, 1).absolute;
  judge("way back", back, reference.x, 1e-5, std::isfinite(theirs) ? 4 * theirs : 0);
  return agrees;
}

void run(const Arguments& arguments) {
  const auto flow = import <double>(arguments);
  std::printf("%s: %td features, context of %td, %td parameters; from latent to data\n  base %s\n  %s\n",
              arguments.model.c_str(), flow.dim(), flow.context_dim(), rhei::count_parameters(flow),
              describe(flow.base().options()).c_str(), describe(flow.transform().options(), "    ").c_str());
  bool agrees = true;
  if (!arguments.check.empty()) {
    const Reference reference = read_reference(arguments.check);
    std::printf("over %td samples, the largest |a - b| / (1 + |b|), and |a - b| in units of what is tolerated:\n",
                reference.x.rows());
    agrees = compare(flow, reference);
    agrees = compare(import <float>(arguments), reference) && agrees;
  }
  if (!arguments.save.empty()) {
    rhei::save(flow, arguments.save);
    std::printf("saved as %s\n", arguments.save.c_str());
  }
  if (!agrees) throw std::runtime_error("the flow disagrees with " + arguments.check);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Opens a flow trained with zuko or nflows, checks it, and saves it as a file of rhei.",
               "import_pytorch");
  Arguments arguments;
  std::vector<std::string> activations(rhei::activation_names.begin(), rhei::activation_names.end());
  app.add_option("model", arguments.model, "the state_dict, as safetensors.torch.save_file writes it")->required();
  app.add_option("--library", arguments.library, "what the flow was trained with")
      ->check(CLI::IsMember({"zuko", "nflows"}))
      ->required();
  app.add_option("--bins", arguments.bins, "of splines; by default as many as the nets have outputs for")
      ->check(CLI::PositiveNumber);
  app.add_option("--tail-bound", arguments.tail_bound, "of splines; by default the library's, 5 (zuko) or 1 (nflows)")
      ->check(CLI::PositiveNumber);
  app.add_option("--activation", arguments.activation, "of all nets")
      ->check(CLI::IsMember(activations))
      ->capture_default_str();
  app.add_option("--check", arguments.check,
                 "a safetensors file of x, and of what the library computed: z, log_abs_det, log_prob, x_round_trip; "
                 "and context");
  app.add_option("--save", arguments.save, "where to save the flow for rhei::load");
  return examples::run(app, argc, argv, [&] { run(arguments); });
}
