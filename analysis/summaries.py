"""Each measurement of a run reduced to numbers with errors: what comparisons, tables and figures have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from analysis.runs import over_runs
from analysis.uncertainty import Array, Estimate
from entropy_sim.errors import UserError, require
from entropy_sim.schema import GROUPS
from entropy_sim.statistics import cumulative_integral

#: Of a value, what rounding alone may make replicas differ by that are the same.
_ROUNDING = 1e-12


def measurement(tree: xr.DataTree, name: str) -> xr.Dataset | None:
    """The dataset of one measurement, or None if the run lacks it. Scan dimensions of length 1 are dropped, and several
    runs made one (`runs.over_runs`).

    Raises UserError for a scan over several values: one comparison is of one setting.
    """
    if name not in tree.children:
        return None
    dataset = over_runs(name, tree[name].to_dataset())
    for dim in GROUPS[name].extra_dims:
        if dim in dataset.dims and dim != "control":
            if dataset.sizes[dim] != 1:
                raise UserError(f"{name}: expected one value of {dim}, found {dataset.sizes[dim]} (select one first)")
            dataset = dataset.squeeze(dim, drop=False)
    return dataset


def the_measurement(tree: xr.DataTree, name: str) -> xr.Dataset:
    """`measurement`, of a run that must have it. Raises UserError otherwise."""
    found = measurement(tree, name)
    if found is None:
        raise UserError(f"{name}: expected a run with this group, found {', '.join(map(str, tree.children)) or 'none'}")
    return found


def setting(name: str, dataset: xr.Dataset | None, attrs: Mapping[Any, Any]) -> float | None:
    """A number such as `learning_rate`: from the measurement's coordinates or attributes, the run's attributes, or, if
    it stands there with one value only, from anywhere in the `config` JSON; None if it is not told."""
    if dataset is not None and name in dataset.coords and dataset[name].size == 1:
        return float(dataset[name].item())
    for told in (dataset.attrs if dataset is not None else {}, attrs):
        if name in told:
            require(np.size(told[name]) == 1, name, "one value", told[name])
            return float(np.ravel(told[name])[0])
    found = {float(v) for k, v in walk(configuration(attrs)) if k == name and isinstance(v, (int, float))}
    return found.pop() if len(found) == 1 else None


def configuration(attrs: Mapping[Any, Any]) -> Any:
    """The `config` attribute as Python objects; an empty dictionary if it is not JSON."""
    try:
        return json.loads(attrs.get("config", "{}"))
    except (json.JSONDecodeError, TypeError):
        return {}


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every (name, value) pair at any depth of a configuration."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def arc_length(tree: xr.DataTree) -> float | None:
    """Length of the path in units of the parameters, None if the run does not tell."""
    if "path" in tree.children and "arc_length" in tree["path"].data_vars:
        found = over_runs("path", tree["path"].to_dataset())
        known = np.isfinite(found["arc_length"].values)
        y, s = found["arc_length"].values[known], found["s"].values[known]
        if known.any() and np.ptp(s) > 0 and np.ptp(y) > 0:  # the points of a path need not reach its ends
            return float(np.ptp(y) / np.ptp(s))
    lengths = [float(tree[name].attrs["arc_length"]) for name in tree.children if "arc_length" in tree[name].attrs]
    return next((length for length in lengths if np.isfinite(length) and length > 0), None)


# --- mean force -----------------------------------------------------------------------------------------------------


def mean_force(dataset: xr.Dataset) -> xr.Dataset:
    """The force per arc length at each s, averaged over replicas and time windows, dims (s).

    Variables: `force` (with noise), `control` (without), `net` = force − control, each with `_stderr`, and
    `replica_scatter`, the ratio of the scatter between replicas to what the stated errors allow (pooled over s), by
    which the errors are multiplied where it exceeds 1. Without stated errors the scatter between replicas is the error.
    Diverged replicas are left out; a run without control has no `control` and its `net` is the force.
    """
    force = dataset["mean_force"].transpose("s", "replica", "time_window")
    force = force.where(np.isfinite(force))
    if "diverged" in dataset:
        force = force.where(dataset["diverged"] == 0)
    stated = dataset.get("mean_force_stderr")
    value, stderr, scatter = _average(force, stated, "replica")
    found = {"force": ("s", value), "force_stderr": ("s", stderr), "replica_scatter": ((), scatter)}
    net, net_stderr = value, stderr
    if "mean_force_control" in dataset:
        control = dataset["mean_force_control"].transpose("s", "control_replica", "time_window")
        control = control.where(np.isfinite(control))
        control_value, control_stderr, _ = _average(
            control, dataset.get("mean_force_control_stderr"), "control_replica"
        )
        # A control without noise is deterministic: one replica of it has no error, and needs none.
        control_stderr = np.where(np.isfinite(control_value) & ~np.isfinite(control_stderr), 0.0, control_stderr)
        found |= {"control": ("s", control_value), "control_stderr": ("s", control_stderr)}
        net, net_stderr = value - control_value, np.hypot(stderr, control_stderr)
    found |= {"net": ("s", net), "net_stderr": ("s", net_stderr)}
    result = xr.Dataset(found, {"s": dataset["s"]}, attrs=dataset.attrs)
    names = {"force": "mean force along +s", "control": "mean force without noise", "net": "mean force minus control"}
    for name in set(found) - {"replica_scatter"}:
        base = name.removesuffix("_stderr")
        prefix = "standard error of " if base != name else ""
        result[name].attrs = {"units": "loss / parameter", "long_name": prefix + names[base]}
    result["replica_scatter"].attrs = {"units": "1", "long_name": "scatter between replicas / stated error"}
    return result


def _average(force: xr.DataArray, stated: xr.DataArray | None, replica: str) -> tuple[Array, Array, float]:
    """Mean over replicas and windows (s), its standard error, and the pooled scatter ratio (see `mean_force`)."""
    per_replica = force.mean("time_window", skipna=True)
    count = per_replica.notnull().sum(replica).values
    value = per_replica.mean(replica, skipna=True).values
    between = np.full(value.shape, np.nan)
    several = count > 1
    if several.any():
        between[several] = (per_replica.std(replica, ddof=1, skipna=True).values / np.sqrt(count))[several]
        between = np.where(between < _ROUNDING * np.abs(value), 0.0, between)
    if stated is None:
        return value, between, np.nan
    spread_over = [d for d in stated.dims if d != "s"]
    if spread_over:
        # Independent errors of the averaged parts: sqrt(sum sigma^2) / n over the parts that entered the mean.
        used = stated.where(force.notnull()) if set(stated.dims) == set(force.dims) else stated
        if replica in stated.dims and set(stated.dims) != set(force.dims):
            used = stated.where(per_replica.notnull())
        total = (used**2).sum(spread_over, skipna=True).values
        with np.errstate(divide="ignore", invalid="ignore"):
            stderr = np.sqrt(total) / used.notnull().sum(spread_over).values
    else:
        stderr = stated.values.astype(float)
    stderr = np.where(np.isfinite(value), stderr, np.nan)
    usable = several & (stderr > 0) & np.isfinite(between)
    scatter = float(np.sqrt(np.mean((between[usable] / stderr[usable]) ** 2))) if usable.any() else np.nan
    return value, stderr * max(1.0, np.nan_to_num(scatter)), scatter


# --- effective potential --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Barrier:
    """Height of a potential above its left and right end, with standard errors, and where its top lies."""

    position: float
    left: float
    left_stderr: float
    right: float
    right_stderr: float


def integrate(force: Estimate, y: Array) -> Estimate:
    """Effective potential ``V(y_j) − V(y_0) = −∫ f dy`` by the trapezoidal rule, with the exact covariance of this
    linear map. y: arc length (n,), increasing. Raises UserError otherwise."""
    found = cumulative_integral(y, -force.value, covariance=force.covariance)
    return Estimate(found.value, found.covariance)


def barrier(potential: Estimate, s: Array) -> Barrier | None:
    """The highest point of a potential relative to each end, errors from the full covariance; None below 3 points.

    The top is chosen among noisy values, so its height is biased upwards by a fraction of its error.
    """
    if len(s) < 3:
        return None
    top = int(np.argmax(potential.value))
    heights = []
    for end in (0, len(s) - 1):
        row = np.zeros((1, len(s)))
        row[0, top] += 1
        row[0, end] -= 1
        height = potential.transform(row)
        heights.append((float(height.value[0]), float(height.stderr[0])))
    (left, left_stderr), (right, right_stderr) = heights
    return Barrier(float(s[top]), left, left_stderr, right, right_stderr)


# --- relaxation -----------------------------------------------------------------------------------------------------


def relaxation(dataset: xr.Dataset) -> xr.Dataset:
    """Mean position over replicas with its standard error, dims (control, start, time), and at the last time
    `displacement` towards the end on the start's own side (positive: towards it), dims (control, start).

    Starts within 0.05 of the middle have no own end: their displacement is NaN. Diverged replicas are left out. One
    replica without noise has no standard error and needs none: 0.
    """
    position = dataset["position"]
    diverged = dataset["diverged"]
    if "control" not in position.dims:
        position = position.expand_dims(control=[0])
    if "control" not in diverged.dims:
        diverged = diverged.expand_dims(control=position["control"].values)
    position = position.where((diverged == 0) & np.isfinite(position)).transpose("control", "start", "replica", "time")
    count = position.notnull().sum("replica")
    mean = position.mean("replica", skipna=True)
    stderr = (position.std("replica", skipna=True, ddof=1) / np.sqrt(count)).where(count > 1)
    exact = (count == 1) & (position["control"] == 1)
    stderr = stderr.where(~(exact | (stderr < _ROUNDING * abs(mean))), 0.0)
    start = dataset["start"]
    towards = xr.where(start < 0.45, -1.0, xr.where(start > 0.55, 1.0, np.nan))
    moved = position.isel(time=-1) - start
    moved_count = moved.notnull().sum("replica")
    displacement = towards * moved.mean("replica", skipna=True)
    displacement_stderr = (moved.std("replica", skipna=True, ddof=1) / np.sqrt(moved_count)).where(moved_count > 1)
    exact = (moved_count == 1) & (position["control"] == 1)
    exact |= displacement_stderr < _ROUNDING * abs(mean.isel(time=-1))
    displacement_stderr = displacement_stderr.where(~exact, 0.0)
    own_side = xr.where(towards < 0, position.isel(time=-1) < 0.5, position.isel(time=-1) > 0.5)
    result = xr.Dataset(
        {
            "position": mean,
            "position_stderr": stderr,
            "displacement": displacement.transpose("control", "start"),
            "displacement_stderr": displacement_stderr.transpose("control", "start"),
            "own_side": own_side.where(moved.notnull())
            .sum("replica")
            .where(towards.notnull())
            .transpose("control", "start"),
            "replicas": moved_count,
        },
        attrs=dataset.attrs,
    )
    for name, text in {
        "position": "mean position s",
        "displacement": "displacement in s towards the own end",
        "own_side": "replicas on their own side at the end",
        "replicas": "replicas that did not diverge",
    }.items():
        result[name].attrs = {"units": "1", "long_name": text}
        if f"{name}_stderr" in result:
            result[f"{name}_stderr"].attrs = {"units": "1", "long_name": f"standard error of {text}"}
    result["time"].attrs = dataset["time"].attrs
    result["start"].attrs = dataset["start"].attrs
    return result.load()  # at once, where the file is read piece by piece
