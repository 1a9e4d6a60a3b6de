# SPDX-License-Identifier: MIT
"""One peer at work, in a process of its own: started by compare.py inside the peers' environment.

Reads a JSON command a line and answers with one:
  {"build": case}                        -> {"architecture", "parameters", "multiply_adds", "performed", "version"}
  {"prepare": op}                        -> {"seconds"}     warm-up; compilation too where the mode is compiled
  {"time": op, "seconds": s}             -> {"mean", "median", "processor", "calls"}   seconds of a call; "processor" is
                                            the mean time of all processors
and with {"error": text} where the peer cannot.

`multiply_adds` are those of one row whose weight is not masked away, `performed` those that the peer's products do.
"""

import argparse
import json
import os
import statistics
import sys
import time


class TorchPeer:
    """What zuko and nflows share. A subclass makes self.module, log_prob(x) and sample(n)."""

    def __init__(self, case, threads, compiled):
        import torch

        self.torch = torch
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        self.case = case
        self.make(case)
        self.x = torch.randn(case["rows"], case["dim"])
        self.fast = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        # fused: one pass over all parameters, torch's fastest
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=1e-5, fused=True)
        # compiled graphs and inference mode do not always go together, and zuko's GF differentiates to evaluate
        self.evaluation = (torch.no_grad if compiled or case["family"] == "gaussianization" else torch.inference_mode)

    def describe(self):
        nonzero = dense = 0
        for module in self.module.modules():
            if type(module).__name__.endswith("Linear"):  # torch's, nflows' masked and zuko's own
                mask = getattr(module, "mask", None)
                dense += module.weight.numel()
                nonzero += module.weight.numel() if mask is None else int(mask.sum())
        nonzero, dense = nonzero + self.other_products, dense + self.other_products
        parameters = sum(p.numel() for p in self.module.parameters())
        return {"parameters": parameters, "multiply_adds": nonzero, "performed": dense,
                "architecture": self.architecture, "torch": self.torch.__version__}

    other_products = 0

    def operation(self, op):
        torch = self.torch
        if op == "train_step":
            self.module.train()
            loss = self.fast(lambda x: -self.log_prob_for_training(x).mean())

            def step():
                self.optimizer.zero_grad(set_to_none=True)
                loss(self.x).backward()
                self.optimizer.step()

            return step
        self.module.eval()
        if op == "log_prob":
            density = self.fast(self.log_prob)

            def evaluate():
                with self.evaluation():
                    return density(self.x)

            return evaluate
        draw = self.fast(self.sample)

        def sample():
            with self.evaluation():
                return draw()

        return sample


class Zuko(TorchPeer):
    def make(self, case):
        import zuko
        from zuko.transforms import MonotonicRQSTransform

        self.version = zuko.__version__ if hasattr(zuko, "__version__") else version_of("zuko")
        dim, layers, hidden, parts = case["dim"], case["layers"], (case["width"],) * 2, case["parts"]
        if case["family"] == "realnvp":
            self.module = zuko.flows.NICE(dim, transforms=layers, hidden_features=hidden)
            self.architecture = "NICE (affine), plain MLP, log-scale softsign"
        elif case["family"] == "maf":
            self.module = zuko.flows.MAF(dim, transforms=layers, hidden_features=hidden)
            self.architecture = "MAF, plain masked MLP, log-scale softsign"
        elif case["family"] == "nsf":
            self.module = zuko.flows.NICE(dim, transforms=layers, hidden_features=hidden,
                                          univariate=MonotonicRQSTransform,
                                          shapes=[(parts,), (parts,), (parts - 1,)])
            self.architecture = "NICE with MonotonicRQSTransform, plain MLP"
        else:
            self.module = zuko.flows.GF(dim, transforms=layers, components=parts)
            self.architecture = "GF: normal kernels, rotations by matrix exponential between the layers only"
            self.other_products = (layers - 1) * dim * dim
        self.ready = None

    def log_prob_for_training(self, x):
        return self.module().log_prob(x)

    def distribution(self):
        if self.ready is None:
            self.ready = self.module()  # once: it does not depend on the rows
        return self.ready

    def log_prob(self, x):
        return self.distribution().log_prob(x)

    def sample(self):
        return self.distribution().sample((self.case["rows"],))


class Nflows(TorchPeer):
    def make(self, case):
        import torch
        from nflows.distributions.normal import StandardNormal
        from nflows.flows.base import Flow
        from nflows.nn.nets import MLP
        from nflows.transforms import (AffineCouplingTransform, CompositeTransform,
                                       MaskedAffineAutoregressiveTransform,
                                       PiecewiseRationalQuadraticCouplingTransform, ReversePermutation)
        from nflows.utils.torchutils import create_alternating_binary_mask

        class Net(MLP):
            """nflows' MLP, which takes no context, for its couplings, which pass one."""

            def forward(self, inputs, context=None):
                return super().forward(inputs)

        self.version = version_of("nflows")
        dim, layers, width, parts = case["dim"], case["layers"], case["width"], case["parts"]

        def net(inputs, outputs):
            return Net([inputs], [outputs], [width, width], activation=torch.nn.functional.relu)

        transforms = []
        for i in range(layers):
            mask = create_alternating_binary_mask(dim, even=i % 2 == 0)
            if case["family"] == "realnvp":
                transforms.append(AffineCouplingTransform(mask, net))
                self.architecture = "AffineCouplingTransform, plain MLP, scale sigmoid"
            elif case["family"] == "maf":
                transforms.append(MaskedAffineAutoregressiveTransform(dim, width, num_blocks=1,
                                                                      use_residual_blocks=False))
                transforms.append(ReversePermutation(dim))
                self.architecture = "MaskedAffineAutoregressiveTransform, plain MADE, scale softplus"
            elif case["family"] == "nsf":
                transforms.append(PiecewiseRationalQuadraticCouplingTransform(mask, net, num_bins=parts, tails="linear",
                                                                              tail_bound=5.0))
                self.architecture = "PiecewiseRationalQuadraticCouplingTransform, plain MLP"
            else:
                raise NotImplementedError("nflows has no Gaussianization flow")
        self.module = Flow(CompositeTransform(transforms), StandardNormal([dim]))

    def log_prob(self, x):
        return self.module.log_prob(x)

    log_prob_for_training = log_prob

    def sample(self):
        return self.module.sample(self.case["rows"])


