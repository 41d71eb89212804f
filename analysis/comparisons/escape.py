"""Escapes: rates of two sets of first-passage times, some censored, and their survival curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy import special

from analysis.comparisons._pair import Alignment, pair
from analysis.comparisons.barrier import common_values, scan_of
from analysis.uncertainty import LEVEL, Array, Estimate, agreement, chi2_verdict
from entropy_sim.errors import UserError
from entropy_sim.survival import exponential_rate, kaplan_meier

_CURVE = 101  # points of the survival curves


def observed(dataset: xr.Dataset) -> tuple[Array, Array]:
    """Times of observation and whether they ended by an escape, of the replicas that did not diverge (n,)."""
    time, escaped = dataset["first_passage_time"].values.astype(float), dataset["escaped"].values > 0
    if "duration" in dataset:
        end = float(dataset["duration"])
    elif "survival_time" in dataset:
        end = float(np.nanmax(dataset["survival_time"].values))
    else:
        end = float(np.nanmax(time)) if escaped.any() else np.nan
    kept = ~(dataset["diverged"].values > 0) if "diverged" in dataset else np.ones(len(time), dtype=bool)
    kept &= escaped | np.isfinite(end)
    kept &= ~escaped | np.isfinite(time)
    return np.where(escaped, time, end)[kept], escaped[kept]


def log_rank(first: tuple[Array, Array], second: tuple[Array, Array]) -> float:
    """z of the log-rank test that both escape at one hazard, whatever its course: positive where the first is faster.

    ``z = sum (O_1 − E_1) / sqrt(sum V)`` over the times of escapes, ``E_1 = d n_1 / n``,
    ``V = d (n_1 / n)(n_2 / n)(n − d) / (n − 1)``. NaN where nobody escaped. Mantel (1966); Peto, Peto (1972).
    """
    (time, event), (other, other_event) = first, second
    at = np.unique(np.concatenate([time[event], other[other_event]]))
    if not at.size:
        return np.nan
    ours, theirs = (len(t) - np.searchsorted(np.sort(t), at, side="left") for t in (time, other))
    died_ours, died_theirs = (
        np.searchsorted(np.sort(t[e]), at, side="right") - np.searchsorted(np.sort(t[e]), at, side="left")
        for t, e in ((time, event), (other, other_event))
    )
    died, n = died_ours + died_theirs, ours + theirs
    variance = np.where(n > 1, died * ours * theirs * (n - died) / (n.astype(float) ** 2 * np.maximum(n - 1, 1)), 0.0)
    total = float(variance.sum())
    return float((died_ours - died * ours / n).sum() / np.sqrt(total)) if total > 0 else np.nan


def rate_ratio(
    first: tuple[Array, Array], second: tuple[Array, Array], level: float = LEVEL
) -> tuple[float, float, float]:
    """Ratio of two exponential rates with an interval of at least this level, from the numbers of escapes n_1, n_2 in
    the times of exposure E_1, E_2: given n_1 + n_2, n_1 is binomial with ``p = r E_1 / (r E_1 + E_2)``, and the
    interval is that of Clopper and Pearson (1934). Open at an end where one side saw no escape; NaN where neither did.
    """
    (n1, exposure1), (n2, exposure2) = ((int(e.sum()), float(t.sum())) for t, e in (first, second))
    if n1 + n2 == 0 or exposure1 <= 0 or exposure2 <= 0:
        return np.nan, np.nan, np.nan
    tail, scale = 0.5 * (1 - level), exposure2 / exposure1
    low = special.betaincinv(n1, n2 + 1, tail) if n1 else 0.0
    high = special.betaincinv(n1 + 1, n2, 1 - tail) if n2 else 1.0
    with np.errstate(divide="ignore"):
        return (
            float(np.divide(n1 * scale, n2)) if n2 else np.inf,
            float(scale * low / (1 - low)),
            float(np.divide(scale * high, 1 - high)) if high < 1 else np.inf,
        )


def between(
    first: xr.Dataset,
    second: xr.Dataset,
    *,
    transient: float = 0.0,
    alignment: Alignment = Alignment(),  # noqa: B008 (frozen)
) -> xr.Dataset:
    """Rates of two `escape` groups, logarithms compared, as the dataset of `_pair.pair` along the parameter that both
    scanned (one point without a scan), with `rate_ratio` (+ `_low`, `_high`; Clopper–Pearson), `log_rank_z` and
    the survival curves `survival_first`, `survival_second` (Kaplan–Meier, `_stderr` Greenwood's) with `survival_z`
    against `survival_time`.

    χ² is that of the log-rank z, which assumes no exponential. transient: time left out at the beginning of both, in
    the first's units. Errors of ln rate are 1 / √escapes; where nobody escaped it is not determined. Raises UserError
    for scans over different parameters or without a common value.
    """
    second = alignment.apply(second)
    scan = scan_of(first, "rate")
    if scan != scan_of(second, "rate"):
        raise UserError(f"escape: expected scans of the same parameter, found {scan} and {scan_of(second, 'rate')}")
    if scan is None:
        pairs = [(first, second)]
        coordinate = xr.DataArray([0], dims="point", attrs={"units": "1", "long_name": "setting"})
    else:
        values, indices = common_values(first[scan], second[scan])
        pairs = [(first.isel({scan: i}), second.isel({scan: j})) for i, j in indices]
        coordinate = xr.DataArray(values, dims=scan, attrs=dict(first[scan].attrs))
    each = [_one(observed(a), observed(b), transient) for a, b in pairs]
    stack = {name: np.stack([one[name] for one in each]) for name in each[0]}
    rates = [Estimate.independent(stack[f"log_{n}"], stack[f"log_{n}_stderr"]) for n in ("first", "second")]
    (dim,) = coordinate.dims
    result = pair(
        rates,
        {str(dim): coordinate},
        units="1",
        long_name="ln of the escape rate",
        alignment=alignment,
        amplitude=False,
        attrs={
            "transient": transient,
            "interval": f"at least {100 * LEVEL:.0f} % (Clopper–Pearson)",
            "chi_squared_from": "log_rank_z",
        },
    )
    z = stack["log_rank_z"]
    test = agreement(Estimate.independent(z, np.ones_like(z)), Estimate.independent(0 * z, 0 * z))
    for name, value in (
        ("chi_squared", test.chi_squared),
        ("degrees_of_freedom", test.degrees_of_freedom),
        ("p_value", test.p_value),
        ("overall_z", test.z),
    ):
        result[name] = ((), value, result[name].attrs)
    result.attrs["verdict"] = chi2_verdict(test)
    return _with_curves(result, stack, str(dim), first)


def _one(first: tuple[Array, Array], second: tuple[Array, Array], transient: float) -> dict[str, Any]:
    """Rates, tests and curves of one setting."""
    later = [(t[t > transient] - transient, e[t > transient]) for t, e in (first, second)]
    found: dict[str, Any] = {}
    ends = [float(t.max()) for t, _ in (first, second) if t.size]
    at = np.linspace(0.0, min(ends), _CURVE) if len(ends) == 2 else np.full(_CURVE, np.nan)
    for name, (time, event), (all_time, all_event) in zip(("first", "second"), later, (first, second), strict=True):
        rate = exponential_rate(time, event) if time.size else None
        known = rate is not None and rate.events > 0
        found[f"log_{name}"] = np.log(rate.rate) if rate is not None and known else np.nan
        found[f"log_{name}_stderr"] = rate.events**-0.5 if rate is not None and known else np.nan
        found[f"events_{name}"] = 0 if rate is None else rate.events
        found[f"censored_{name}"] = int(np.sum(event == 0))
        survived = kaplan_meier(all_time, all_event).at(at) if all_time.size and len(ends) == 2 else (0 * at, 0 * at)
        found[f"survival_{name}"], found[f"survival_{name}_stderr"] = survived
    difference = found["survival_first"] - found["survival_second"]
    error = np.hypot(found["survival_first_stderr"], found["survival_second_stderr"])
    with np.errstate(divide="ignore", invalid="ignore"):
        found["survival_z"] = np.where(error > 0, difference / error, np.nan)
    found["survival_time"] = at
    found["rate_ratio"], found["rate_ratio_low"], found["rate_ratio_high"] = rate_ratio(later[0], later[1])
    found["log_rank_z"] = log_rank(later[0], later[1]) if all(t.size for t, _ in later) else np.nan
    return found


def _with_curves(result: xr.Dataset, stack: dict[str, Array], dim: str, first: xr.Dataset) -> xr.Dataset:
    time = str(first["first_passage_time"].attrs.get("units", "parameter^2 / loss"))
    texts = {
        "rate_ratio": ("1", "escape rate, first / second"),
        "rate_ratio_low": ("1", "escape rate, first / second, lower end"),
        "rate_ratio_high": ("1", "escape rate, first / second, upper end"),
        "log_rank_z": ("1", "z of the log-rank test (> 0: the first escapes faster)"),
        "survival_time": (time, "time"),
        "survival_z": ("1", "(first − second) / standard error; neighbouring times are correlated"),
    }
    for side in ("first", "second"):
        texts |= {
            f"events_{side}": ("1", f"escapes, {side}"),
            f"censored_{side}": ("1", f"replicas that had not escaped, {side}"),
            f"survival_{side}": ("1", f"share that has not escaped, {side}"),
            f"survival_{side}_stderr": ("1", f"standard error of the share that has not escaped, {side}"),
        }
    for name, (units, text) in texts.items():
        dims = (dim, "curve_point") if stack[name].ndim == 2 else (dim,)
        result[name] = (dims, stack[name], {"units": units, "long_name": text})
    return result
