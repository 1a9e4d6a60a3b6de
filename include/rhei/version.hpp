// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The version of rhei, written here and nowhere else (CMake reads it from these lines).

#define RHEI_VERSION_MAJOR 0
#define RHEI_VERSION_MINOR 1
#define RHEI_VERSION_PATCH 0
