// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Learning-rate schedules.

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rhei {

/// How the learning rate changes over a run.
enum class Schedule {
  constant,  ///< the initial rate throughout
  cosine     ///< from the initial rate to 0 along half a cosine (Loshchilov & Hutter 2017, eq. 5, without restarts)
};

/// The factor on the initial learning rate when `fraction` (0 to 1) of the run is done.
inline double schedule_factor(Schedule schedule, double fraction) {
  if (schedule == Schedule::constant) return 1;
  return 0.5 * (1 + std::cos(std::numbers::pi * std::clamp(fraction, 0.0, 1.0)));
}

}  // namespace rhei
