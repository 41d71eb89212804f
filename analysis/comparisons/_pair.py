"""What the comparisons share: two datasets brought onto common ground, and what is said of their difference."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from analysis.agreement import Row, number, plus_minus
from analysis.predict import spline_matrix
from analysis.uncertainty import LEVEL, Array, Estimate, Ratio, agreement, chi2_verdict, ratio
from entropy_sim import statistics
from entropy_sim.errors import UserError, require

SAME_LENGTH = 0.01  # two paths are the same if their lengths agree to this fraction
SAME_PLACE = 1e-6  # positions, times and scanned values are the same to this fraction of their range


def simulated(label: str) -> str:
    """The name of the form that is the simulation of a network's twin."""
    return f"simulated: {label}"


@dataclass(frozen=True)
class Alignment:
    """How the second of two datasets is brought onto the first: its lengths, losses and times are multiplied by these.

    s needs no alignment: it runs 0…1 along both paths. Every other quantity follows from its units, a power of loss
    times a power of parameter: a force is multiplied by loss / length, a time by length² / loss.
    """

    length: float = 1.0
    """one parameter unit of the second, in those of the first"""
    loss: float = 1.0
    """one unit of loss of the second, in those of the first"""
    time: float | None = None
    """one unit of time of the second, in those of the first (none: length² / loss, as the equation of motion has it)"""

    def __post_init__(self) -> None:
        for name in ("length", "loss", "time"):
            value = getattr(self, name)
            if value is not None:
                require(bool(np.isfinite(value) and value > 0), f"alignment.{name}", "a positive number", value)

    def factor(self, units: str) -> float:
        """What a quantity of these units is multiplied by. Raises UserError for units other than powers of both."""
        if self.time is not None and units in ("parameter^2 / loss", "loss / parameter^2"):
            return self.time if units.startswith("parameter") else 1 / self.time
        result, sign = 1.0, 1
        for token in re.findall(r"[^\s*]+", units):
            found = re.fullmatch(r"(loss|parameter|1)(?:\^(\d+))?", token)
            if token == "/":
                sign = -1
            elif found is None:
                raise UserError(f"units: expected powers of loss and parameter, found {units!r}")
            elif found[1] != "1":
                base = self.loss if found[1] == "loss" else self.length
                result *= base ** (sign * int(found[2] or 1))
        return result

    def apply(self, dataset: xr.Dataset) -> xr.Dataset:
        """The dataset in the other's units: variables, coordinates, and the lengths among the attributes."""
        if self == Alignment():
            return dataset
        scaled = {}
        for name, variable in dataset.variables.items():
            units = variable.attrs.get("units")
            if units is not None and np.issubdtype(variable.dtype, np.number) and self.factor(units) != 1.0:
                scaled[name] = (variable.dims, self.factor(units) * variable.values, variable.attrs)
        result = dataset.assign({k: v for k, v in scaled.items() if k in dataset.data_vars})
        result = result.assign_coords({k: v for k, v in scaled.items() if k in dataset.coords})
        if "arc_length" in result.attrs:
            result.attrs["arc_length"] = self.length * float(result.attrs["arc_length"])
        return result

    def attributes(self) -> dict[str, Any]:
        """What was done, for the result."""
        time = self.factor("parameter^2 / loss")
        return {
            "aligned_s": "normalised arc length, 0…1 along both paths",
            "aligned_length": self.length,
            "aligned_loss": self.loss,
            "aligned_time": time,
            "alignment": "the second's lengths, losses and times are multiplied by aligned_length, _loss and _time",
        }


def same_length(first: float | None, second: float | None) -> None:
    """Raise UserError if the paths are known to be of different length, per which forces cannot be compared."""
    if first is None or second is None or abs(first - second) <= SAME_LENGTH * first:
        return
    raise UserError(
        f"arc_length: expected paths of the same length, found {first:.4g} and {second:.4g} "
        f"(alignment.length = {first / second:.4g} stretches the second)"
    )


def onto(at: Array, s: Array, values: Estimate) -> Estimate:
    """Values at s (n,) at the positions `at` (m,) by a cubic spline through the finite ones, with the full covariance;
    where `at` is none of them, plus the difference from the straight line between neighbours as an error of its own.

    NaN next to a NaN and outside the range of s."""
    good = np.isfinite(values.value) & np.isfinite(values.stderr)
    if good.sum() < 2:
        return Estimate(np.full(len(at), np.nan), np.full((len(at), len(at)), np.nan))
    span = float(s[-1] - s[0])
    nearest = np.abs(at[:, None] - s[None]).argmin(1)
    same = np.abs(at - s[nearest]) <= SAME_PLACE * span
    right = np.clip(np.searchsorted(s, at), 1, len(s) - 1)
    beside_nan = np.where(same, ~good[nearest], ~(good[right - 1] & good[right]))
    x, kept = s[good], values.select(good)
    matrix = spline_matrix(x, at)
    straight = np.stack([np.interp(at, x, row) for row in np.eye(len(x))], axis=1)
    matrix[same] = straight[same]
    matrix[beside_nan] = np.nan
    found = kept.transform(matrix)
    error = np.where(same, 0.0, (matrix - straight) @ kept.value)
    return Estimate(found.value, found.covariance + np.diag(error**2))


def common_points(first: Array, second: Array) -> Array:
    """The points of the coarser grid that lie in the range of both. Raises UserError if there are none."""
    low, high = max(first[0], second[0]), min(first[-1], second[-1])
    margin = SAME_PLACE * max(first[-1] - first[0], second[-1] - second[0])
    inside = [x[(x >= low - margin) & (x <= high + margin)] for x in (first, second)]
    chosen = min(inside, key=len)
    if not len(chosen):
        raise UserError(
            f"s: expected ranges that overlap, found {first[0]:.3g}…{first[-1]:.3g} and "
            f"{second[0]:.3g}…{second[-1]:.3g}"
        )
    return np.clip(chosen, low, high)


