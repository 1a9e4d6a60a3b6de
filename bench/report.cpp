// SPDX-License-Identifier: MIT

/// \file
/// Writes what the benchmarks have measured into the documents:
///
///   report RESULTS DOCS
///
/// reads RESULTS/{flow_steps,jacobian_cost,training_memory,compile_time,peers}.json, as many as there are, draws
/// DOCS/images/jacobian_cost.png, and puts tables into the pages performance.md, jacobian_cost.md and
/// choosing-a-layer.md of DOCS, each between its lines "<!-- table: NAME -->" and "<!-- end -->".

#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <rhei/io/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "support/plot.hpp"

namespace {

namespace fs = std::filesystem;
using rhei::Json;

/// A number with three significant digits.
std::string digits(double value) {
  std::array<char, 32> text{};
  const double size = std::abs(value);
  const int decimals = size >= 99.95 ? 0 : size >= 9.995 ? 1 : size >= 0.9995 ? 2 : size >= 0.09995 ? 3 : 4;
  std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
  return text.data();
}

class Table {
 public:
  explicit Table(const std::vector<std::string>& header) {
    add(header);
    add(std::vector<std::string>(header.size(), "---"));
  }
  void add(const std::vector<std::string>& cells) {
    for (const std::string& cell : cells) text_ += "| " + cell + " ";
    text_ += "|\n";
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string text_;
};

/// Replaces what stands between the marks of a table.
/// \throws std::runtime_error where the page has no such marks.
void put_table(const fs::path& page, const std::string& name, const std::string& table) {
  std::string text = rhei::read_file(page.string());
  const std::string begin = "<!-- table: " + name + " -->\n", end = "<!-- end -->";
  const std::size_t from = text.find(begin), to = from == std::string::npos ? from : text.find(end, from);
  if (to == std::string::npos) throw std::runtime_error(page.string() + " has no place for the table '" + name + "'");
  text.replace(from + begin.size(), to - from - begin.size(), "\n" + table + "\n");
  rhei::write_atomically(page.string(), text);
}

/// When and where figures were taken, and that they are provisional where other programs ran too.
std::string circumstances(const Json& results) {
  const Json& context = results.at("context");
  const double load = context.get<std::vector<double>>("load_avg").at(0);
  std::string text = "Measured on " + context.get<std::string>("date").substr(0, 10) + ", " +
                     std::to_string(context.get<int>("num_cpus")) + " cores, load average " + digits(load) +
                     " at the start.";
  if (load > 0.5) text += " **Provisional: other programs were running.**";
  return text + "\n\n";
}

/// Times in microseconds by the names of benchmarks.
struct Times {
  std::map<std::string, double> real, cpu;
  std::map<std::string, std::string> growth;  ///< by the names of families

