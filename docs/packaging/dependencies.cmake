# SPDX-License-Identifier: MIT
#
# How rhei finds what it needs: an installed package; with RHEI_FETCH_DEPS else a download; else one sentence of advice.

# rhei_require(<package> TARGET <target> APT <package> FOR <purpose> REPOSITORY <url> TAG <tag>)
#
# A macro, because a package may set variables that the caller needs (the module path of Catch2).
macro(rhei_require package)
  cmake_parse_arguments(rhei_require "" "TARGET;APT;FOR;REPOSITORY;TAG" "" ${ARGN})
  if(NOT TARGET ${rhei_require_TARGET})
    find_package(${package} CONFIG QUIET)
  endif()
  if(NOT TARGET ${rhei_require_TARGET} AND RHEI_FETCH_DEPS)
    include(FetchContent)
    FetchContent_Declare(${package} SYSTEM GIT_REPOSITORY ${rhei_require_REPOSITORY} GIT_TAG ${rhei_require_TAG}
                         GIT_SHALLOW ON)
    block()  # the packages' own tests, documents and install rules are none of our business
      set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)
      set(BUILD_TESTING OFF)
      set(EIGEN_BUILD_DOC OFF)
      set(BENCHMARK_ENABLE_TESTING OFF)
      set(BENCHMARK_ENABLE_INSTALL OFF)
      FetchContent_MakeAvailable(${package})
    endblock()
  endif()
  if(NOT TARGET ${rhei_require_TARGET})
    message(FATAL_ERROR "${rhei_require_FOR} needs ${package}, which was not found: run 'apt install "
                        "${rhei_require_APT}', or configure with -DRHEI_FETCH_DEPS=ON to download it.")
  endif()
endmacro()

# Eigen is asked for without a version and compared afterwards: a request for 3.4 refuses 5.0, and the range 3.4...5
# refuses 3.4.
macro(rhei_require_eigen)
  rhei_require(Eigen3 TARGET Eigen3::Eigen APT libeigen3-dev FOR "rhei"
               REPOSITORY https://gitlab.com/libeigen/eigen.git TAG 3.4.0)
  if(Eigen3_VERSION AND Eigen3_VERSION VERSION_LESS 3.4)
    message(FATAL_ERROR "rhei needs Eigen 3.4 or newer, and ${Eigen3_DIR} has ${Eigen3_VERSION}: set Eigen3_DIR to a "
                        "newer one.")
  endif()
endmacro()

macro(rhei_require_catch2)
  rhei_require(Catch2 TARGET Catch2::Catch2 APT catch2 FOR "RHEI_BUILD_TESTS"
               REPOSITORY https://github.com/catchorg/Catch2.git TAG v3.7.1)
  if(Catch2_SOURCE_DIR)  # downloaded: its module is not where the installed package points to
    list(APPEND CMAKE_MODULE_PATH ${Catch2_SOURCE_DIR}/extras)
  endif()
  include(Catch)
  if(NOT TARGET Catch2::Catch2WithMain)  # Catch2 2 packaged without its main library
    file(CONFIGURE OUTPUT catch_main.cpp CONTENT "#define CATCH_CONFIG_MAIN\n#include <catch2/catch.hpp>\n")
    add_library(rhei_catch_main STATIC ${CMAKE_CURRENT_BINARY_DIR}/catch_main.cpp)
    target_link_libraries(rhei_catch_main PUBLIC Catch2::Catch2)
    add_library(Catch2::Catch2WithMain ALIAS rhei_catch_main)
  endif()
endmacro()

macro(rhei_require_benchmark)
  rhei_require(benchmark TARGET benchmark::benchmark_main APT libbenchmark-dev FOR "RHEI_BUILD_BENCHMARKS"
               REPOSITORY https://github.com/google/benchmark.git TAG v1.9.1)
endmacro()

macro(rhei_require_cli11)
  rhei_require(CLI11 TARGET CLI11::CLI11 APT libcli11-dev FOR "RHEI_BUILD_EXAMPLES"
               REPOSITORY https://github.com/CLIUtils/CLI11.git TAG v2.4.2)
endmacro()

# cairo has no CMake build to download.
macro(rhei_require_cairo)
  find_package(PkgConfig QUIET)
  if(PkgConfig_FOUND)
    pkg_check_modules(cairo QUIET IMPORTED_TARGET cairo)
  endif()
  if(NOT TARGET PkgConfig::cairo)
    message(FATAL_ERROR "RHEI_BUILD_EXAMPLES and RHEI_BUILD_BENCHMARKS draw with cairo, which was not found: run 'apt "
                        "install libcairo2-dev pkg-config'; -DRHEI_FETCH_DEPS=ON cannot download this one.")
  endif()
endmacro()
