// SPDX-License-Identifier: MIT

#include "support/allocation_counter.hpp"

#include <cerrno>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RHEI_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define RHEI_TEST_SANITIZED 1
#endif
#endif

namespace {
thread_local std::size_t count = 0, bytes = 0;

[[maybe_unused]] void note(std::size_t size) {
  ++count;
  bytes += size;
}
}  // namespace

namespace rhei::testing {
std::size_t allocation_count() { return count; }
std::size_t allocated_bytes() { return bytes; }
}  // namespace rhei::testing

#if defined(__GLIBC__) && !defined(RHEI_TEST_SANITIZED)

bool rhei::testing::counts_allocations() { return true; }

extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t number, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);

void* malloc(std::size_t size) {
  note(size);
  return __libc_malloc(size);
}
void* calloc(std::size_t number, std::size_t size) {
  note(number * size);
  return __libc_calloc(number, size);
}
void* realloc(void* memory, std::size_t size) {
  note(size);
  return __libc_realloc(memory, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  note(size);
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** result, std::size_t alignment, std::size_t size) {
  note(size);
  *result = __libc_memalign(alignment, size);
  return *result == nullptr ? ENOMEM : 0;
}
}

#else

bool rhei::testing::counts_allocations() { return false; }

#endif
