"""The mean force and stationary density that theory.py predicts for a simulation, from its own exact profile.

The profile gives U and all transverse stiffnesses k_i on its points; between them, and for slopes, cubic splines. What
the splines may be wrong by, their difference from those through every second point, is the prediction's standard error.
Noise and dynamics are read from the run's `config`. Forms:

    thermal | curvature-proportional | small step    −U' − ½ Σ k_i' D_i/k_i, continuous time (which name depends on
                                                     the noise: D_i = T, D_i ∝ k_i, anything else)
    finite step | finite learning rate               −U' − ½ Σ k_i' <x_i²> with the update rule's exact variance

D_i is the diffusion across the path, for SGD ``eta C_i / (2(1−beta))``. Leimkuhler–Matthews leaves no step-size error
on a quadratic, so its two forms are one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from scipy import linalg

from analysis.predict import FINITE_RATE, PROPORTIONAL, THERMAL, as_dataset, spline_matrix
from analysis.simulated import Profile, Setting, configuration, every_second, read
from analysis.uncertainty import Array, Estimate
from entropy_sim import theory
from entropy_sim.errors import UserError

SMALL_STEP = "small step"
FINITE_STEP = "finite step"
_BINS = 16  # points of the fine grid per bin of a density
_CELLS = 200  # of the reduced dynamics along the path


def predict_simulation(tree: xr.DataTree, s: Array) -> xr.Dataset:
    """The forms above at s (m,), energetic part included, as a dataset of predictions (see `analysis.predict`).

    Raises UserError if the run has no profile with all transverse stiffnesses, or a configuration without noise and
    dynamics that these forms cover.
    """
    setting, profile, length = read(tree, "mean_force")
    estimates = {}
    for form in _forms(setting):
        value = _force(form, setting, profile, s, length)
        error = value - _force(form, setting, every_second(profile), s, length)
        estimates[form] = Estimate.independent(value, np.abs(error))
    return as_dataset(estimates, {form: _formula(form, setting) for form in estimates}, np.asarray(s, float))


def predict_stationary(tree: xr.DataTree, s: Array) -> xr.Dataset:
    """Stationary density of s, ``p ∝ exp(∫ f/D_y dy) / D_y``, averaged over the bins around s, and free energy
    ``−T ln p`` (−ln p where the noise is not thermal), dims (form, s); f for SGD that of its finite learning rate.

    Thermal noise: exact, ``p ∝ exp(−U/T) Π k_i^(−1/2)``. Otherwise for fast transverse modes; the timescale ratio in
    `formula` says how fast they are. s: bin centres that fill 0…1. Raises UserError as `predict_simulation`, or if
    nothing moves along the path.
    """
    setting, profile, length = read(tree, "stationary")
    if profile.along is None or not np.all(profile.along > 0):
        raise UserError("profile: expected noise along the path for a stationary density, found none")
    s = np.asarray(s, float)
    width = 1 / len(s)
    if not np.allclose(s, (np.arange(len(s)) + 0.5) * width, atol=1e-6):
        raise UserError("stationary/s: expected the centres of equal bins that fill 0…1, found others")
    fine = (np.arange(_BINS * len(s)) + 0.5) * width / _BINS
    force, along = _reduced(setting, profile, fine, length)
    density = theory.stationary_density(fine * length, force, along).reshape(len(s), _BINS).mean(1)
    density /= density.mean()
    with np.errstate(divide="ignore"):  # where the density underflows nothing is predicted
        energy = -(setting.temperature or 1.0) * np.log(density)
    return xr.Dataset(
        {"density": (("form", "s"), density[None]), "free_energy": (("form", "s"), energy[None])},
        {"s": s, **_reduced_form(setting, profile, length, density=True)},
    )


def start_remembered(tree: xr.DataTree, s: Array) -> Array:
    """How far the density of s (n bins that fill 0…1) still is from the stationary one when counting begins: that of
    walkers spread evenly at first, after the run's burn-in, less its limit, by the reduced dynamics. Raises UserError
    as `predict_stationary`, or if the configuration tells no burn_in."""
    setting, profile, length = read(tree, "stationary")
    config = configuration(tree, "stationary")
    if profile.along is None or not np.all(profile.along > 0) or not isinstance(config.get("burn_in"), (int, float)):
        raise UserError("stationary: expected noise along the path and a burn_in in the configuration, found none")
    generator = _generator(setting, profile, length)
    even = np.full(_CELLS, 1 / _CELLS)
    then = _propagator(generator, float(config["burn_in"])) @ even
    values, vectors = np.linalg.eig(generator)
    limit = np.abs(vectors[:, np.argmin(np.abs(values))].real)
    onto = np.arange(len(s)) == np.minimum((np.arange(_CELLS) + 0.5) / _CELLS * len(s), len(s) - 1).astype(int)[:, None]
    return len(s) * (then - limit / limit.sum()) @ onto


def predict_relaxation(tree: xr.DataTree, starts: Array, times: Array) -> xr.Dataset:
    """Mean position s(t) of walkers released at `starts`, dims (form, start, time), for fast transverse modes, with
    the numerical error `position_stderr`.

    Of the reduced dynamics ``dy = f dt + √(2 D_y) dW`` (Itô, reflecting ends): see `mean_positions`; the error is the
    difference from half as many points. times: equally spaced from 0. Raises UserError as above.
    """
    setting, profile, length = read(tree, "relaxation")
    if profile.along is None or not np.all(profile.along > 0):
        raise UserError("profile: expected noise along the path to predict a relaxation, found none")
    times = np.asarray(times, float)
    step = times[1] - times[0] if len(times) > 1 else 0.0
    if not step > 0 or not np.allclose(np.diff(times), step):
        raise UserError("relaxation/time: expected two or more equally spaced, rising times, found others")
    coarse, fine = (
        mean_positions(lambda s: _reduced(setting, profile, s, length), length, starts, step, len(times), points)
        for points in (_CELLS + 1, 2 * _CELLS + 1)
    )
    dims = ("form", "start", "time")
    return xr.Dataset(
        {"position": (dims, fine[None]), "position_stderr": (dims, np.abs(fine - coarse)[None])},
        {"start": starts, "time": times, **_reduced_form(setting, profile, length, density=False)},
    )


def mean_positions(
    reduced: Callable[[Array], tuple[Array, Array]], length: float, starts: Array, step: float, count: int, points: int
) -> Array:
    """E s(t) from each start at t = 0, step, … (starts, count); reduced: force and D_y at s, reflecting ends.

    ``u(s, t) = E[s(t) | s(0) = s]`` solves the backward equation; over a short time dt it is the mean of
    ``u(s + (f dt + √(2 D_y dt) x) / length)`` over x = 0, ±√3 with weights 2/3, 1/6 (exact to fifth moments; Kloeden,
    Platen, Numerical Solution of SDEs, ch. 14) and f half a step ahead, u a cubic spline through `points`. It follows
    the drift itself: nothing is smeared where there is no noise, as on cells. Short steps are taken by squaring.
    """
    grid = np.linspace(0.0, 1.0, points)
    force, along = reduced(grid)
    drift, spread, cell = force / length, 2 * along / length**2, grid[1]
    cells = max(step * np.abs(drift).max() / (0.1 * cell), step * spread.max() / cell**2, 1.0)
    halvings = int(np.ceil(np.log2(cells)))
    dt = step / 2**halvings

    def at(s: Array) -> Array:
        folded = np.mod(s, 2.0)
        return spline_matrix(grid, np.where(folded > 1.0, 2.0 - folded, folded))

    ahead = grid + (at(grid + 0.5 * dt * drift) @ drift) * dt
    wide = np.sqrt(3 * spread * dt)
    short = at(ahead) * (2 / 3) + (at(ahead + wide) + at(ahead - wide)) / 6
    forward, u = np.linalg.matrix_power(short, 2**halvings), grid
    onto, means = spline_matrix(grid, starts), [np.asarray(starts, float)]
    for _ in range(count - 1):
        u = forward @ u
        means.append(onto @ u)
    return np.array(means).T


def _generator(setting: Setting, profile: Profile, length: float) -> Array:
    """dp/dt = G p for the probabilities of the cells, with exponentially fitted rates (Scharfetter, Gummel, IEEE Trans.
    Electron Devices 16 (1969) 64), which stay positive and conserve probability for any drift."""
    h = length / _CELLS
    edges = np.arange(1, _CELLS) / _CELLS
    force, at_edges = _reduced(setting, profile, edges, length)
    along = spline_matrix(profile.s, (np.arange(_CELLS) + 0.5) / _CELLS) @ np.asarray(profile.along)
    x = force / at_edges * h
    right, left = along[:-1] / h**2 * _bernoulli(-x), along[1:] / h**2 * _bernoulli(x)
    generator = np.diag(right, -1) + np.diag(left, 1)
    return generator - np.diag(generator.sum(0))


def _propagator(generator: Array, time: float) -> Array:
    """``exp(time G)`` by squaring: all entries stay positive, so nothing cancels. (SciPy's own scaling of a triangular
    G, pure drift, was seen to lose 1 % of the probability.)"""
    doublings = max(0, int(np.ceil(np.log2(max(time * np.abs(np.diag(generator)).max(), 1.0)))))
    return np.linalg.matrix_power(linalg.expm(generator * (time / 2**doublings)), 2**doublings)


def _bernoulli(x: Array) -> Array:
    """x / (exp(x) − 1), beyond the range of exp its asymptotes 0 and −x: a cell's rate is then drift / cell width."""
    safe = np.where(np.abs(x) < 1e-8, 1.0, np.clip(x, -700, 700))
    inner = np.where(np.abs(x) < 1e-8, 1 - x / 2, safe / np.expm1(safe))
    return np.where(x > 700, 0.0, np.where(x < -700, -x, inner))


