// SPDX-License-Identifier: MIT

/// \file
/// Fits a flow to a table of numbers: reads CSV or NPY, splits, trains, scores every row, draws samples, saves the flow
/// and loads it again. Columns are standardised in double and the flow is trained in float; what is saved and judged is
/// in double and includes the standardisation, so that densities are in the units of the file, whatever these are.

#include <Eigen/Cholesky>
#include <rhei/rhei.hpp>

#include "support/command_line.hpp"
#include "support/models.hpp"
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

/// The means and deviations of columns, in double: a float holds no column that varies little beside its mean.
struct Standardisation {
  Eigen::RowVectorXd mean, deviation;

  explicit Standardisation(const Matrix<double>& x)
      : mean(x.colwise().mean()),
        deviation((x.rowwise() - mean).colwise().squaredNorm().array().sqrt() / std::sqrt(double(x.rows()))) {}

  [[nodiscard]] Matrix<float> operator()(const Matrix<double>& x) const {
    return ((x.rowwise() - mean).array().rowwise() / deviation.array()).cast<float>();
  }
};

/// A flow of standardised columns as one of the columns themselves.
rhei::AnyFlow<double> in_units_of_the_table(const examples::AnyFlow& flow, const Standardisation& standard) {
  auto wide = rhei::load<double>(rhei::to_safetensors(flow));
  rhei::ElementwiseAffine<double> units(flow.dim());
  units.parameters().log_scale = standard.deviation.array().log();
  units.parameters().shift = standard.mean;
  return {std::move(wide.base()),
          rhei::Repeat<rhei::AnyLayer<double>>({std::move(wide.transform()), std::move(units)})};
}

struct Split {
  rhei::AnyFlow<double> flow;
  double train, validation, test, gaussian;  // mean negative log-likelihood in nats
  rhei::FitReport report;                    // empty where nothing was trained
};

/// Fits to one random split of the rows: test, then a tenth of the rest for validation.
Split fit_split(const Matrix<double>& x, const Arguments& arguments, rhei::Rng& rng) {
  std::vector<Index> order(static_cast<std::size_t>(x.rows()));
  for (Index i = 0; i < x.rows(); ++i) order[static_cast<std::size_t>(i)] = i;
  rng.shuffle(order);
  const Index n_test = std::max<Index>(1, std::lround(arguments.test_fraction * static_cast<double>(x.rows())));
  const Index n_validation = std::max<Index>(1, (x.rows() - n_test) / 10);
  const Index n_train = x.rows() - n_test - n_validation;
  const Matrix<double> test = rows_of(x, order, 0, n_test);
  const Matrix<double> rest = rows_of(x, order, n_test, n_validation + n_train);
  const Matrix<double> validation = rest.topRows(n_validation), train = rest.bottomRows(n_train);
  const Standardisation standard(train);
  const Matrix<float> standard_train = standard(train), standard_validation = standard(validation);

  const examples::NamedModel& model = examples::model(arguments.model);
  examples::AnyFlow flow = model.make(standard_train, rng);
  const Index batch = std::clamp<Index>(n_train / 8, 32, 512);
  const Index batches = (n_train + batch - 1) / batch;
  rhei::FitReport report;
  if (model.trained)
    report = rhei::fit(flow, rhei::FitData<float>{.x = standard_train}, rhei::FitData<float>{.x = standard_validation},
                       {.seconds = arguments.seconds,
                        .batch_size = batch,
                        .learning_rate = 1e-3,
                        .adam = {.weight_decay = kPriorRows / static_cast<double>(n_train)},
                        .patience = std::max<Index>(10, 1000 / batches),
                        .threads = arguments.threads,
                        .progress = true},
                       rng);
  Split split{in_units_of_the_table(flow, standard), 0, 0, 0, gaussian_loss(rest, test), std::move(report)};
  const auto loss = [&split](const Matrix<double>& rows) { return -split.flow.log_prob(rows).mean(); };
  split.train = loss(train);
  split.validation = loss(validation);
  split.test = loss(test);
  return split;
}

/// Scores every row, draws samples, and writes both beside the pictures.
void write_scores_and_samples(const rhei::AnyFlow<double>& flow, const rhei::Table& table, const Arguments& arguments,
                              rhei::Rng& rng) {
  const Vector<double> log_p = flow.log_prob(table.values);
  rhei::write_csv((arguments.out / "scores.csv").string(), rhei::Table{log_p, {"log_density"}});
  rhei::Table samples{flow.sample(arguments.samples, rng), table.names};
  rhei::write_csv((arguments.out / "samples.csv").string(), samples);
  const Index shown = std::min<Index>(table.values.cols(), 6);
  examples::draw_corner(arguments.out / "corner.png", std::filesystem::path(arguments.table).filename().string(),
                        {table.names.begin(), table.names.begin() + shown}, table.values.leftCols(shown),
                        samples.values.leftCols(shown));
  std::printf("log-density of the %lld rows: mean %.4f, least %.4f nats\n", static_cast<long long>(log_p.size()),
              log_p.mean(), log_p.minCoeff());
}

void draw_curves(const rhei::FitReport& report, const std::filesystem::path& path) {
  examples::Curve training, validation;
  for (const auto& epoch : report.history) {
    training.x.push_back(static_cast<double>(epoch.epoch));
    training.y.push_back(epoch.train_loss);
    validation.x.push_back(static_cast<double>(epoch.epoch));
    validation.y.push_back(epoch.validation_loss);
  }
  examples::draw_training_curve(path, "standardised columns", training, validation);
}

void train(const rhei::Table& table, const Arguments& arguments) {
  rhei::Json results = rhei::Json::Array{};
  std::printf("%6s %10s %10s %10s %10s %8s\n", "split", "train", "validation", "test", "Gaussian", "seconds");
  for (int i = 0; i < arguments.splits; ++i) {
    rhei::Rng rng(arguments.seed + static_cast<std::uint64_t>(i));
    const Split split = fit_split(table.values, arguments, rng);
    const rhei::FitProgress last = split.report.history.empty() ? rhei::FitProgress() : split.report.last();
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
                                         {"parameters", rhei::count_parameters(split.flow)},
                                         {"train_nll", split.train},
                                         {"validation_nll", split.validation},
                                         {"test_nll", split.test},
                                         {"gaussian_test_nll", gaussian}});
    rhei::write_json((arguments.out / "results.json").string(), results);
    if (i > 0) continue;  // the first split's flow is the one that is kept

    if (!split.report.history.empty()) draw_curves(split.report, arguments.out / "training.png");
    write_scores_and_samples(split.flow, table, arguments, rng);
    const std::string path = (arguments.out / "model.safetensors").string();
    rhei::save(split.flow, path);
    if (rhei::load<double>(path).log_prob(table.values) != split.flow.log_prob(table.values))
      throw std::runtime_error(path + " gives other log-densities than the flow it was saved from");
    std::printf("saved to %s, loaded again: the same log-densities, bit for bit\n", path.c_str());
  }
}

void run(const Arguments& arguments) {
  const rhei::Table table = read_table(arguments);
  std::filesystem::create_directories(arguments.out);
  std::printf("%s: %lld rows, %lld columns\n", arguments.table.c_str(), static_cast<long long>(table.values.rows()),
              static_cast<long long>(table.values.cols()));
  if (arguments.saved.empty()) {
    train(table, arguments);
  } else {
    rhei::Rng rng(arguments.seed);
    write_scores_and_samples(rhei::load<double>(arguments.saved), table, arguments, rng);
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
      ->check(CLI::IsMember(examples::model_names()))
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
