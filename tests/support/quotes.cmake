# SPDX-License-Identifier: MIT
#
# cmake -DPAGE=... -DPROGRAM=... -P quotes.cmake: fails unless the page contains the program, but for its licence line.
file(READ ${PAGE} page)
file(READ ${PROGRAM} program)
string(REGEX REPLACE "^[^\n]*SPDX[^\n]*\n" "" program "${program}")
string(FIND "${page}" "${program}" found)
if(found EQUAL -1)
  message(FATAL_ERROR "${PAGE} does not quote ${PROGRAM}")
endif()
