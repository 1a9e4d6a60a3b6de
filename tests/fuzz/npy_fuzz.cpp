// SPDX-License-Identifier: MIT

/// \file
/// Fuzz target: NPY bytes are read or refused, and what was read comes back when it is written.
/// clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -Iinclude -isystem /usr/include/eigen3 <this file>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <rhei/io/npy.hpp>
#include <stdexcept>
#include <string_view>

namespace {

template <class S>
void check_round_trip(const rhei::Matrix<S>& m) {
  if (m.size() == 0) return;  // such a matrix may have more columns than one can wait for
  const rhei::Matrix<S> back = rhei::parse_npy_exactly<S>(rhei::format_npy(m));
  if (back.rows() != m.rows() || back.cols() != m.cols() ||
      std::memcmp(back.data(), m.data(), static_cast<std::size_t>(m.size()) * sizeof(S)) != 0)
    std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    check_round_trip(rhei::parse_npy(bytes));
  } catch (const std::runtime_error&) {
  }
  try {
    check_round_trip(rhei::parse_npy_exactly<float>(bytes));
  } catch (const std::runtime_error&) {
  }
  return 0;
}