  explicit Times(const Json& results) {
    const std::map<std::string, double> micro = {{"ns", 1e-3}, {"us", 1}, {"ms", 1e3}, {"s", 1e6}};
    for (const Json& entry : results.at("benchmarks").elements()) {
      const auto name = entry.get<std::string>("run_name");
      const auto aggregate = entry.get<std::string>("aggregate_name", "");
      if (aggregate == "BigO") growth[name] = entry.get<std::string>("big_o");
      if (!aggregate.empty()) continue;
      const double unit = micro.at(entry.get<std::string>("time_unit"));
      real[name] = unit * entry.get<double>("real_time");
      cpu[name] = unit * entry.get<double>("cpu_time");
    }
  }
};

// ---- flow_steps ----------------------------------------------------------------------------------------------------

std::string steps_table(const Json& results) {
  Table batches({"case", "operation", "one thread, us", "of the floor", "two threads, us", "speed-up"});
  Table events({"case", "operation", "p50, us", "p99, us", "of the floor"});
  struct Row {
    std::string name, op;
    double one = 0, two = 0, floor = 0;
  };
  std::vector<Row> rows;
  for (const Json& entry : results.at("benchmarks").elements()) {
    const auto name = entry.get<std::string>("name");
    const std::size_t first = name.find('/'), second = name.find('/', first + 1);
    const std::string of = name.substr(0, first), op = name.substr(first + 1, second - first - 1);
    const auto floor = entry.get<double>("floor");
    if (entry.contains("p50")) {
      events.add(
          {of, op, digits(1e6 * entry.get<double>("p50")), digits(1e6 * entry.get<double>("p99")), digits(floor)});
    } else if (name.find("threads:1") != std::string::npos) {
      rows.push_back({of, op, entry.get<double>("real_time"), 0, floor});
    } else {
      rows.back().two = entry.get<double>("real_time");
    }
  }
  for (const Row& row : rows)
    batches.add({row.name, row.op, digits(row.one), digits(row.floor), digits(row.two), digits(row.one / row.two)});
  Table rates({"rate", "measured"});
  for (const char* name :
       {"gemm_gflops", "gemm_size", "pass_ns", "exp_ns", "log_ns", "tanh_ns", "divide_ns", "normal_ns", "adam_ns"})
    rates.add({name, digits(std::stod(results.at("context").get<std::string>(name)))});
  return circumstances(results) + batches.text() + "\nSingle events:\n\n" + events.text() +
         "\nRates behind the floor:\n\n" + rates.text();
}

// ---- jacobian_cost -------------------------------------------------------------------------------------------------

const std::array<std::string, 4> kOps = {"forward", "inverse", "forward_pullback", "inverse_pullback"};

/// The layers, in the order in which they were measured.
std::vector<std::string> layers_in(const Json& results) {
  std::vector<std::string> names;
  for (const Json& entry : results.at("benchmarks").elements()) {
    const auto name = entry.get<std::string>("run_name");
    const std::string layer = name.substr(0, name.find('/'));
    if (names.empty() || names.back() != layer) names.push_back(layer);
  }
  return names;
}

std::string jacobian_table(const Json& results) {
  const Times times(results);
  std::string text = circumstances(results);
  for (const auto& [rows, dim] : {std::pair(256, 64), {256, 1024}, {1, 64}}) {
    Table table({"layer", "forward", "inverse", "log-det alone", "forward pullback", "inverse pullback", "naive",
                 "naive / forward", "forward grows as", "inverse grows as"});
    const std::string batch = "/rows:" + std::to_string(rows), at = "/D:" + std::to_string(dim);
    for (const std::string& layer : layers_in(results)) {
      const auto per_row = [&](const std::string& op) { return times.cpu.at(layer + "/" + op + batch + at) / rows; };
      const double naive = times.cpu.at(layer + "/naive/rows:1" + at);
      const bool alone = times.cpu.contains(layer + "/log_det" + batch + at);
      table.add({layer, digits(per_row("forward")), digits(per_row("inverse")),
                 alone ? digits(per_row("log_det")) : "-", digits(per_row("forward_pullback")),
                 digits(per_row("inverse_pullback")), digits(naive), digits(naive / per_row("forward")),
                 times.growth.at(layer + "/forward" + batch), times.growth.at(layer + "/inverse" + batch)});
    }
    text += "Microseconds for one row, of a batch of " + std::to_string(rows) + ", D = " + std::to_string(dim) +
            ":\n\n" + table.text() + "\n";
  }
  return text;
}

/// For those who choose: what a row costs and what a gradient of it adds, in few and in many features.
std::string costs_table(const Json& results) {
  const Times times(results);
  Table table({"layer", "forward, D = 8", "inverse, D = 8", "its gradient", "forward, D = 64", "inverse, D = 64",
               "its gradient"});
  for (const std::string& layer : layers_in(results)) {
    std::vector<std::string> row = {layer};
    for (const int dim : {8, 64})
      for (const char* op : {"forward", "inverse", "inverse_pullback"})
        row.push_back(digits(1e3 / 256 * times.cpu.at(layer + "/" + op + "/rows:256/D:" + std::to_string(dim))));
    table.add(std::move(row));
  }
  return circumstances(results) + table.text();
}

void draw_jacobian_cost(const Json& results, const fs::path& path) {
  using namespace examples;
  const Times times(results);
  const std::vector<std::pair<std::string, Color>> shown = {
      {"actnorm", {0.55, 0.55, 0.55}},
      {"planar", {0.75, 0.60, 0.10}},
      {"lu_linear", kGreen},
      {"householder", {0.55, 0.80, 0.60}},
      {"affine_coupling", kBlue},
      {"spline_coupling", {0.45, 0.70, 0.90}},
      {"maf", kOrange},
      {"autoregressive_spline", {0.95, 0.70, 0.50}},
      {"marginal_gaussianization", kPurple},
  };
  constexpr int rows = 256;
  Figure figure{.title = "What a Jacobian costs: microseconds for one row, against the number of features",
                .columns = 3,
                .width = 1500,
                .aspect = 0.9};
  const auto add_panel = [&](const std::string& title, const std::string& family, int divisor) {
    Panel panel{.title = title,
                .x = {.label = "D", .range = {1.8, 1200}, .log = true},
                .y = {.label = "us", .range = {1e-4, 1e6}, .log = true}};
    for (const auto& [layer, color] : shown) {
      Curve curve{.name = layer, .color = color};
      for (int dim = 2; dim <= 1024; dim *= 2) {
        curve.x.push_back(dim);
        curve.y.push_back(times.cpu.at(layer + "/" + family + "/D:" + std::to_string(dim)) / divisor);
      }
      panel.curves.push_back(curve);
    }
    figure.panels.push_back(panel);
  };
  add_panel("forward, batch of 256", "forward/rows:256", rows);
  add_panel("inverse, batch of 256", "inverse/rows:256", rows);
  add_panel("naive: Jacobian and LU", "naive/rows:1", 1);
  add_panel("forward pullback, batch of 256", "forward_pullback/rows:256", rows);
  add_panel("inverse pullback, batch of 256", "inverse_pullback/rows:256", rows);
  add_panel("forward, one row", "forward/rows:1", 1);
  figure.save_png(path);
}

// ---- the others ----------------------------------------------------------------------------------------------------

std::string memory_table(const Json& results) {
  Table table({"flow", "depth", "inputs rebuilt", "caches and batches, KiB", "parameters, gradients, moments, KiB"});
  for (const Json& entry : results.elements())
    table.add({entry.get<std::string>("flow"), std::to_string(entry.get<int>("depth")),
               entry.get<bool>("rebuild_inputs") ? "yes" : "no", digits(entry.get<double>("held") / 1024),
               digits(entry.get<double>("parameters_gradients_moments") / 1024)});
  return table.text();
}

std::string compile_table(const Json& results) {
  Table table({"what", "seconds of the compiler"});
  for (const auto& [what, seconds] : results.members()) table.add({what, digits(seconds.as<double>())});
  return table.text();
}

std::string peers_table(const Json& results) {
  Table table({"case, operation, threads", "peer", "rhei, us", "peer, us", "ratio", "lowest to highest",
               "ratio of processor times", "ratio per multiply-add"});
  Table built({"case", "peer", "architecture", "parameters (rhei)", "multiply-adds (rhei)", "performed by the peer"});
  std::vector<std::string> seen;
  for (const Json& entry : results.at("entries").elements()) {
    const auto name = entry.get<std::string>("name"), peer = entry.get<std::string>("peer");
    if (entry.contains("error")) {
      table.add({name, peer, "-", "-", "-", entry.get<std::string>("error"), "", ""});
      continue;
    }
    table.add({name, peer, digits(1e6 * entry.get<double>("ours")), digits(1e6 * entry.get<double>("theirs")),
               digits(entry.get<double>("ratio")),
               digits(entry.get<double>("ratio_low")) + " to " + digits(entry.get<double>("ratio_high")),
               entry.contains("ratio_cpu") ? digits(entry.get<double>("ratio_cpu")) : "",
               entry.contains("ratio_per_multiply_add") ? digits(entry.get<double>("ratio_per_multiply_add")) : ""});
    const std::string of = name.substr(0, name.find('/')), who = peer.substr(0, peer.find(','));
    if (std::find(seen.begin(), seen.end(), of + who) != seen.end()) continue;
    seen.push_back(of + who);
    const auto count = [&](const char* key) { return std::to_string(static_cast<long>(entry.get<double>(key))); };
    built.add({of, who + " " + entry.get<std::string>("version"), entry.get<std::string>("architecture"),
               count("parameters") + " (" + count("our_parameters") + ")",
               count("multiply_adds") + " (" + count("our_multiply_adds") + ")", count("performed")});
  }
  std::string text = "Load average " + digits(results.get<double>("load_average")) + " at the start, " +
                     std::to_string(results.get<int>("rounds")) + " rounds.";
  if (results.get<double>("load_average") > 0.5) text += " **Provisional: other programs were running.**";
  for (const auto& [peer, why] : results.at("missing").members())
    text += " Without " + peer + ": " + why.as<std::string>() + ".";
  return text + "\n\n" + table.text() + "\nWhat was compared, for one row:\n\n" + built.text();
}

int report(const fs::path& results, const fs::path& docs) {
  const auto when_there = [&](const char* name, auto use) {
    const fs::path path = results / (std::string(name) + ".json");
    if (fs::exists(path))
      use(rhei::read_json(path.string()));
    else
      std::printf("no %s: its table stays as it is\n", path.c_str());
  };
  const fs::path performance = docs / "performance.md";
  when_there("flow_steps", [&](const Json& json) { put_table(performance, "steps", steps_table(json)); });
  when_there("peers", [&](const Json& json) { put_table(performance, "peers", peers_table(json)); });
  when_there("training_memory", [&](const Json& json) { put_table(performance, "memory", memory_table(json)); });
  when_there("compile_time", [&](const Json& json) { put_table(performance, "compile", compile_table(json)); });
  when_there("jacobian_cost", [&](const Json& json) {
    draw_jacobian_cost(json, docs / "images" / "jacobian_cost.png");
    put_table(docs / "jacobian_cost.md", "jacobian", jacobian_table(json));
    put_table(docs / "choosing-a-layer.md", "costs", costs_table(json));
  });
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: report RESULTS DOCS\n", stderr);
    return 2;
  }
  try {
    return report(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "report: %s\n", error.what());
    return 1;
  }
}
