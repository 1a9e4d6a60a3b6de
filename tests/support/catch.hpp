// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Catch2 2.13 or 3, whichever is installed: tests include this and nothing else of it.

#if __has_include(<catch2/catch_test_macros.hpp>)
#include <catch2/catch_approx.hpp>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>  // brings Approx into the global namespace
#endif

/// The scalars that tests of templates are run with. The sanitizers look at one (preset `asan`): what they find hardly
/// depends on it, and a second one doubles what there is to compile. Random conformance shows them both.
#ifndef RHEI_TEST_SCALARS
#define RHEI_TEST_SCALARS float, double
#endif
