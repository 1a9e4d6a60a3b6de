// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A flow as a file: safetensors with every parameter and every piece of state under its name, and in the metadata
/// what is needed to build the flow again.
///
/// metadata: "format" = "rhei", "format_version" = "1", "rhei_version" (for people), "flow" = the architecture as JSON
/// (the flow's Options). The version stands for the layout and for what the tensors of every type mean: whoever changes
/// a layer's parametrization gives the layer another type, or the format another version. Tensors are written in the
/// flow's own scalar, integers as I64, so that a round trip keeps every bit. `load_into` fills a flow whose type the
/// program knows; `load` (io/load.hpp) builds one from the file alone.
///
/// What is said of flows here holds of single layers and distributions, too.

#include <algorithm>
#include <rhei/core/layer.hpp>
#include <rhei/core/options.hpp>
#include <rhei/core/parameters.hpp>
#include <rhei/io/safetensors.hpp>
#include <rhei/version.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace rhei {
namespace detail {

inline constexpr std::string_view kFormatVersion = "1";

/// A description of an architecture as JSON.
inline Json to_json(const Options& options) {
  Json::Object object;
  for (const auto& [name, value] : options.entries())
    object.emplace_back(name, std::visit(
                                  [](const auto& v) -> Json {
                                    using V = std::remove_cvref_t<decltype(v)>;
                                    if constexpr (std::same_as<V, Options>) {
                                      return to_json(v);
                                    } else if constexpr (std::same_as<V, Options::List>) {
                                      Json::Array list;
                                      for (const Options& item : v) list.push_back(to_json(item));
                                      return list;
                                    } else {
                                      return v;
                                    }
                                  },
                                  value));
  return object;
}

/// The reverse of to_json(). \throws std::runtime_error for JSON that no description can be.
inline Options options_from_json(const Json& json, const std::string& what = "the architecture") {
  Options options;
  for (const auto& [name, value] : json.members(what)) {
    const std::string label = what + "." + name;
    if (value.is<bool>())
      options.set(name, value.as<bool>());
    else if (value.is<std::int64_t>())
      options.set(name, value.as<std::int64_t>());
    else if (value.is<double>())
      options.set(name, value.as<double>());
    else if (value.is<std::string>())
      options.set(name, value.as<std::string>());
    else if (value.is<Json::Object>())
      options.set(name, options_from_json(value, label));
    else if (const auto& items = value.elements(label); !items.empty() && items.front().is<Json::Object>()) {
      Options::List list;
      for (std::size_t i = 0; i < items.size(); ++i)
        list.push_back(options_from_json(items[i], label + "." + std::to_string(i)));
      options.set(name, std::move(list));
    } else {
      options.set(name, value.as<Options::Integers>(label));
    }
  }
  return options;
}

/// Fills parameters and state of a model of the right architecture from a file's tensors, each of which must be used.
template <class Model>
void fill(Model& model, const SafeTensors& file) {
  std::set<std::string_view> unused;
  for (const Tensor& tensor : file) unused.insert(tensor.name);
  const auto find = [&](const Tensor& wanted) -> const Tensor& {
    if (unused.erase(wanted.name) == 0) throw std::runtime_error("there is no tensor '" + wanted.name + "'");
    const Tensor& tensor = file.at(wanted.name);
    if (tensor.shape != wanted.shape)
      throw std::runtime_error("tensor '" + tensor.name + "' has the shape " + tensor.shape_text() + ", expected " +
                               wanted.shape_text());
    return tensor;
  };
  const auto read = [&](std::string_view name, auto values) {
    Tensor wanted{.name = std::string(name), .shape = {}, .bytes = {}};
    if constexpr (requires { values.rows(); }) {
      wanted.shape = {values.rows(), values.cols()};
      values = find(wanted).template to_matrix<typename decltype(values)::Scalar>();
    } else {
      wanted.shape = {static_cast<Index>(values.size())};
      const auto integers = find(wanted).to_int64();
      std::copy(integers.begin(), integers.end(), values.begin());
    }
  };
  for_each_parameter(model, read);
  for_each_state(model, read);
  if (!unused.empty())
    throw std::runtime_error("tensor " + in_quotes(*unused.begin()) + " belongs to no part of the flow");
  rhei::check_state(model);
}

/// The architecture that a file describes.
/// \throws std::runtime_error unless it is a description in a version of the format that we know.
inline Options read_architecture(const SafeTensors& file) {
  const auto entry = [&](const std::string& key) -> const std::string& {
    const auto found = file.metadata.find(key);
    if (found == file.metadata.end())
      throw std::runtime_error("the metadata has no '" + key + "': this is not a flow saved by rhei");
    return found->second;
  };
  const auto expect = [&](const std::string& key, std::string_view value) {
    if (entry(key) != value)
      throw std::runtime_error("the " + key + " is " + in_quotes(entry(key)) + ", expected " + in_quotes(value));
  };
  expect("format", "rhei");
  expect("format_version", kFormatVersion);
  Options options = options_from_json(parse_json(entry("flow"), "the metadata's 'flow'"));
  // No tensor has more values than the file has bytes, no list more entries than its text. The rest is room for sizes
  // that show in no tensor: a flow without parameters may have many features.
  Index limit = static_cast<Index>(entry("flow").size()) + (Index(1) << 16);
  for (const Tensor& tensor : file) limit += static_cast<Index>(tensor.bytes.size());
  options.limit_sizes(limit);
  return options;
}

/// The first difference between the architectures of a file and of a flow as a sentence; empty where there is none.
inline std::string architecture_difference(const Json& file, const Json& flow, const std::string& where) {
  if (file.is<Json::Object>() && flow.is<Json::Object>()) {
    for (const auto& [name, value] : flow.members()) {
      const Json* theirs = file.find(name);
      if (theirs == nullptr) return where + " has no '" + name + "'";
      if (auto inner = architecture_difference(*theirs, value, where + "." + name); !inner.empty()) return inner;
    }
    for (const auto& [name, value] : file.members())
      if (!flow.contains(name)) return where + " has " + in_quotes(name) + ", which is not expected";
    return {};
  }
  if (file.is<Json::Array>() && flow.is<Json::Array>()) {
    const auto &theirs = file.elements(), &ours = flow.elements();
    if (theirs.size() != ours.size())
      return where + " has " + std::to_string(theirs.size()) + " entries, expected " + std::to_string(ours.size());
    for (std::size_t i = 0; i < ours.size(); ++i) {
      auto inner = architecture_difference(theirs[i], ours[i], where + "." + std::to_string(i));
      if (!inner.empty()) return inner;
    }
    return {};
  }
  return file == flow ? std::string() : where + " is " + file.text().substr(0, 80) + ", expected " + flow.text();
}

}  // namespace detail

