#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Writes all of rhei as one header, which needs nothing but Eigen:
#   docs/packaging/amalgamate.sh rhei.hpp
# Headers come in the order in which rhei.hpp includes them, each after those that it includes itself; includes of the
# standard library and of Eigen are kept where they stand.
set -euo pipefail
[[ $# == 1 ]] || { echo "usage: $0 <output>" >&2; exit 2; }
include=$(dirname "$0")/../../include

version=$(sed -nE 's/^#define RHEI_VERSION_(MAJOR|MINOR|PATCH) //p' "$include/rhei/version.hpp" | paste -sd.)
{
  cat <<TEXT
// SPDX-License-Identifier: MIT
//
// rhei $version, normalizing flows on Eigen, as one header; written by docs/packaging/amalgamate.sh.
//
$(tail -n +3 "$include/../LICENSE" | sed 's|^|// |; s| *$||')
#pragma once

TEXT
  awk -v include="$include" '
    function insert(name,   path, line, status) {
      if (name in seen) return
      seen[name] = 1
      path = include "/" name
      while ((status = (getline line < path)) > 0) {
        if (line ~ /^#include <rhei\//) {
          sub(/^#include </, "", line)
          sub(/>.*/, "", line)
          insert(line)
        } else if (line != "#pragma once" && line !~ /SPDX-License-Identifier/) {
          print line
        }
      }
      if (status < 0) { print "cannot read " path > "/dev/stderr"; exit 1 }
      close(path)
    }
    BEGIN { insert("rhei/rhei.hpp") }' | cat -s
} >"$1"
