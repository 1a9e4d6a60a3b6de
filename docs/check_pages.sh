#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Fails unless the pages say what is so:
# - every C++ block of README.md and docs/*.md has a comment above it that names a file, which the tests compile and run
#   (<!-- from: tests/docs/training_test.cpp -->);
# - every block with such a comment stands, line by line, in that file; only the indentation may differ;
# - every relative link leads to a file, and every #anchor to a heading of it.
set -euo pipefail
cd "$(dirname "$0")/.."

# page:line: complaint, for each block that its file does not hold
stale_blocks() {
  awk '
    function indent_of(text) { match(text, /^ */); return RLENGTH }
    # The lines of `block` (`count` of them) from line `start` of the file on, less the indentation of the first.
    function matches(start,   i, shift) {
      shift = indent_of(lines[start]) - indent_of(block[1])
      if (shift < 0) return 0
      for (i = 1; i <= count; ++i)
        if (block[i] != (lines[start + i - 1] == "" ? "" : substr(lines[start + i - 1], shift + 1))) return 0
      return 1
    }
    function check(   text, size, start) {
      if (file == "") { print FILENAME ":" first ": no <!-- from: file --> above this block"; return }
      size = 0
      while ((status = (getline text < file)) > 0) lines[++size] = text
      close(file)
      if (status < 0) { print FILENAME ":" first ": there is no " file; return }
      for (start = 1; start + count - 1 <= size; ++start) if (matches(start)) return
      print FILENAME ":" first ": these lines are not in " file
    }
    FNR == 1 { inside = 0; file = "" }
    inside && /^```/ { if (cpp || file != "") check(); inside = 0; file = ""; next }
    inside { block[++count] = $0; next }
    /^```/ { inside = 1; cpp = /^```(cpp|c\+\+)/; first = FNR; count = 0; next }
    /^<!-- from: .* -->$/ { file = $3; next }
    NF { file = "" }' README.md docs/*.md
}

# The anchors that GitHub gives to the headings of a page.
anchors() {
  awk '/^```/ { inside = !inside } !inside && /^#+ /' "$1" |
    sed -E 's/^#+ +//; s/[`*]//g' | tr '[:upper:]' '[:lower:]' | sed -E 's/[^a-z0-9 _-]//g; s/ /-/g'
}

# page: link, for each that leads nowhere
dead_links() {
  local page target path
  for page in README.md docs/*.md docs/packaging/*.md; do
    [[ -e $page ]] || continue
    while IFS= read -r target; do
      [[ $target =~ ^[a-z]+: ]] && continue
      path=${target%%#*}
      path=$([[ -n $path ]] && printf '%s/%s' "$(dirname "$page")" "$path" || printf '%s' "$page")
      if [[ ! -e $path ]]; then
        echo "$page: $target"
      elif [[ $target == *#* && $path == *.md ]] && ! anchors "$path" | grep -qxF -- "${target#*#}"; then
        echo "$page: $target (no such heading)"
      fi
    done < <(awk '/^```/ { inside = !inside } !inside' "$page" | grep -oE '\]\([^) ]+\)' | sed 's/^](//; s/)$//')
  done
}

stale=$(stale_blocks)
dead=$(dead_links)
[[ -z $stale ]] || printf 'code that is not that of its file:\n%s\n' "$stale" >&2
[[ -z $dead ]] || printf 'links that lead nowhere:\n%s\n' "$dead" >&2
[[ -z $stale && -z $dead ]]
