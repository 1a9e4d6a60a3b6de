// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Checks of what callers pass. Each message says who complains, about which argument, what came and what was expected.

#include <rhei/core/types.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace rhei::detail {

[[noreturn, gnu::cold, gnu::noinline]] inline void throw_invalid(std::string_view where, const std::string& what) {
  throw std::invalid_argument(std::string(where) + ": " + what);
}

inline std::string shape_text(Index rows, Index cols) { return std::to_string(rows) + " x " + std::to_string(cols); }

/// Throws std::invalid_argument unless `argument` has the expected shape; -1 stands for any.
inline void check_shape(std::string_view where, std::string_view argument, Index rows, Index cols, Index want_rows,
                        Index want_cols) {
  if ((want_rows == -1 || rows == want_rows) && (want_cols == -1 || cols == want_cols)) [[likely]]
    return;
  const auto text = [](Index want) { return want == -1 ? std::string("any") : std::to_string(want); };
  throw_invalid(where, std::string(argument) + " is " + shape_text(rows, cols) + " (rows x columns), expected " +
                           text(want_rows) + " x " + text(want_cols));
}

/// The message is made out of line: callers stay small, and g++ 12 sees no overlap of strings where there is none.
[[noreturn, gnu::cold, gnu::noinline]] inline void throw_value(std::string_view where, std::string_view argument,
                                                               const std::string& came, std::string_view expected) {
  throw_invalid(where, std::string(argument) + " is " + came + ", expected " + std::string(expected));
}

/// Throws std::invalid_argument with `expected` unless `ok`.
inline void check_value(std::string_view where, std::string_view argument, auto came, bool ok,
                        std::string_view expected) {
  if (!ok) [[unlikely]]
    throw_value(where, argument, std::to_string(came), expected);
}

/// f(), whose exceptions of ours become a std::runtime_error that begins with `where`.
template <class F>
decltype(auto) refuse_at(const std::string& where, F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (const std::invalid_argument& error) {  // a constructor refuses what the file describes
    throw std::runtime_error(where + ": " + error.what());
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(where + ": " + error.what());
  }
}

}  // namespace rhei::detail
