// SPDX-License-Identifier: MIT

#include "support/live_bytes.hpp"

#include <malloc.h>

#include <atomic>
#include <cerrno>

namespace {

std::atomic<std::size_t> live{0}, peak{0};

void* taken(void* memory) {
  const std::size_t now = live.fetch_add(malloc_usable_size(memory)) + malloc_usable_size(memory);
  for (std::size_t most = peak.load(); now > most && !peak.compare_exchange_weak(most, now);) {
  }
  return memory;
}
void given_back(void* memory) { live.fetch_sub(malloc_usable_size(memory)); }

}  // namespace

namespace bench {
std::size_t live_bytes() { return live; }
std::size_t peak_bytes() { return peak; }
void reset_peak() { peak = live.load(); }
}  // namespace bench

extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t number, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
void __libc_free(void* memory);

void* malloc(std::size_t size) { return taken(__libc_malloc(size)); }
void* calloc(std::size_t number, std::size_t size) { return taken(__libc_calloc(number, size)); }
void* realloc(void* memory, std::size_t size) {
  given_back(memory);
  return taken(__libc_realloc(memory, size));
}
void* aligned_alloc(std::size_t alignment, std::size_t size) { return taken(__libc_memalign(alignment, size)); }
int posix_memalign(void** result, std::size_t alignment, std::size_t size) {
  *result = taken(__libc_memalign(alignment, size));
  return *result == nullptr ? ENOMEM : 0;
}
void free(void* memory) {
  given_back(memory);
  __libc_free(memory);
}
}
