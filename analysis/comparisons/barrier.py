"""Barriers: energetic and entropic heights of two runs, against the parameter that both scanned."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import xarray as xr

from analysis.agreement import Row, formula_row, number, plus_minus
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


def is_numeric(scan: xr.DataArray) -> bool:
    """Whether a scan is over numbers, not over names (of optimizers, of networks)."""
    return bool(np.issubdtype(scan.dtype, np.number))


def common_values(first: xr.DataArray, second: xr.DataArray) -> tuple[Array, list[tuple[int, int]]]:
    """Values that both scans took, and where each has them. Raises UserError if there are none."""
    if not is_numeric(first):
        both = [(i, j) for i, a in enumerate(first.values) for j, b in enumerate(second.values) if a == b]
        if not both:
            listed = (", ".join(map(str, one.values)) for one in (first, second))
            raise UserError(f"{first.name}: expected a name in common, found {' and '.join(listed)}")
        return first.values[[i for i, _ in both]], both
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
        try:
            at, indices = common_values(first[scan], second[scan])
            a = a.select(np.array([i for i, _ in indices]))
            b = b.select(np.array([j for _, j in indices]))
        except UserError:
            if not is_numeric(first[scan]):
                raise
            x, y = (one[scan].values.astype(float) for one in (first, second))
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


def against_theory(label: str, dataset: xr.Dataset) -> tuple[xr.Dataset | None, list[Row]]:
    """The entropic heights against the exact ones, which the simulator stores beside them, as the dataset of
    `_pair.pair` (first: measured, second: exact); nothing where there are none. What the quadrature on the run's places
    does to the exact height, `quadrature_error`, is added to it: both are integrals by the same rule."""
    if "entropic_barrier_exact" not in dataset:
        return None, []
    scan = scan_of(dataset, "entropic_barrier")
    expected = dataset["entropic_barrier_exact"]
    if "quadrature_error" in dataset:
        expected = expected + dataset["quadrature_error"]
    over = [d for d in expected.dims if d != scan]
    value = np.atleast_1d(expected.mean(over).values)
    exactly, measured = Estimate.independent(value, np.zeros(len(value))), heights(dataset, "entropic_barrier")
    line, _, _ = formula_row(label, "barrier", "entropic barrier, exact", measured, exactly, exact=True)
    coordinate = xr.DataArray([0], dims="point", attrs={"units": "1", "long_name": "setting"})
    coordinate = coordinate if scan is None else dataset[scan]
    found = pair(
        (measured, exactly),
        {str(coordinate.dims[0]): coordinate},
        units="loss",
        long_name="entropic barrier",
        alignment=Alignment(),
        attrs={"first": "measured", "second": "exact, by the same quadrature"},
    )
    return found, [line]


def _named(label: str, dataset: xr.Dataset, scan: str, variable: str) -> Row:
    """The heights by name, and the chi-squared of them all being equal where each has an error."""
    found = heights(dataset, variable)
    each = zip(dataset[scan].values, found.value, found.stderr, strict=True)
    text = ", ".join(f"{name} {plus_minus(v, e) if e > 0 else number(v)}" for name, v, e in each)
    good = found.determined()
    statement = text
    if good.sum() > 1:
        weights = 1 / found.stderr[good] ** 2
        mean = float((weights * found.value[good]).sum() / weights.sum())
        chi = float((weights * (found.value[good] - mean) ** 2).sum())
        statement += f"; all equal: χ² = {chi:.1f} for {int(good.sum()) - 1}"
    quantity = f"{variable.replace('_', ' ')} by {scan}"
    return Row(label, "barrier", quantity, "result", "", statement, units="loss")


def scans(label: str, tree: xr.DataTree, related: xr.DataTree | None = None) -> tuple[dict[str, xr.Dataset], list[Row]]:
    """What one run's scans say by themselves (`analysis.barriers`): which barrier vanishes first as training is shared,
    how the entropic one scales with another parameter, whether escapes are Arrhenius: results, without a verdict; and
    whether entropic heights are the exact ones, where these are known. related: the run with a profile or barriers of
    other runs on the same landscape, which tell what had to be climbed."""
    from analysis import arrhenius, barriers  # which read heights by this module

    groups: dict[str, xr.Dataset] = {}
    rows: list[Row] = []

    def add(name: str, quantity: str, measurement: str, compute: Callable[[], xr.Dataset]) -> None:
        try:
            found = compute()
        except UserError as error:
            rows.append(Row(label, measurement, quantity, "result", "not determined", f"not determined: {error}"))
            return
        groups[f"{name}/{label}"] = found
        rows.append(Row(label, measurement, quantity, "result", "", str(found.attrs["statement"])))

    if "barrier" in tree.children:
        measured = tree["barrier"].to_dataset()
        exact, lines = against_theory(label, measured)
        groups |= {} if exact is None else {f"barrier/{label}": exact}
        rows += lines
        scan = scan_of(measured, "entropic_barrier")
        if scan == "shared_iterations":
            add("vanishing", "which barrier vanishes first", "barrier", partial(barriers.vanishing, measured))
        elif scan is not None and not is_numeric(measured[scan]):
            rows += [_named(label, measured, scan, variable) for variable in HEIGHTS]
        elif scan is not None:
            words = f"entropic barrier against {scan.replace('_', ' ')}"
            add("scaling", words, "barrier", partial(barriers.scaling, measured))
    if "escape" in tree.children and "temperature" in tree["escape"].dims:
        add("arrhenius", "escape times against 1/T", "escape", partial(arrhenius.of_run, related or tree))
    return groups, rows
