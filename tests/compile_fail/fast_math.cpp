// SPDX-License-Identifier: MIT
// misuse: -ffast-math
// expect: error.*rhei tells NaN and infinity from numbers
#include <rhei/core/types.hpp>
