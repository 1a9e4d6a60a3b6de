# SPDX-License-Identifier: MIT
#
# From a header to what Doxygen takes, line for line:
# - comments set formulas apart by two blanks more and an empty line before; Markdown wants four for a block of code;
# - no < of theirs begins an HTML tag;
# - the comment of a layer, transformer or distribution leads to that of its file, where the formulas are, and to the
#   conventions;
# - a member that means the same in all classes of its kind has the comment that members.txt gives to its name, where the
#   header says nothing, or only what is thrown;
# - overloads in lines one beneath the other share the comment of the first, and so do variables that one line declares;
# - what is in a namespace detail is left out, but for the bases of public classes, whose members are those of the class;
# - deduction guides are left out.

# The name that a line declares as a member; empty where it declares none.
function declared(line) {
  if (line !~ /^(  |    |      )[][a-zA-Z]/) return ""
  if (line ~ /^ *(return|if|else|for|case|throw|template|requires|friend) ?/) return ""
  if (line ~ /operator==\(/) return "operator=="
  if (line ~ /^  (explicit )?[A-Z][A-Za-z]*\(/) {
    sub(/\(.*/, "", line)
    sub(/.* /, "", line)
    return line
  }
  sub(/^ *(\[\[nodiscard\]\] )?/, "", line)
  if (line ~ /^using typename /) return ""
  if (line ~ /^(using|struct|class) /) {
    sub(/^[a-z]+ /, "", line)
    sub(/[^A-Za-z_].*/, "", line)
    return line
  }
  if (line !~ /\(/ && line !~ /^static constexpr /) return ""
  sub(/( =|[({]).*/, "", line)
  if (line !~ / /) return ""
  sub(/.*[ &*]/, "", line)
  return line
}

# A comment without HTML, and with formulas where Markdown sees them.
function comment(line,   at, count, part, out, i) {
  if (formula) sub(/\/\/\/ /, "///     ", line)
  if (formula || code) return line
  at = index(line, "///")
  count = split(substr(line, at), part, "`")
  out = substr(line, 1, at - 1)
  if (substr(line, at, 4) == "///<") { out = out "///<"; part[1] = substr(part[1], 5) }
  for (i = 1; i <= count; ++i) {
    if (i % 2 == 1) gsub(/</, "\\&lt;", part[i])
    out = out (i > 1 ? "`" : "") part[i]
  }
  return out
}

# Variables of one type, each declared and commented for itself.
function apart(line,   text, type, names, count, i, each) {
  text = line
  sub(/.*\/\/\/< /, "", text)
  sub(/;.*/, "", line)
  match(line, /[a-z_]+(, [a-z_]+)+$/)
  type = substr(line, 1, RSTART - 1)
  count = split(substr(line, RSTART), names, ", ")
  for (i = 1; i <= count; ++i) each = each "/** " text " */ " type names[i] ";"
  return each
}

# The comment above line i, as one.
function comment_above(i,   text) {
  while (lines[--i] ~ /^ *\/\/\//) { text = lines[i] " " text; sub(/^ *\/\/\/ ?/, "", text) }
  return text
}

function read_members(folder,   line, name, here) {
  while ((getline line < "docs/site/members.txt") > 0) {
    if (line ~ /^\[/) here = index(" " substr(line, 2, length(line) - 2) " ", " " folder " ")
    if (!here || line !~ /^[A-Za-z_=]+ [ +]/) continue
    name = line
    sub(/ .*/, "", name)
    always[name] = line ~ /^[^ ]+ \+/
    sub(/^[^ ]* \+? +/, "", line)
    members[name] = line
  }
}

{ lines[NR] = $0 }

END {
  count = split(FILENAME, path, "/")
  folder = path[count - 1]
  concept["layers"] = "layer.hpp"
  concept["transformers"] = "transformer.hpp"
  concept["distributions"] = "distribution.hpp"
  read_members(folder)

  for (i = 1; i <= NR; ++i) {
    line = out[i] = lines[i]
    if (line ~ /\\code/) code = 1
    if (line ~ /\\endcode/) code = 0
    formula = !code && line ~ /^ *\/\/\/   +[^ ]/ && (formula || blank)
    blank = line ~ /^ *\/\/\/ *$/
    if (line ~ /\/\/\//) out[i] = comment(line)

    if (line ~ /^(template|class|struct) / && lines[i - 1] ~ /^\/\/\/ [^\\]/ && folder in concept)
      out[i - 1] = out[i - 1] " (In full: " folder "/" path[count] "; for all of its kind: " concept[folder] ".)"

    name = declared(line)
    if (name != "") {
      for (first = i; lines[first - 1] ~ /^ *(template|requires)/;) --first
      text = ""
      if (lines[first - 1] ~ /^ *\/\/\// || line ~ /\/\/\/</) {
        last_text = comment_above(first)
        if (last_text ~ /^\\throws/ && name in members) {
          text = members[name]
          sub(/ *\\throws.*/, "", text)
          for (j = first; lines[j - 1] ~ /^ *\/\/\//;) --j
          out[j] = "/** " text " */ " out[j]
          text = ""
        } else if (always[name] && (folder != "core" || line ~ /const Call</))
          text = "\\details " members[name]
      }
      else if (name == last_name && first == last + 1)
        text = last_text
      else if (name in members)
        text = last_text = members[name]
      else
        last_text = ""
      if (text != "") out[first] = "/** " text " */ " out[first]
      last_name = name
      last = i
    }

    if (line ~ /^namespace ([a-z:]+::)?detail \{$/) { detail = 1; out[i] = line " /** \\cond */" }
    if (line ~ /^\}  \/\/ namespace ([a-z:]+::)?detail$/) { detail = 0; out[i] = "/** \\endcond */ " line }
    if (detail && line ~ /^class (FeatureAffine|Sequence|Erased) /) {
      base = 1
      out[i - 1] = "/** \\endcond */ /** " comment_above(i - 1) " */ " lines[i - 1]
    }
    if (base && line == " protected:") { out[i] = "/** \\cond */"; base = 2 }
    if (base && line == "};") { out[i] = (base == 2 ? "/** \\endcond */ " : "") line " /** \\cond */"; base = 0 }
    if (line ~ /^[A-Z][A-Za-z]*\(.*\) -> .*;$/) out[i - 1] = out[i] = ""
    if (line ~ /^->[A-Z].*;$/) out[i - 2] = out[i - 1] = out[i] = ""
    if (line ~ /^ +[^ (][^(]* [a-z_]+(, [a-z_]+)+; +\/\/\/< /) out[i] = apart(out[i])
  }
  for (i = 1; i <= NR; ++i) print out[i]
}
