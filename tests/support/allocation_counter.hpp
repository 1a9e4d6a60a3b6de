// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Counts heap allocations, so that a test can demand that a steady state makes none. Link allocation_counter.cpp,
/// which replaces malloc and its kin (operator new goes through them), into the executable. Not Eigen's own check: that
/// is off in a release build, where the blocks of its products are taken.

#include <cstddef>

namespace rhei::testing {

/// Whether allocations are counted at all: with glibc and without a sanitizer, which brings its own malloc.
bool counts_allocations();

/// The number of allocations this thread has made, and the bytes that they asked for.
std::size_t allocation_count();
std::size_t allocated_bytes();

/// The number of allocations that `f()` makes on this thread.
template <class F>
std::size_t allocations_in(F&& f) {
  const std::size_t before = allocation_count();
  f();
  return allocation_count() - before;
}

/// The bytes that `f()` asks for on this thread, whether it gives them back or not.
template <class F>
std::size_t bytes_in(F&& f) {
  const std::size_t before = allocated_bytes();
  f();
  return allocated_bytes() - before;
}

}  // namespace rhei::testing
