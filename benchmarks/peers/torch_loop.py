"""PyTorch: in place, nothing allocated. (torch.compile was twice slower here: its generator is not vectorised.)"""

from __future__ import annotations

import numpy as np

from benchmarks.peers.problem import Advance, Problem, State, Variant

NAME, PACKAGES = "PyTorch", ("torch",)
VARIANTS = [Variant({}, "one"), Variant({}, "each")]


def prepare(problem: Problem, walkers: int, threads: int, seed: int) -> Advance:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    p, h, bump = problem, problem.step, problem.stiff - problem.soft
    y = (torch.arange(walkers, dtype=torch.float64) + 0.5) / walkers
    x, u, q, k = (torch.zeros_like(y) for _ in range(4))
    noise = torch.empty(2, walkers, dtype=torch.float64)
    root = float(np.sqrt(2 * p.temperature * h))

    @torch.inference_mode()
    def advance(steps: int) -> State:
        for _ in range(steps):
            noise.normal_(0.0, root)
            torch.floor(y, out=u)
            torch.sub(y, u, out=u)
            u.sub_(0.5)
            torch.mul(u, u, out=q).mul_(-4.0).add_(1.0)
            torch.mul(q, q, out=k)
            u.mul_(k)
            k.mul_(q).mul_(-h * bump).add_(1.0 - h * p.soft)
            torch.mul(x, x, out=q)
            y.addcmul_(q, u, value=12.0 * bump * h).add_(noise[0])
            torch.addcmul(noise[1], x, k, out=x)
        return y.numpy().copy(), x.numpy().copy()

    return advance
