// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A flow evaluated by several threads, which split the rows of each batch between them. (Training does the same by an
/// option of `Trainer` and `fit`.)

#include <functional>
#include <rhei/core/flow.hpp>
#include <rhei/core/workers.hpp>
#include <vector>

namespace rhei {

/// Log-densities and draws of `F`, a Flow or AnyFlow, by as many threads as it is given. They live as long as this
/// object, and so do their workspaces: nothing is allocated once these have grown. To be used by one thread at a time;
/// a program that has threads of its own gives each a Cache of the flow's instead.
///
/// \code
/// ParallelFlow parallel(flow, 2);
/// Vector<float> log_p = parallel.log_prob(x);
/// \endcode
template <class F>
class ParallelFlow {
 public:
  using Scalar = typename F::Scalar;
  using S = Scalar;
  /// Any matrix of this scalar without a copy; rows are samples.
  using In = typename F::In;

  /// Starts threads - 1 threads. The flow must outlive this object, and stay unchanged while it is at work.
  /// \throws std::invalid_argument if threads is less than 1.
  ParallelFlow(const F& flow, int threads)
      : flow_(flow), workers_(threads), parts_(static_cast<std::size_t>(threads)) {}

  /// The number of threads, the calling one included.
  [[nodiscard]] int threads() const { return workers_.count(); }

  /// log p(x) of each row, in nats; arguments and errors as of Flow::log_prob.
  [[nodiscard]] Vector<S> log_prob(In x, In context = Matrix<S>()) {
    Vector<S> log_p(x.rows());
    log_prob(x, context, log_p);
    return log_p;
  }
  /// The same into the caller's memory.
  void log_prob(In x, In context, Eigen::Ref<Vector<S>> log_p) {
    detail::check_shape("ParallelFlow::log_prob", "log_p", log_p.size(), 1, x.rows(), 1);
    split(x.rows(), context, [&](Part& part, Index first, Index count, In own_context) {
      flow_.log_prob(x.middleRows(first, count), own_context, log_p.segment(first, count), part.cache);
    });
  }

  /// n draws, each from the density for its row of the context. Each thread draws from a generator that is split off
  /// rng: the same draws again with the same seed and number of threads, others with another number.
  [[nodiscard]] Matrix<S> sample(Index n, Rng& rng, In context = Matrix<S>()) {
    Matrix<S> x(n, flow_.dim());
    sample(rng, context, x);
    return x;
  }
  /// The same into the caller's memory, as many rows as x has.
  void sample(Rng& rng, In context, Eigen::Ref<Matrix<S>> x) {
    for (Part& part : parts_) part.rng = rng.split();
    split(x.rows(), context, [&](Part& part, Index first, Index count, In own_context) {
      flow_.sample(part.rng, own_context, x.middleRows(first, count), part.cache);
    });
  }
  /// Draws and the log-density of each (log_p: as many values as x has rows, in nats), for the price of the draws.
  void sample_and_log_prob(Rng& rng, In context, Eigen::Ref<Matrix<S>> x, Eigen::Ref<Vector<S>> log_p) {
    detail::check_shape("ParallelFlow::sample_and_log_prob", "log_p", log_p.size(), 1, x.rows(), 1);
    for (Part& part : parts_) part.rng = rng.split();
    split(x.rows(), context, [&](Part& part, Index first, Index count, In own_context) {
      flow_.sample_and_log_prob(part.rng, own_context, x.middleRows(first, count), log_p.segment(first, count),
                                part.cache);
    });
  }

 private:
  struct Part {
    typename F::Cache cache;
    Rng rng{0};
  };

  /// Calls evaluate(part, first row, rows, their context) on each thread.
  template <class Evaluate>
  void split(Index rows, In context, Evaluate&& evaluate) {
    const bool is_shared = context.rows() <= 1;
    if (!is_shared)
      detail::check_shape("ParallelFlow", "the context", context.rows(), context.cols(), rows, context.cols());
    const auto work = [&](int i) {
      const Index first = workers_.first(i, rows), count = workers_.first(i + 1, rows) - first;
      Part& part = parts_[static_cast<std::size_t>(i)];
      if (is_shared)
        evaluate(part, first, count, context);
      else
        evaluate(part, first, count, context.middleRows(first, count));
    };
    workers_.run(std::ref(work));  // by reference: a copy of the captures would be allocated
  }

  const F& flow_;
  Workers workers_;
  std::vector<Part> parts_;
};

}  // namespace rhei
