// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The version of rhei, written here and nowhere else (CMake reads it from these lines).

#define RHEI_VERSION_MAJOR 0  ///< changes with what breaks programs
#define RHEI_VERSION_MINOR 1  ///< changes with what is new
#define RHEI_VERSION_PATCH 0  ///< changes with what is mended
