"""torchsde: its Euler scheme for diagonal noise, one batch of all walkers."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.peers.problem import Advance, Problem, State, Variant

NAME, PACKAGES = "torchsde", ("torchsde", "torch")
VARIANTS = [Variant({}, "one"), Variant({}, "each")]


def prepare(problem: Problem, walkers: int, threads: int, seed: int) -> Advance:
    import torch
    import torchsde

    torch.set_num_threads(threads)
    p, bump = problem, problem.stiff - problem.soft
    amplitude = torch.full((walkers, 2), float(np.sqrt(2 * p.temperature)), dtype=torch.float64)

    class Equation:
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t: Any, state: Any) -> Any:
            y, x = state[:, 0], state[:, 1]
            u = y - torch.floor(y) - 0.5
            q = 1 - 4 * u * u
            q2 = q * q
            return torch.stack([12 * bump * u * q2 * x * x, -(p.soft + bump * q2 * q) * x], 1)

        def g(self, t: Any, state: Any) -> Any:
            return amplitude

    state = torch.zeros(walkers, 2, dtype=torch.float64)
    state[:, 0] = (torch.arange(walkers) + 0.5) / walkers
    calls = 0

    @torch.no_grad()
    def advance(steps: int) -> State:
        nonlocal state, calls
        calls += 1
        end = steps * p.step
        # Telling the interval its step halves the cost.
        path = torchsde.BrownianInterval(
            0.0, end, size=state.shape, dtype=torch.float64, entropy=seed + 7919 * calls, dt=p.step
        )
        times = torch.tensor([0.0, end], dtype=torch.float64)
        state = torchsde.sdeint(Equation(), state, times, bm=path, dt=p.step, method="euler")[-1]
        return state[:, 0].numpy().copy(), state[:, 1].numpy().copy()

    return advance
