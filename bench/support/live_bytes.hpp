// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Bytes of the heap in use, for programs that link live_bytes.cpp, which replaces malloc and its kin (operator new
/// goes through them): what a program holds, and not what the system has given it (RSS), which only grows. With glibc.

#include <cstddef>

namespace bench {

/// Now.
std::size_t live_bytes();
/// The most since the last reset_peak().
std::size_t peak_bytes();
void reset_peak();

}  // namespace bench
