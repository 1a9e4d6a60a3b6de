# SPDX-License-Identifier: MIT
"""The two programs of docs/from-pytorch.md print the same numbers.

guide_test.py TRAIN_MOONS_PY FROM_PYTORCH: the programs; exit code 77 where zuko is not installed."""

import subprocess
import sys
import tempfile

try:
    import safetensors  # noqa: F401
    import torch  # noqa: F401
    import zuko  # noqa: F401
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

with tempfile.TemporaryDirectory() as folder:

    def numbers(*command):
        text = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
        print(command[-1], text.split())
        return [float(line) for line in text.split()]

    theirs = numbers(sys.executable, sys.argv[1])
    ours = numbers(sys.argv[2])
assert len(theirs) == len(ours) == 3
assert all(abs(a - b) < 2e-4 for a, b in zip(theirs, ours)), "the numbers differ"  # in the last of four decimals
