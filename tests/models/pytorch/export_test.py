# SPDX-License-Identifier: MIT
"""What export_zuko writes is loaded by zuko, every tensor of it, and gives the same log_prob.

export_test.py EXPORT_MODELS: the program to run; exit code 77 where zuko is not installed."""

import pathlib
import subprocess
import sys
import tempfile

try:
    import torch
    import zuko
    from safetensors.torch import load_file
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

CLASSES = {  # of what came from zuko, the very class that it came from
    "zuko_nsf": lambda: zuko.flows.NSF(3, 2, transforms=2, bins=5, hidden_features=(10, 8)),
    "zuko_realnvp": lambda: zuko.flows.RealNVP(5, 2, transforms=3, hidden_features=(10, 13)),
}

failures = 0
with tempfile.TemporaryDirectory() as folder:
    subprocess.run([sys.argv[1], folder], check=True)
    for source in sorted(pathlib.Path(folder).glob("*.py")):
        state = load_file(source.with_suffix(".safetensors"))
        io = load_file(source.with_suffix(".io.safetensors"))
        modules = [eval(source.read_text())]
        if source.stem in CLASSES:
            modules.append(CLASSES[source.stem]())
        for flow in modules:
            flow.load_state_dict(state, strict=True)
            with torch.no_grad():
                log_prob = flow.double()(io.get("context")).log_prob(io["x"])
            error = ((log_prob - io["log_prob"]).abs() / (1 + io["log_prob"].abs())).max().item()
            agrees = error < 1e-5  # the file is in single precision
            failures += not agrees
            print(f"{source.stem:14} {type(flow).__name__:8} {error:.1e}{'' if agrees else '  too far'}")
sys.exit(failures > 0)
