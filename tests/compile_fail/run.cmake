# SPDX-License-Identifier: MIT
#
# cmake -DSOURCE=<file> -P run.cmake -- <compiler> <arguments>...
# Succeeds if the compiler fails and says what the line "// expect: <regex>" of the file demands.
file(STRINGS ${SOURCE} expected REGEX "^// expect: " LIMIT_COUNT 1)
string(REGEX REPLACE "^// expect: " "" expected "${expected}")
if(NOT expected)
  message(FATAL_ERROR "${SOURCE} has no line '// expect: <regex>'")
endif()

set(command "")
set(index 0)
while(NOT CMAKE_ARGV${index} STREQUAL "--")
  math(EXPR index "${index} + 1")
endwhile()
math(EXPR index "${index} + 1")
while(index LESS CMAKE_ARGC)
  list(APPEND command ${CMAKE_ARGV${index}})
  math(EXPR index "${index} + 1")
endwhile()

execute_process(COMMAND ${command} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(result EQUAL 0)
  message(FATAL_ERROR "${SOURCE} compiles with -DMISUSE")
elseif(NOT output MATCHES "${expected}")
  message(FATAL_ERROR "${SOURCE} fails to compile, but nothing in the output matches '${expected}':\n${output}")
endif()
