"""deeptime's C++ Euler–Maruyama. Its systems are built in; the nearest is the 2-D double well (two normals a step and a
cheaper gradient than the channel's), so only the cost of a walker-step can be compared."""

from __future__ import annotations

import numpy as np

from benchmarks.peers.problem import Advance, Floats, Problem, State, Variant

NAME, PACKAGES = "deeptime", ("deeptime",)
VARIANTS = [Variant({}, "each")]
_KT = 0.1  # its D is kT / 4


def prepare(problem: Problem, walkers: int, threads: int, seed: int, *, record: int = 0) -> Advance:
    import deeptime

    x0 = np.zeros((walkers, 2))
    x0[:, 0] = 1.0
    calls = 0

    def advance(steps: int) -> State:
        nonlocal x0, calls
        calls += 1
        inner = record or steps
        system = deeptime.data.double_well_2d(h=problem.step, n_steps=inner, temperature_factor=_KT)
        if record:
            x0 = system.trajectory(x0, steps // record, seed=seed + 7919 * calls).reshape(walkers, -1, 2)[:, -1]
        else:
            x0 = system(x0, seed=seed + 7919 * calls, n_jobs=1)
        return x0[:, 0], x0[:, 1]

    return advance


def averages(problem: Problem, y: Floats, x: Floats) -> dict[str, tuple[float, float, int]]:
    """Variance of the harmonic coordinate, k = 2, in units of its exact value."""
    v = x**2
    return {"k x²/T": (float(v.sum()), float((v**2).sum()), v.size)}


def exact(problem: Problem) -> dict[str, float]:
    """``V = (y² - 1)² + x²``, D = kT/4: Euler–Maruyama gives ``D/(k (1 - hk/2))``."""
    return {"k x²/T": _KT / 4 / (2.0 * (1.0 - problem.step))}
