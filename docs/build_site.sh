#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Builds the site from README.md, docs/*.md and the headers into build/site (or the folder given); a warning is an error.
#   docs/build_site.sh [folder]
# On Debian: apt-get install doxygen doxygen-awesome-css libjs-mathjax
set -euo pipefail
cd "$(dirname "$0")/.."

site=${1:-build/site}
awesome=/usr/share/doxygen-awesome-css
mathjax=/usr/share/javascript/mathjax
for needed in "$awesome/doxygen-awesome.css" "$mathjax/MathJax.js"; do
  [[ -e $needed ]] || { echo "$needed is missing: apt-get install doxygen-awesome-css libjs-mathjax" >&2; exit 1; }
done
docs/check_pages.sh

rm -rf "$site"
mkdir -p "$site"
RHEI_SITE=$site RHEI_AWESOME=$awesome \
  RHEI_VERSION=$(sed -nE 's/^#define RHEI_VERSION_(MAJOR|MINOR|PATCH) //p' include/rhei/version.hpp | paste -sd.) \
  doxygen docs/site/Doxyfile
# What the pages need of MathJax 2.
mkdir -p "$site/mathjax"
target=$(realpath "$site/mathjax")
(cd "$mathjax" && cp -rL --parents MathJax.js extensions jax/element jax/input/TeX jax/output/HTML-CSS \
  fonts/HTML-CSS/TeX/woff "$target")
echo "$site/index.html"
