// SPDX-License-Identifier: MIT

/// \file
/// Fuzz target: a safetensors container (and the JSON of its header) is read or refused, its tensors are converted or
/// refused, and what was read comes back when it is written.
/// clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -Iinclude -isystem /usr/include/eigen3 <this file>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <rhei/io/safetensors.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

namespace {

template <class F>
void read_or_refuse(F&& f) {
  try {
    static_cast<void>(f());
  } catch (const std::runtime_error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  read_or_refuse([&] {
    const rhei::Json json = rhei::parse_json(bytes);
    if (rhei::parse_json(json.text(2)) != json) std::abort();
    return 0;
  });
  rhei::SafeTensors file;
  try {
    file = rhei::parse_safetensors(bytes);
  } catch (const std::runtime_error&) {
    return 0;
  }
  for (const rhei::Tensor& tensor : file) {
    read_or_refuse([&] { return tensor.to_matrix<float>(); });
    read_or_refuse([&] { return tensor.to_vector<double>(); });
    read_or_refuse([&] { return tensor.to_int64(); });
  }
  const std::string written = rhei::format_safetensors(file);
  const rhei::SafeTensors back = rhei::parse_safetensors(written);
  if (back.metadata != file.metadata || rhei::format_safetensors(back) != written) std::abort();
  return 0;
}
