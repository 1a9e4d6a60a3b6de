// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The names and numbers from which a layer can be built again: what a file says of an architecture.

#include <cstdint>
#include <rhei/core/errors.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace rhei {

/// A small ordered tree of named values. The entry "type" names the class that the others describe.
class Options {
 public:
  using List = std::vector<Options>;
  using Integers = std::vector<std::int64_t>;
  using Value = std::variant<bool, std::int64_t, double, std::string, Integers, Options, List>;
  using Entry = std::pair<std::string, Value>;

  Options() = default;
  explicit Options(std::string_view type) { set("type", std::string(type)); }

  /// Adds an entry; returns *this so that a description reads as one expression.
  Options& set(std::string_view name, Value value) {
    entries_.emplace_back(std::string(name), std::move(value));
    return *this;
  }

  [[nodiscard]] const std::vector<Entry>& entries() const { return entries_; }

  [[nodiscard]] bool has(std::string_view name) const { return find(name) != nullptr; }

  /// The value of an entry.
  /// \throws std::runtime_error if it is absent or of another kind.
  template <class T>
  [[nodiscard]] const T& get(std::string_view name) const {
    const Value* value = find(name);
    if (value == nullptr) throw std::runtime_error(label() + ": '" + std::string(name) + "' is missing");
    const T* typed = std::get_if<T>(value);
    if (typed == nullptr)
      throw std::runtime_error(label() + ": '" + std::string(name) + "' is not of the expected kind");
    return *typed;
  }

  /// A number, which a file may have written as an integer.
  [[nodiscard]] double get_number(std::string_view name) const {
    const Value* value = find(name);
    const auto* integer = value == nullptr ? nullptr : std::get_if<std::int64_t>(value);
    return integer != nullptr ? static_cast<double>(*integer) : get<double>(name);
  }

  /// An integer that is a size: at least `smallest` and at most size_limit().
  [[nodiscard]] Index get_size(std::string_view name, Index smallest = 0) const {
    return checked_size(name, get<std::int64_t>(name), smallest);
  }
  /// A list of sizes, each at least `smallest` and at most size_limit().
  [[nodiscard]] std::vector<Index> get_sizes(std::string_view name, Index smallest = 0) const {
    std::vector<Index> sizes;
    for (const std::int64_t value : get<Integers>(name)) sizes.push_back(checked_size(name, value, smallest));
    return sizes;
  }

  [[nodiscard]] const std::string& type() const { return get<std::string>("type"); }

  /// No size in a file can exceed the number of values that the file holds; a reader sets this bound for a whole tree,
  /// so that a lie in a description is refused before anything is allocated.
  void limit_sizes(Index limit) {
    size_limit_ = limit;
    for (auto& entry : entries_) {
      if (auto* child = std::get_if<Options>(&entry.second)) child->limit_sizes(limit);
      if (auto* list = std::get_if<List>(&entry.second))
        for (auto& item : *list) item.limit_sizes(limit);
    }
  }
  /// Refuses a tensor that would be larger than the file that describes it.
  /// \throws std::runtime_error
  void check_tensor(Index rows, Index cols) const {
    if (cols > 0 && rows > size_limit_ / cols)
      throw std::runtime_error(label() + ": a tensor of " + detail::shape_text(rows, cols) +
                               " values is larger than the file");
  }

  bool operator==(const Options& other) const { return entries_ == other.entries_; }

 private:
  [[nodiscard]] const Value* find(std::string_view name) const {
    for (const auto& entry : entries_)
      if (entry.first == name) return &entry.second;
    return nullptr;
  }
  [[nodiscard]] std::string label() const {
    const Value* type = find("type");
    const auto* text = type == nullptr ? nullptr : std::get_if<std::string>(type);
    return "description of '" + (text == nullptr ? std::string("?") : *text) + "'";
  }
  [[nodiscard]] Index checked_size(std::string_view name, std::int64_t value, Index smallest) const {
    if (value < smallest || value > size_limit_)
      throw std::runtime_error(label() + ": '" + std::string(name) + "' is " + std::to_string(value) + ", expected " +
                               std::to_string(smallest) + " to " + std::to_string(size_limit_));
    return static_cast<Index>(value);
  }

  std::vector<Entry> entries_;
  Index size_limit_ = Index(1) << 40;
};

}  // namespace rhei