def _reduced(setting: Setting, profile: Profile, s: Array, length: float) -> tuple[Array, Array]:
    """Force and diffusion of the reduced dynamics at s. Raises UserError where a transverse mode is not stiff."""
    assert profile.along is not None
    force = _force(_reduced_name(setting), setting, profile, s, length)
    if not np.isfinite(force).all():
        raise UserError("profile/hessian_eigenvalue: expected stiff transverse modes all along the path, found others")
    return force, spline_matrix(profile.s, s) @ profile.along


def _reduced_name(setting: Setting) -> str:
    """The form whose force drives the reduced dynamics: for SGD that of its own finite learning rate."""
    return FINITE_RATE if setting.sgd else _forms(setting)[0]


def _reduced_form(setting: Setting, profile: Profile, length: float, *, density: bool) -> dict[str, Any]:
    """Coordinates form and formula of a prediction from the reduced dynamics."""
    if density and setting.temperature is not None:
        form, text = THERMAL, "p ∝ exp(−U/T) Π k_i^(−1/2), exact in continuous time"
    else:
        assert profile.along is not None
        slope = spline_matrix(profile.s * length, profile.s * length, derivative=1) @ profile.stiffness
        ratio = float(np.max(profile.along[:, None] * (slope / profile.stiffness) ** 2 / profile.stiffness))
        form = f"fast transverse modes, {_reduced_name(setting)}"
        text = f"dy = f dt + √(2 D_y) dW with f = {_formula(_reduced_name(setting), setting)}"
        text += f"; timescale ratio D_y (k'/k)²/k at most {ratio:.2g}"
    return {"form": np.array([form], dtype=object), "formula": ("form", np.array([text], dtype=object))}


