# SPDX-License-Identifier: MIT
#
# Comments set formulas apart by two blanks more and an empty line before; Markdown wants four for a block of code.
/^ *\/\/\/   +[^ ]/ && (block || blank) { block = 1; sub(/\/\/\/ /, "///     "); print; blank = 0; next }
/^ *\/\/\/ *$/ { blank = 1; print; next }
{ blank = 0; block = 0; print }
