"""Stationary densities of a flat valley under D_x = T k^alpha: exact, by the Fokker-Planck oracle, adiabatic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.physics._rows import Row
from entropy_sim import theory
from entropy_sim._ensemble import Ensemble
from entropy_sim._kernels import observe_function
from entropy_sim.dynamics import Overdamped
from entropy_sim.fokker_planck import FokkerPlanck, StationarySolution
from entropy_sim.landscapes import Bump, Channel
from entropy_sim.measurements import stationary
from entropy_sim.noise import CurvaturePower, Thermal

TITLE = "stationary densities for alpha = 0, 1/2, 1 against the Fokker-Planck oracle, and the probability current"

Floats = NDArray[np.float64]
_SHAPE = Bump(1.0, 8.0)
_CHANNEL = Channel(_SHAPE, transverse_directions=1)
#: Where the current is measured: upwards through the line y = 0.25, |x| below the width there.
_LINE = 0.25
_STEP = 0.004  # h k <= 0.032; what is left is linear in h and extrapolated away


def rows(quick: bool) -> list[Row]:
    """Moments <cos 2 pi s> at three temperatures and three exponents, and currents."""
    found = []
    for alpha in (0.0, 0.5, 1.0):
        for temperature in (0.1,) if quick else (1.0, 0.1, 0.01):
            found.append(moment(temperature, alpha, quick))
    return [*found, *(current(alpha, quick) for alpha in (0.0, 0.5, 1.0))]


def oracle(temperature: float, alpha: float) -> StationarySolution:
    """The numerical solution, D_y = T."""
    return FokkerPlanck.channel(
        _SHAPE.value, (0.0, 1.0), temperature, lambda y: temperature * _SHAPE.value(y) ** alpha
    ).stationary()


def adiabatic(temperature: float, alpha: float) -> float:
    """<cos 2 pi s> of the reduced dynamics: fast transverse modes."""
    y = np.linspace(0.0, 1.0, 4001)
    force = theory.mean_force_curvature_power(
        _SHAPE.value(y)[:, None], _SHAPE.slope(y)[:, None], temperature, np.float64(alpha)
    )
    density = theory.stationary_density(y, force, temperature)
    return float(np.trapezoid(np.cos(2 * np.pi * y) * density, y))


def measure(temperature: float, alpha: float, step: float, seed: int, quick: bool) -> float:
    """<cos 2 pi s> of one run of the public measurement."""
    slow = 1.0 / (5.0 * temperature)  # autocorrelation time of y without a force
    tree = stationary(
        _CHANNEL,
        Thermal(temperature) if alpha == 0.0 else CurvaturePower(temperature, alpha, temperature),
        Overdamped(step),
        bins=100,
        walkers=512,
        burn_in=max(5.0, 4.0 * slow),
        duration=20.0 * slow,
        stride=5,
        seed=seed,
    )
    ds = tree["stationary"].to_dataset()
    bins = ds.sizes["s"]
    # The mean of cos over a bin is that at its middle times sinc.
    weight = np.cos(2 * np.pi * ds["s"].values) * np.sinc(1.0 / bins)
    return float((weight * ds["density"].values).sum() / ds["density"].values.sum())


def moment(temperature: float, alpha: float, quick: bool) -> Row:
    """Measured against the oracle (alpha = 0: exact), step size extrapolated to zero; the adiabatic value beside it."""
    # Steps also resolve the diffusion along the path: sqrt(2 T h) stays below a fifteenth of its length.
    step = min(_STEP, 0.002 / temperature)
    runs = 16 if quick else 24
    coarse = np.array([measure(temperature, alpha, step, 100 + seed, quick) for seed in range(runs)])
    fine = np.array([measure(temperature, alpha, step / 2, 200 + seed, quick) for seed in range(runs)])
    value = 2 * fine.mean() - coarse.mean()
    stderr = np.sqrt((4 * fine.var(ddof=1) + coarse.var(ddof=1)) / runs)
    solution = oracle(temperature, alpha)
    cell_mean = np.cos(2 * np.pi * solution.y) * np.sinc(solution.y[1] - solution.y[0])
    expected = float((cell_mean * solution.marginal).sum() / solution.marginal.sum())
    k = np.linspace(0.0, 1.0, 1001)
    ratio = theory.timescale_ratio(_SHAPE.value(k)[:, None], _SHAPE.slope(k)[:, None], temperature).max()
    limit = adiabatic(temperature, alpha)
    return Row(
        f"<cos 2 pi s>, alpha = {alpha:g}, T = {temperature:g}",
        value,
        float(stderr),
        expected,
        rejected=None if alpha == 0.0 else limit,
        rejected_name="adiabatic",
        note=f"timescale ratio {ratio:.3g}" + (f", exact {limit:.5f}" if alpha == 0.0 else ""),
    )


# params: level s, |x| below which crossings count. out: net crossings, s and x at the step before; 1 once they are set.
@observe_function
def _crossings(theta, gradient, located, frame, index, out, params):  # type: ignore[no-untyped-def]
    for w in range(theta.shape[1]):
        s, x = located[0, w], theta[1, w]
        if out[3, w] > 0.0 and abs(0.5 * (x + out[2, w])) < params[1]:
            if out[1, w] < params[0] <= s:
                out[0, w] += 1.0
            if s < params[0] <= out[1, w]:
                out[0, w] -= 1.0
        out[1, w], out[2, w], out[3, w] = s, x, 1.0


def current(alpha: float, quick: bool) -> Row:
    """Net probability per time through the middle of the line y = 0.25, counted step by step."""
    temperature, step = 0.1, 0.001
    width = float(np.sqrt(temperature * _SHAPE.value(np.array(_LINE)) ** (alpha - 1.0)))
    steps, before = (20_000, 5_000) if quick else (60_000, 10_000)
    walkers = 2048 if quick else 8192
    ensemble = Ensemble(
        _CHANNEL,
        Thermal(temperature) if alpha == 0.0 else CurvaturePower(temperature, alpha, temperature),
        Overdamped(step),
        _CHANNEL.path((np.arange(walkers) + 0.5) / walkers),
        seed=7,
        observer=_crossings,
        observer_params=np.array([_LINE, width]),
        out_shape=(4, -1),
        observe_from=before,
        observe_every=1,
        locate=True,
    )
    ensemble.advance(before + steps)
    rate = ensemble.per_walker[:, 0] / ((steps - 1) * step)
    solution = oracle(temperature, alpha)
    flow = np.array([np.interp(_LINE, np.linspace(0.0, 1.0, len(solution.y) + 1), c) for c in solution.current_y.T])
    edges = np.concatenate([[-np.inf], 0.5 * (solution.x[1:] + solution.x[:-1]), [np.inf]])
    cells = np.gradient(solution.x)
    inside = np.clip((np.minimum(edges[1:], width) - np.maximum(edges[:-1], -width)) / cells, 0.0, 1.0)
    expected = float((flow * cells * inside).sum())
    return Row(
        f"current through |x| < {width:.3f} at y = {_LINE:g}, alpha = {alpha:g}",
        float(rate.mean()),
        float(rate.std(ddof=1) / np.sqrt(walkers)),
        expected,
        bias=0.03 * abs(expected),
        rejected=None if alpha == 0.0 else 0.0,
        rejected_name="detailed balance",
        note="bias: the step's, 3 %",
    )