def ratio_of(first: Estimate, second: Estimate) -> Ratio:
    """first / second over all points, errors on both sides (`uncertainty.ratio`), whichever of them is without."""
    if first.determined().any():
        return ratio(first, second)
    found = ratio(second, first)
    if not np.isfinite(found.value) or found.low * found.high <= 0:
        return Ratio(1 / found.value if found.value else np.nan, -np.inf, np.inf, found.chi_squared, 0)
    return Ratio(1 / found.value, 1 / found.high, 1 / found.low, found.chi_squared, found.degrees_of_freedom)


def pair(
    both: Sequence[Estimate],
    coordinates: Mapping[str, xr.DataArray],
    *,
    units: str,
    long_name: str,
    alignment: Alignment,
    constraints: int = 0,
    amplitude: bool = True,
    independent: float | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Two estimates (`both`: first, second) at the same places, the one dimension of `coordinates`, as a dataset.

    Along it: `first`, `second`, `difference` = first − second (each with `_stderr`), `covariance` of the difference,
    `z`, and `ratio` with its 68 % interval `ratio_low`, `ratio_high` (Fieller). Over all places: `overall_ratio`
    (+ `_low`, `_high`), `chi_squared` of the difference with its full covariance, `degrees_of_freedom`, `p_value`, and
    `overall_z`, the two-sided z of that p-value. NaN is what the data do not determine. `verdict` is an attribute.
    constraints: degrees of freedom used up by the alignment. amplitude: whether a ratio means anything (not up to a
    constant). independent: how many of the places are, where only that is known of their correlation.
    """
    first, second = both
    (dim,) = {str(d) for c in coordinates.values() for d in c.dims} or {"point"}
    difference = first.minus(second)
    zero = Estimate(np.zeros(len(difference.value)), np.zeros_like(difference.covariance))
    test = agreement(difference, zero, constraints=constraints, independent=independent)
    total = ratio_of(first, second) if amplitude else Ratio(np.nan, np.nan, np.nan, np.nan, 0)
    error = difference.stderr
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(error > 0, difference.value / error, np.nan)
        each = statistics.ratio(first.value, first.stderr, second.value, second.stderr, level=LEVEL)
    known = np.isfinite(difference.value)
    variables: dict[str, tuple[Any, Any, str, str]] = {
        "first": (dim, first.value, units, f"{long_name}, first"),
        "first_stderr": (dim, first.stderr, units, f"standard error of {long_name}, first"),
        "second": (dim, second.value, units, f"{long_name}, second"),
        "second_stderr": (dim, second.stderr, units, f"standard error of {long_name}, second"),
        "difference": (dim, difference.value, units, f"{long_name}, first − second"),
        "difference_stderr": (dim, error, units, "standard error of first − second"),
        "covariance": ((dim, f"{dim}_other"), difference.covariance, f"({units})^2", "covariance of first − second"),
        "z": (dim, z, "1", "(first − second) / standard error"),
    }
    if amplitude:
        variables |= {
            "ratio": (dim, np.where(known, each.value, np.nan), "1", "first / second"),
            "ratio_low": (dim, np.where(known, each.low, np.nan), "1", "first / second, lower end (68 %)"),
            "ratio_high": (dim, np.where(known, each.high, np.nan), "1", "first / second, upper end (68 %)"),
            "overall_ratio": ((), total.value, "1", "first / second, all places"),
            "overall_ratio_low": ((), total.low, "1", "first / second, all places, lower end (68 %)"),
            "overall_ratio_high": ((), total.high, "1", "first / second, all places, upper end (68 %)"),
        }
    variables |= {
        "chi_squared": ((), test.chi_squared, "1", "χ² of first − second"),
        "degrees_of_freedom": ((), test.degrees_of_freedom, "1", "degrees of freedom"),
        "p_value": ((), test.p_value, "1", "p-value of χ²"),
        "overall_z": ((), test.z, "1", "two-sided z of the p-value"),
    }
    data = {name: (dims, values, {"units": u, "long_name": t}) for name, (dims, values, u, t) in variables.items()}
    return xr.Dataset(
        data,
        dict(coordinates),
        attrs={**alignment.attributes(), "verdict": chi2_verdict(test), "intervals": "68 %", **(attrs or {})},
    )


def row(label: str, measurement: str, quantity: str, found: xr.Dataset) -> Row:
    """The line of the table that belongs to the dataset of a comparison."""
    verdict = str(found.attrs["verdict"])
    freedom, z = int(found["degrees_of_freedom"]), float(found["overall_z"])
    ratio, low, high = (
        float(found[f"overall_ratio{e}"]) if "overall_ratio" in found else np.nan for e in ("", "_low", "_high")
    )
    parts = []
    if np.isfinite(ratio):
        bounded = np.isfinite(low) and np.isfinite(high)
        parts.append(f"first/second = {plus_minus(ratio, 0.5 * (high - low)) if bounded else number(ratio)}")
    if np.isfinite(z):
        parts.append(f"χ² = {float(found['chi_squared']):.1f} for {freedom} degrees of freedom, z = {z:.1f}")
    else:
        parts.append("neither side has errors to hold the difference against")
    parts += [str(found.attrs["note"])] if "note" in found.attrs else []
    return Row(
        label,
        measurement,
        quantity,
        "formula",
        verdict,
        f"{verdict}: {'; '.join(parts)}",
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        expected=1.0,
        measured=ratio,
        measured_stderr=0.5 * (high - low),
        z=z,
        chi_squared=float(found["chi_squared"]),
        degrees_of_freedom=freedom,
        p_value=float(found["p_value"]),
    )
