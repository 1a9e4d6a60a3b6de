// SPDX-License-Identifier: MIT
// misuse: -ffinite-math-only
// expect: error.*rhei tells NaN and infinity from numbers
#include <rhei/core/types.hpp>
