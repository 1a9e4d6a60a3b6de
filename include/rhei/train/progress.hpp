// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The progress line of a fit, for those who ask for it.

#include <cstdio>
#include <rhei/train/fit_options.hpp>
#include <string>

#if defined(_WIN32)
#include <io.h>
#else
#include <unistd.h>
#endif

namespace rhei::detail {

/// Writes to standard error: on a terminal one line that is redrawn, elsewhere a line for every tenth of the run.
class ProgressLine {
 public:
  void show(const FitProgress& p) {
    if (!on_terminal_ && p.fraction < 1 && p.fraction < next_) return;
    while (next_ <= p.fraction) next_ += 0.1;
    char text[200];
    int length = std::snprintf(text, sizeof text, "%3.0f %%  epoch %lld  step %lld  train %.4f", 100 * p.fraction,
                               static_cast<long long>(p.epoch), static_cast<long long>(p.step), p.train_loss);
    if (p.validation_loss == p.validation_loss)
      length += std::snprintf(text + length, sizeof text - static_cast<std::size_t>(length), "  validation %.4f",
                              p.validation_loss);
    if (p.round_trip > 0)
      length += std::snprintf(text + length, sizeof text - static_cast<std::size_t>(length), "  round trip %.0e",
                              p.round_trip);
    std::snprintf(text + length, sizeof text - static_cast<std::size_t>(length), "  %.1f s", p.seconds);
    write(on_terminal_ ? "\r\033[K" + std::string(text) : std::string(text) + "\n");
  }
  void finish() const {
    if (on_terminal_) write("\n");
  }

 private:
  static void write(const std::string& text) {
    std::fputs(text.c_str(), stderr);
    std::fflush(stderr);
  }
  static bool is_terminal() {
#if defined(_WIN32)
    return _isatty(_fileno(stderr)) != 0;
#else
    return isatty(fileno(stderr)) != 0;
#endif
  }

  bool on_terminal_ = is_terminal();
  double next_ = 0;
};

}  // namespace rhei::detail