/// The contents of the file that `save` writes.
/// \throws std::invalid_argument if the architecture holds a number that is not finite.
template <class Model>
SafeTensors to_safetensors(const Model& flow) {
  SafeTensors file;
  file.metadata = {{"format", "rhei"},
                   {"format_version", std::string(detail::kFormatVersion)},
                   {"rhei_version", std::to_string(RHEI_VERSION_MAJOR) + "." + std::to_string(RHEI_VERSION_MINOR) +
                                        "." + std::to_string(RHEI_VERSION_PATCH)},
                   {"flow", detail::to_json(flow.options()).text()}};
  const auto add = [&](std::string_view name, const auto& values) {
    if constexpr (requires { values.rows(); })
      file.add(Tensor::from_matrix(std::string(name), values));
    else
      file.add(Tensor::from_values<std::int64_t>(std::string(name), values, {static_cast<Index>(values.size())}));
  };
  for_each_parameter(flow, add);
  for_each_state(flow, add);
  return file;
}

/// Writes a flow to a file, under a temporary name first, so that an older file survives any failure.
/// \throws std::runtime_error naming the path and the system's reason, or as to_safetensors().
template <class Model>
void save(const Model& flow, const std::string& path) {
  write_safetensors(path, to_safetensors(flow));
}

/// Fills a flow of a known type from a file of the same architecture. The scalar may differ: values are then rounded.
/// On failure the flow stays as it was, and in any case its tensors stay where they are in memory: an optimizer that
/// refers to them can go on. `source` is what messages call the file.
/// \throws std::runtime_error that names what differs first: an entry of the architecture, a tensor, a shape, a
/// version.
template <class Model>
void load_into(Model& flow, const SafeTensors& file, const std::string& source = "file") {
  detail::refuse_at(source, [&] {
    const Json theirs = detail::to_json(detail::read_architecture(file)), ours = detail::to_json(flow.options());
    const std::string difference = detail::architecture_difference(theirs, ours, "flow");
    if (!difference.empty()) throw std::runtime_error(difference);
    Model filled = flow;
    detail::fill(filled, file);
    copy_values(filled, flow);
    rhei::check_state(flow);  // which may also derive something from it
  });
}
/// The same from a file at `path`. \throws std::runtime_error also where it cannot be read.
template <class Model>
void load_into(Model& flow, const std::string& path) {
  load_into(flow, read_safetensors(path), path);
}

}  // namespace rhei
