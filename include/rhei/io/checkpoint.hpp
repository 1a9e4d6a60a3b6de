// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Checkpoints of a fit: everything that it needs to go on, in one safetensors file.
/// \code
///   const std::string path = "run.checkpoint";
///   rhei::FitOptions options{.epochs = 1000, .checkpoint = rhei::checkpoint_to(path)};
///   if (std::filesystem::exists(path)) options.resume = rhei::resume_from(path);
///   rhei::fit(flow, x, options, rng);
/// \endcode
/// A run that was interrupted and is started again with the same arguments (the generator as it was at first) gives,
/// bit for bit, what it would have given uninterrupted, unless `seconds` ends it. It may be given more epochs or steps,
/// another learning rate, or another number of threads; then it goes on from the same place with those. What a callable
/// that draws batches keeps for itself is not in the file.
///
/// metadata: "format" = "rhei checkpoint", "format_version" = "1", "flow" = the architecture as JSON, "objective", and
/// one entry for every setting that must not change. Tensors: flow.*, best.* (the best parameters so far), adam.*,
/// generator, best_epoch, best_loss, order_of_rows (of a table) and history, one row an epoch.

#include <array>
#include <cstring>
#include <functional>
#include <rhei/io/flow_file.hpp>
#include <rhei/train/fit_state.hpp>

