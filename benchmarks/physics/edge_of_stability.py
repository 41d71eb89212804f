"""The entropic force of discrete SGD on the way to the edge of stability."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.physics._rows import Row
from entropy_sim import theory
from entropy_sim.dynamics import SGD
from entropy_sim.landscapes import Channel, Exponential
from entropy_sim.measurements import mean_force
from entropy_sim.noise import CurvatureCovariance

TITLE = "entropic force of SGD with C = c k diverges towards the edge of stability as predicted"

Floats = NDArray[np.float64]
#: eta k over its limit, one position of the path each.
SHARES = np.array([0.05, 0.3, 0.6, 0.8, 0.9, 0.95, 0.97])
RULES = {"β = 0": (0.0, False), "β = 0.9": (0.9, False), "Nesterov, β = 0.9": (0.9, True)}
_NOISE_RATIO, _STIFFEST, _REPLICAS = 0.1, 20.0, 64


def rows(quick: bool) -> list[Row]:
    """Measured over predicted force at each share, the exponent of the divergence and where it lies."""
    return [row for name in RULES for row in _rule(name, quick)]


def _rule(name: str, quick: bool) -> list[Row]:
    momentum, nesterov = RULES[name]
    limit = float(theory.stability_limit(1.0, momentum, nesterov=nesterov))  # of eta k
    eta = SHARES[-1] * limit / _STIFFEST
    k = SHARES * limit / eta
    dynamics, channel = SGD(eta, momentum, nesterov), Channel(Exponential(1.0, _STIFFEST), transverse_directions=4)
    s = np.log(k) / np.log(_STIFFEST)
    ratio, stderr = variance_ratio(channel, dynamics, s, 1500 if quick else 20_000)
    small = theory.effective_temperature(_NOISE_RATIO, eta, momentum) / dynamics.variance(k, _NOISE_RATIO * k)
    result = [
        Row(
            f"{name}, ηk = {share:.2f} of its limit: force / predicted",
            ratio[i],
            stderr[i],
            1.0,
            rejected=small[i],
            rejected_name="small step",
        )
        for i, share in enumerate(SHARES)
    ]
    # <x²> = (a factor regular at the edge) / (limit - eta k)^p.
    variance, error = ratio * dynamics.variance(k, _NOISE_RATIO * k), stderr * dynamics.variance(k, _NOISE_RATIO * k)
    regular = _regular(eta * k, momentum, nesterov)
    exponent, exponent_error, _ = line(np.log(1.0 - SHARES), np.log(variance / regular), error / variance)
    result.append(
        Row(f"{name}: exponent of the divergence", -exponent, exponent_error, 1.0, rejected=0.5, rejected_name="1/2")
    )
    slope, _, edge = line(eta * k, regular / variance, regular * error / variance**2)
    other = theory.stability_limit(1.0, momentum) if nesterov else theory.stability_limit(1.0, 0.0 if momentum else 0.9)
    assert slope < 0.0
    result.append(
        Row(
            f"{name}: ηk at which 1/<x²> extrapolates to 0",
            edge[0],
            edge[1],
            limit,
            rejected=float(other),
            rejected_name="the limit of " + ("heavy ball" if nesterov else "β = 0" if momentum else "β = 0.9"),
        )
    )
    return result


def _regular(a: Floats, momentum: float, nesterov: bool) -> Floats:
    """The factor of <x²> / (eta c) that does not diverge, a = eta k (see `theory.variance_sgd_nesterov`)."""
    if not nesterov:
        return np.full_like(a, (1.0 + momentum) / (1.0 - momentum))
    return (1.0 + momentum + momentum * (1.0 + 2.0 * momentum) * a) / (1.0 - momentum + momentum * a)


def variance_ratio(channel: Channel, dynamics: SGD, s: Floats, steps: int) -> tuple[Floats, Floats]:
    """Measured mean force at s over that of the rule's exact variance, with its standard error over replicas."""
    tree = mean_force(
        channel,
        CurvatureCovariance(_NOISE_RATIO),
        dynamics,
        positions=tuple(s),
        replicas=_REPLICAS,
        walkers=8,
        burn_in=600 * dynamics.time_step,
        duration=steps * dynamics.time_step,
        time_windows=1,
        stride=3,
        seed=7,
    )
    force = tree["mean_force"].to_dataset()["mean_force"].values[:, :, 0]
    k = channel.curvature(s)
    predicted = theory.mean_force(channel.curvature_slope(s), dynamics.variance(k, _NOISE_RATIO * k))
    ratio = force / predicted[:, None]
    return ratio.mean(axis=1), ratio.std(axis=1, ddof=1) / np.sqrt(_REPLICAS)


def line(x: Floats, y: Floats, stderr: Floats) -> tuple[float, float, tuple[float, float]]:
    """Weighted straight line through independent points: slope, its standard error, and where it crosses zero (x and
    its standard error)."""
    design = np.stack([np.ones_like(x), x], axis=1) / stderr[:, None]
    covariance = np.linalg.inv(design.T @ design)
    intercept, slope = covariance @ design.T @ (y / stderr)
    gradient = np.array([-1.0 / slope, intercept / slope**2])
    crossing = float(np.sqrt(gradient @ covariance @ gradient))
    return float(slope), float(np.sqrt(covariance[1, 1])), (float(-intercept / slope), crossing)
