// SPDX-License-Identifier: MIT

/// \file
/// Fuzz target: a file is loaded as a flow or refused, and a flow that was loaded comes back when it is written. The
/// first folder that is named is given a valid file to start from: without one the fuzzer never gets past the header.
/// clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -Iinclude -isystem /usr/include/eigen3 <this file>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <rhei/io/load.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

namespace {

/// A small flow with one of most things a file can hold.
std::string valid_file() {
  rhei::Rng rng(1);
  std::vector<rhei::AnyLayer<float>> layers;
  layers.push_back(rhei::LuLinear<float>(2, rng));
  layers.push_back(rhei::AffineCoupling<float>(2, {.transformed = {0}, .net = {{2}}}, rng));
  layers.push_back(rhei::Inverted<rhei::AnyLayer<float>>(
      rhei::AdditiveCoupling<float, rhei::ResidualMlp<float>>(2, {.transformed = {1}, .net = {{2}}}, rng)));
  layers.push_back(rhei::Permutation<float>::reverse(2));
  layers.push_back(rhei::ActNorm<float>(2));
  return rhei::format_safetensors(rhei::to_safetensors(rhei::AnyFlow<float>(
      rhei::GaussianMixture<float>(2, 2, rng), rhei::Repeat<rhei::AnyLayer<float>>(std::move(layers)))));
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments) {
  for (int i = 1; i < *count; ++i) {
    const std::string folder = (*arguments)[i];
    if (folder.starts_with('-')) continue;
    try {
      rhei::write_atomically(folder + "/flow.safetensors", valid_file());
    } catch (const std::runtime_error&) {  // a single input to run again, and no folder
    }
    break;
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  std::string written;
  try {
    written = rhei::format_safetensors(rhei::to_safetensors(rhei::load<float>(rhei::parse_safetensors(bytes))));
  } catch (const std::runtime_error&) {
    return 0;
  }
  const auto back = rhei::load<float>(rhei::parse_safetensors(written));
  if (rhei::format_safetensors(rhei::to_safetensors(back)) != written) std::abort();
  return 0;
}
