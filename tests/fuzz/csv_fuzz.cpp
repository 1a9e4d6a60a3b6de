// SPDX-License-Identifier: MIT

/// \file
/// Fuzz target: CSV text is read or refused, and what was read comes back when it is written.
/// clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -Iinclude -isystem /usr/include/eigen3 <this file>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <rhei/io/csv.hpp>
#include <stdexcept>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  rhei::Table table;
  try {
    table = rhei::parse_csv({reinterpret_cast<const char*>(data), size});
  } catch (const std::runtime_error&) {
    return 0;
  }
  const rhei::Table back = rhei::parse_csv(rhei::format_csv(table));
  if (back.names != table.names || back.values.rows() != table.values.rows() ||
      back.values.cols() != table.values.cols())
    std::abort();
  for (rhei::Index i = 0; i < table.values.size(); ++i) {
    const double a = table.values(i), b = back.values(i);
    if (std::isnan(a) ? !std::isnan(b) : (a != b || std::signbit(a) != std::signbit(b))) std::abort();
  }
  return 0;
}
