"""Noise that depends on the place, against another library: diffrax (extra `bench`) solves the same equation.

Kidger, On Neural Differential Equations, PhD thesis, Oxford (2021), chapter 4. The channel and its noise are written
out again here, in JAX.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from entropy_sim import Channel, Overdamped, StateDependent
from entropy_sim._ensemble import Ensemble
from entropy_sim.landscapes import Bump

diffrax = pytest.importorskip("diffrax")
jax = pytest.importorskip("jax")
lineax = pytest.importorskip("lineax")

CHANNEL = Channel(Bump(1.0, 6.0), transverse_directions=1, boundary="periodic")
ALONG, ACROSS = Bump(0.02, 0.1), Bump(0.5, 0.1)
WALKERS, STEP, STEPS, START = 40_000, 0.01, 100, (0.3, 0.5)
#: Averages at the end, of the position s in 0…1 and of x across it.
AVERAGES = {
    "<cos 2πs>": lambda s, x: np.cos(2 * np.pi * s),
    "<sin 2πs>": lambda s, x: np.sin(2 * np.pi * s),
    "<x>": lambda s, x: x,
    "<x²>": lambda s, x: x**2,
    "<x² cos 2πs>": lambda s, x: x**2 * np.cos(2 * np.pi * s),
}


def theirs(solver: Any, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """s and x of all walkers, one big equation with diagonal noise."""
    jnp = jax.numpy

    def bump(y: Any, end: float, middle: float) -> Any:
        u = 2.0 * (y - jnp.floor(y)) - 1.0
        return end + (middle - end) * (1.0 - u**2) ** 3

    def energy(y: Any, x: Any) -> Any:
        return (0.5 * bump(y, 1.0, 6.0) * x**2).sum()

    def drift(t: Any, state: Any, args: Any) -> Any:
        return tuple(-slope for slope in jax.grad(energy, argnums=(0, 1))(*state))  # not even the gradient is ours

    def diffusion(t: Any, state: Any, args: Any) -> Any:
        y = state[0]
        strengths = bump(y, 0.02, 0.1), bump(y, 0.5, 0.1)
        return lineax.DiagonalLinearOperator(tuple(jnp.sqrt(2.0 * d) for d in strengths))

    leaf = jax.ShapeDtypeStruct((WALKERS,), jnp.float32)
    path = diffrax.UnsafeBrownianPath((leaf, leaf), jax.random.key(seed))
    solution = diffrax.diffeqsolve(
        diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path)),
        solver,
        0.0,
        STEPS * STEP,
        None,
        tuple(jnp.full(WALKERS, value, jnp.float32) for value in START),
        saveat=diffrax.SaveAt(t1=True),
        stepsize_controller=diffrax.StepTo(jnp.arange(STEPS + 1) * STEP),
        adjoint=diffrax.ForwardMode(),
    )
    y, x = (np.asarray(a[0], dtype=np.float64) for a in solution.ys)
    return y - np.floor(y), x


def ours(interpretation: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    noise = StateDependent(ALONG, ACROSS, interpretation)
    ensemble = Ensemble(CHANNEL, noise, Overdamped(STEP), np.tile(START, (WALKERS, 1)), seed=5)
    ensemble.advance(STEPS)
    return CHANNEL.position(ensemble.theta), ensemble.theta[:, 1]


def z_scores(a: tuple[NDArray[Any], NDArray[Any]], b: tuple[NDArray[Any], NDArray[Any]]) -> dict[str, float]:
    """Differences of the averages in standard errors."""
    found = {}
    for name, average in AVERAGES.items():
        one, two = average(*a), average(*b)
        found[name] = float((one.mean() - two.mean()) / np.sqrt((one.var() + two.var()) / WALKERS))
    return found


@pytest.mark.parametrize(
    ("solver", "interpretation", "others"),
    [("Euler", "ito", ("stratonovich", "anti_ito")), ("EulerHeun", "stratonovich", ("ito", "anti_ito"))],
)
def test_averages_and_densities_are_those_of_diffrax(solver, interpretation, others):
    """Euler's chain is the same on both sides, Euler-Heun's differs by the step's error, below the statistical one
    here. The other interpretations are rejected; Kolmogorov and Smirnov look at the whole density of s."""
    reference = theirs(getattr(diffrax, solver)(), seed=1)
    found = z_scores(ours(interpretation), reference)
    assert max(map(abs, found.values())) < 4.0, found
    assert stats.ks_2samp(ours(interpretation)[0], reference[0]).pvalue > 1e-3
    for other in others:
        assert max(map(abs, z_scores(ours(other), reference).values())) > 8.0
