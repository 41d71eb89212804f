"""The stationarity identity of constrained SGD: its error bar against simulated runs of which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from analysis.criteria import heating_identity

ETA = 0.1


def heated(runs, positions, replicas, burn_in, steps, seed, middle=6.0):
    """Both sides of the identity (run, s, replica) for SGD in harmonic planes with C = H, 16 directions each, stiffer
    in the middle of the path, from a cold start; and the exact left over right (s): from the variances
    ``(η / (2 − ηk)) (1 − (1 − ηk)^2t)``."""
    random = np.random.default_rng(seed)
    rise = 1 + (middle - 1) * np.sin(np.pi * np.linspace(0.1, 0.9, positions)) ** 2
    k = rise[:, None] * np.geomspace(0.2, 2, 16)
    x = np.zeros((runs, replicas, positions, 16))
    sides = np.zeros((2, runs, replicas, positions))
    for t in range(burn_in + steps):
        gradient = k * x + np.sqrt(k) * random.standard_normal(x.shape)
        if t >= burn_in:
            sides += 2 * (x * gradient).sum(-1) / steps, ETA * (gradient**2).sum(-1) / steps
        x -= ETA * gradient
    t = np.arange(burn_in, burn_in + steps)
    variance = ETA / (2 - ETA * k) * (1 - (1 - ETA * k) ** (2 * t[:, None, None]))
    exact = (2 * k * variance).mean(0).sum(-1) / (ETA * (k**2 * variance + k).mean(0).sum(-1))
    return sides.swapaxes(-1, -2), exact


def row(left, right):
    dims = ("s", "replica")
    return heating_identity("network", xr.Dataset({"heating_left": (dims, left), "heating_right": (dims, right)}))


def independent_values(left, right):
    """The wrong one: every value of every position one of the same kind, and Gauss for Student."""
    ratio = (left / right).ravel()
    return ratio.mean(), ratio.std(ddof=1) / np.sqrt(ratio.size)


@pytest.mark.parametrize(("positions", "replicas"), [(9, 3), (3, 2), (1, 3)])
def test_z_is_standard_normal_in_stationary_runs(positions, replicas):
    """Over 600 runs or 1500: mean 0 and variance 1 within 4 standard errors. With Gauss for Student, one position of
    three replicas has a variance more than 5 errors above 1."""
    runs = 600 if positions > 3 else 1500
    (left, right), _ = heated(runs, positions, replicas, 150, 100, seed=positions)
    found = [row(*pair) for pair in zip(left, right, strict=True)]
    z = np.array([r.z for r in found])
    assert abs(z.mean()) < 4 / np.sqrt(runs)
    assert abs((z**2).mean() - 1) < 4 * np.sqrt(2 / runs)
    assert np.mean([r.verdict == "agrees" for r in found]) > 0.985
    if positions == 1:
        wrong = np.array([(m - 1) / e for m, e in map(independent_values, left, right)])
        assert (wrong**2).mean() - 1 > 5 * np.sqrt(2 / runs)


def test_the_error_is_that_of_the_mean_where_positions_differ():
    """Averages that begin cold, so that stiff places are nearer to 1 than soft ones: over 400 runs the mean is the
    exact one and the stated variance that of the means, within 4 standard errors; the scatter between positions states
    more than twice as much, 10 errors off."""
    runs, positions = 400, 9
    (left, right), exact = heated(runs, positions, 3, 0, 100, seed=1)
    found = [row(*pair) for pair in zip(left, right, strict=True)]
    mean, stated = (np.array([getattr(r, n) for r in found]) for n in ("measured", "measured_stderr"))
    assert np.ptp(exact) > 0.02
    assert abs(mean.mean() - exact.mean()) < 4 * mean.std() / np.sqrt(runs)
    spread = np.sqrt(2 / runs + 2 / (18 * runs))
    assert abs((stated**2).mean() / mean.var() - 1) < 4 * spread
    wrong = np.array([e for _, e in map(independent_values, left, right)])
    assert (wrong**2).mean() / mean.var() - 1 > 10 * spread
    assert {r.verdict for r in found} == {"disagrees"}


def test_positions_that_cancel_in_the_mean_are_seen():
    """Half of the places at 0.9, half at 1.1, each known to 0.01: the mean is 1, the χ² of places says no."""
    random = np.random.default_rng(0)
    ratio = np.where(np.arange(8) % 2, 0.9, 1.1)[:, None] + 0.01 * random.standard_normal((8, 4))
    found = row(ratio, np.ones_like(ratio))
    assert abs(found.z) < 3
    assert found.verdict == "disagrees"
    assert (found.degrees_of_freedom, found.p_value < 1e-5) == (8, True)
    mean, error = independent_values(ratio, np.ones_like(ratio))
    assert abs(mean - 1) < 3 * error


def test_one_replica_diverged_ones_and_too_few():
    random = np.random.default_rng(0)
    ratio = 1 + 0.01 * random.standard_normal((9, 3))
    lone = row(ratio[:, :1], np.ones((9, 1)))
    assert lone.measured_stderr == pytest.approx(ratio[:, 0].std(ddof=1) / 3)
    assert lone.verdict == "agrees"
    ratio[0, 0], ratio[1] = np.nan, np.nan
    found = row(ratio, np.ones_like(ratio))
    assert found.degrees_of_freedom == 8
    assert found.measured == pytest.approx(np.mean([np.nanmean(ratio[0]), *ratio[2:].mean(1)]))
    assert row(ratio[:1], np.ones((1, 3))).verdict == "not determined"
    assert row(np.ones((9, 3)), np.ones((9, 3))).verdict == "not determined"
    assert row(np.full((2, 3), np.nan), np.ones((2, 3))).verdict == "not determined"
