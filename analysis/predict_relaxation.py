"""The relaxation that theory.py predicts from a network's own profile: measured curvature and gradient noise, no fit.

Each form of `analysis.predict` gives a force f(y); the mean position follows ``dy/dt = f(y)`` on the clock of the
dynamics from each start, for fast transverse modes and without what diffusion along the path adds to the mean, at
second order in its spread. For the finite-time form f grows with the transverse variances since the release,
``f(y, t)``. The energetic part is not predicted: it is what the noise-free control measures.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import xarray as xr

from analysis import predict
from analysis.uncertainty import Array, Estimate

_FINE = 400  # intervals in s of the tabulated force
_STEPS = 60  # fewest Runge–Kutta steps up to the last time
_KNOTS = 16  # times at which the finite-time force is evaluated, denser early


def predict_network_relaxation(
    profile: xr.Dataset,
    starts: Array,
    times: Array,
    *,
    arc_length: float,
    learning_rate: float,
    momentum: float = 0.0,
    noise_factor: float = 1.0,
    path_kind: str | None = None,
) -> xr.Dataset:
    """Mean position s(t) of SGD released at `starts`, dims (form, start, time), and at the last time `displacement`
    s(t) − s(0), dims (form, start), with its `covariance` (form, start, start_other) from that of the force.

    times: rising, from 0, on the clock t = eta · step / (1 − beta). A position that reaches an end of the path stays
    there; a start from which the form meets a place where it does not hold is NaN. The rest, and what raises, as in
    `predict.predict_network`.
    """
    starts, times = np.asarray(starts, float), np.asarray(times, float)
    settings = {"arc_length": arc_length, "learning_rate": learning_rate, "momentum": momentum}
    knots = _knots(times, learning_rate / (1 - momentum))
    forces = predict.forces_in_time(profile, knots, noise_factor=noise_factor, path_kind=path_kind, **settings)
    s = predict.path_profile(profile, path_kind)["s"].values.astype(float)
    positions, displaced = [], []
    for force in forces.estimates.values():
        moved, jacobian = _flow(force, s, knots, starts, times, arc_length)
        positions.append(moved)
        displaced.append(Estimate(moved[:, -1] - starts, jacobian @ np.nan_to_num(force.covariance) @ jacobian.T))
    names = list(forces.estimates)
    return xr.Dataset(
        {
            "position": (("form", "start", "time"), np.array(positions)),
            "displacement": (("form", "start"), np.array([d.value for d in displaced])),
            "covariance": (("form", "start", "start_other"), np.array([d.covariance for d in displaced])),
        },
        {
            "form": np.array(names, dtype=object),
            "start": starts,
            "time": times,
            "formula": ("form", np.array([f"dy/dt = f(y), f = {forces.formulas[n]}" for n in names], dtype=object)),
        },
        attrs={"dropped": "; ".join(forces.dropped)},
    )


def _knots(times: Array, step: float) -> Array:
    """Times from 0 to the last, in whole steps, each about the same factor after the one before."""
    last = float(times[-1])
    return np.unique(np.concatenate([[0.0], np.round(np.geomspace(step, max(last, step), _KNOTS - 1) / step) * step]))


def _flow(force: Estimate, s: Array, knots: Array, starts: Array, times: Array, length: float) -> tuple[Array, Array]:
    """Positions (start, time) under a force at (knot, s), or at (s) if it does not change, flattened, and the
    derivative (start, n) of the last ones by each value of the force: central differences of a part of its error."""
    n = len(force.value)
    step = np.maximum(0.1 * np.nan_to_num(force.stderr), 1e-6 * np.nanmax(np.abs(force.value), initial=1e-300))
    changes = np.concatenate([np.zeros((1, n)), np.diag(step), -np.diag(step)])
    table = (force.value + changes).reshape(2 * n + 1, -1, len(s))  # set, knot, s
    onto = predict.spline_matrix(s, np.linspace(s[0], s[-1], _FINE + 1))
    known = np.isfinite(force.value).reshape(-1, len(s))
    fine = np.nan_to_num(table) @ onto.T
    # Next to a place where the form does not hold nothing is known.
    beside = np.interp(np.linspace(s[0], s[-1], _FINE + 1), s, (~known).any(0).astype(float)) > 0
    fine[..., beside] = np.nan
    paths = _integrate(fine, (s[0], s[-1]), knots, starts, times, length)
    jacobian = (paths[1 : n + 1, :, -1] - paths[n + 1 :, :, -1]).T / (2 * step)
    return paths[0], jacobian


def _integrate(
    fine: Array, ends: tuple[float, float], knots: Array, starts: Array, times: Array, length: float
) -> Array:
    """Positions (set, start, time) by the classical Runge–Kutta method; force fine (set, knot, place) linear between
    the places, which are equally spaced over `ends`, and between the knots."""
    low, high = ends
    sets = np.arange(len(fine))[:, None]

    def velocity(x: Array, t: float) -> Array:
        j = int(np.clip(np.searchsorted(knots, t, side="right") - 1, 0, max(fine.shape[1] - 2, 0)))
        now = fine[:, j]
        if fine.shape[1] > 1:
            part = (t - knots[j]) / (knots[j + 1] - knots[j])
            now = (1 - part) * now + part * fine[:, j + 1]
        place = np.clip((x - low) / (high - low), 0.0, 1.0) * _FINE
        cell = np.minimum(np.nan_to_num(place).astype(int), _FINE - 1)
        part = place - cell
        return ((1 - part) * now[sets, cell] + part * now[sets, cell + 1]) / length

    x = np.broadcast_to(starts, (len(fine), len(starts))).astype(float)
    found = [x]
    for a, b in pairwise(times):
        count = max(1, int(np.ceil(_STEPS * (b - a) / (times[-1] - times[0]))))
        h = (b - a) / count
        for t in a + h * np.arange(count):
            k1 = velocity(x, t)
            k2 = velocity(x + 0.5 * h * k1, t + 0.5 * h)
            k3 = velocity(x + 0.5 * h * k2, t + 0.5 * h)
            k4 = velocity(x + h * k3, t + h)
            x = np.clip(x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), low, high)
        found.append(x)
    return np.stack(found, -1)
