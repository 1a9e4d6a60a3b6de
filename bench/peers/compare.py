#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""rhei beside zuko, nflows and FlowJAX, in one run on the same cores.

    bench/peers/compare.py                       everything; about an hour
    bench/peers/compare.py --case 'maf-6d' --op log_prob --threads 1

Needs what `bench/run` builds (the program flow_steps) and, the first time, PyPI: the peers' current releases go into an
environment of their own, build/peers-venv. A peer that cannot be had is named and left out.

In each round all take their turn at a case, one after the other and pinned to the same cores, for --seconds each;
what is compared is the mean time of a call in a round (of single events the median), and what is printed is the median
of a round's ratio peer / rhei with its smallest and largest over the rounds. A ratio above 1 says that rhei is faster.
For one thread the ratio of the processor's times stands beside it ("cpu"): on a machine that does other things too,
that one can be believed.
"""

import argparse
import json
import os
import platform
import re
import select
import shutil
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

# Peer, mode, and what the mode is called in the tables.
MODES = [("zuko", False, "zuko"), ("zuko", True, "zuko, torch.compile"), ("nflows", False, "nflows"),
         ("nflows", True, "nflows, torch.compile"), ("flowjax", True, "FlowJAX, jax.jit")]
PACKAGES = {"zuko": ["zuko", "torch"], "nflows": ["nflows", "torch"], "flowjax": ["flowjax", "jax"]}

UNMATCHED = """What could not be matched: the peers have no actnorm next to the data, rhei's flows have one. Maps of
log-scales: rhei's couplings tanh, its MAF softsign; zuko softsign; nflows sigmoid in couplings, softplus in MAF;
FlowJAX softplus. nflows permutes between MAF layers, FlowJAX between all (rhei and zuko alternate masks or orders
instead). FlowJAX transforms the same half of the features in each coupling. FlowJAX's splines have two free slopes
more. zuko's GF has normal kernels where rhei's are logistic, and a rotation by matrix exponential between the layers
where rhei has reflections in each. Peers draw float32 normals by their own generators. torch's Adam is the fused one;
the gradient norm, which rhei computes in every step, is not computed by the peers. nflows and FlowJAX have no
Gaussianization flow."""


def calm_load():
    """The load average, once the last build or benchmark has died away in it, or after three minutes."""
    for _ in range(36):
        if os.getloadavg()[0] <= 0.4:
            break
        time.sleep(5)
    return os.getloadavg()[0]


def install(directory, wanted):
    """The environment's Python, and for each peer None or why it is missing."""
    python = directory / "bin" / "python"
    if not python.exists():
        venv.create(directory, with_pip=True)
    missing = {}
    for peer in wanted:
        imports = ", ".join(PACKAGES[peer])
        probe = [str(python), "-c", f"import {imports}"]
        if subprocess.run(probe, capture_output=True).returncode == 0:
            continue
        print(f"installing {peer} from PyPI ...", file=sys.stderr, flush=True)
        pip = subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES[peer]], capture_output=True,
                             text=True, env=peer_environment(1))
        check = subprocess.run(probe, capture_output=True, text=True)
        if check.returncode != 0:
            lines = (pip.stderr if pip.returncode != 0 else check.stderr).strip().splitlines()
            missing[peer] = lines[-1] if lines else "could not be installed"
    return python, missing


def peer_environment(threads):
    """One or two threads everywhere, and no settings that are meant for other libraries' bugs."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu",
                    "TORCHINDUCTOR_COMPILE_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if threads == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return environment


def on_cores(threads):
    """Pins a process that is about to start to the first cores there are, as many as it has threads."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    return lambda: os.sched_setaffinity(0, cores)