namespace rhei {
namespace detail {

inline constexpr std::string_view kCheckpointFormat = "rhei checkpoint";
inline constexpr std::string_view kCheckpointVersion = "1";

/// The columns of the tensor "history".
inline constexpr std::array kHistoryCounts = {&FitProgress::epoch, &FitProgress::step};
inline constexpr std::array kHistoryNumbers = {
    &FitProgress::seconds,         &FitProgress::fraction,      &FitProgress::learning_rate, &FitProgress::train_loss,
    &FitProgress::validation_loss, &FitProgress::gradient_norm, &FitProgress::round_trip};
inline constexpr std::size_t kHistoryColumns = kHistoryCounts.size() + kHistoryNumbers.size();

inline Tensor history_tensor(const std::vector<FitProgress>& history) {
  std::vector<double> values;
  for (const FitProgress& epoch : history) {
    for (const auto count : kHistoryCounts) values.push_back(static_cast<double>(epoch.*count));
    for (const auto number : kHistoryNumbers) values.push_back(epoch.*number);
  }
  return Tensor::from_values<double>("history", values,
                                     {static_cast<Index>(history.size()), static_cast<Index>(kHistoryColumns)});
}

inline std::vector<FitProgress> history_from(const Tensor& tensor) {
  if (tensor.shape.size() != 2 || tensor.shape[0] < 1 || tensor.shape[1] != static_cast<Index>(kHistoryColumns))
    throw std::runtime_error("tensor 'history' has the shape " + tensor.shape_text() + ", expected a row for each of " +
                             "at least one epoch and " + std::to_string(kHistoryColumns) + " columns");
  const std::vector<double> values = tensor.to_values<double>();
  std::vector<FitProgress> history(static_cast<std::size_t>(tensor.shape[0]));
  auto next = values.begin();
  for (FitProgress& epoch : history) {
    for (const auto count : kHistoryCounts) {
      if (!(*next >= 0 && *next <= 0x1p53 && *next == std::floor(*next)))
        throw std::runtime_error("tensor 'history' holds " + std::to_string(*next) + " for a count");
      epoch.*count = static_cast<Index>(*next++);
    }
    for (const auto number : kHistoryNumbers) epoch.*number = *next++;
  }
  return history;
}

/// The tensor of a field: its own scalar and shape, so that a round trip keeps every bit.
inline Tensor field_tensor(const FitState::Field& field) {
  return std::visit(
      [&](const auto& values) {
        if constexpr (requires { values.rows(); })
          return Tensor::from_matrix(field.name, values);
        else
          return Tensor::from_values<std::int64_t>(field.name, values, {static_cast<Index>(values.size())});
      },
      field.values);
}

}  // namespace detail

/// The contents of the file that a checkpoint is.
inline SafeTensors to_safetensors(const FitState& state) {
  SafeTensors file;
  file.metadata = {{"format", std::string(detail::kCheckpointFormat)},
                   {"format_version", std::string(detail::kCheckpointVersion)},
                   {"flow", detail::to_json(state.flow).text()},
                   {"objective", state.objective}};
  for (const auto& [name, value] : state.settings) file.metadata[name] = std::to_string(value);
  for (const auto& field : state.fields) file.add(detail::field_tensor(field));
  file.add(detail::history_tensor(state.history));
  return file;
}

/// Sets a fit to where the one stood that wrote a checkpoint. `source` is what messages call the file. On failure the
/// fit stays as it was.
/// \throws std::runtime_error that names what differs first: the architecture, the objective, a setting, a tensor, its
///         type or shape.
inline void restore(FitState& state, const SafeTensors& file, const std::string& source = "checkpoint") {
  detail::refuse_at(source, [&] {
    const auto expect = [&](const std::string& key, const std::string& wanted, bool is_ours) {
      const auto found = file.metadata.find(key);
      if (found == file.metadata.end())
        throw std::runtime_error("the metadata has no '" + key + "'" +
                                 (is_ours ? "" : ": this is not a checkpoint of rhei"));
      if (found->second != wanted)
        throw std::runtime_error(key + " is " + detail::in_quotes(found->second) + ", expected " +
                                 detail::in_quotes(wanted));
    };
    expect("format", std::string(detail::kCheckpointFormat), false);
    expect("format_version", std::string(detail::kCheckpointVersion), false);
    const auto flow = file.metadata.find("flow");
    if (flow == file.metadata.end()) throw std::runtime_error("the metadata has no 'flow'");
    const std::string difference = detail::architecture_difference(parse_json(flow->second, "the metadata's 'flow'"),
                                                                   detail::to_json(state.flow), "flow");
    if (!difference.empty()) throw std::runtime_error(difference);
    expect("objective", state.objective, true);
    for (const auto& [name, value] : state.settings) expect(name, std::to_string(value), true);

    for (const auto& field : state.fields) {  // everything is checked before anything is written
      const Tensor wanted = detail::field_tensor(field);
      const Tensor& tensor = file.at(field.name);
      if (tensor.shape != wanted.shape)
        throw std::runtime_error("tensor '" + field.name + "' has the shape " + tensor.shape_text() + ", expected " +
                                 wanted.shape_text());
      if (tensor.dtype != wanted.dtype)
        throw std::runtime_error("tensor '" + field.name + "' is of type " +
                                 std::string(detail::info(tensor.dtype).name) + ", expected " +
                                 std::string(detail::info(wanted.dtype).name));
    }
    if (file.size() != state.fields.size() + 1)
      throw std::runtime_error("it has " + std::to_string(file.size()) + " tensors, expected " +
                               std::to_string(state.fields.size() + 1));
    std::vector<FitProgress> history = detail::history_from(file.at("history"));

    for (const auto& field : state.fields) {
      const Tensor& tensor = file.at(field.name);
      std::visit(
          [&](auto values) {
            if constexpr (requires { values.rows(); }) {
              values = tensor.to_matrix<typename decltype(values)::Scalar>();
            } else {
              const auto integers = tensor.to_int64();
              std::copy(integers.begin(), integers.end(), values.begin());
            }
          },
          field.values);
    }
    state.history = std::move(history);
  });
}

/// For FitOptions::checkpoint: writes the state to a file after every `every`-th epoch and at the end of the run, under
/// a temporary name first, so that an older checkpoint survives any failure.
/// \throws std::invalid_argument if every < 1; when called, std::runtime_error as write_safetensors().
inline std::function<void(const FitState&)> checkpoint_to(std::string path, Index every = 1) {
  detail::check_value("checkpoint_to", "every", every, every >= 1, "at least 1");
  return [path = std::move(path), every](const FitState& state) {
    const FitProgress& last = state.history.back();
    if (last.epoch % every == 0 || last.fraction >= 1) write_safetensors(path, to_safetensors(state));
  };
}

/// For FitOptions::resume: goes on from a checkpoint.
/// \throws std::runtime_error, when called, if there is no such file, or as restore().
inline std::function<void(FitState&)> resume_from(std::string path) {
  return [path = std::move(path)](FitState& state) { restore(state, read_safetensors(path), path); };
}

}  // namespace rhei
