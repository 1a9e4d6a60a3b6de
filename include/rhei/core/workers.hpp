// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A few threads that do the same work on different parts, started only where a caller asks for more than one.

#include <atomic>
#include <exception>
#include <functional>
#include <rhei/core/errors.hpp>
#include <thread>
#include <utility>
#include <vector>

namespace rhei {

/// `count` workers: the calling thread and count - 1 others, which live as long as this object.
///
/// A round costs a few microseconds: those who wait spin for some 0.1 ms before they sleep, as to be woken takes longer
/// than most shares of a step differ.
class Workers {
 public:
  /// Starts count - 1 threads.
  /// \throws std::invalid_argument if count is less than 1.
  explicit Workers(int count) : count_(count), errors_(static_cast<std::size_t>(count < 1 ? 0 : count)) {
    detail::check_value("Workers", "the number of threads", count, count >= 1, "at least 1");
    for (int i = 1; i < count; ++i) threads_.emplace_back([this, i] { serve(i); });
  }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  ~Workers() {
    stopping_ = true;
    start_round();
    for (auto& thread : threads_) thread.join();
  }

  /// The number of threads, the calling one included.
  [[nodiscard]] int count() const { return count_; }

  /// Calls work(0), ..., work(count() - 1), one on each worker, and returns when all are done. What the first of them
  /// (in this order) throws is thrown again here.
  void run(const std::function<void(int)>& work) {
    work_ = &work;
    unfinished_.store(count_ - 1, std::memory_order_relaxed);
    if (count_ > 1) start_round();
    attempt(0);
    for (int left, spins = 0; (left = unfinished_.load(std::memory_order_acquire)) > 0;)
      if (++spins > kSpins) unfinished_.wait(left);
    std::exception_ptr first;
    for (auto& error : errors_) {  // all are taken: one that stayed would be thrown by the next round
      const auto own = std::exchange(error, nullptr);
      if (!first) first = own;
    }
    if (first) std::rethrow_exception(first);
  }

  /// The part of `total` items that belongs to worker i: [first(i), first(i + 1)).
  [[nodiscard]] Index first(int i, Index total) const { return total * i / count_; }

 private:
  static constexpr int kSpins = 200000;

  void start_round() {
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }
  void attempt(int i) {
    try {
      (*work_)(i);
    } catch (...) {
      errors_[static_cast<std::size_t>(i)] = std::current_exception();
    }
  }
  void serve(int i) {
    for (unsigned seen = 0;;) {
      for (int spins = 0; round_.load(std::memory_order_acquire) == seen;)
        if (++spins > kSpins) round_.wait(seen);
      ++seen;
      if (stopping_) return;
      attempt(i);
      if (unfinished_.fetch_sub(1, std::memory_order_release) == 1) unfinished_.notify_one();
    }
  }

  int count_;
  const std::function<void(int)>* work_ = nullptr;
  std::vector<std::exception_ptr> errors_;
  std::atomic<unsigned> round_{0};
  std::atomic<int> unfinished_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
};

}  // namespace rhei
