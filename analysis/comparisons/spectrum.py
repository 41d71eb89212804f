"""Spectra of the Hessian: moments and distance of two of them, and whether one agrees with the measured trace."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.agreement import Row, formula_row, number, plus_minus
from analysis.comparisons._pair import Alignment, common_points, onto, pair
from analysis.predict import path_profile
from analysis.uncertainty import Array, Estimate
from entropy_sim.errors import UserError, require

MOMENTS = ("mean", "spread")
_BOUND = "bounds: errors of a density at different eigenvalues are correlated, here taken as fully so"
_PERMUTATIONS = 2000


def of_path(spectrum: xr.Dataset, path_kind: str | None = None) -> xr.Dataset:
    """One kind of path of a `spectrum` group (default: the first that is not the straight line), dims (s, eigenvalue),
    with `run` first where there are several. Raises UserError for a kind that it does not have."""
    result = spectrum
    if "path_kind" in spectrum.dims:
        kinds = [str(k) for k in spectrum["path_kind"].values]
        kind = path_kind or next((k for k in kinds if k != "line"), kinds[0])
        require(kind in kinds, "path_kind", f"one of {', '.join(kinds)}", kind)
        result = spectrum.isel(path_kind=kinds.index(kind), drop=True)
    return result.transpose("run", "s", "eigenvalue", missing_dims="ignore")


def moment(spectrum: xr.Dataset, which: str = "mean", path_kind: str | None = None) -> Estimate:
    """Mean ``∫ λ φ dλ`` (that is Tr H / D) or spread ``√(∫ λ² φ dλ − w²)`` (``√(Tr H² / D)``; w, the width by which
    every eigenvalue was broadened) of the density φ at each s.

    Its error is the scatter between runs, where there are two or more; else a bound from the density's standard error
    σ, ``∫ |∂m/∂φ| σ dλ``: those at different eigenvalues are correlated, how is not stored."""
    require(which in MOMENTS, "which", f"one of {', '.join(MOMENTS)}", which)
    ds = of_path(spectrum, path_kind)
    x, width = ds["eigenvalue"].values.astype(float), float(spectrum.attrs.get("gaussian_width", 0.0))
    power = x if which == "mean" else x**2

    def reduced(density: Array) -> Array:
        found = np.trapezoid(density * power, x, axis=-1)
        return found if which == "mean" else np.sqrt(np.maximum(found - width**2, 0.0))

    density = ds["density"].values.astype(float)
    if "run" in ds.dims and ds.sizes["run"] > 1:
        each = reduced(density)
        return Estimate.independent(each.mean(0), each.std(0, ddof=1) / np.sqrt(len(each)))
    density = density[0] if "run" in ds.dims else density
    value = reduced(density)
    error = np.full(value.shape, np.nan)
    if "density_stderr" in ds:
        stderr = ds["density_stderr"].values.astype(float)
        stderr = stderr[0] if "run" in ds.dims else stderr
        error = np.trapezoid(np.abs(power) * stderr, x, axis=-1)
        if which == "spread":
            with np.errstate(divide="ignore", invalid="ignore"):
                error = np.where(value > 0, error / (2 * value), np.nan)
    return Estimate.independent(value, error)


def wasserstein(first: Array, second: Array, x: Array) -> Array:
    """``W₁ = ∫ |F₁ − F₂| dλ`` of two densities (…, n) on eigenvalues x (n,), F their distribution functions: by how
    much eigenvalues have to move, on average. Vallender, Theory Probab. Appl. 18 (1974) 784."""
    step = np.diff(x)

    def cumulative(density: Array) -> Array:
        each = 0.5 * (density[..., 1:] + density[..., :-1]) * step
        return np.cumsum(each, -1) / each.sum(-1, keepdims=True)

    return (np.abs(cumulative(first) - cumulative(second)) * step).sum(-1)


def against_profile(
    label: str, spectrum: xr.Dataset, profile: xr.Dataset, parameters: float | None, same_data: bool
) -> tuple[xr.Dataset, list[Row]]:
    """Whether the spectrum's mean times the number of parameters is the trace of the profile, along s, as the dataset
    of `_pair.pair` (first: from the spectrum). A formula where both are of the same data; a result otherwise, for the
    traces of two subsets of a few hundred samples differ by more than their probes say.

    The attribute `statement` says also how the mean changes from the ends to the middle. Raises UserError without the
    number of parameters or a place in common.
    """
    curve = path_profile(profile)
    if parameters is None:
        raise UserError("parameters: expected their number among the attributes of the run, found none")
    require("hessian_trace" in curve, "profile", "a variable hessian_trace", list(map(str, curve.data_vars)))
    s, there = of_path(spectrum)["s"].values.astype(float), curve["s"].values.astype(float)
    at = common_points(s, there)
    error = curve["hessian_trace_stderr"].values if "hessian_trace_stderr" in curve else np.zeros(len(there))
    trace = onto(at, there, Estimate.independent(curve["hessian_trace"].values, error))
    mean = onto(at, s, moment(spectrum))
    scaled = Estimate(parameters * mean.value, parameters**2 * mean.covariance)
    found = pair(
        (scaled, trace),
        {"s": xr.DataArray(at, dims="s", attrs=dict(spectrum["s"].attrs))},
        units="loss / parameter^2",
        long_name="Hessian trace Tr H",
        alignment=Alignment(),
        attrs={"first": "parameters × mean of the spectral density", "second": "Hutchinson's probes", "error": _BOUND},
    )
    middle, ends = mean.value[np.argmin(np.abs(at - 0.5))], 0.5 * (mean.value[0] + mean.value[-1])
    words = f"Its mean, Tr H / D, is {number(ends)} at the ends and {number(middle)} at the middle."
    row, _, _ = formula_row(label, "spectrum", "Tr H from the spectral density", scaled, trace)
    if not same_data:
        text = (
            f"spectrum/probes = {plus_minus(row.ratio, 0.5 * (row.ratio_high - row.ratio_low))}, of different samples"
        )
        row = Row(label, "spectrum", row.quantity, "result", "", text, ratio=row.ratio,
                  ratio_low=row.ratio_low, ratio_high=row.ratio_high)  # fmt: skip
        found.attrs["verdict"] = "not determined"
    found.attrs["statement"] = f"{words} {row.quantity}: {row.statement}."
    return found, [row]


def between(
    first: xr.Dataset,
    second: xr.Dataset,
    which: str = "mean",
    *,
    path_kind: str | None = None,
    alignment: Alignment = Alignment(),  # noqa: B008 (frozen)
    seed: int = 0,
) -> xr.Dataset:
    """The mean or the spread of two `spectrum` groups along s (see `moment`), as the dataset of `_pair.pair`, and the
    `distance` (s) between the densities, Wasserstein's W₁ in units of the eigenvalues.

    Where both sides have runs, five or more together, `distance_p_value` is that of exchanging them between the sides
    (up to 2000 permutations) for the distance averaged over s; else it is not determined. Densities are interpolated
    linearly to the finer of the two grids of eigenvalues. Raises UserError for ranges of s that do not overlap.
    """
    second = alignment.apply(second)
    sides = [of_path(one, path_kind) for one in (first, second)]
    s, other = (one["s"].values.astype(float) for one in sides)
    at = common_points(s, other)
    moments = [moment(one, which, path_kind) for one in (first, second)]
    found = pair(
        (onto(at, s, moments[0]), onto(at, other, moments[1])),
        {"s": xr.DataArray(at, dims="s", attrs=dict(first["s"].attrs))},
        units="loss / parameter^2",
        long_name=f"{which} of the spectral density",
        alignment=alignment,
        attrs={
            "variable": which,
            "error": "scatter of runs" if all(o.sizes.get("run", 1) > 1 for o in sides) else _BOUND,
        },
    )
    densities, x = _on_one_grid(sides, at)
    distance = wasserstein(densities[0].mean(0), densities[1].mean(0), x)
    p = _exchanged(densities, x, seed)
    for name, value, units, text in (
        ("distance", ("s", distance), "loss / parameter^2", "Wasserstein distance of the spectral densities"),
        ("distance_p_value", ((), p), "1", "p-value of the mean distance, runs exchanged"),
    ):
        found[name] = (*value, {"units": units, "long_name": text})
    found.attrs["note"] = f"Wasserstein distance up to {number(float(np.nanmax(distance)))}" + (
        f" (p = {number(p)}, runs exchanged)" if np.isfinite(p) else ""
    )
    return found


def _on_one_grid(sides: list[xr.Dataset], at: Array) -> tuple[list[Array], Array]:
    """Densities (run, place, eigenvalue) on eigenvalues that hold both ranges, at the places `at`."""
    grids = [one["eigenvalue"].values.astype(float) for one in sides]
    step = min(float(np.diff(g).min()) for g in grids)
    low, high = min(g[0] for g in grids), max(g[-1] for g in grids)
    x = np.linspace(low, high, min(int(np.ceil((high - low) / step)) + 1, 20_000))
    result = []
    for one, grid in zip(sides, grids, strict=True):
        value = one["density"].values.astype(float).reshape(-1, one.sizes["s"], len(grid))
        there = one["s"].values.astype(float)
        places = np.stack([np.interp(at, there, row) for row in np.eye(len(there))], 1)
        each = np.stack([[np.interp(x, grid, row, 0.0, 0.0) for row in run] for run in value])
        result.append(np.einsum("ps,rsx->rpx", places, each))
    return result, x


def _exchanged(densities: list[Array], x: Array, seed: int) -> float:
    """Share of exchanges of runs between the sides that part them as much as they are (this one included)."""
    n, m = (len(d) for d in densities)
    if n + m < 5 or min(n, m) < 2:
        return np.nan
    together = np.concatenate(densities)
    random = np.random.default_rng(seed)
    choices = [np.array(c) for c in combinations(range(n + m), n)] if n + m <= 12 else []
    if not 0 < len(choices) <= _PERMUTATIONS:
        choices = [np.arange(n), *(random.permutation(n + m)[:n] for _ in range(_PERMUTATIONS))]

    def parted(ours: NDArray[np.int64]) -> float:
        theirs = np.setdiff1d(np.arange(n + m), ours)
        return float(wasserstein(together[ours].mean(0), together[theirs].mean(0), x).mean())

    observed = parted(np.arange(n))
    return float(np.mean([parted(c) >= observed * (1 - 1e-12) for c in choices]))
