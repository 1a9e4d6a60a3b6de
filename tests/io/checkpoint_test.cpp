// SPDX-License-Identifier: MIT

/// \file
/// Checkpoints: a run that was interrupted and goes on gives the bits of one that was not; what does not fit is refused
/// by name.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <chrono>
#include <filesystem>
#include <rhei/data/energies.hpp>
#include <rhei/io/checkpoint.hpp>
#include <rhei/models/realnvp.hpp>
#include <rhei/train/fit.hpp>
#include <rhei/train/fit_variational.hpp>
#include <thread>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

template <Real S>
auto small_flow(int layers = 2) {
  Rng rng(1);
  return models::realnvp<S>(2, {.layers = layers, .hidden = {8}}, rng);
}

template <Real S>
Matrix<S> rows(Index n) {
  Rng rng(2);
  Matrix<S> x(n, 2);
  rng.fill_normal(x);
  x.col(1) += x.col(0).cwiseAbs2();
  return x;
}

/// Every parameter and every number of state, as bits.
template <class Model>
std::string bits(const Model& model) {
  return format_safetensors(to_safetensors(model));
}

/// Everything of the report that is not a time.
void check_same(const FitReport& a, const FitReport& b) {
  CHECK(a.stop == b.stop);
  CHECK(a.best_epoch == b.best_epoch);
  REQUIRE(a.history.size() == b.history.size());
  for (std::size_t i = 0; i < a.history.size(); ++i) {
    CHECK(a.history[i].epoch == b.history[i].epoch);
    CHECK(a.history[i].step == b.history[i].step);
    CHECK(a.history[i].fraction == b.history[i].fraction);
    CHECK(a.history[i].learning_rate == b.history[i].learning_rate);
    CHECK(a.history[i].train_loss == b.history[i].train_loss);
    CHECK(a.history[i].gradient_norm == b.history[i].gradient_norm);
    CHECK((a.history[i].validation_loss == b.history[i].validation_loss || std::isnan(b.history[i].validation_loss)));
  }
}

/// Runs train(flow, options, rng) as it is, then interrupted after some epochs by an exception and started again with a
/// new flow and a new generator, and checks that all is the same.
template <class Train>
void check_resumes(auto make, FitOptions options, Index interrupted_after, Train train) {
  auto whole = make();
  Rng rng(3);
  const FitReport uninterrupted = train(whole, options, rng);
  const std::uint64_t next = rng();

  const testing::TemporaryFolder folder;
  testing::TemporaryFolder owner;
  const std::string path = owner / "run.checkpoint";
  struct Interruption {};
  FitOptions first = options;
  first.checkpoint = checkpoint_to(path);
  first.callback = [&](const FitProgress& p) -> bool {
    if (p.epoch == interrupted_after) throw Interruption{};
    return false;
  };
  auto part = make();
  Rng first_rng(3);
  CHECK_THROWS_AS(train(part, first, first_rng), Interruption);

  FitOptions second = options;
  second.resume = resume_from(path);
  second.checkpoint = checkpoint_to(path);
  auto resumed = make();
  Rng second_rng(3);
  const FitReport report = train(resumed, second, second_rng);
  check_same(report, uninterrupted);
  CHECK(bits(resumed) == bits(whole));
  CHECK(second_rng() == next);
  CHECK(report.last().seconds >= report.history[static_cast<std::size_t>(interrupted_after - 1)].seconds);

  // resuming what has ended gives the end
  auto ended = make();
  Rng third_rng(3);
  check_same(train(ended, second, third_rng), uninterrupted);
  CHECK(bits(ended) == bits(whole));
}

/// A run of two epochs on `x` whose checkpoint is at `path`.
template <Real S>
void write_checkpoint(const std::string& path, const Matrix<S>& x) {
  auto flow = small_flow<S>();
  Rng rng(3);
  fit(flow, x, {.epochs = 2, .batch_size = 16, .checkpoint = checkpoint_to(path)}, rng);
}

}  // namespace

