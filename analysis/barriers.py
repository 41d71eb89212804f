"""What barriers do: which vanishes first as training is shared, and how they scale.

The claim: as two children share more of their training (`shared_iterations` k), the energetic barrier between them
vanishes at smaller k than the entropic one. Everything here takes a `barrier` group of either side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from analysis.agreement import number, plus_minus
from analysis.comparisons.barrier import heights, scan_of
from analysis.uncertainty import LEVEL, Array, straight_line
from entropy_sim.errors import UserError, require

SIGNIFICANT = 2.0  # standard errors by which the first height must exceed 0 for the barrier to be there
KINDS = {"energetic": "energy_barrier", "entropic": "entropic_barrier"}


def first_below(x: Array, height: Array, threshold: npt.ArrayLike) -> Array:
    """Where curves (..., n) over x (n,), straight between their points, first fall to `threshold` (...): x[0] if they
    begin there, ``inf`` if they never do; points that are NaN are passed over by a straight line.

    A noisy curve that hovers about its threshold crosses early; `decay_below` uses all points instead."""
    value = np.atleast_2d(np.asarray(height, float))
    limit = np.broadcast_to(np.asarray(threshold, float), np.shape(height)[:-1]).ravel()
    found = np.full(len(value), np.inf)
    for i, (row, level) in enumerate(zip(value.reshape(-1, len(x)), limit, strict=True)):
        good = np.isfinite(row)
        if not good.any() or not np.isfinite(level):
            found[i] = np.nan
            continue
        at, h = x[good], row[good]
        below = np.flatnonzero(h <= level)
        if below.size:
            j = int(below[0])
            found[i] = at[0] if j == 0 else at[j - 1] + (at[j] - at[j - 1]) * (h[j - 1] - level) / (h[j - 1] - h[j])
    return found.reshape(np.shape(height)[:-1])


def decay_below(x: Array, height: Array, stderr: Array, threshold: npt.ArrayLike) -> tuple[Array, Array]:
    """Where the fit ``height = A exp(−x/κ)`` to curves (..., n) falls to `threshold` (...), and κ.

    Weighted least squares of ln(height), with error stderr / height, over the points above twice their error; ``inf``
    for curves that do not decay, NaN with fewer than two points. stderr (n,); zeros count as equal weights."""
    value = np.asarray(height, float)
    error = np.where(stderr > 0, stderr, np.nan)
    equal = bool(np.isnan(error).all())
    with np.errstate(divide="ignore", invalid="ignore"):
        use = np.isfinite(value) & (value > 0) & ((value > 2 * stderr) | equal)
        weight = np.where(use, 1.0 if equal else (value / error) ** 2, 0.0)
        weight = np.where(np.isfinite(weight), weight, 0.0)
        log = np.where(use, np.log(np.where(use, value, 1.0)), 0.0)
        total = weight.sum(-1)
        mean_x, mean_y = (weight * x).sum(-1) / total, (weight * log).sum(-1) / total
        dx = x - mean_x[..., None]
        slope = (weight * dx * log).sum(-1) / (weight * dx**2).sum(-1)
        kappa = -1 / slope
        at = mean_x + kappa * (mean_y - np.log(threshold))
        at = np.where(slope < 0, np.maximum(at, x[0]), np.inf)
    enough = (weight > 0).sum(-1) >= 2
    return np.where(enough, at, np.nan), np.where(enough, np.where(slope < 0, kappa, np.inf), np.nan)


def vanishing(
    barrier: xr.Dataset,
    *,
    fraction: float = 0.1,
    threshold: float | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> xr.Dataset:
    """At which value of the scanned parameter each barrier vanishes: k* where it falls to `fraction` of its own height
    at the first value (or to `threshold`, in units of loss, the same for both).

    Variables over `kind` (energetic, entropic): `crossing` (straight between the points) and `decay_crossing` (fitted
    exponential), each with `_stderr`, `_low`, `_high` (68 %), `decay_length`, and `never`, the share of resamples in
    which it does not vanish in the scan; all NaN for a barrier that is not there at the first value (within 2 standard
    errors of 0); and the heights, `height` (kind, scan; + `_stderr`). `lag` = crossing of the entropic − that of the
    energetic barrier (+ `_low`, `_high`), `energetic_first`, the share of resamples in which the energetic one vanishes
    first. Bootstrap: runs or replicas are resampled where there are at least 5, both barriers together; else heights
    are drawn from their standard errors. The attribute `statement` says it in words, `verdict` whether 3 standard
    errors bear it out.
    Raises UserError for a group without a scan of 3 or more values.
    """
    require(0 < fraction < 1, "fraction", "a number between 0 and 1", fraction)
    require(threshold is None or threshold > 0, "threshold", "a positive height in units of loss", threshold)
    scan = scan_of(barrier, "entropic_barrier")
    if scan is None or barrier.sizes[scan] < 3:
        raise UserError("barrier: expected a scan of 3 or more values, found " + ((scan and "fewer") or "none"))
    x = barrier[scan].values.astype(float)
    drawn, source = _resampled(barrier, seed, resamples)
    data: dict[str, list[Any]] = {}
    crossings = []
    for variable in KINDS.values():
        mean, stderr = heights(barrier, variable).value, np.nan_to_num(heights(barrier, variable).stderr)
        each = drawn[variable]
        if not mean[0] > SIGNIFICANT * stderr[0]:  # nothing is there that could vanish
            mean, each = np.full_like(mean, np.nan), np.full_like(each, np.nan)
        limit, limits = (
            (threshold, np.full(len(each), threshold)) if threshold else (fraction * mean[0], fraction * each[:, 0])
        )
        straight = first_below(x, each, limits)
        decayed, lengths = decay_below(x, each, stderr, np.maximum(limits, 1e-300))
        crossings.append(straight)
        centre, centre_length = decay_below(x, mean, stderr, max(float(limit or 0.0), 1e-300))
        vanished = not mean[0] > limit > 0  # there is no barrier to begin with
        for name, value, values in (
            ("crossing", float(first_below(x, mean, float(limit or 0.0))), straight),
            ("decay_crossing", float(centre), decayed),
            ("decay_length", float(centre_length), lengths),
        ):
            low, high = _quantiles(values)
            data.setdefault(name, []).append(np.nan if vanished and name != "crossing" else value)
            data.setdefault(f"{name}_low", []).append(low)
            data.setdefault(f"{name}_high", []).append(high)
            data.setdefault(f"{name}_stderr", []).append(0.5 * (high - low) if np.isfinite(high) else np.nan)
        data.setdefault("never", []).append(float(np.mean(np.isinf(straight))))
        data.setdefault("threshold", []).append(limit)
    units = str(barrier[scan].attrs.get("units", "1"))
    text = {
        "crossing": (units, "where the barrier vanishes"),
        "decay_crossing": (units, "where its fitted decay vanishes"),
        "decay_length": (units, "length of its fitted decay"),
    }
    found = xr.Dataset(coords={"kind": list(KINDS)})
    for name, column in data.items():
        base = name.removesuffix("_stderr").removesuffix("_low").removesuffix("_high")
        unit, words = text.get(base, ("loss" if name == "threshold" else "1", name))
        words += {"stderr": ", standard error", "low": ", lower end (68 %)", "high": ", upper end (68 %)"}.get(
            name.removeprefix(f"{base}_"), ""
        )
        found[name] = ("kind", np.array(column, float), {"units": unit, "long_name": words})
    found = found.assign_coords({scan: barrier[scan]})
    for name, pick in (("height", "value"), ("height_stderr", "stderr")):
        each = np.array([getattr(heights(barrier, variable), pick) for variable in KINDS.values()])
        words = "height of the barrier" if name == "height" else "standard error of the height"
        found[name] = (("kind", scan), each, {"units": "loss", "long_name": words})
    found.attrs["same_threshold"] = int(threshold is not None)
    return _with_lag(found, crossings, x, scan, units, fraction, threshold, source)


def _resampled(barrier: xr.Dataset, seed: int, resamples: int) -> tuple[dict[str, Array], str]:
    """Heights (resamples, n) of both barriers, and how they were drawn."""
    random = np.random.default_rng(seed)
    over = next((d for d in ("run", "replica") if all(d in barrier[v].dims for v in KINDS.values())), None)
    if over is not None and barrier.sizes[over] >= 5:
        chosen = random.integers(barrier.sizes[over], size=(resamples, barrier.sizes[over]))
        drawn = {}
        for variable in KINDS.values():
            others = [d for d in barrier[variable].dims if d not in (over, scan_of(barrier, variable))]
            values = barrier[variable].mean(others).transpose(over, ...).values.astype(float)
            with np.errstate(invalid="ignore"):
                drawn[variable] = np.nanmean(values[chosen], axis=1)
        return drawn, f"bootstrap over {barrier.sizes[over]} {over}s"
    drawn = {}
    for variable in KINDS.values():
        one = heights(barrier, variable)
        drawn[variable] = one.value + np.nan_to_num(one.stderr) * random.standard_normal((resamples, len(one.value)))
    source = "heights drawn from their standard errors"
    exact = [kind for kind, name in KINDS.items() if not np.nan_to_num(heights(barrier, name).stderr).any()]
    source += f"; the {' and '.join(exact)} heights, whose error is not known, taken as exact" if exact else ""
    return drawn, source


def _quantiles(values: Array) -> tuple[float, float]:
    """68 % interval, counting what never happens as infinite."""
    good = np.sort(values[~np.isnan(values)])
    if not good.size:
        return np.nan, np.nan
    low, high = (good[min(int(q * good.size), good.size - 1)] for q in (0.5 * (1 - LEVEL), 0.5 * (1 + LEVEL)))
    return float(low), float(high)


def _with_lag(
    found: xr.Dataset,
    crossings: list[Array],
    x: Array,
    scan: str,
    units: str,
    fraction: float,
    threshold: float | None,
    source: str,
) -> xr.Dataset:
    energetic, entropic = crossings
    both = np.isinf(energetic) & np.isinf(entropic)
    with np.errstate(invalid="ignore"):
        lag = np.where(both, np.nan, entropic - energetic)
    low, high = _quantiles(lag)
    first = float(np.mean(np.where(np.isnan(lag), 0.5, (lag > 0) + 0.5 * (lag == 0))))
    centre = found["crossing"].values
    with np.errstate(invalid="ignore"):
        middle = float(centre[1] - centre[0]) if not np.isinf(centre).all() else np.nan
    for name, value, unit, words in (
        ("lag", middle, units, "entropic − energetic crossing"),
        ("lag_low", low, units, "entropic − energetic crossing, lower end (68 %)"),
        ("lag_high", high, units, "entropic − energetic crossing, upper end (68 %)"),
        ("energetic_first", first, "1", "share of resamples in which the energetic barrier vanishes first"),
    ):
        found[name] = ((), value, {"units": unit, "long_name": words})
    edge = 0.00135  # one-sided, of 3 standard errors
    if np.isnan(lag).all() and not both.all():
        first = np.nan
    verdict = "energetic first" if first > 1 - edge else "entropic first" if first < edge else "not determined"
    limit = f"{number(threshold)} loss" if threshold else f"{fraction:g} of the first height"

    def place(kind: str) -> str:
        one = found.sel(kind=kind)
        value, error = float(one["crossing"]), float(one["crossing_stderr"])
        if np.isnan(value):
            return f"{kind} barrier: none established at the first value"
        if np.isinf(value):
            return f"{kind} barrier still above {limit} at {scan.replace('_', ' ')} = {number(x[-1])}"
        return f"{kind} barrier falls to {limit} at {scan.replace('_', ' ')} = {plus_minus(value, error)}"

    by = f"; entropic − energetic {number(low)} … {number(high)} (68 %)" if np.isfinite([low, high]).all() else ""
    statement = f"{place('energetic')}; {place('entropic')}{by}; {verdict}"
    statement += f" (energetic first in {100 * first:.4g} % of resamples)" if np.isfinite(first) else ""
    statement += f"; {source.partition('; ')[2]}" if "; " in source else ""
    found.attrs |= {"parameter": scan, "resampling": source, "verdict": verdict, "statement": statement}
    return found


def scaling(barrier: xr.Dataset, variable: str = "entropic_barrier") -> xr.Dataset:
    """Exponent p of ``height ∝ x^p`` by a weighted straight line in logarithms: 1 for an entropic barrier against the
    temperature or the dimension, 0 for an energetic one. Variables `exponent` (+ `_stderr`), `chi_squared`,
    `degrees_of_freedom`. NaN where fewer than two heights are positive and have errors."""
    scan = scan_of(barrier, variable)
    if scan is None:
        raise UserError(f"{variable}: expected a scan over one parameter, found none")
    one = heights(barrier, variable)
    good = one.determined() & (one.value > 0)
    x = np.log(barrier[scan].values.astype(float)[good])
    found = straight_line(x, np.log(one.value[good]), one.stderr[good] / one.value[good])
    names = {"exponent": "slope", "exponent_stderr": "slope_stderr"}
    names |= {n: n for n in ("chi_squared", "degrees_of_freedom")}
    result = xr.Dataset({n: ((), found[k], {"units": "1", "long_name": n}) for n, k in names.items()})
    words = plus_minus(found["slope"], found["slope_stderr"])
    known = np.isfinite(found["slope"])
    text = f"height ∝ {scan.replace('_', ' ')}^p with p = {words}" if known else "not determined: fewer than 2 heights"
    return result.assign_attrs(parameter=scan, variable=variable, statement=text)
