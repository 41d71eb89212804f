"""What barriers do: which vanishes first as training is shared, how they scale, and whether escapes are Arrhenius.

The claim: as two children share more of their training (`shared_iterations` k), the energetic barrier between them
vanishes at smaller k than the entropic one. Everything here takes a `barrier` or `escape` group of either side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from analysis.agreement import number, plus_minus
from analysis.comparisons.barrier import heights, scan_of
from analysis.uncertainty import SIGMAS, Array
from entropy_sim.errors import UserError, require

LEVEL = 0.6827
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
    which it does not vanish in the scan. `lag` = crossing of the entropic − that of the energetic barrier (+ `_low`,
    `_high`), `energetic_first`, the share of resamples in which the energetic one vanishes first. Bootstrap: runs or
    replicas are resampled where there are at least 5, both barriers together; else heights are drawn from their
    standard errors. The attribute `statement` says it in words, `verdict` whether 3 standard errors bear it out.
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
    return drawn, "heights drawn from their standard errors"


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
    verdict = "energetic first" if first > 1 - edge else "entropic first" if first < edge else "not determined"
    limit = f"{number(threshold)} loss" if threshold else f"{fraction:g} of the first height"

    def place(kind: str) -> str:
        one = found.sel(kind=kind)
        value, error = float(one["crossing"]), float(one["crossing_stderr"])
        if np.isinf(value):
            return f"{kind} barrier still above {limit} at {scan.replace('_', ' ')} = {number(x[-1])}"
        return f"{kind} barrier falls to {limit} at {scan.replace('_', ' ')} = {plus_minus(value, error)}"

    by = f", later by {number(low)} … {number(high)} (68 %)" if np.isfinite([low, high]).all() else ""
    statement = f"{place('energetic')}; {place('entropic')}{by}; {verdict} (in {100 * first:.4g} % of resamples)"
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
    found = _line(x, np.log(one.value[good]), one.stderr[good] / one.value[good])
    names = {"exponent": "slope", "exponent_stderr": "slope_stderr"}
    names |= {n: n for n in ("chi_squared", "degrees_of_freedom")}
    result = xr.Dataset({n: ((), found[k], {"units": "1", "long_name": n}) for n, k in names.items()})
    words = plus_minus(found["slope"], found["slope_stderr"])
    known = np.isfinite(found["slope"])
    text = f"height ∝ {scan.replace('_', ' ')}^p with p = {words}" if known else "not determined: fewer than 2 heights"
    return result.assign_attrs(parameter=scan, variable=variable, statement=text)


def _line(x: Array, y: Array, stderr: Array) -> dict[str, float]:
    """Weighted straight line; NaN with fewer than two points."""
    if len(x) < 2 or np.ptp(x) == 0:
        nothing = ("slope", "slope_stderr", "intercept", "chi_squared")
        return {**dict.fromkeys(nothing, np.nan), "degrees_of_freedom": 0}
    w = stderr**-2.0
    mean_x, mean_y = (w * x).sum() / w.sum(), (w * y).sum() / w.sum()
    spread = (w * (x - mean_x) ** 2).sum()
    slope = (w * (x - mean_x) * y).sum() / spread
    chi2 = (w * (y - mean_y - slope * (x - mean_x)) ** 2).sum()
    return {
        "slope": float(slope),
        "slope_stderr": float(spread**-0.5),
        "intercept": float(mean_y - slope * mean_x),
        "chi_squared": float(chi2),
        "degrees_of_freedom": len(x) - 2,
    }


def arrhenius(escape: xr.Dataset, energy_barrier: float | None = None) -> xr.Dataset:
    """Slope of ln τ against 1/T over an `escape` scan of the temperature, and whether it is that of an energy barrier.

    With the diffusion along the path D_y taken out, ln(τ D_y): slope 0 for an entropic barrier (as T/(k ℓ²) → 0), about
    ``ΔU − <T>`` for an energetic barrier ΔU. Variables: `slope` (+ `_stderr`, loss) of ln(τ D_y), `slope_log_time` of
    ln τ, `chi_squared` of the straight line, and with `energy_barrier` ΔU > 0: `fraction` = slope / (ΔU − <T>)
    (+ `_stderr`), 0 for an entropic and 1 for an energetic barrier. `verdict`: "not Arrhenius" where 1 is excluded by 3
    standard errors and less than half is left, "Arrhenius" where 0 is and more than half is left; else not determined.
    Without ΔU: whether the slope is 0. Raises UserError for a scan of something else, or without the times' errors.
    """
    scan = scan_of(escape, "rate")
    if scan != "temperature" or escape.sizes["temperature"] < 2:
        raise UserError(f"escape: expected a scan of two or more temperatures, found {scan or 'no scan'}")
    require(energy_barrier is None or energy_barrier > 0, "energy_barrier", "a positive height", energy_barrier)
    temperature = escape["temperature"].values.astype(float)
    time = escape["mean_first_passage_time"].values.astype(float)
    stderr = escape["mean_first_passage_time_stderr"].values.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        log, error = np.log(time), stderr / time
    along = escape["diffusion_along_path"].values if "diffusion_along_path" in escape else temperature
    good = np.isfinite(log) & np.isfinite(error) & (error > 0) & np.isfinite(along)
    inverse = 1 / temperature[good]
    scaled = _line(inverse, log[good] + np.log(along[good]), error[good])
    plain = _line(inverse, log[good], error[good])
    variables = {
        "slope": (scaled["slope"], "loss", "slope of ln(τ D) against 1/T"),
        "slope_stderr": (scaled["slope_stderr"], "loss", "standard error of the slope of ln(τ D) against 1/T"),
        "slope_log_time": (plain["slope"], "loss", "slope of ln τ against 1/T"),
        "slope_log_time_stderr": (plain["slope_stderr"], "loss", "standard error of the slope of ln τ against 1/T"),
        "intercept": (scaled["intercept"], "1", "ln(τ D) at infinite temperature"),
        "chi_squared": (scaled["chi_squared"], "1", "χ² of the straight line in ln(τ D)"),
        "degrees_of_freedom": (scaled["degrees_of_freedom"], "1", "degrees of freedom"),
    }
    slope, slope_stderr = scaled["slope"], scaled["slope_stderr"]
    words = f"ln(τ D) has slope {plus_minus(slope, slope_stderr)} in 1/T"
    if energy_barrier is None or not np.isfinite(slope):
        known = np.isfinite(slope)
        zero = known and abs(slope) <= SIGMAS * slope_stderr
        verdict = "not determined" if not known else "no slope" if zero else "a slope"
    else:
        expected = energy_barrier - float(np.average(temperature[good], weights=error[good] ** -2.0))
        fraction, spread = slope / expected, abs(slope_stderr / expected)
        variables["fraction"] = (fraction, "1", "slope / that of the energetic barrier")
        variables["fraction_stderr"] = (spread, "1", "standard error of the fraction")
        verdict = "not determined"
        if 1 - fraction > SIGMAS * spread and fraction < 0.5:
            verdict = "not Arrhenius"
        elif fraction > SIGMAS * spread and fraction > 0.5:
            verdict = "Arrhenius"
        words += f", {plus_minus(fraction, spread)} of the {number(expected)} of an energy barrier of that height"
    data = {n: ((), v, {"units": u, "long_name": t}) for n, (v, u, t) in variables.items()}
    return xr.Dataset(data, attrs={"verdict": verdict, "statement": f"{verdict}: {words}"})