TEMPLATE_TEST_CASE("A resumed fit gives the bits of one that was not interrupted", "[checkpoint]", RHEI_TEST_SCALARS) {
  using S = TestType;
  const auto make = [] { return small_flow<S>(); };
  const Matrix<S> x = rows<S>(100);
  SECTION("on a table, by epochs") {
    check_resumes(make, {.epochs = 7, .batch_size = 16}, 3,
                  [&](auto& flow, const FitOptions& o, Rng& rng) { return fit(flow, x, o, rng); });
  }
  SECTION("by steps that end within an epoch, in two threads") {
    check_resumes(make, {.steps = 40, .batch_size = 16, .schedule = Schedule::constant, .threads = 2}, 4,
                  [&](auto& flow, const FitOptions& o, Rng& rng) { return fit(flow, x, o, rng); });
  }
  SECTION("with rows held out, patience, weight decay and a best epoch that has passed") {
    check_resumes(make,
                  {.epochs = 60,
                   .batch_size = 10,
                   .learning_rate = 3e-2,
                   .schedule = Schedule::constant,
                   .adam = {.weight_decay = 1e-3},
                   .validation_fraction = 0.3,
                   .patience = 12},
                  8, [&](auto& flow, const FitOptions& o, Rng& rng) { return fit(flow, x, o, rng); });
  }
  SECTION("on drawn batches") {
    const auto draw = [](Index n, Rng& rng) {
      Matrix<S> batch(n, 2);
      rng.fill_normal(batch);
      return batch;
    };
    check_resumes(make, {.epochs = 3, .batch_size = 8}, 1,
                  [&](auto& flow, const FitOptions& o, Rng& rng) { return fit(flow, draw, o, rng); });
  }
  SECTION("on draws of the flow, annealed") {
    check_resumes(make, {.steps = 450, .batch_size = 8}, 2, [&](auto& flow, const FitOptions& o, Rng& rng) {
      const ReverseKl objective(data::energy("u2"), Estimator::path, {.start = 0.1, .per_step = 0.003});
      return fit_variational(flow, objective, o, rng);
    });
  }
}

TEST_CASE("A run that is killed at any moment goes on from its last good checkpoint", "[checkpoint]") {
  const std::string folder = [] {
    std::string name = "/tmp/rhei-kill-XXXXXX";  // a process that is killed leaves its temporary file
    if (!::mkdtemp(name.data())) throw std::runtime_error("no temporary folder");
    return name;
  }();
  const std::string path = folder + "/run.checkpoint";
  const Matrix<float> x = rows<float>(200);
  const auto train = [&](bool whole) {
    FitOptions options{.epochs = 40, .batch_size = 16};
    if (!whole) options.checkpoint = checkpoint_to(path);
    if (!whole && std::filesystem::exists(path)) options.resume = resume_from(path);
    auto flow = small_flow<float>();
    Rng rng(3);
    fit(flow, x, options, rng);
    return bits(flow);
  };
  const std::string uninterrupted = train(true);

  Rng delays(11);
  Index epochs = 0, kills = 0, longest = 1'000;  // microseconds
  for (bool ended = false; !ended;) {
    const ::pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      try {
        train(false);
        ::_exit(0);
      } catch (...) {
        ::_exit(1);
      }
    }
    std::this_thread::sleep_for(std::chrono::microseconds(delays.below(longest)));
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    ended = !WIFSIGNALED(status);
    if (ended) REQUIRE(WEXITSTATUS(status) == 0);
    kills += !ended;
    if (!std::filesystem::exists(path)) {
      longest *= 2;
      continue;
    }
    const Index reached = read_safetensors(path).at("history").shape.at(0);  // it is whole
    CHECK(reached >= epochs);
    if (reached == epochs) longest += longest / 4;  // so that the test comes to an end
    epochs = reached;
  }
  CHECK(epochs == 40);
  CHECK(kills >= 5);
  CHECK(train(false) == uninterrupted);
  std::filesystem::remove_all(folder);
}