# --- forms ----------------------------------------------------------------------------------------------------------


def _forms(setting: Setting) -> list[str]:
    exponent = setting.noise.get("exponent")
    small = THERMAL if setting.noise["type"] == "Thermal" else PROPORTIONAL if exponent == 1 else SMALL_STEP
    if setting.sgd:
        return [small, FINITE_RATE]
    return [small] if setting.dynamics.get("scheme") == "leimkuhler_matthews" else [small, FINITE_STEP]


def _formula(form: str, setting: Setting) -> str:
    if form == THERMAL:
        return "−U' − (T/2) Σ k_i'/k_i"
    if form == FINITE_STEP:
        return "−U' − ½ Σ k_i' D_i / (k_i (1 − h k_i/2)), Euler–Maruyama with step h"
    if form == FINITE_RATE:
        return "−U' − ½ Σ k_i' η C_i (1+β) / (k_i (1−β)(2(1+β) − η k_i))"
    return "−U' − ½ Σ k_i' D_i/k_i" + (", D_i = η C_i / 2(1−β)" if setting.sgd else "")


def _force(form: str, setting: Setting, profile: Profile, s: Array, length: float) -> Array:
    y, at = profile.s * length, np.asarray(s, float) * length
    value, slope = spline_matrix(y, at), spline_matrix(y, at, derivative=1)
    k, noise = value @ profile.stiffness, np.clip(value @ profile.noise, 0.0, None)
    inside = np.isfinite(k).all(-1) & (k > 0).all(-1)
    result = np.full(len(at), np.nan)
    variance = _variance(form, setting, k[inside], noise[inside])
    result[inside] = theory.mean_force((slope @ profile.stiffness)[inside], variance, (slope @ profile.energy)[inside])
    return result


def _variance(form: str, setting: Setting, k: Array, noise: Array) -> Array:
    if form == FINITE_RATE:
        return theory.variance_sgd(k, noise, setting.dynamics["learning_rate"], setting.dynamics["momentum"])
    if form == FINITE_STEP:
        return theory.variance_euler_maruyama(k, noise, setting.dynamics["step"])
    if setting.sgd:
        rate, momentum = setting.dynamics["learning_rate"], setting.dynamics["momentum"]
        noise = theory.effective_temperature(noise, rate, momentum)
    return noise / k
