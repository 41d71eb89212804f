"""What the product sqrt(2 D(y)) dW means decides where walkers are: three conventions, three exact densities."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.physics._rows import Row
from entropy_sim import theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import Overdamped
from entropy_sim.landscapes import Channel, Exponential, Quadratic
from entropy_sim.noise import Constant, CustomDiffusion, StateDependent
from entropy_sim.theory.density import Interpretation

TITLE = "Itô, Stratonovich and anti-Itô noise D(y): p ∝ D^-(1-λ) exp ∫f/D with λ = 0, 1/2, 1"

Floats = NDArray[np.float64]
NAMES: tuple[Interpretation, ...] = ("ito", "stratonovich", "anti_ito")
DIFFUSION = Exponential(0.1, 0.8)
VALLEY = Channel(Exponential(1.0, 1.0), transverse_directions=1)

#: A matrix of rank one in three dimensions, none of whose derivatives vanishes.
_RANK_ONE = """
from math import sin, cos

def factor(x):
    return (cos(x[1]),), (0.5 + sin(x[0]),), (x[0] * cos(x[2]),)
"""


def rows(quick: bool) -> list[Row]:
    """Means of the stationary densities, and drifts of a singular matrix noise against a Heun integration."""
    return densities(quick) + low_rank(quick)


def densities(quick: bool) -> list[Row]:
    """<s> on a flat valley between mirrors, D rising eightfold from end to end."""
    s = np.linspace(0.0, 1.0, 4001)
    exact = {
        name: float(np.trapezoid(s * theory.stationary_density(s, 0.0 * s, DIFFUSION.value(s), name), s))
        for name in NAMES
    }
    walkers = 10_000 if quick else 100_000
    found = []
    for i, name in enumerate(NAMES):
        ensemble = Ensemble(
            VALLEY,
            StateDependent(DIFFUSION, Constant(0.01), name),
            Overdamped(4e-4),
            VALLEY.path((np.arange(walkers) + 0.5) / walkers),
            seed=7,
        )
        ensemble.advance(5000)
        at = VALLEY.position(ensemble.theta)
        other = NAMES[(i + 1) % 3]
        error = float(at.std() / np.sqrt(walkers))
        found.append(
            Row(f"{name}: <s>", float(at.mean()), error, exact[name], rejected=exact[other], rejected_name=other)
        )
    return found


def low_rank(quick: bool) -> list[Row]:
    """<x_3²> after a time of 0.4 under noise of rank one, against Heun's method for Stratonovich in plain NumPy."""
    walkers, h, steps = 20_000 if quick else 200_000, 0.005, 80
    bowl = Quadratic(((1.0, 1.0, 1.0),))
    rng = np.random.default_rng(5)

    def kicked(x: Floats, w: Floats) -> Floats:
        return np.sqrt(2.0) * w * np.stack([np.cos(x[1]), 0.5 + np.sin(x[0]), x[0] * np.cos(x[2])])

    x = np.full((3, walkers), 0.5)
    for _ in range(steps):
        w = np.sqrt(h) * rng.standard_normal(walkers)
        forward = x - h * x + kicked(x, w)
        x = x - 0.5 * h * (x + forward) + 0.5 * (kicked(x, w) + kicked(forward, w))
    heun, heun_error = _mean_square(x[2])
    means = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rank_one.py"
        file.write_text(_RANK_ONE, encoding="utf-8")
        for name in NAMES:
            noise = CustomDiffusion(str(file), interpretation=name)
            ensemble = Ensemble(bowl, noise, Overdamped(h), np.full((walkers, 3), 0.5), seed=8)
            ensemble.advance(steps)
            means[name] = _mean_square(ensemble.theta[:, 2])
    mean, error = means["stratonovich"]
    return [
        Row(
            "rank one, stratonovich: <x_3²> - that of Heun", mean - heun, float(np.hypot(error, heun_error)), 0.0,
            rejected=mean - means[other][0], rejected_name=other,
        )
        for other in ("ito", "anti_ito")
    ]  # fmt: skip


def _mean_square(values: Floats) -> tuple[float, float]:
    return float((values**2).mean()), float((values**2).std() / np.sqrt(values.size))
