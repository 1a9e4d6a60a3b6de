// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A fit at the end of an epoch, as checkpoints see it: what goes on from this goes on bit for bit.

#include <rhei/core/options.hpp>
#include <rhei/core/parameters.hpp>
#include <rhei/train/fit_options.hpp>
#include <variant>

namespace rhei {

/// Refers to the memory of a running fit: valid only during the call that passes it.
struct FitState {
  /// The memory of one field: a tensor or integers.
  using Values = std::variant<Batch<float>, Batch<double>, std::span<std::int64_t>>;
  /// A named piece of the run.
  struct Field {
    std::string name;  ///< dotted
    Values values;     ///< to read or to set
  };
  /// A named number that a run which goes on must share.
  struct Setting {
    std::string name;    ///< for messages, too
    std::int64_t value;  ///< of this run
  };

  Options flow;                       ///< the architecture
  std::string objective;              ///< its type
  std::vector<Setting> settings;      ///< what must be the same in a run that goes on: batch size, data
  std::vector<Field> fields;          ///< parameters and state, the best so far, moments, generator, order of rows
  std::vector<FitProgress>& history;  ///< one entry an epoch
};

}  // namespace rhei
