# SPDX-License-Identifier: MIT
"""Makes the fixtures of import_test.cpp beside itself: state_dicts of zuko and nflows, and what the flows give.

For each NAME, NAME.safetensors is the state_dict and NAME.io.safetensors holds x (two rows of it in the tails), z,
log_abs_det (from data to latent), log_prob, x_round_trip, and context where there is one. The files in the repository
were made with zuko 1.6.0, nflows 0.14 and torch 2.15 by

    pip install torch zuko==1.6.0 nflows==0.14 safetensors && python make_fixtures.py
"""

import pathlib

import torch
import zuko
from nflows import distributions, flows, transforms
from nflows.nn.nets import ResidualNet
from safetensors.torch import save_file
from torch import nn
from zuko.flows import GeneralCouplingTransform, MaskedAutoregressiveTransform

FOLDER = pathlib.Path(__file__).parent
ROWS = 16


def write(name, module, features, context, evaluate):
    torch.manual_seed(sum(map(ord, name)))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        x = torch.randn(ROWS, features)
        x[:2] *= 4
        c = torch.randn(ROWS, context) if context else None
        values = dict(zip(("z", "log_abs_det", "log_prob", "x_round_trip"), evaluate(x, c)), x=x)
    if context:
        values["context"] = c
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, FOLDER / f"{name}.safetensors")
    save_file({key: value.contiguous() for key, value in values.items()}, FOLDER / f"{name}.io.safetensors")


def write_zuko(name, flow, features, context=0):
    def evaluate(x, c):
        d = flow(c)
        z, log_abs_det = d.transform.call_and_ladj(x)
        return z, log_abs_det, d.log_prob(x), d.transform.inv(z)

    write(f"zuko_{name}", flow, features, context, evaluate)


def write_nflows(name, layers, features, context=0):
    flow = flows.Flow(transforms.CompositeTransform(layers), distributions.StandardNormal([features])).eval()
    for layer in flow.modules():
        if isinstance(layer, transforms.ActNorm):
            layer.initialized.data = torch.tensor(True)

    def evaluate(x, c):
        z, log_abs_det = flow._transform(x, context=c)
        return z, log_abs_det, flow.log_prob(x, context=c), flow._transform.inverse(z, context=c)[0]

    write(f"nflows_{name}", flow, features, context, evaluate)


torch.manual_seed(0)

maf = zuko.flows.MAF(5, 2, transforms=2, randperm=True, hidden_features=(9, 12, 7), activation=nn.ELU)
write_zuko("maf", maf, 5, 2)
write_zuko("maf_passes", zuko.flows.MAF(7, 0, transforms=2, passes=3, randperm=True, hidden_features=(12,)), 7)
write_zuko("maf_linear", zuko.flows.MAF(3, 1, transforms=2, hidden_features=()), 3, 1)
write_zuko("nsf", zuko.flows.NSF(3, 2, transforms=2, bins=5, hidden_features=(10, 8)), 3, 2)
write_zuko("nsf_coupling", zuko.flows.NSF(4, 0, transforms=2, bins=8, passes=2, hidden_features=(12,)), 4)
write_zuko("nsf_1d", zuko.flows.NSF(1, 2, transforms=2, bins=4, hidden_features=(6,)), 1, 2)
write_zuko("realnvp", zuko.flows.RealNVP(5, 2, transforms=3, randmask=True, hidden_features=(10, 13)), 5, 2)
# Any list of transforms, with dependencies that are no order, on a base that was trained.
adjacency = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 1]], dtype=bool)
additive = dict(univariate=zuko.transforms.AdditiveTransform, shapes=[()])
spline = dict(univariate=zuko.transforms.MonotonicRQSTransform, shapes=[(4,), (4,), (3,)])
mixed = [
    MaskedAutoregressiveTransform(4, 0, adjacency=adjacency, hidden_features=(12, 12)),
    GeneralCouplingTransform(4, 0, mask=torch.tensor([1, 1, 0, 1], dtype=bool), hidden_features=()),
    zuko.flows.ElementWiseTransform(4, 0),
    GeneralCouplingTransform(4, 0, hidden_features=(8,), **additive),
    GeneralCouplingTransform(4, 0, hidden_features=(8,), **spline),
]
base = zuko.lazy.UnconditionalDistribution(
    zuko.distributions.DiagNormal, loc=torch.randn(4), scale=torch.rand(4) + 0.5, buffer=True
)
write_zuko("mixed", zuko.lazy.Flow(mixed, base), 4)


def net(context, **options):
    return lambda inputs, outputs: ResidualNet(inputs, outputs, 10, context_features=context, **options)


def alternate(features, first):
    mask = torch.ones(features)
    mask[first::2] = -1
    return mask


MAF = transforms.MaskedAffineAutoregressiveTransform
NSF_AR = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform
NSF_C = transforms.PiecewiseRationalQuadraticCouplingTransform
bounded = dict(tails="linear", tail_bound=3.0)
plain = dict(use_residual_blocks=False)

layers = [
    transforms.ReversePermutation(5),
    MAF(5, 8, 2),
    transforms.RandomPermutation(5),
    MAF(5, 8, 2, num_blocks=1),
]
write_nflows("maf_residual", layers, 5, 2)
layers = [
    MAF(4, 8, 2, **plain),
    transforms.InverseTransform(MAF(4, 9, 2, random_mask=True, num_blocks=1, **plain)),
]
write_nflows("maf_plain", layers, 4, 2)
layers = [
    NSF_AR(3, 8, num_bins=6, **bounded),
    transforms.LULinear(3, identity_init=False),
    NSF_AR(3, 8, num_bins=6, num_blocks=1, **plain, **bounded),
]
write_nflows("nsf_ar", layers, 3)
layers = [
    transforms.CompositeTransform(
        [
            transforms.RandomPermutation(5),
            transforms.LULinear(5),
            NSF_C(alternate(5, i), net(3, activation=torch.tanh), num_bins=4, **bounded),
        ]
    )
    for i in range(2)
]
write_nflows("nsf_coupling", layers, 5, 3)
layers = [
    transforms.ActNorm(5),
    transforms.AffineCouplingTransform(alternate(5, 0), net(None)),
    transforms.AdditiveCouplingTransform(alternate(5, 1), net(None, num_blocks=1)),
]
write_nflows("realnvp", layers, 5)