TEST_CASE("A checkpoint is a safetensors file that says what it is", "[checkpoint]") {
  testing::TemporaryFolder folder;
  const std::string path = folder / "run.checkpoint";
  write_checkpoint(path, rows<float>(50));
  const SafeTensors file = read_safetensors(path);
  CHECK(file.metadata.at("format") == "rhei checkpoint");
  CHECK(file.metadata.at("objective") == "maximum_likelihood");
  CHECK(file.metadata.at("batch_size") == "16");
  CHECK(file.at("history").shape == std::vector<Index>{2, 9});
  CHECK(file.at("adam.steps").to_int64() == std::vector<std::int64_t>{8});
  CHECK(file.at("order_of_rows").shape == std::vector<Index>{50});
  CHECK(file.contains("flow.layers.1.log_scale"));
  CHECK(file.contains("best.layers.1.log_scale"));
}

TEST_CASE("checkpoint_to writes as often as it is told, and at the end", "[checkpoint]") {
  testing::TemporaryFolder folder;
  const std::string path = folder / "run.checkpoint";
  const Matrix<float> x = rows<float>(50);
  auto flow = small_flow<float>();
  Rng rng(3);
  std::vector<Index> seen;
  const auto epochs_in_file = [&] { return read_safetensors(path).at("history").shape[0]; };
  fit(flow, x,
      {.epochs = 5,
       .callback =
           [&](const FitProgress& p) {
             if (p.epoch >= 2) seen.push_back(epochs_in_file());
             return false;
           },
       .checkpoint = checkpoint_to(path, 2)},
      rng);
  CHECK(seen == std::vector<Index>{2, 2, 4, 5});
  CHECK(contains(error_text<std::invalid_argument>([&] { (void)checkpoint_to(path, 0); }), "every is 0"));
}

TEST_CASE("A run may be given more epochs", "[checkpoint]") {
  testing::TemporaryFolder folder;
  const std::string path = folder / "run.checkpoint";
  const Matrix<float> x = rows<float>(50);
  write_checkpoint(path, x);
  auto flow = small_flow<float>();
  Rng rng(3);
  const auto report = fit(flow, x, {.epochs = 4, .batch_size = 16, .resume = resume_from(path)}, rng);
  CHECK(report.history.size() == 4);
  CHECK(report.last().step == 16);
}

TEST_CASE("What does not fit a checkpoint is refused by name and changes nothing", "[checkpoint]") {
  testing::TemporaryFolder folder;
  const std::string path = folder / "run.checkpoint";
  const Matrix<float> x = rows<float>(50);
  write_checkpoint(path, x);
  const auto refused = [&]<class Model, Real S>(Model flow, const Matrix<S>& data, Index batch_size,
                                                double validation_fraction) {
    flow.initialize(data);
    const std::string before = bits(flow);
    Rng rng(3);
    const std::string text = error_text<std::runtime_error>([&] {
      fit(flow, data,
          {.epochs = 4,
           .batch_size = batch_size,
           .validation_fraction = validation_fraction,
           .resume = resume_from(path)},
          rng);
    });
    CHECK(bits(flow) == before);
    return text;
  };
  CHECK(contains(refused(small_flow<float>(3), x, 16, 0), "has 2 entries, expected 3"));
  CHECK(contains(refused(small_flow<float>(), x, 32, 0), "batch_size is \"16\", expected \"32\""));
  CHECK(
      contains(refused(small_flow<double>(), Matrix<double>(x.cast<double>()), 16, 0), "is of type F32, expected F64"));
  CHECK(
      contains(refused(small_flow<float>(), rows<float>(60), 16, 0), "the number of rows is \"50\", expected \"60\""));
  Matrix<float> other = x;
  other(49, 1) = std::nextafter(other(49, 1), 10.0f);
  CHECK(contains(refused(small_flow<float>(), other, 16, 0), "the checksum of the training rows"));
  CHECK(contains(refused(small_flow<float>(), x, 16, 0.2), "the number of rows is \"50\", expected \"40\""));
  {
    auto flow = small_flow<float>();
    Rng rng(3);
    const FitOptions options{.epochs = 4, .batch_size = 16, .resume = resume_from(path)};
    CHECK(contains(
        error_text<std::runtime_error>([&] { fit_variational(flow, ReverseKl(data::energy("u1")), options, rng); }),
        "objective is \"maximum_likelihood\", expected \"reverse_kl\""));
    const FitOptions absent{.epochs = 4, .resume = resume_from(path + ".absent")};
    CHECK(contains(error_text<std::runtime_error>([&] { fit(flow, x, absent, rng); }),
                   "run.checkpoint.absent: cannot be opened"));
    save(flow, path);
    CHECK(contains(error_text<std::runtime_error>([&] { fit(flow, x, options, rng); }),
                   "format is \"rhei\", expected \"rhei checkpoint\""));
  }
}

