# SPDX-License-Identifier: MIT
#
# From the Markdown that GitHub shows to what Doxygen takes, line by line:
# - comments go, so that the first line is the title;
# - $$...$$ is a formula;
# - an #include in the text is no link of Doxygen's;
# - links to pages are to pages of the site, those to other files of the repository become plain text.
/^<!-- .* -->$/ { print ""; next }
/^```/ { inside = !inside }
inside || /^    / { print; next }
{
  while (match($0, /\$\$[^$]+\$\$/))
    $0 = substr($0, 1, RSTART - 1) "\\f[" substr($0, RSTART + 2, RLENGTH - 4) "\\f]" substr($0, RSTART + RLENGTH)
  while (match($0, /\]\((\.\.\/)*README\.md[^)]*\)/))
    $0 = substr($0, 1, RSTART - 1) "](index.html)" substr($0, RSTART + RLENGTH)
  out = ""
  while (match($0, /\[[^][]*\]\([^)]+\)/)) {
    link = substr($0, RSTART, RLENGTH)
    text = substr(link, 2, index(link, "](") - 2)
    target = substr(link, index(link, "](") + 2, length(link) - index(link, "](") - 2)
    out = out substr($0, 1, RSTART - 1)
    $0 = substr($0, RSTART + RLENGTH)
    if (target ~ /^[a-z]+:/ || target == "index.html" || text == "" || substr(out, length(out)) == "!")
      out = out link
    else if (target ~ /^(docs\/)?[^\/]*\.md(#.*)?$/) {
      sub(/#.*/, "", target)
      sub(/^docs\//, "", target)
      out = out "[" text "](docs/" target ")"
    } else
      out = out text
  }
  $0 = out $0
  gsub(/ #include/, " \\#include")
  print
}
