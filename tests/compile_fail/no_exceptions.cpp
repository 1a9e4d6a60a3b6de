// SPDX-License-Identifier: MIT
// misuse: -fno-exceptions
// expect: error.*rhei reports errors by exceptions
#include <rhei/core/types.hpp>