class Worker:
    """peer.py for one peer and mode."""

    def __init__(self, python, peer, compiled, threads, case):
        command = [str(python), str(HERE / "peer.py"), peer, "--threads", str(threads)]
        if compiled:
            command.append("--compiled")
        self.threads = threads
        # torch.compile may use all cores while it compiles; JAX has as many threads as cores when it starts
        pin = on_cores(threads if peer == "flowjax" or not compiled else os.cpu_count())
        # binary and unbuffered, so that select() knows of every line
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, bufsize=0, env=peer_environment(threads),
                                        preexec_fn=pin)
        self.tell({"build": case})
        self.built = None

    def pin(self):
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            os.sched_setaffinity(int(task), sorted(os.sched_getaffinity(0))[:self.threads])

    def tell(self, command):
        try:
            self.process.stdin.write((json.dumps(command) + "\n").encode())
        except BrokenPipeError:
            pass  # answer() will say so

    def answer(self, timeout):
        if not select.select([self.process.stdout], [], [], max(timeout, 0))[0]:
            return {"error": "was not ready in time"}
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "the process has ended"}

    def close(self):
        self.process.kill()
        self.process.wait()


def time_ours(program, name, seconds, threads):
    """Seconds of a call, by the clock and of the processor."""
    command = [str(program), "--no_floor", f"--benchmark_filter=^{name}/", f"--benchmark_min_time={seconds}",
               "--benchmark_format=json"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=on_cores(threads))
    (entry,) = json.loads(result.stdout)["benchmarks"]
    return entry["p50"] if "p50" in entry else entry["real_time"] * 1e-6, entry["cpu_time"] * 1e-6


def get_ready(workers, entries, op, seconds):
    """Builds and compiles, all at once; who cannot is closed and taken out of workers, and its entry says why."""
    until = time.monotonic() + seconds
    for worker in workers.values():
        worker.tell({"prepare": op})
    for entry in entries:
        worker = workers[entry["peer"]]
        if worker.built is None:
            worker.built = worker.answer(until - time.monotonic())
        entry |= worker.built
        ready = worker.built if "error" in worker.built else worker.answer(until - time.monotonic())
        if "error" in ready:
            entry["error"] = ready["error"]
            workers.pop(entry["peer"]).close()
        else:
            worker.pin()


def compare(options, python, case, op, threads, missing, workers):
    """One cell of the table: all peers at one operation of a case. Workers stay for the next operation."""
    name = f"{case['name']}/{op}/threads:{threads}"
    single = case["rows"] == 1
    entries = []
    for peer, compiled, label in MODES:
        if peer in missing or not re.search(options.peer, label):
            continue
        if label not in workers:
            workers[label] = Worker(python, peer, compiled, threads, case)
        entries.append({"name": name, "peer": label})
    get_ready(workers, entries, op, options.compile_seconds)
    ours, theirs = [], {label: [] for label in workers}
    for _ in range(options.rounds):
        ours.append(time_ours(options.flow_steps, name, options.seconds, threads))
        for label, worker in workers.items():
            worker.tell({"time": op, "seconds": options.seconds})
            answer = worker.answer(300)
            theirs[label].append((answer.get("median" if single else "mean"), answer.get("processor")))
    for entry in entries:
        times = theirs.get(entry["peer"])
        if times is None:
            continue
        if (None, None) in times:
            entry["error"] = "failed while it was timed"
            continue
        ratios = [their / our for (their, _), (our, _) in zip(times, ours)]
        entry |= {"ours": statistics.median(our for our, _ in ours),
                  "theirs": statistics.median(their for their, _ in times),
                  "ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios),
                  "our_multiply_adds": case["multiply_adds"], "our_parameters": case["parameters"]}
        if threads == 1:
            entry["ratio_cpu"] = statistics.median(their / our for (_, their), (_, our) in zip(times, ours))
        # a Gaussianization flow's work is in its kernels, which are no products
        if case["family"] != "gaussianization" and abs(entry["multiply_adds"] / case["multiply_adds"] - 1) > 0.05:
            entry["ratio_per_multiply_add"] = entry["ratio"] * case["multiply_adds"] / entry["multiply_adds"]
    return entries


