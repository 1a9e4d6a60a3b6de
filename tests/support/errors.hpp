// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What an exception says.

#include <stdexcept>
#include <string>
#include <string_view>

namespace rhei::testing {

/// The text of the exception of type E that `f` throws; empty where it throws none.
template <class E = std::invalid_argument, class F>
std::string error_text(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return {};
}

inline bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

}  // namespace rhei::testing
