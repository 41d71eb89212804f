"""The mean force that theory.py predicts from a run's own profile: measured curvature and gradient noise, no fit.

Every prediction is a dataset with dims (form, s): `force` (loss / parameter, along +s per arc length), `force_stderr`,
`covariance` (form, s, s_other) from first-order propagation of the profile's `_stderr` variables, and the coordinate
`formula`, what was evaluated, in words. `dropped` (an attribute) says which forms could not be, and why.

The energetic part −dL/ds is not predicted: it is what the noise-free control measures. For the simulator see
`analysis.predict_simulation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline

from analysis.uncertainty import Array, Estimate, propagate
from entropy_sim import theory
from entropy_sim.errors import UserError, require

Form = Callable[[Mapping[str, Array]], Array]

THERMAL = "thermal"
PROPORTIONAL = "curvature-proportional"
ALONG_PATH = "curvature-proportional, Tr H along the path"
LYAPUNOV = "Lyapunov, top modes and bulk"
FINITE_RATE = "finite learning rate"
FINITE_TIME = "finite time"

FORMULAS = {
    THERMAL: "−(T/2) Σ k_i'/k_i, T = η Tr C / (2(1−β) d_eff)",
    PROPORTIONAL: "−(η c / 4(1−β)) Tr(Q ∂H), c = Tr C / Tr H, transverse",
    ALONG_PATH: "−(η c / 4(1−β)) dTr H/dy from the spline through the path points",
    LYAPUNOV: "−½ Σ k_i' Σ_ii, Σ_ii = η C_i / (2(1−β) k_i) in the measured top modes, and one bulk group",
    FINITE_RATE: "−½ Σ k_i' η C_i (1+β) / (k_i (1−β)(2(1+β) − η k_i)), top modes and one bulk group",
    FINITE_TIME: "the same with the variances reached in the time windows from a cold start; bulk as stiff as k_min",
}


def path_profile(profile: xr.Dataset, kind: str | None = None) -> xr.Dataset:
    """The profile along one kind of path: `kind`, or else the first that is not the straight line.

    Raises UserError if the profile does not have it.
    """
    kinds = [str(k) for k in profile["path_kind"].values]
    chosen = kind if kind is not None else next((k for k in kinds if k != "line"), kinds[0])
    require(chosen in kinds, "path_kind", f"one of {', '.join(kinds)}", chosen)
    selected = profile.isel(path_kind=kinds.index(chosen))
    # Kinds share one s axis in the file: points that belong to another kind hold no loss.
    return selected.isel(s=np.flatnonzero(np.isfinite(selected["loss"].values)))


def spline_matrix(y: Array, at: Array, derivative: int = 0) -> Array:
    """The linear map from values at y (n,) to their interpolating cubic spline, or its derivative, at `at` (m,).

    Not-a-knot ends; of lower degree below 4 points; NaN outside the range of y."""
    spline = make_interp_spline(y, np.eye(len(y)), k=min(3, len(y) - 1))
    matrix = np.asarray(spline(at, nu=derivative), float)
    edge = 1e-9 * (y[-1] - y[0])
    matrix[(at < y[0] - edge) | (at > y[-1] + edge)] = np.nan
    return matrix


def between(s: Array, values: Estimate, at: Array) -> Estimate:
    """Values at s (n,) at the positions `at` (m,), by a cubic spline through the finite ones; NaN next to a NaN."""
    good = np.isfinite(values.value)
    right = np.clip(np.searchsorted(s, at - 1e-9), 0, len(s) - 1)
    left = np.where(np.abs(s[right] - at) < 1e-9, right, np.clip(right - 1, 0, None))
    if good.sum() < 2:
        return Estimate(np.full(len(at), np.nan), np.full((len(at), len(at)), np.nan))
    matrix = spline_matrix(s[good], at)
    matrix[~(good[left] & good[right])] = np.nan
    return values.select(good).transform(matrix)


def predict_network(
    profile: xr.Dataset,
    *,
    arc_length: float,
    learning_rate: float,
    momentum: float = 0.0,
    noise_factor: float = 1.0,
    s: Array | None = None,
    times: Array | None = None,
    path_kind: str | None = None,
) -> xr.Dataset:
    """The entropic force on a network from its measured profile, in the small-noise (linear-response) theory.

    curvature-proportional: ``−(eta c / 4(1−beta)) Tr(Q dH/dy)``, ``c = Tr C / Tr H`` (transverse where measured), from
    `hessian_trace_slope` and, as a separate form, from the slope of the trace from path point to path point.
    thermal: ``−(T/2) sum k_i'/k_i``, ``T = eta Tr C / (2(1−beta) d_eff)``. The sum needs a cutoff: the measured
    top modes count one by one, the rest of the trace as ``d_b = <(Tr H − sum k_i)/k_min>_s`` modes as stiff as the
    softest of them, k_min (the cutoff; an attribute), and ``d_eff`` is the number of both.
    finite learning rate: `theory.variance_sgd` with the noise measured in each top mode (``c k_i`` where it was not),
    the rest as one bulk group with the remaining trace and noise and small eta k.
    Lyapunov: the solution of ``H Sigma + Sigma H = eta C/(1−beta)`` in the top modes' basis, of which only the diagonal
    of C is measured: the same for small eta k_i. Where the noise in the modes was not measured it is left out.
    finite time: as finite learning rate, each variance (`theory.variance_sgd_transient`) as far as it has grown since a
    cold start, averaged over `times` (clock t); the bulk is as stiff as the softest top mode, as in the thermal form.

    profile: the `profile` group. arc_length: length of the path, parameter. noise_factor: C of the dynamics over C of
    the profile (batch size). s: where to predict (default: the profile's points). Points where a form does not hold
    (negative bulk, eta k beyond stability) are NaN. Slopes of modes and values between points are cubic splines.
    Raises UserError if the profile lacks `noise_trace` or `hessian_trace`.
    """
    p = _checked(profile, arc_length, path_kind)
    values, errors = _inputs(p, noise_factor)
    points = p["s"].values.astype(float)
    at = points if s is None else np.asarray(s, float)
    rate = {"learning_rate": learning_rate, "momentum": momentum}
    after = None if times is None else [np.asarray(times, float)]
    forms, dropped, bulk_modes = _forms(values, points * arc_length, after, rate)
    estimates = {name: between(points, propagate(form, values, errors), at) for name, form in forms.items()}
    result = as_dataset(estimates, {name: FORMULAS[name] for name in forms}, at)
    result.attrs |= {"dropped": "; ".join(dropped), "noise_factor": noise_factor, "arc_length": arc_length, **rate}
    temperature = learning_rate / (2 * (1 - momentum)) * values["noise_trace"]
    if "modes" in values:
        count = values["modes"].shape[-1]
        result.attrs |= {
            "cutoff": float(values["modes"].min()),
            "modes": count,
            "bulk_modes": bulk_modes,
            "effective_dimension": count + bulk_modes,
            "largest_eta_k": float(learning_rate * values["modes"].max()),
        }
        temperature = temperature / (count + bulk_modes)
        result["effective_temperature"] = ("s", spline_matrix(points, at) @ temperature)
        result["effective_temperature"].attrs = {"units": "loss", "long_name": "effective temperature T"}
    result["noise_ratio"] = ("s", spline_matrix(points, at) @ (values["noise_trace"] / values["trace"]))
    result["noise_ratio"].attrs = {"units": "loss", "long_name": "noise over curvature, c = Tr C / Tr H"}
    return result


@dataclass(frozen=True)
class Forces:
    """Every form at the profile's points: the force (points,), or, of the finite-time form, at several times one after
    the other (times · points,), with the covariance of all of them."""

    estimates: dict[str, Estimate]
    formulas: dict[str, str]
    dropped: list[str]


def forces_in_time(
    profile: xr.Dataset,
    times: Array,
    *,
    arc_length: float,
    learning_rate: float,
    momentum: float = 0.0,
    noise_factor: float = 1.0,
    path_kind: str | None = None,
) -> Forces:
    """The forms of `predict_network`, the finite-time one with the variances at each of `times` (clock t)."""
    p = _checked(profile, arc_length, path_kind)
    values, errors = _inputs(p, noise_factor)
    rate = {"learning_rate": learning_rate, "momentum": momentum}
    points = p["s"].values.astype(float)
    forms, dropped, _ = _forms(values, points * arc_length, list(np.asarray(times, float)[:, None]), rate)
    estimates = {name: propagate(form, values, errors) for name, form in forms.items()}
    formulas = FORMULAS | {FINITE_TIME: "that of finite learning rate with the variances grown since the release"}
    return Forces(estimates, {name: formulas[name] for name in forms}, dropped)


def _checked(profile: xr.Dataset, arc_length: float, path_kind: str | None) -> xr.Dataset:
    """The profile along the path, with what every prediction needs."""
    require(arc_length > 0, "arc_length", "a positive length", arc_length)
    p = path_profile(profile, path_kind)
    missing = [n for n in ("hessian_trace", "noise_trace") if n not in p]
    if missing:
        raise UserError(f"profile: expected {', '.join(missing)} to predict a force from, found no such variable")
    require(p.sizes["s"] >= 3, "profile/s", "at least 3 points along the path", p.sizes["s"])
    return p


def _forms(
    values: Mapping[str, Array], y: Array, times: Sequence[Array] | None, rate: Mapping[str, float]
) -> tuple[dict[str, Form], list[str], float]:
    """The forms that the measured values allow, in the order of `FORMULAS`, what was dropped and why, and the number of
    modes in the bulk. times: for each value of the finite-time force the times over which its variances are averaged.
    """
    slope = spline_matrix(y, y, derivative=1)
    forms: dict[str, Form] = {ALONG_PATH: lambda v: _proportional(v, slope @ v["trace"], rate)}
    dropped, bulk_modes = [], 0.0
    if "slope" in values:
        forms[PROPORTIONAL] = lambda v: _proportional(v, v["slope"], rate)
    else:
        dropped.append(f"{PROPORTIONAL}: hessian_trace_slope was not measured")
    if "modes" in values:
        modes = values["modes"]
        bulk_modes = float(max(np.mean((values["trace"] - modes.sum(-1)) / modes.min(-1)), 0.0))
        forms[THERMAL] = lambda v: _thermal(v, slope, bulk_modes, rate)
        forms[FINITE_RATE] = lambda v: _finite_rate(v, slope, rate)
        if "mode_noise" in values:
            forms[LYAPUNOV] = lambda v: _lyapunov(v, slope, rate)
        else:
            dropped.append(f"{LYAPUNOV}: no noise_eigenvalue was measured")
        if times is not None:
            forms[FINITE_TIME] = lambda v: np.concatenate([_finite_time(v, slope, after, rate) for after in times])
    else:
        lost = (THERMAL, LYAPUNOV, FINITE_RATE, *((FINITE_TIME,) if times is not None else ()))
        dropped += [f"{name}: no top-k hessian_eigenvalue was measured" for name in lost]
    return {name: forms[name] for name in FORMULAS if name in forms}, dropped, bulk_modes


def as_dataset(estimates: Mapping[str, Estimate], formulas: Mapping[str, str], s: Array) -> xr.Dataset:
    """Estimates at s (n,), one for each form, as the dataset described above."""
    names = list(estimates)
    n = len(s)
    result = xr.Dataset(
        {
            "force": (("form", "s"), np.array([e.value for e in estimates.values()]).reshape(len(names), n)),
            "force_stderr": (("form", "s"), np.array([e.stderr for e in estimates.values()]).reshape(len(names), n)),
            "covariance": (
                ("form", "s", "s_other"),
                np.array([e.covariance for e in estimates.values()]).reshape(len(names), n, n),
            ),
        },
        {
            "form": np.array(names, dtype=object),
            "s": s,
            "formula": ("form", np.array([formulas[n] for n in names], dtype=object)),
        },
    )
    result["s"].attrs = {"units": "1", "long_name": "normalised arc length s"}
    result["force"].attrs = {"units": "loss / parameter", "long_name": "predicted mean force along +s"}
    result["force_stderr"].attrs = {"units": "loss / parameter", "long_name": "standard error of the prediction"}
    result["covariance"].attrs = {"units": "loss^2 / parameter^2", "long_name": "covariance of the prediction"}
    return result


def estimate(prediction: xr.Dataset, form: str) -> Estimate:
    """One form of a prediction, with its covariance."""
    one = prediction.sel(form=form)
    return Estimate(one["force"].values, one["covariance"].values)


# --- the network's forms, at the profile's points ---------------------------------------------------------------------


def _inputs(p: xr.Dataset, noise_factor: float) -> tuple[dict[str, Array], dict[str, Array]]:
    """What enters the forms, with standard errors: transverse traces where measured, and the positive top modes."""
    values: dict[str, Array] = {}
    errors: dict[str, Array] = {}

    def take(key: str, names: tuple[str, ...], factor: float = 1.0) -> None:
        for name in names:
            # An error that is stated but not known is not 0: such a variable is of no use.
            if name in p and all(np.isfinite(p[n].values).all() for n in (name, f"{name}_stderr") if n in p):
                dims = ("s", *(d for d in p[name].dims if d != "s"))
                values[key] = factor * p[name].transpose(*dims).values.astype(float)
                if f"{name}_stderr" in p:
                    errors[key] = factor * p[f"{name}_stderr"].transpose(*dims, missing_dims="ignore").values
                return

    take("trace", ("hessian_trace_transverse", "hessian_trace"))
    take("noise_trace", ("noise_trace_transverse", "noise_trace"), noise_factor)
    take("slope", ("hessian_trace_slope",))
    take("modes", ("hessian_eigenvalue",))
    take("mode_noise", ("noise_eigenvalue",), noise_factor)
    for key in ("trace", "noise_trace"):
        if key not in values:
            raise UserError(
                f"profile: expected a finite {key}, with its error, at every point of the path, found missing values"
            )
    if "modes" in values:
        keep = (values["modes"] > 0).all(axis=0)
        for store in (values, errors):
            for key in ("modes", "mode_noise"):
                if key in store:
                    store[key] = store[key][:, keep]
        if not keep.any():
            for key in ("modes", "mode_noise"):
                values.pop(key, None)
                errors.pop(key, None)
    return values, errors


def _where(condition: NDArray[np.bool_], compute: Callable[[np.ndarray], Array]) -> Array:
    """`compute(indices)` at the points where `condition` holds, NaN elsewhere."""
    result = np.full(len(condition), np.nan)
    good = np.flatnonzero(condition)
    if good.size:
        result[good] = compute(good)
    return result


def _proportional(v: Mapping[str, Array], slope: Array, rate: Mapping[str, float]) -> Array:
    c = v["noise_trace"] / v["trace"]
    good = (v["trace"] > 0) & (c >= 0)
    return _where(good, lambda i: theory.mean_force_curvature_proportional(slope[i], c[i], **rate))


def _trace_slope(v: Mapping[str, Array], difference: Array) -> Array:
    return v["slope"] if "slope" in v else difference @ v["trace"]


def _thermal(v: Mapping[str, Array], difference: Array, bulk_modes: float, rate: Mapping[str, float]) -> Array:
    modes, slopes = v["modes"], difference @ v["modes"]
    temperature = v["noise_trace"] * rate["learning_rate"] / (2 * (1 - rate["momentum"]))
    temperature = temperature / (modes.shape[-1] + bulk_modes)
    bulk = v["trace"] - modes.sum(-1)
    bulk_slope = _trace_slope(v, difference) - slopes.sum(-1)
    good = (modes > 0).all(-1) & (temperature >= 0) & (bulk > 0)

    def compute(i: np.ndarray) -> Array:
        top = theory.mean_force_thermal(modes[i], slopes[i], temperature[i])
        return top - 0.5 * temperature[i] * bulk_modes * bulk_slope[i] / bulk[i]

    return _where(good, compute)


def _split(v: Mapping[str, Array], difference: Array) -> tuple[Array, ...]:
    """Top modes and the rest: k_i, k_i', C_i (n, modes); trace, its slope and noise of the bulk (n,)."""
    modes, slopes = v["modes"], difference @ v["modes"]
    c = v["noise_trace"] / v["trace"]
    noise = np.clip(v["mode_noise"], 0.0, None) if "mode_noise" in v else np.clip(c, 0.0, None)[:, None] * modes
    bulk, bulk_noise = v["trace"] - modes.sum(-1), v["noise_trace"] - noise.sum(-1)
    return modes, slopes, noise, bulk, _trace_slope(v, difference) - slopes.sum(-1), bulk_noise


def _lyapunov(v: Mapping[str, Array], difference: Array, rate: Mapping[str, float]) -> Array:
    modes, slopes, noise, bulk, bulk_slope, bulk_noise = _split(v, difference)
    scale = rate["learning_rate"] / (2 * (1 - rate["momentum"]))

    def compute(i: np.ndarray) -> Array:
        rest = theory.mean_force_curvature_proportional(bulk_slope[i], bulk_noise[i] / bulk[i], **rate)
        return theory.mean_force(slopes[i], scale * noise[i] / modes[i]) + rest

    return _where((modes > 0).all(-1) & (bulk > 0) & (bulk_noise >= 0), compute)


def _finite_rate(v: Mapping[str, Array], difference: Array, rate: Mapping[str, float]) -> Array:
    modes, slopes, noise, bulk, bulk_slope, bulk_noise = _split(v, difference)
    limit = theory.stability_limit(np.clip(modes.max(-1), 1e-300, None), rate["momentum"])
    good = (modes > 0).all(-1) & (bulk > 0) & (bulk_noise >= 0) & (rate["learning_rate"] < limit)

    def compute(i: np.ndarray) -> Array:
        top = theory.mean_force_covariance(noise[i], modes[i], slopes[i], **rate)
        rest = theory.mean_force_curvature_proportional(bulk_slope[i], bulk_noise[i] / bulk[i], **rate)
        return top + rest

    return _where(good, compute)


def _finite_time(v: Mapping[str, Array], difference: Array, times: Array, rate: Mapping[str, float]) -> Array:
    modes, slopes, noise, bulk, bulk_slope, bulk_noise = _split(v, difference)
    eta, momentum = rate["learning_rate"], rate["momentum"]
    limit = theory.stability_limit(np.clip(modes.max(-1), 1e-300, None), momentum)
    good = (modes > 0).all(-1) & (bulk > 0) & (bulk_noise >= 0) & (eta < limit)
    steps = [round(float(t) * (1 - momentum) / eta) for t in times]

    def compute(i: np.ndarray) -> Array:
        softest = modes[i].min(-1, keepdims=True)
        k = np.concatenate([modes[i], softest], axis=-1)
        c = np.concatenate([noise[i], softest * (bulk_noise[i] / bulk[i])[:, None]], axis=-1)
        variance = np.mean([theory.variance_sgd_transient(k, c, eta, n, momentum) for n in steps], axis=0)
        return theory.mean_force(np.concatenate([slopes[i], bulk_slope[i][:, None]], axis=-1), variance)

    return _where(good, compute)
