"""Ours, through the public API: `Stationary.run`, which records a histogram of s every few steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.peers.problem import Advance, Problem, Variant

NAME, PACKAGES = "entropy_sim", ("numba", "llvmlite", "numpy")
VARIANTS = [Variant()]
_BINS = 50


def system(problem: Problem, dimension: int = 2) -> tuple[Any, Any, Any]:
    """Landscape, noise and dynamics of the problem."""
    from entropy_sim import Bump, Channel, Overdamped, Thermal

    shape = Bump(problem.soft, problem.stiff, 0.5)
    channel = Channel(shape, transverse_directions=dimension - 1, boundary="periodic")
    return channel, Thermal(problem.temperature), Overdamped(problem.step)


def prepare(
    problem: Problem,
    walkers: int,
    threads: int,
    seed: int,
    *,
    stride: int = 0,
    measurement: str = "stationary",
    records: int = 1,
) -> Advance:
    from entropy_sim import Relaxation, Stationary

    calls = 0

    def advance(steps: int, walkers: int = walkers, dimension: int = 2) -> None:
        nonlocal calls
        calls += 1
        landscape, noise, dynamics = system(problem, dimension)
        common = {"duration": steps * problem.step, "seed": seed + 7919 * calls}
        if measurement == "relaxation":
            Relaxation(
                landscape, noise, dynamics, starts=(0.5,), replicas=walkers, records=records, control=False, **common
            ).run(threads=threads)
            return
        every = min(stride or problem.stride, steps)
        Stationary(landscape, noise, dynamics, bins=_BINS, walkers=walkers, burn_in=0.0, stride=every, **common).run(
            threads=threads
        )

    return advance


def check(
    problem: Problem, walkers: int, threads: int, seed: int
) -> tuple[dict[str, tuple[float, float, int]], dict[str, float]]:
    """Averages over walkers released at rest, after 8 units of time; and the density's bins against the exact one."""
    from entropy_sim import Relaxation, Stationary
    from entropy_sim.statistics import gaussian_significance

    landscape, noise, dynamics = system(problem)
    released = Relaxation(
        landscape,
        noise,
        dynamics,
        starts=(0.5,),
        replicas=4 * walkers,
        duration=8.0,
        records=1,
        control=False,
        seed=seed,
    ).run(threads=threads)["relaxation"]
    y, x = released["position"].values[0, :, -1], released["distance"].values[0, :, -1]
    measured = Stationary(
        landscape, noise, dynamics, bins=_BINS, walkers=walkers, burn_in=5.0, duration=20.0, stride=5, seed=seed + 1
    ).run(threads=threads)["stationary"]
    z = (measured["density"].values - problem.density(_BINS)) / measured["density_stderr"].values
    z = gaussian_significance(z, 31)  # the error bars are the spread of 32 groups of walkers
    return problem.averages(y, x), {"largest of the bins": float(z[np.argmax(np.abs(z))])}
