# SPDX-License-Identifier: MIT
import torch
import zuko
from safetensors.torch import save_file

torch.manual_seed(0)


def two_moons(n):
    angle, upper = torch.pi * torch.rand(n), torch.rand(n) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    return torch.stack((x, y), dim=1) + 0.1 * torch.randn(n, 2)


flow = zuko.flows.NSF(features=2, transforms=3, bins=8, hidden_features=(32, 32))
optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
for step in range(200):
    loss = -flow().log_prob(two_moons(256)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with torch.no_grad():
    x = torch.tensor([[0.0, 1.0], [0.5, 0.25], [2.0, 2.0]])
    for log_p in flow().log_prob(x):
        print(f"{log_p:.4f}")

    # What import_pytorch --check compares with.
    x = two_moons(64)
    z, log_abs_det = flow().transform.call_and_ladj(x)
    computed = {"x": x, "z": z, "log_abs_det": log_abs_det, "log_prob": flow().log_prob(x)}
save_file(flow.state_dict(), "moons.safetensors")
save_file(computed, "moons.io.safetensors")
