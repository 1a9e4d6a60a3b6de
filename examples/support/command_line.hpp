// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What the command lines of the examples have in common.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>

namespace examples {

/// Options that every program takes.
struct CommonOptions {
  std::uint64_t seed = 1;
  double seconds = 20;
  int threads = 1;
  std::filesystem::path out = "out";
};

inline void add_common_options(CLI::App& app, CommonOptions& options) {
  app.add_option("--seed", options.seed, "seed of everything random")->capture_default_str();
  app.add_option("--seconds", options.seconds, "time to train each model")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads", options.threads, "parts of a minibatch trained at a time")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--out", options.out, "folder for pictures and results.json")->capture_default_str();
}

/// Parses the command line and runs `work`. Exit codes: 0, 1 for a failure (one sentence on standard error), 2 for bad
/// usage.
template <class Work>
int run(CLI::App& app, int argc, char** argv, Work&& work) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    std::fprintf(stderr, "%s: %s (see --help)\n", app.get_name().c_str(), error.what());
    return 2;
  }
  try {
    work();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", app.get_name().c_str(), error.what());
    return 1;
  }
}

}  // namespace examples
