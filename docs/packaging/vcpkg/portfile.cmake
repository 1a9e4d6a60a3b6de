# SPDX-License-Identifier: MIT
#
# An overlay port that takes the sources from the tree it lies in. A port of a released version would fetch its archive
# with vcpkg_from_github here instead.
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

set(VCPKG_BUILD_TYPE release)  # header-only
vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS -DRHEI_BUILD_TESTS=OFF -DRHEI_BUILD_EXAMPLES=OFF -DRHEI_BUILD_BENCHMARKS=OFF -DRHEI_INSTALL=ON)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(PACKAGE_NAME rhei CONFIG_PATH share/cmake/rhei)
vcpkg_fixup_pkgconfig()
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
