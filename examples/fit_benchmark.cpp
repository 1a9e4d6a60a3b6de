// SPDX-License-Identifier: MIT

/// \file
/// Fits a flow to a data set that comes split into training, validation and test rows, as the tables of papers have
/// them (POWER, GAS, HEPMASS, MINIBOONE, BSDS300: Papamakarios et al. 2017), and reports log-likelihoods in nats. Long
/// runs write checkpoints, and the same command goes on where the last one stopped.
///
/// The data set is a JSON file such as
///   {"columns": 63, "splits": {"train": {"file": "bsds300_train.bin", "rows": 1000000}, "val": ..., "test": ...}}
/// beside files of little-endian float32, row by row.

#include <bit>
#include <fstream>
#include <rhei/rhei.hpp>

#include "support/command_line.hpp"
#include "support/models.hpp"
#include "support/plot.hpp"

namespace {

using Eigen::Index;
using Eigen::MatrixXf;

struct Arguments : examples::CommonOptions {
  std::string data;
  std::string model = "maf_lu";
  int layers = 5;
  Index hidden = 256;
  Index epochs = 20;
  Index batch_size = 512;
  double learning_rate = 1e-3;
  bool fresh = false;
};

struct Splits {
  MatrixXf train, validation, test;
};

MatrixXf read_rows(const std::filesystem::path& path, Index rows, Index columns) {
  static_assert(std::endian::native == std::endian::little);
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> values(rows, columns);
  std::ifstream file(path, std::ios::binary);
  const auto bytes = static_cast<std::streamsize>(values.size()) * static_cast<std::streamsize>(sizeof(float));
  if (!file.read(reinterpret_cast<char*>(values.data()), bytes))
    throw std::runtime_error(path.string() + " has fewer than " + std::to_string(bytes) + " bytes");
  return values;
}

Splits read_splits(const std::filesystem::path& path) {
  const rhei::Json json = rhei::read_json(path.string());
  const auto columns = static_cast<Index>(json.get<std::int64_t>("columns"));
  const auto rows = [&](const char* split) {
    const rhei::Json& entry = json.at("splits").at(split);
    return read_rows(path.parent_path() / entry.get<std::string>("file"),
                     static_cast<Index>(entry.get<std::int64_t>("rows")), columns);
  };
  return {rows("train"), rows("val"), rows("test")};
}

/// Steps of `layer`, each mixed by a linear map, on standardised data: the shape in which Durkan et al. 2019 compare
/// flows (without dropout).
template <class Make>
examples::AnyFlow mixed(Index dim, int layers, rhei::Rng& rng, Make make) {
  return rhei::erase(rhei::Flow{rhei::StandardNormal<float>(dim),
                                rhei::Repeat(layers,
                                             [&](int i) {
                                               return rhei::Chain{make(i), rhei::LuLinear<float>(dim, rng)};
                                             }),
                                rhei::ActNorm<float>(dim)});
}

const std::vector<std::string> kMixed = {"maf_lu", "nsf_lu", "nsf_ar_lu"};

examples::AnyFlow make_flow(const Arguments& arguments, const MatrixXf& x, rhei::Rng& rng) {
  const Index dim = x.cols();
  const std::vector<Index> hidden(2, arguments.hidden);
  const rhei::MadeOptions made{.hidden = hidden, .residual = true};
  if (arguments.model == "maf_lu")
    return mixed(dim, arguments.layers, rng, [&](int) {
      return rhei::Maf<float>(dim, {.net = made, .transformer = rhei::Affine<float>(rhei::ScaleMap::softsign(4))}, rng);
    });
  if (arguments.model == "nsf_ar_lu")
    return mixed(dim, arguments.layers, rng,
                 [&](int) { return rhei::Autoregressive<rhei::RationalQuadratic<float>>(dim, {.net = made}, rng); });
  if (arguments.model == "nsf_lu")
    return mixed(dim, arguments.layers, rng, [&](int i) {
      return rhei::SplineCoupling<float, rhei::ResidualMlp<float>>(
          dim, {.transformed = rhei::alternating_features(dim, i), .net = {.hidden = hidden}}, rng);
    });
  return examples::model(arguments.model).make(x, rng);
}

void run(const Arguments& arguments) {
  const Splits data = read_splits(arguments.data);
  std::filesystem::create_directories(arguments.out);
  const std::string stem =
      (arguments.out / (std::filesystem::path(arguments.data).stem().string() + "_" + arguments.model)).string();
  rhei::Rng rng(arguments.seed);
  examples::AnyFlow flow = make_flow(arguments, data.train, rng);
  std::printf("%lld rows of %lld columns to learn from, %lld parameters\n", static_cast<long long>(data.train.rows()),
              static_cast<long long>(data.train.cols()), static_cast<long long>(rhei::count_parameters(flow)));
  const auto log_likelihood = [&flow](const MatrixXf& x) { return flow.log_prob(x).cast<double>().eval(); };

  rhei::FitOptions options{.epochs = arguments.epochs,
                           .batch_size = arguments.batch_size,
                           .learning_rate = arguments.learning_rate,
                           .threads = arguments.threads,
                           .callback = [](const rhei::FitProgress& now) {
                             std::printf("epoch %3lld  %7.0f s  train %9.4f  validation %9.4f nats\n",
                                         static_cast<long long>(now.epoch), now.seconds, -now.train_loss,
                                         -now.validation_loss);
                             std::fflush(stdout);
                             return false;
                           }};
  const std::string checkpoint = stem + ".checkpoint";
  options.checkpoint = rhei::checkpoint_to(checkpoint);
  if (!arguments.fresh && std::filesystem::exists(checkpoint)) options.resume = rhei::resume_from(checkpoint);

  rhei::FitReport report;
  examples::Curve training, validation;
  if (std::find(kMixed.begin(), kMixed.end(), arguments.model) != kMixed.end() ||
      examples::model(arguments.model).trained) {
    report = rhei::fit(flow, rhei::FitData<float>{.x = data.train}, rhei::FitData<float>{.x = data.validation}, options,
                       rng);
    for (const auto& epoch : report.history) {
      training.x.push_back(epoch.seconds / 60);
      training.y.push_back(epoch.train_loss);
      validation.x.push_back(epoch.seconds / 60);
      validation.y.push_back(epoch.validation_loss);
    }
    examples::draw_training_curve(stem + ".png", arguments.model, training, validation, {}, "minutes");
  }
  const Eigen::VectorXd test = log_likelihood(data.test);
  const double mean = test.mean();
  const double error = 2 * std::sqrt((test.array() - mean).square().mean() / static_cast<double>(test.size()));
  const double seconds = report.history.empty() ? 0 : report.last().seconds;
  std::printf("%s: test log-likelihood %.4f +- %.4f nats (two standard errors), validation %.4f, %.0f s\n",
              arguments.model.c_str(), mean, error, log_likelihood(data.validation).mean(), seconds);
  rhei::save(flow, stem + ".safetensors");
  rhei::write_json(stem + ".json", rhei::Json::Object{{"data", arguments.data},
                                                      {"model", arguments.model},
                                                      {"parameters", rhei::count_parameters(flow)},
                                                      {"epochs", static_cast<std::int64_t>(report.history.size())},
                                                      {"seconds", seconds},
                                                      {"test_log_likelihood", mean},
                                                      {"two_standard_errors", error}});
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Fits a flow to a data set that comes split, and goes on where an earlier run stopped.",
               "fit_benchmark");
  Arguments arguments;
  std::vector<std::string> names = kMixed;
  for (const std::string& name : examples::model_names()) names.push_back(name);
  app.add_option("data", arguments.data, "a .json file that names the splits' files")->required();
  app.add_option("--model", arguments.model, "the flow to fit; --layers and --hidden shape those of ..._lu")
      ->check(CLI::IsMember(names))
      ->capture_default_str();
  app.add_option("--layers", arguments.layers, "steps of layer and linear map")->capture_default_str();
  app.add_option("--hidden", arguments.hidden, "width of the two residual blocks of each net")->capture_default_str();
  app.add_option("--epochs", arguments.epochs, "passes through the training rows")->capture_default_str();
  app.add_option("--batch", arguments.batch_size, "rows of a step")->capture_default_str();
  app.add_option("--learning-rate", arguments.learning_rate, "at the start; it falls as a cosine")
      ->capture_default_str();
  app.add_flag("--fresh", arguments.fresh, "do not go on from the checkpoint of an earlier run");
  app.add_option("--seed", arguments.seed, "seed of everything random")->capture_default_str();
  app.add_option("--threads", arguments.threads, "parts of a minibatch trained at a time")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--out", arguments.out, "folder for results, checkpoints and pictures")->capture_default_str();
  return examples::run(app, argc, argv, [&] { run(arguments); });
}
