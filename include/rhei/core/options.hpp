// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The names and numbers from which a layer can be built again: what a file says of an architecture.

#include <array>
#include <cstdint>
#include <rhei/core/errors.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace rhei {

/// A small ordered tree of named values. The entry "type" names the class that the others describe.
///
/// A class offers `options()`, which describes an object without its parameters, and the static `from_options()`, which
/// makes one whose parameters a reader then sets. A description may come from a file and lie: from_options() takes
/// sizes by get_size() and get_sizes(), and passes what is a product of sizes through check_tensors() before it
/// allocates.
class Options {
 public:
  /// Descriptions one after the other, of the layers of a chain for example.
  using List = std::vector<Options>;
  /// Sizes, indices.
  using Integers = std::vector<std::int64_t>;
  /// All that an entry can hold.
  using Value = std::variant<bool, std::int64_t, double, std::string, Integers, Options, List>;
  /// Name and value.
  using Entry = std::pair<std::string, Value>;

  Options() = default;
  /// With the entry "type".
  explicit Options(std::string_view type) { set("type", std::string(type)); }

  /// Adds an entry; returns *this so that a description reads as one expression. (Inlined, g++ 12 takes the unused
  /// alternatives of the variant for uninitialized memory, and warns.)
  [[gnu::noinline]] Options& set(std::string_view name, const Value& value) {
    entries_.emplace_back(std::string(name), value);
    return *this;
  }

  /// In the order in which they were set.
  [[nodiscard]] const std::vector<Entry>& entries() const { return entries_; }

  /// Whether there is an entry of this name.
  [[nodiscard]] bool has(std::string_view name) const { return find(name) != nullptr; }

  /// The value of an entry.
  /// \throws std::runtime_error if it is absent or of another kind.
  template <class T>
  [[nodiscard]] const T& get(std::string_view name) const {
    const Value* value = find(name);
    if (value == nullptr) refuse("'" + std::string(name) + "' is missing");
    const T* typed = std::get_if<T>(value);
    if (typed == nullptr) refuse("'" + std::string(name) + "' is " + kind(*value) + ", expected " + kind(T()));
    return *typed;
  }

  /// A number, which a file may have written as an integer.
  /// \throws std::runtime_error as get() does.
  [[nodiscard]] double get_number(std::string_view name) const {
    const Value* value = find(name);
    const auto* integer = value == nullptr ? nullptr : std::get_if<std::int64_t>(value);
    return integer != nullptr ? static_cast<double>(*integer) : get<double>(name);
  }

  /// An integer that is a size: at least `smallest` and at most what limit_sizes() allows.
  /// \throws std::runtime_error if it is not, or as get() does.
  [[nodiscard]] Index get_size(std::string_view name, Index smallest = 0) const {
    return checked_size(name, get<std::int64_t>(name), smallest);
  }
  /// The same for a list of sizes.
  [[nodiscard]] std::vector<Index> get_sizes(std::string_view name, Index smallest = 0) const {
    std::vector<Index> sizes;
    for (const std::int64_t value : get<Integers>(name)) sizes.push_back(checked_size(name, value, smallest));
    return sizes;
  }

  /// The entry "type".
  [[nodiscard]] const std::string& type() const { return get<std::string>("type"); }

  /// No size in a file can exceed the number of values that the file holds: a reader sets this bound for a whole tree,
  /// so that a lie is refused before anything is allocated. Without it the bound is 2^40.
  void limit_sizes(Index limit) {
    size_limit_ = limit;
    for (auto& entry : entries_) {
      if (auto* child = std::get_if<Options>(&entry.second)) child->limit_sizes(limit);
      if (auto* list = std::get_if<List>(&entry.second))
        for (auto& item : *list) item.limit_sizes(limit);
    }
  }
  /// The bound that limit_sizes() has set.
  [[nodiscard]] Index size_limit() const { return size_limit_; }

  /// Refuses tensors (rows and columns of each, none negative) that are together larger than limit_sizes() allows.
  /// \throws std::runtime_error
  void check_tensors(const std::vector<std::pair<Index, Index>>& shapes) const {
    Index left = size_limit_;
    for (const auto& [rows, cols] : shapes) {
      if (cols > 0 && rows > left / cols)
        refuse("with a tensor of " + detail::shape_text(rows, cols) + " values it is larger than the file");
      left -= rows * cols;
    }
  }
  /// The same for one tensor.
  void check_tensor(Index rows, Index cols) const { check_tensors({{rows, cols}}); }

  /// Whether two descriptions are the same, whatever the limits on their sizes.
  bool operator==(const Options& other) const { return entries_ == other.entries_; }

 private:
  [[nodiscard]] const Value* find(std::string_view name) const {
    for (const auto& entry : entries_)
      if (entry.first == name) return &entry.second;
    return nullptr;
  }
  static std::string kind(const Value& value) {
    constexpr std::array<std::string_view, std::variant_size_v<Value>> names = {
        "true or false",         "an integer", "a number", "a text", "a list of integers", "a description",
        "a list of descriptions"};
    return std::string(names[value.index()]);
  }
  [[noreturn]] void refuse(const std::string& what) const {
    const Value* type = find("type");
    const auto* text = type == nullptr ? nullptr : std::get_if<std::string>(type);
    throw std::runtime_error("description of '" + (text == nullptr ? std::string("?") : text->substr(0, 40)) +
                             "': " + what);
  }
  [[nodiscard]] Index checked_size(std::string_view name, std::int64_t value, Index smallest) const {
    if (value < smallest || value > size_limit_)
      refuse("'" + std::string(name) + "' is " + std::to_string(value) + ", expected " + std::to_string(smallest) +
             " to " + std::to_string(size_limit_));
    return static_cast<Index>(value);
  }

  std::vector<Entry> entries_;
  Index size_limit_ = Index(1) << 40;
};

}  // namespace rhei
