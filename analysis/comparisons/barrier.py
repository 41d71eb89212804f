"""Barriers: energetic and entropic heights of two runs, against the parameter that both scanned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from analysis.agreement import Row
from analysis.comparisons._pair import SAME_PLACE, Alignment, onto, pair
from analysis.uncertainty import Array, Estimate
from entropy_sim.errors import UserError, require

HEIGHTS = ("energy_barrier", "entropic_barrier")


def scan_of(dataset: xr.Dataset, variable: str) -> str | None:
    """The dimension over which a group was scanned, None if it was not. Raises UserError for more than one."""
    dims = [str(d) for d in dataset[variable].dims if d not in ("replica", "run", "curve_point")]
    if len(dims) > 1:
        raise UserError(f"{variable}: expected a scan over one parameter, found {', '.join(dims)} (select first)")
    return dims[0] if dims else None


def common_values(first: xr.DataArray, second: xr.DataArray) -> tuple[Array, list[tuple[int, int]]]:
    """Values that both scans took, and where each has them. Raises UserError if there are none."""
    a, b = first.values.astype(float), second.values.astype(float)
    same = np.abs(a[:, None] - b) <= SAME_PLACE * np.abs(a[:, None])
    indices = [(int(i), int(j)) for i, j in np.argwhere(same)]
    if not indices:
        listed = (", ".join(f"{v:.4g}" for v in values) for values in (a, b))
        raise UserError(f"{first.name}: expected a value in common, found {' and '.join(listed)}")
    return a[[i for i, _ in indices]], indices


def heights(dataset: xr.Dataset, variable: str) -> Estimate:
    """A height along its scan, averaged over runs or replicas where there are several (their spread is the error)."""
    value = dataset[variable]
    over = [d for d in ("run", "replica") if d in value.dims]
    if over:
        count = value.notnull().sum(over).values
        mean = value.mean(over, skipna=True).values
        spread = value.std(over, skipna=True, ddof=1).values if count.max() > 1 else np.full(mean.shape, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(count > 1, spread / np.sqrt(count), np.nan)
        return Estimate.independent(np.atleast_1d(mean), np.atleast_1d(error))
    error = dataset[f"{variable}_stderr"].values if f"{variable}_stderr" in dataset else np.zeros(value.shape)
    return Estimate.independent(np.atleast_1d(value.values.astype(float)), np.atleast_1d(error))


def between(
    first: xr.Dataset,
    second: xr.Dataset,
    variable: str = "entropic_barrier",
    *,
    alignment: Alignment = Alignment(),  # noqa: B008 (frozen)
) -> xr.Dataset:
    """One height of two `barrier` groups as the dataset of `_pair.pair`, along the scanned parameter.

    At the values both have; where they share none, the finer scan is interpolated to the other's values (cubic spline,
    its difference from the straight line as an error of its own), never extrapolated. Raises UserError for scans over
    different parameters, or ranges that do not overlap.
    """
    require(variable in HEIGHTS, "variable", f"one of {', '.join(HEIGHTS)}", variable)
    second = alignment.apply(second)
    scan, other = scan_of(first, variable), scan_of(second, variable)
    if scan != other:
        raise UserError(f"barrier: expected scans of the same parameter, found {scan} and {other}")
    a, b = heights(first, variable), heights(second, variable)
    aligned = "the same values"
    if scan is None:
        coordinate = xr.DataArray([0], dims="point", attrs={"units": "1", "long_name": "setting"})
    else:
        x, y = (one[scan].values.astype(float) for one in (first, second))
        try:
            at, indices = common_values(first[scan], second[scan])
            a = a.select(np.array([i for i, _ in indices]))
            b = b.select(np.array([j for _, j in indices]))
        except UserError:
            inside = [v[(v >= max(x[0], y[0])) & (v <= min(x[-1], y[-1]))] for v in (x, y)]
            at = min(inside, key=len) if all(map(len, inside)) else max(inside, key=len)
            if not len(at) or len(x) < 2 or len(y) < 2:
                raise
            a, b = onto(at, x, a), onto(at, y, b)
            aligned = f"interpolated (cubic spline in {scan})"
        coordinate = xr.DataArray(at, dims=scan, attrs=dict(first[scan].attrs))
    return pair(
        (a, b),
        {str(coordinate.dims[0]): coordinate},
        units="loss",
        long_name=str(first[variable].attrs.get("long_name", variable)),
        alignment=alignment,
        attrs={"variable": variable, "aligned_parameter": aligned},
    )


def scans(label: str, tree: xr.DataTree) -> tuple[dict[str, xr.Dataset], list[Row]]:
    """What one run's scans say by themselves (`analysis.barriers`): which barrier vanishes first as training is shared,
    how the entropic one scales with another parameter, whether escapes are Arrhenius. Results, without a verdict."""
    from analysis import barriers  # which reads heights by this module

    groups: dict[str, xr.Dataset] = {}
    rows: list[Row] = []

    def add(name: str, quantity: str, measurement: str, compute: Callable[[xr.Dataset], xr.Dataset]) -> None:
        try:
            found = compute(tree[measurement].to_dataset())
        except UserError as error:
            rows.append(Row(label, measurement, quantity, "result", "not determined", f"not determined: {error}"))
            return
        groups[f"{name}/{label}"] = found
        rows.append(Row(label, measurement, quantity, "result", "", str(found.attrs["statement"])))

    if "barrier" in tree.children and (scan := scan_of(tree["barrier"].to_dataset(), "entropic_barrier")) is not None:
        if scan == "shared_iterations":
            add("vanishing", "which barrier vanishes first", "barrier", barriers.vanishing)
        else:
            add("scaling", f"entropic barrier against {scan.replace('_', ' ')}", "barrier", barriers.scaling)
    if "escape" in tree.children and "temperature" in tree["escape"].dims:
        add("arrhenius", "escape times against 1/T", "escape", barriers.arrhenius)
    return groups, rows
