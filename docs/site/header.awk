# SPDX-License-Identifier: MIT
#
# From the comments of the headers to what Doxygen takes, line by line:
# - comments set formulas apart by two blanks more and an empty line before; Markdown wants four for a block of code;
# - no < of theirs begins an HTML tag;
# - the comment of a layer, transformer or distribution leads to that of its file, where the formulas are.
function put(line) {
  if (NR > 1) print held
  held = line
}
BEGIN { file = ARGV[1]; sub(/.*\//, "", file) }
/\\code/ { code = 1 }
/\\endcode/ { code = 0 }
/^ *\/\/\/   +[^ ]/ && !code && (block || blank) { block = 1; sub(/\/\/\/ /, "///     "); put($0); blank = 0; next }
{ block = 0; blank = /^ *\/\/\/ *$/ }
/\/\/\// && !code {
  at = index($0, "///")
  count = split(substr($0, at), part, "`")
  out = substr($0, 1, at - 1)
  if (substr($0, at, 4) == "///<") { out = out "///<"; part[1] = substr(part[1], 5) }
  for (i = 1; i <= count; ++i) {
    if (i % 2 == 1) gsub(/</, "\\&lt;", part[i])
    out = out (i > 1 ? "`" : "") part[i]
  }
  put(out)
  next
}
/^(template|class|struct) / && held ~ /^\/\/\/ [^\\]/ && FILENAME ~ /\/(layers|transformers|distributions)\// {
  held = held " (In full: " file ".)"
}
{ put($0) }
END { print held }