TEST_CASE("A damaged checkpoint is refused", "[checkpoint]") {
  testing::TemporaryFolder folder;
  const std::string path = folder / "run.checkpoint";
  const Matrix<float> x = rows<float>(50);
  write_checkpoint(path, x);
  const SafeTensors good = read_safetensors(path);
  const auto with = [&](Tensor changed) {
    SafeTensors file;
    file.metadata = good.metadata;
    for (const Tensor& tensor : good) file.add(tensor.name == changed.name ? changed : tensor);
    return file;
  };
  const auto integers = [](std::string name, std::vector<std::int64_t> values) {
    return Tensor::from_values<std::int64_t>(std::move(name), values, {static_cast<Index>(values.size())});
  };
  const auto refused = [&](const SafeTensors& file) {
    write_safetensors(path, file);
    auto flow = small_flow<float>();
    flow.initialize(x);
    const std::string before = bits(flow);
    Rng rng(3);
    const std::string text = error_text<std::runtime_error>(
        [&] { fit(flow, x, {.epochs = 4, .batch_size = 16, .resume = resume_from(path)}, rng); });
    CHECK(bits(flow) == before);
    return text;
  };
  CHECK(contains(refused(with(integers("generator", {0, 0, 0, 0}))), "its generator is all zero"));
  std::vector<std::int64_t> order = good.at("order_of_rows").to_int64();
  order[7] = order[8];
  CHECK(contains(refused(with(integers("order_of_rows", order))), "its order of rows is not a permutation"));
  order[7] = 1'000'000;
  CHECK(contains(refused(with(integers("order_of_rows", order))), "its order of rows is not a permutation"));
  CHECK(contains(refused(with(integers("adam.steps", {9}))), "its steps are not those of the optimizer"));
  CHECK(contains(refused(with(integers("best_epoch", {3}))), "its best epoch has not been"));
  Matrix<double> history = good.at("history").to_matrix<double>();
  history(1, 0) = 1;
  CHECK(contains(refused(with(Tensor::from_matrix("history", history))), "its last epoch is not the number of epochs"));
  history(1, 0) = 2.5;
  CHECK(contains(refused(with(Tensor::from_matrix("history", history))), "tensor 'history' holds 2.5"));
  CHECK(
      contains(refused(with(integers("generator", {1, 2, 3}))), "tensor 'generator' has the shape [3], expected [4]"));

  const std::string bytes = format_safetensors(good);
  auto flow = small_flow<float>();
  Rng rng(3);
  testing::survivors(bytes, 300, [&](const std::string& text) {
    fit(flow, x,
        {.epochs = 2, .batch_size = 16, .resume = [&](FitState& state) { restore(state, parse_safetensors(text)); }},
        rng);
  });
}
