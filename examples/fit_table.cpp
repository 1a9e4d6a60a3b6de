// SPDX-License-Identifier: MIT

/// \file
/// Fits a flow to a table of numbers: reads CSV or NPY, splits, trains, scores every row, draws samples, saves the flow
/// and loads it again. The flow standardises the columns itself, so densities are in the units of the file.

#include <Eigen/Cholesky>
#include <map>
#include <rhei/rhei.hpp>

#include "support/command_line.hpp"
#include "support/plot.hpp"

namespace {

using Eigen::Index;
using rhei::Matrix;
using rhei::Vector;

/// Weight decay acts as a prior that weighs as much as so many rows: without it a few hundred rows are learnt by heart.
constexpr double kPriorRows = 750;

struct Arguments : examples::CommonOptions {
  std::string table;
  std::vector<std::string> columns;
  std::string model = "realnvp";
  std::string saved;  // a model to score with instead of training one
  Index samples = 10'000;
  int splits = 1;
  double test_fraction = 0.1;
};

/// The table, its columns chosen, every value finite and no column constant.
rhei::Table read_table(const Arguments& arguments) {
  rhei::Table all;
  if (std::filesystem::path(arguments.table).extension() == ".npy")
    all.values = rhei::read_npy(arguments.table);
  else
    all = rhei::read_csv(arguments.table);
  if (all.names.empty())
    for (Index j = 0; j < all.values.cols(); ++j) all.names.push_back("x" + std::to_string(j));

  rhei::Table table;
  table.names = arguments.columns.empty() ? all.names : arguments.columns;
  table.values.resize(all.values.rows(), static_cast<Index>(table.names.size()));
  for (Index j = 0; j < table.values.cols(); ++j) {
    const std::string& name = table.names[static_cast<std::size_t>(j)];
    const auto found = std::find(all.names.begin(), all.names.end(), name);
    if (found == all.names.end()) throw std::runtime_error(arguments.table + " has no column '" + name + "'");
    table.values.col(j) = all.values.col(found - all.names.begin());
    for (Index i = 0; i < table.values.rows(); ++i)
      if (!std::isfinite(table.values(i, j)))
        throw std::runtime_error(arguments.table + ": column '" + name + "' is " + std::to_string(table.values(i, j)) +
                                 " in row " + std::to_string(i + 1) + " of the numbers, expected finite values");
    if (table.values.rows() > 0 && table.values.col(j).minCoeff() == table.values.col(j).maxCoeff())
      throw std::runtime_error(arguments.table + ": column '" + name + "' is " + std::to_string(table.values(0, j)) +
                               " in every row: leave it out with --columns, a constant has no density");
  }
  if (table.values.rows() < 20)
    throw std::runtime_error(arguments.table + " has " + std::to_string(table.values.rows()) +
                             " rows, expected at least 20 to learn from and to judge by");
  return table;
}

/// Whether a float still resolves every column: its 24 bits must hold the mean and the spread around it.
bool fits_float(const Matrix<double>& x) {
  for (Index j = 0; j < x.cols(); ++j) {
    const double mean = x.col(j).mean();
    const double deviation = std::sqrt((x.col(j).array() - mean).square().mean());
    if (std::abs(mean) > 1e4 * deviation || x.col(j).cwiseAbs().maxCoeff() > 1e30) return false;
  }
  return true;
}

Matrix<double> rows_of(const Matrix<double>& x, const std::vector<Index>& order, Index first, Index count) {
  Matrix<double> rows(count, x.cols());
  for (Index i = 0; i < count; ++i) rows.row(i) = x.row(order[static_cast<std::size_t>(first + i)]);
  return rows;
}

/// Mean of -log N(x; mean, covariance) with both from `train`: the baseline.
double gaussian_loss(const Matrix<double>& train, const Matrix<double>& test) {
  const Eigen::RowVectorXd mean = train.colwise().mean();
  const Matrix<double> centred = train.rowwise() - mean;
  const Eigen::LLT<Matrix<double>> factor(centred.transpose() * centred / static_cast<double>(train.rows()));
  if (factor.info() != Eigen::Success) return std::numeric_limits<double>::quiet_NaN();  // linearly dependent columns
  const Matrix<double> white = factor.matrixL().solve((test.rowwise() - mean).transpose());
  const double log_det = Matrix<double>(factor.matrixL()).diagonal().array().log().sum();
  const auto dims = static_cast<double>(test.cols());
  return 0.5 * white.squaredNorm() / static_cast<double>(test.rows()) + log_det +
         0.5 * dims * std::log(2 * std::numbers::pi);
}

struct Split {
  double train, validation, test, gaussian;  // mean negative log-likelihood in nats
  rhei::FitReport report;
};

/// Fits to one random split of the rows: test, then a tenth of the rest for validation.
template <class Flow>
Split fit_split(Flow& flow, const Matrix<double>& x, const Arguments& arguments, rhei::Rng& rng) {
  using S = typename Flow::Scalar;
  std::vector<Index> order(static_cast<std::size_t>(x.rows()));
  for (Index i = 0; i < x.rows(); ++i) order[static_cast<std::size_t>(i)] = i;
  rng.shuffle(order);
  const Index n_test = std::max<Index>(1, std::lround(arguments.test_fraction * static_cast<double>(x.rows())));
  const Index n_validation = std::max<Index>(1, (x.rows() - n_test) / 10);
  const Index n_train = x.rows() - n_test - n_validation;
  const Matrix<double> test = rows_of(x, order, 0, n_test);
  const Matrix<double> rest = rows_of(x, order, n_test, n_validation + n_train);
  const Matrix<S> validation = rest.topRows(n_validation).template cast<S>();
  const Matrix<S> train = rest.bottomRows(n_train).template cast<S>();

  const Index batch = std::clamp<Index>(n_train / 8, 32, 512);
  const Index batches = (n_train + batch - 1) / batch;
  Split split;
  split.report = rhei::fit(flow, rhei::FitData<S>{.x = train}, rhei::FitData<S>{.x = validation},
                           {.seconds = arguments.seconds,
                            .batch_size = batch,
                            .learning_rate = 1e-3,
                            .adam = {.weight_decay = kPriorRows / static_cast<double>(n_train)},
                            .patience = std::max<Index>(10, 1000 / batches),
                            .threads = arguments.threads,
                            .progress = true},
                           rng);
  const auto loss = [&flow](const Matrix<S>& rows) { return -flow.log_prob(rows).template cast<double>().mean(); };
  split.train = loss(train);
  split.validation = loss(validation);
  split.test = loss(test.template cast<S>());
  split.gaussian = gaussian_loss(rest, test);
  return split;
}

/// Scores every row, draws samples, and writes both beside the pictures.
template <class Flow>
void write_scores_and_samples(const Flow& flow, const rhei::Table& table, const Arguments& arguments, rhei::Rng& rng) {
  using S = typename Flow::Scalar;
  const Vector<S> log_p = flow.log_prob(table.values.cast<S>());
  rhei::write_csv((arguments.out / "scores.csv").string(), rhei::Table{log_p.template cast<double>(), {"log_density"}});
  rhei::Table samples{flow.sample(arguments.samples, rng).template cast<double>(), table.names};
  rhei::write_csv((arguments.out / "samples.csv").string(), samples);
  const Index shown = std::min<Index>(table.values.cols(), 6);
  examples::draw_corner(arguments.out / "corner.png", std::filesystem::path(arguments.table).filename().string(),
                        {table.names.begin(), table.names.begin() + shown}, table.values.leftCols(shown),
                        samples.values.leftCols(shown));
  std::printf("log-density of the %lld rows: mean %.4f, least %.4f nats\n", static_cast<long long>(log_p.size()),
              static_cast<double>(log_p.mean()), static_cast<double>(log_p.minCoeff()));
}

template <class S, class Make>
void train(const rhei::Table& table, const Arguments& arguments, Make&& make) {
  rhei::Json results = rhei::Json::Array{};
  std::printf("%6s %10s %10s %10s %10s %8s\n", "split", "train", "validation", "test", "Gaussian", "seconds");
  for (int i = 0; i < arguments.splits; ++i) {
    rhei::Rng rng(arguments.seed + static_cast<std::uint64_t>(i));
    auto flow = make(table.values.cols(), rng);
    const Split split = fit_split(flow, table.values, arguments, rng);
    const rhei::FitProgress& last = split.report.last();
    std::printf("%6d %10.4f %10.4f %10.4f %10.4f %8.1f\n", i, split.train, split.validation, split.test, split.gaussian,
                last.seconds);
    std::fflush(stdout);
    const rhei::Json gaussian = std::isfinite(split.gaussian) ? rhei::Json(split.gaussian) : rhei::Json();
    results.push_back(rhei::Json::Object{{"table", arguments.table},
                                         {"rows", table.values.rows()},
                                         {"columns", table.values.cols()},
                                         {"model", arguments.model},
                                         {"seed", arguments.seed + static_cast<std::uint64_t>(i)},
                                         {"seconds", last.seconds},
                                         {"steps", last.step},
                                         {"parameters", rhei::count_parameters(flow)},
                                         {"train_nll", split.train},
                                         {"validation_nll", split.validation},
                                         {"test_nll", split.test},
                                         {"gaussian_test_nll", gaussian}});
    rhei::write_json((arguments.out / "results.json").string(), results);
    if (i > 0) continue;  // the first split's flow is the one that is kept

    examples::Curve training, validation;
    for (const auto& epoch : split.report.history) {
      training.x.push_back(static_cast<double>(epoch.epoch));
      training.y.push_back(epoch.train_loss);
      validation.x.push_back(static_cast<double>(epoch.epoch));
      validation.y.push_back(epoch.validation_loss);
    }
    examples::draw_training_curve(arguments.out / "training.png", "", training, validation);
    write_scores_and_samples(flow, table, arguments, rng);
    const std::string path = (arguments.out / "model.safetensors").string();
    rhei::save(flow, path);
    const auto loaded = rhei::load<S>(path);
    const Matrix<S> rows = table.values.template cast<S>();
    if (loaded.log_prob(rows) != flow.log_prob(rows))
      throw std::runtime_error(path + " gives other log-densities than the flow it was saved from");
    std::printf("saved to %s, loaded again: the same log-densities, bit for bit\n", path.c_str());
  }
}

/// Model names, and how each is made for a table of n columns.
template <class S>
void train_by_name(const rhei::Table& table, const Arguments& arguments) {
  if (arguments.model == "nice")
    train<S>(table, arguments, [](Index dim, rhei::Rng& rng) { return rhei::models::nice<S>(dim, {}, rng); });
  else
    train<S>(table, arguments, [](Index dim, rhei::Rng& rng) {
      return rhei::models::realnvp<S>(dim, {.layers = 8, .hidden = {64, 64}, .scale_map = rhei::ScaleMap::tanh(1)},
                                      rng);
    });
}

void run(const Arguments& arguments) {
  const rhei::Table table = read_table(arguments);
  std::filesystem::create_directories(arguments.out);
  const bool narrow = fits_float(table.values);
  std::printf("%s: %lld rows, %lld columns%s\n", arguments.table.c_str(), static_cast<long long>(table.values.rows()),
              static_cast<long long>(table.values.cols()),
              narrow ? "" : "; in double, because a column varies little beside its mean");
  if (!arguments.saved.empty()) {
    rhei::Rng rng(arguments.seed);
    write_scores_and_samples(rhei::load<double>(arguments.saved), table, arguments, rng);
  } else if (narrow) {
    train_by_name<float>(table, arguments);
  } else {
    train_by_name<double>(table, arguments);
  }
  std::printf("scores.csv, samples.csv and pictures are in %s\n", arguments.out.string().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Fits a flow to a CSV or NPY table of numbers, scores its rows and draws samples.", "fit_table");
  Arguments arguments;
  app.add_option("table", arguments.table, "a .csv (with or without a header) or .npy file")->required();
  app.add_option("--columns", arguments.columns, "the columns to use, by name (x0, x1, ... without a header)")
      ->delimiter(',');
  app.add_option("--model", arguments.model, "the flow to fit")
      ->check(CLI::IsMember({"nice", "realnvp"}))
      ->capture_default_str();
  app.add_option("--load", arguments.saved, "score and sample with a saved model instead of training one");
  app.add_option("--samples", arguments.samples, "rows to draw")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--splits", arguments.splits, "random splits to fit and judge")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--test-fraction", arguments.test_fraction, "part of the rows that is held out")
      ->check(CLI::Range(0.01, 0.9))
      ->capture_default_str();
  examples::add_common_options(app, arguments);
  return examples::run(app, argc, argv, [&] { run(arguments); });
}
