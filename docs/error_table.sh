#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Writes docs/conformance.md: the worst errors that the conformance suite has seen, layer by layer.
#   docs/error_table.sh                   builds and runs the tests of core and layers (the preset `test`)
#   docs/error_table.sh program...        runs these test programs instead
set -euo pipefail
cd "$(dirname "$0")/.."

programs=("$@")
if ((${#programs[@]} == 0)); then
  cmake --preset test >&2
  cmake --build --preset test --target core_test layers_test >&2
  programs=(build/test/tests/{core,layers}_test)
fi

# "name<tab>scalar<tab>cells" of each report; of reports with one name the worst.
rows() {
  local program
  for program in "${programs[@]}"; do
    RHEI_ERROR_TABLE=1 "$program" '[layer],[chain]' || exit 1
  done | awk -F ' *[|] *' '
    function number(text) { return text == "inf" ? 1e300 : text ~ /nan/ ? -1 : text + 0 }  # NaN: nothing was asked
    $3 != "float" && $3 != "double" { next }
    {
      row = $2 "\t" $3
      seen[row] = 1
      for (column = 5; column <= 9; ++column) {
        cell = row SUBSEP column SUBSEP $4
        if (!(cell in worst) || number($column) > number(worst[cell])) worst[cell] = $column
      }
    }
    function shown(row, column, direction,   value) {
      value = worst[row SUBSEP column SUBSEP direction]
      return value ~ /nan/ ? "none" : number(value) == 0 ? "0" : value
    }
    END {
      for (row in seen) {
        line = row
        for (column = 5; column <= 9; ++column)
          line = line "\t" shown(row, column, "forward") " / " shown(row, column, "inverse")
        print line
      }
    }' | LC_ALL=C sort
}

table=$(rows)
[[ -n $table ]] || { echo 'no test program has reported anything' >&2; exit 1; }
{
  cat <<'TEXT'
<!-- written by docs/error_table.sh -->
# How exact the layers are

Every layer of rhei passes one conformance suite ([tests/support/conformance.hpp](../tests/support/conformance.hpp)), in
both directions, in `float` and in `double`, at several dimensions, with and without context, and for batches of 0, 1, 7
and 256 samples. Its parameters are moved away from the start first, so that nothing is measured at an identity. The
table has the worst error that the suite has met with, one row a layer and scalar; two numbers are *forward / inverse*,
forward being the direction that generates (latent to data). A layer that is named with an addition ("ReLU", "residual")
is one of several variants that are tested.

| column | in `double` | in `float` |
|---|---|---|
| round trip | the way there and back against the input, relative to the input or to 1, whichever is larger | the same |
| log-det | against the LU decomposition of a numeric Jacobian | against the same layer in `double` |
| d input, d context, d parameters | a random loss of output *and* log-det, differentiated by the layer, against six-point central differences entry by entry (at most 7 samples) | against the same layer in `double` |

An error of a log-det is absolute where the log-det is below 1, and relative to the largest above. An error of a
derivative is that of a whole tensor, the largest deviation over the largest entry (or over 0.001, where all are
smaller); each named parameter is a tensor of its own, and the column shows the worst of them. In `double` most of what
is seen is the error of the differences, about 1e-10, not that of the layer. A 0 says that there was no error, or nothing
to differentiate. Usually 1e-8 passes in `double` and 1e-4 in `float`, in a round trip 1e-10 and 1e-4; a layer that
needs more says why where it joins the suite. (Batch norm in training goes back with the statistics of its batch only,
by `Call::repeat`, which has a test of its own.) Inputs within reach of a kink or a knot are drawn again, found from
pre-activations and knots, never from an error.

The random conformance cases ([tests/fuzz/random_conformance.cpp](../tests/fuzz/random_conformance.cpp)) are a check of
their own: small sizes, parameters and inputs of every magnitude, tolerances that follow from each case's conditioning.

To make this page again (the figures depend on compiler and processor, in their last digits):

```sh
docs/error_table.sh
```

TEXT
  echo '| layer | scalar | round trip | log-det | d input | d context | d parameters |'
  echo '|---|---|---|---|---|---|---|'
  printf '%s\n' "$table" | sed 's/\t/ | /g; s/^/| /; s/$/ |/'
} >docs/conformance.md
