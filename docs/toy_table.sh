#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Writes docs/toys.md: the divergence that every model reaches on every 2-D toy density.
#   docs/toy_table.sh SECONDS SEEDS FIT_2D FOLDER    e.g. docs/toy_table.sh 30 '1 2 3' build/demo/examples/fit_2d out/toys
# Fits what FOLDER does not hold yet (one thread, a model after the other: hours), so that a run can be taken up again,
# and makes the page of all that it holds.
set -euo pipefail
cd "$(dirname "$0")/.."
(($# == 4)) || { sed -n '4,7p' "$0" >&2; exit 2; }
seconds=$1 seeds=$2 program=$3 folder=$4

models=(nsf nsf_ar maf_mog maf iaf realnvp glow gaussianization planar nice rbig)
for seed in $seeds; do
  for model in "${models[@]}"; do
    out=$folder/${model}_s${seed}
    [[ -e $out/done ]] && continue
    "$program" --all --model "$model" --seed "$seed" --seconds "$seconds" --out "$out" >&2
    touch "$out/done"
  done
done

{
  cat <<TEXT
<!-- written by docs/toy_table.sh -->
# What every model reaches on every toy density

KL(truth || model) in nats, on 100'000 fresh points: the mean over seeds, and how many seeds where they are fewer than
the most. Each fit had $seconds s of one core, drew fresh batches of 256 from the density, and began from the model's
defaults, on a standard-normal base but for \`maf_mog\`. The densities and their entropies: [toy_densities.hpp](../include/rhei/data/toy_densities.hpp).
The best of a row is bold. \`rbig\` is built, not trained, in a second or two. Pictures of all: [gallery](gallery.md).

TEXT
  # results.json has one member a line
  cat "$folder"/*_s*/results.json | awk -v models="${models[*]}" '
    function value(line) { sub(/^[^:]*: */, "", line); gsub(/[",]/, "", line); return line }
    /"toy":/ { toy = value($0); if (!(toy in seen)) { seen[toy] = 1; order[++toys] = toy } }
    /"model":/ { model = value($0) }
    /"kl":/ { sum[toy, model] += value($0); if (++count[toy, model] > most) most = count[toy, model] }
    END {
      columns = split(models, name, " ")
      line = "| |"; rule = "|---|"
      for (c = 1; c <= columns; ++c) { line = line " " name[c] " |"; rule = rule "---|" }
      print line; print rule
      for (t = 1; t <= toys; ++t) {
        toy = order[t]; best = ""
        for (c = 1; c <= columns; ++c) if (n = count[toy, name[c]]) {
          kl = sum[toy, name[c]] / n
          if (best == "" || kl < least) { best = name[c]; least = kl }
        }
        line = "| " toy " |"
        for (c = 1; c <= columns; ++c) {
          cell = "–"
          if (n = count[toy, name[c]]) {
            cell = sprintf("%.4f", sum[toy, name[c]] / n)
            if (name[c] == best) cell = "**" cell "**"
            if (n < most) cell = cell " (" n ")"
          }
          line = line " " cell " |"
        }
        print line
      }
    }'
  cat <<TEXT

To make this page again: \`docs/toy_table.sh $seconds '$seeds' FIT_2D FOLDER\`, with the program fit_2d of the examples
and a folder for its pictures and results.
TEXT
} >docs/toys.md
echo 'wrote docs/toys.md' >&2