class FlowJax:
    """Always compiled by jax.jit: without it JAX is far slower, and nobody uses it so."""

    def __init__(self, case, threads, compiled):
        import equinox as eqx
        import flowjax.flows
        import jax
        import optax
        from flowjax.bijections import RationalQuadraticSpline
        from flowjax.distributions import Normal
        from flowjax.train.losses import MaximumLikelihoodLoss

        self.jax, self.eqx = jax, eqx
        self.version = version_of("flowjax")
        self.case = case
        dim = case["dim"]
        options = {"base_dist": Normal(jax.numpy.zeros(dim)), "flow_layers": case["layers"],
                   "nn_width": case["width"], "nn_depth": 2}
        key = jax.random.key(0)
        if case["family"] == "realnvp":
            flow = flowjax.flows.coupling_flow(key, **options)
            self.architecture = "coupling_flow, plain MLP, scale softplus, permutations between"
        elif case["family"] == "maf":
            flow = flowjax.flows.masked_autoregressive_flow(key, **options)
            self.architecture = "masked_autoregressive_flow, plain masked MLP, scale softplus, permutations between"
        elif case["family"] == "nsf":
            # that many inner knots make one bin more
            spline = RationalQuadraticSpline(knots=case["parts"] - 1, interval=5)
            flow = flowjax.flows.coupling_flow(key, transformer=spline, **options)
            self.architecture = "coupling_flow with RationalQuadraticSpline, plain MLP, permutations between"
        else:
            raise NotImplementedError("FlowJAX has no Gaussianization flow")
        self.flow = flow
        self.x = jax.random.normal(jax.random.key(1), (case["rows"], dim))
        self.key = jax.random.key(2)
        self.optimizer = optax.adam(1e-5)
        self.loss = MaximumLikelihoodLoss()

    def describe(self):
        import paramax

        jax, eqx = self.jax, self.eqx
        # layers are stacked: a weight has three axes
        plain = paramax.unwrap(self.flow)
        weights = [m.weight for m in jax.tree.leaves(plain, is_leaf=lambda n: isinstance(n, eqx.nn.Linear))
                   if isinstance(m, eqx.nn.Linear)]
        trainable = eqx.filter(self.flow, eqx.is_inexact_array)
        return {"parameters": sum(leaf.size for leaf in jax.tree.leaves(trainable)),
                "multiply_adds": sum(int((w != 0).sum()) for w in weights),
                "performed": sum(w.size for w in weights), "architecture": self.architecture, "jax": jax.__version__}

    def operation(self, op):
        eqx, jax = self.eqx, self.jax
        if op == "train_step":
            import paramax

            params, static = eqx.partition(self.flow, eqx.is_inexact_array,
                                           is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable))
            self.state = (params, self.optimizer.init(params))

            @eqx.filter_jit
            def step(params, moments, x):
                gradient = eqx.filter_grad(lambda p: self.loss(p, static, x, key=None))(params)
                updates, moments = self.optimizer.update(gradient, moments, params)
                return eqx.apply_updates(params, updates), moments

            def train():
                self.state = jax.block_until_ready(step(*self.state, self.x))

            return train
        if op == "log_prob":
            density = eqx.filter_jit(lambda flow, x: flow.log_prob(x))
            return lambda: jax.block_until_ready(density(self.flow, self.x))
        draw = eqx.filter_jit(lambda flow, key: flow.sample(key, (self.case["rows"],)))
        return lambda: jax.block_until_ready(draw(self.flow, self.key))


PEERS = {"zuko": Zuko, "nflows": Nflows, "flowjax": FlowJax}


def version_of(package):
    from importlib.metadata import version

    return version(package)


def timed(call, seconds):
    """Seconds of each call, for so long, three calls at least."""
    times = []
    begin = time.perf_counter()
    while True:
        before = time.perf_counter()
        call()
        after = time.perf_counter()
        times.append(after - before)
        if after - begin >= seconds and len(times) >= 3:
            return times


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    # what the peers print must not get between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer, calls = None, {}
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if "build" in command:
                peer, calls = PEERS[options.peer](command["build"], options.threads, options.compiled), {}
                answer = peer.describe() | {"version": peer.version}
            elif "prepare" in command:
                begin = time.perf_counter()
                op = command["prepare"]
                calls[op] = peer.operation(op)
                for _ in range(3):
                    calls[op]()
                answer = {"seconds": time.perf_counter() - begin}
            else:
                begin = time.process_time()
                times = timed(calls[command["time"]], command["seconds"])
                processor = (time.process_time() - begin) / len(times)
                answer = {"mean": statistics.fmean(times), "median": statistics.median(times), "processor": processor,
                          "calls": len(times)}
        except Exception as error:  # whatever a peer throws is an answer
            lines = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {lines[0]}"[:300]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
