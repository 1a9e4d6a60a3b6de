// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A flow as a file: safetensors with every parameter and every piece of state under its name, and in the metadata
/// what is needed to build the flow again.
///
/// metadata: "format" = "rhei", "format_version" = "1", "rhei_version", "flow" = the architecture as JSON (the flow's
/// Options). Tensors are written in the flow's own scalar, so that a round trip keeps every bit.

#include <rhei/core/options.hpp>
#include <rhei/core/parameters.hpp>
#include <rhei/io/safetensors.hpp>
#include <rhei/version.hpp>
#include <set>

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

/// Fills parameters and state of a flow of the right architecture from a file's tensors, each of which must be used.
template <class Model>
void fill(Model& flow, const SafeTensors& file, const std::string& source) {
  std::set<std::string, std::less<>> unused;
  for (const Tensor& tensor : file) unused.insert(tensor.name);
  const auto find = [&](std::string_view name, const std::vector<Index>& shape) -> const Tensor& {
    const auto found = unused.find(name);
    if (found == unused.end()) throw std::runtime_error(source + ": has no tensor '" + std::string(name) + "'");
    const Tensor& tensor = file.at(*found);
    if (tensor.shape != shape)
      throw std::runtime_error(source + ": tensor '" + tensor.name + "' has the shape " + tensor.shape_text() +
                               ", expected " + Tensor{"", Dtype::f32, shape, {}}.shape_text());
    unused.erase(found);
    return tensor;
  };
  const auto read = [&](std::string_view name, auto values) {
    if constexpr (requires { values.rows(); }) {
      values = find(name, {values.rows(), values.cols()}).template to_matrix<typename decltype(values)::Scalar>();
    } else {
      const auto integers = find(name, {static_cast<Index>(values.size())}).to_int64();
      std::copy(integers.begin(), integers.end(), values.begin());
    }
  };
  for_each_parameter(flow, read);
  for_each_state(flow, read);
  if (!unused.empty()) throw std::runtime_error(source + ": tensor '" + *unused.begin() + "' is no part of this flow");
  flow.check_state();
}

/// The architecture that a file describes. \throws std::runtime_error unless it is a flow in a version that we know.
inline Options read_architecture(const SafeTensors& file, const std::string& source) {
  const auto entry = [&](const std::string& key) -> const std::string& {
    const auto found = file.metadata.find(key);
    if (found == file.metadata.end())
      throw std::runtime_error(source + ": the metadata has no '" + key + "': this is not a flow saved by rhei");
    return found->second;
  };
  if (entry("format") != "rhei")
    throw std::runtime_error(source + ": the format is '" + entry("format") + "', expected 'rhei'");
  if (entry("format_version") != kFormatVersion)
    throw std::runtime_error(source + ": the format's version is '" + entry("format_version") +
                             "', and this rhei reads '" + std::string(kFormatVersion) + "'");
  Options options = options_from_json(parse_json(entry("flow"), source + ", metadata 'flow'"));
  // a file cannot hold more values than it has bytes, nor a list of features longer than its text
  Index bytes = static_cast<Index>(entry("flow").size());
  for (const Tensor& tensor : file) bytes += static_cast<Index>(tensor.bytes.size());
  options.limit_sizes(bytes);
  return options;
}

/// What is wrong where two architectures differ; an empty text where they agree.
inline std::string architecture_difference(const Json& file, const Json& flow, const std::string& where) {
  if (file == flow) return {};
  if (file.is<Json::Object>() && flow.is<Json::Object>()) {
    for (const auto& [name, value] : flow.members()) {
      if (!file.contains(name)) return where + " has no '" + name + "'";
      const auto inner = architecture_difference(file.at(name), value, where + "." + name);
      if (!inner.empty()) return inner;
    }
  } else if (file.is<Json::Array>() && flow.is<Json::Array>() && file.elements().size() == flow.elements().size()) {
    for (std::size_t i = 0; i < flow.elements().size(); ++i) {
      const auto inner =
          architecture_difference(file.elements()[i], flow.elements()[i], where + "." + std::to_string(i));
      if (!inner.empty()) return inner;
    }
  }
  return where + " is " + file.text().substr(0, 80) + ", expected " + flow.text().substr(0, 80);
}

}  // namespace detail

/// The contents of the file that `save` writes.
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
/// \throws std::runtime_error naming the path and the system's reason.
template <class Model>
void save(const Model& flow, const std::string& path) {
  write_safetensors(path, to_safetensors(flow));
}

/// Fills a flow of a known type from a file of the same architecture. The scalar may differ: values are then rounded.
/// On failure the flow stays as it was.
/// \throws std::runtime_error that names what differs: an entry of the architecture, a tensor, a shape, a version.
template <class Model>
void load_into(Model& flow, const SafeTensors& file, const std::string& source = "file") {
  const Json theirs = detail::to_json(detail::read_architecture(file, source));
  const Json ours = parse_json(detail::to_json(flow.options()).text());
  const std::string difference = detail::architecture_difference(theirs, ours, "the architecture");
  if (!difference.empty()) throw std::runtime_error(source + ": " + difference);
  Model filled = flow;
  detail::fill(filled, file, source);
  copy_values(filled, flow);
}
template <class Model>
void load_into(Model& flow, const std::string& path) {
  load_into(flow, read_safetensors(path), path);
}

}  // namespace rhei
