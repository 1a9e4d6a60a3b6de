# SPDX-License-Identifier: MIT
include(CMakeFindDependencyMacro)
find_dependency(Eigen3 CONFIG)
if(Eigen3_VERSION VERSION_LESS 3.4)
  set(rhei_FOUND FALSE)
  set(rhei_NOT_FOUND_MESSAGE "rhei needs Eigen 3.4 or newer, and ${Eigen3_DIR} has ${Eigen3_VERSION}")
  return()
endif()
include(${CMAKE_CURRENT_LIST_DIR}/rheiTargets.cmake)
