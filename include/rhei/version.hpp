// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The version of rhei: CMake reads it from these lines, and .ci/run compares the package recipes with them.

/// Changes with what breaks programs.
#define RHEI_VERSION_MAJOR 0
/// Changes with what is new.
#define RHEI_VERSION_MINOR 1
/// Changes with what is mended.
#define RHEI_VERSION_PATCH 0