def show(entry):
    head = f"{entry['name']:34}{entry['peer']:24}"
    if "error" in entry:
        return f"{head}- ({entry['error']})"
    text = (f"{head}{1e6 * entry['ours']:11.1f}{1e6 * entry['theirs']:12.1f}{entry['ratio']:9.2f}"
            f"  [{entry['ratio_low']:.2f}, {entry['ratio_high']:.2f}]")
    if "ratio_cpu" in entry:
        text += f"  {entry['ratio_cpu']:.2f} cpu"
    if "ratio_per_multiply_add" in entry:
        text += f"  {entry['ratio_per_multiply_add']:.2f} per multiply-add"
    return text


def show_architectures(entries, cases):
    print("\narchitectures; multiply-adds of a row through all nets, masked ones not counted; [those performed]")
    seen = set()
    for entry in entries:
        case = cases[entry["name"].split("/")[0]]
        key = (case["name"], entry["peer"].split(",")[0])
        if key in seen or "architecture" not in entry:
            continue
        if not any(name == case["name"] for name, _ in seen):
            print(f"{case['name']}: rhei, {case['layers']} layers, width {case['width']}, {case['parts']} bins or "
                  f"kernels, {case['rows']} rows, {case['parameters']} parameters, "
                  f"{case['multiply_adds']:.0f} multiply-adds")
        seen.add(key)
        print(f"    {key[1]} {entry['version']}: {entry['architecture']}, {entry['parameters']} parameters, "
              f"{entry['multiply_adds']} multiply-adds [{entry['performed']}]")


def save(path, results):
    """After each cell, so that an interrupted run leaves what it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps(results, indent=1))
    shutil.move(path.with_suffix(".tmp"), path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default=".", help="regular expression for the names of cases")
    parser.add_argument("--op", default=".", help="the same for operations: train_step, log_prob, sample")
    parser.add_argument("--peer", default=".", help="the same for peers, as in 'torch.compile'")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each turn")
    parser.add_argument("--compile-seconds", type=float, default=180,
                        help="how long peers may take to get ready, compilation included")
    parser.add_argument("--flow-steps", type=Path, default=ROOT / "build/bench/bench/flow_steps")
    parser.add_argument("--venv", type=Path, default=ROOT / "build/peers-venv")
    parser.add_argument("--out", type=Path, default=ROOT / "build/bench/results/peers.json")
    options = parser.parse_args()
    if not options.flow_steps.exists():
        sys.exit(f"{options.flow_steps} is not there: cmake --workflow --preset bench")
    cases = {c["name"]: c for c in json.loads(subprocess.run([str(options.flow_steps), "--cases"], capture_output=True,
                                                              text=True, check=True).stdout)}
    wanted = [peer for peer in PACKAGES if any(re.search(options.peer, label) for p, _, label in MODES if p == peer)]
    python, missing = install(options.venv, wanted)
    for peer, why in missing.items():
        print(f"without {peer}: {why}")

    load = calm_load()
    unset = [k for k in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if k in os.environ]
    print(f"{platform.processor() or platform.machine()}, load average {load:.2f} at the start"
          + (f"; unset for the peers: {', '.join(unset)}" if unset else ""))
    print(f"\n{'':34}{'':24}{'rhei, us':>11}{'peer, us':>12}{'ratio':>9}  [lowest, highest of {options.rounds} rounds]")
    entries = []
    for case in cases.values():
        if not re.search(options.case, case["name"]):
            continue
        for threads in options.threads if case["rows"] > 1 else [1]:
            workers = {}
            try:
                for op in ("train_step", "log_prob", "sample"):
                    if not re.search(options.op, op) or (case["rows"] == 1 and op == "train_step"):
                        continue
                    for entry in compare(options, python, case, op, threads, missing, workers):
                        entries.append(entry)
                        print(show(entry), flush=True)
                    save(options.out, {"load_average": load, "missing": missing, "unset_for_peers": unset,
                                       "rounds": options.rounds, "entries": entries})
            finally:
                for worker in workers.values():
                    worker.close()
    show_architectures(entries, cases)
    print("\n" + UNMATCHED)


if __name__ == "__main__":
    main()
