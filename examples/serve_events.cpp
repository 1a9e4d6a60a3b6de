// SPDX-License-Identifier: MIT

/// \file
/// Scores and samples one event at a time, as a program does that answers requests or filters a stream: from a model
/// file, with a workspace of its own, and with nothing taken from the heap and no thread started once it runs. Prints
/// the distribution of the latencies, for the flow as it is and as optimize_for_inference makes it. Without a file it
/// times flows of the shapes that our benchmarks know by name.

#include <chrono>
#include <rhei/rhei.hpp>

#include "support/allocation_counter.hpp"
#include "support/command_line.hpp"

namespace {

using Flow = rhei::AnyFlow<float>;

struct Arguments {
  std::string model;
  std::vector<float> context;
  int events = 20'000;
  std::uint64_t seed = 1;
};

/// A flow and the same one folded.
struct Served {
  std::string name;
  Flow flow, folded;
};

/// What one event needs, allocated once. One of these for each thread that serves.
class Server {
 public:
  explicit Server(const Flow& flow, const Eigen::MatrixXf& context) : flow_(flow), context_(context) {}

  float log_prob(const Eigen::MatrixXf& event) {
    flow_.log_prob(event, context_, log_p_, cache_);
    return log_p_[0];
  }
  const Eigen::MatrixXf& sample(rhei::Rng& rng) {
    flow_.sample(rng, context_, drawn_, cache_);
    return drawn_;
  }

 private:
  const Flow& flow_;
  Eigen::MatrixXf context_;
  Flow::Cache cache_;
  Eigen::VectorXf log_p_ = Eigen::VectorXf(1);
  Eigen::MatrixXf drawn_ = Eigen::MatrixXf(1, flow_.dim());
};

/// Small random parameters in the place of those that training would find.
template <class F>
void perturb(F& flow, rhei::Rng& rng) {
  rhei::for_each_parameter(flow, [&](std::string_view, rhei::Batch<float> values) {
    Eigen::MatrixXf noise(values.rows(), values.cols());
    rng.fill_normal(noise);
    values += 0.05f * noise;
  });
}

/// The flow of that name. It is folded before its type is forgotten: what erase() makes is one layer.
template <class F>
Served served(std::string name, F flow, rhei::Rng& rng) {
  perturb(flow, rng);
  Flow folded = rhei::optimize_for_inference(flow);
  return {std::move(name), rhei::erase(std::move(flow)), std::move(folded)};
}

std::vector<Served> named_flows(rhei::Rng& rng) {
  namespace m = rhei::models;
  const m::RealNvpOptions realnvp{.layers = 4, .hidden = {64, 64}};
  const m::NsfOptions nsf{.layers = 4, .hidden = {64, 64}, .spline = {.bins = 8}};
  const m::MafOptions maf{.layers = 5, .net = {.hidden = {128, 128}}};
  std::vector<Served> flows;
  flows.push_back(served("realnvp-8d", m::realnvp<float>(8, realnvp, rng), rng));
  flows.push_back(served("nsf-8d", m::nsf<float>(8, nsf, rng), rng));
  flows.push_back(served("maf-16d", m::maf<float>(16, maf, rng), rng));
  flows.push_back(served("glow-8d", m::glow<float>(8, {}, rng), rng));
  return flows;
}

/// Threads of this process; 0 where the system does not say.
std::ptrdiff_t thread_count() {
  std::error_code none;
  const std::filesystem::directory_iterator tasks("/proc/self/task", none);
  return none ? 0 : std::distance(begin(tasks), end(tasks));
}

/// Times serve(i) for each event and prints one line.
template <class Serve>
void print_latencies(const std::string& what, const Arguments& arguments, Serve&& serve) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> microseconds(static_cast<std::size_t>(arguments.events));
  for (int i = 0; i < 1000; ++i) serve(i);  // start-up: buffers grow
  const std::size_t allocations = rhei::testing::allocations_in([&] {
    int i = 0;
    for (double& time : microseconds) {
      const auto start = Clock::now();
      serve(i++);
      time = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
    }
  });
  std::sort(microseconds.begin(), microseconds.end());
  const auto quantile = [&](double part) {
    return microseconds[static_cast<std::size_t>(part * static_cast<double>(microseconds.size() - 1))];
  };
  std::printf("%-30s %8.2f %8.2f %8.2f %8.2f\n", what.c_str(), quantile(0.5), quantile(0.9), quantile(0.99),
              microseconds.back());
  std::fflush(stdout);
  if (allocations > 0) throw std::runtime_error(what + ": took memory from the heap while it served");
}

void serve(const Served& served, const Arguments& arguments) {
  rhei::Rng rng(arguments.seed);
  Eigen::MatrixXf context(arguments.context.empty() ? 0 : 1, static_cast<Eigen::Index>(arguments.context.size()));
  std::copy(arguments.context.begin(), arguments.context.end(), context.data());
  std::vector<Eigen::MatrixXf> events(1000);
  for (auto& event : events) event = served.flow.sample(1, rng, context);
  for (const auto& [flow, name] : {std::pair(&served.flow, served.name), {&served.folded, served.name + " folded"}}) {
    Server server(*flow, context);
    print_latencies(name + " log_prob", arguments,
                    [&](int i) { server.log_prob(events[static_cast<std::size_t>(i) % events.size()]); });
    print_latencies(name + " sample", arguments, [&](int) { server.sample(rng); });
  }
  float worst = 0;
  Server plain(served.flow, context), folded(served.folded, context);
  for (const auto& event : events) worst = std::max(worst, std::abs(plain.log_prob(event) - folded.log_prob(event)));
  std::printf("%-30s largest difference of log_prob: %.1e nats\n", "", worst);
}

void run(const Arguments& arguments) {
  std::vector<Served> flows;
  rhei::Rng rng(arguments.seed);
  if (arguments.model.empty()) {
    flows = named_flows(rng);
  } else {
    Flow flow = rhei::load<float>(arguments.model);
    Flow folded = rhei::optimize_for_inference(flow);
    flows.push_back({std::filesystem::path(arguments.model).stem().string(), std::move(flow), std::move(folded)});
  }
  std::printf("%-30s %8s %8s %8s %8s   microseconds an event\n", "", "p50", "p90", "p99", "max");
  for (const Served& one : flows) serve(one, arguments);
  if (rhei::testing::counts_allocations()) std::printf("allocations while serving: 0\n");
  if (const auto threads = thread_count(); threads > 0) std::printf("threads: %td\n", threads);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Scores and samples one event at a time and prints the latencies.", "serve_events");
  Arguments arguments;
  app.add_option("model", arguments.model, "a flow saved by rhei; without it, flows of known shapes are timed");
  app.add_option("--context", arguments.context, "the context of all events, for a conditional model")->delimiter(',');
  app.add_option("--events", arguments.events, "events that are timed")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--seed", arguments.seed, "seed of everything random")->capture_default_str();
  return examples::run(app, argc, argv, [&] { run(arguments); });
}
