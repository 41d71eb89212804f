"""Relaxation: mean positions and displacements against theory, against a twin, and against another run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import xarray as xr

from analysis import summaries
from analysis.agreement import Row, formula_row
from analysis.comparisons._forms import against_forms
from analysis.comparisons._pair import Alignment, pair, simulated
from analysis.uncertainty import Estimate
from entropy_sim import statistics
from entropy_sim.errors import UserError, require

SAME_START = 1e-3  # starts are the same if they agree to this


def against_theory(
    label: str,
    dataset: xr.Dataset,
    twins: Mapping[str, xr.Dataset] | None = None,
    predicted: xr.Dataset | None = None,
) -> tuple[xr.Dataset, list[Row]]:
    """Mean positions and displacements (`summaries.relaxation`); for a network, beside those of its twins: the
    displacement from common starts at the latest common time, as a ratio. predicted: the mean position s(t), dims
    (form, start, time), against which the displacements s(t) − s(0) at the last time are held (`_forms`)."""
    result = summaries.relaxation(dataset)
    result = result.merge(_ends(dataset), combine_attrs="override")
    for name in ("position_null", "position_null_stderr"):
        if name in dataset:
            result[name] = dataset[name]
    rows: list[Row] = []
    if predicted is not None:
        last = result.sel(control=0).isel(time=-1)
        starts = last["start"].values
        measured = Estimate.independent(last["position"].values - starts, last["position_stderr"].values)
        ends = predicted["position"].values[:, :, -1] - starts
        found, rows = against_forms(
            (label, "relaxation", [f"mean position at the end, {form}" for form in map(str, predicted["form"].values)]),
            measured,
            [Estimate.independent(end, np.zeros_like(end)) for end in ends],
            "start",
            "1",
            exact=True,
        )
        result = result.assign(found)
        result = result.assign_coords(form=predicted["form"], formula=predicted["formula"])
        result["position_predicted"] = (("form", "start", "time"), predicted["position"].values)
        result["position_predicted"].attrs = {"units": "1", "long_name": "predicted mean position s"}
    for name, twin in (twins or {}).items():
        other = summaries.relaxation(twin)
        pairs = [(i, j) for i, j in _common_starts(result, other) if not 0.45 <= float(result["start"][i]) <= 0.55]
        time = min(float(result["time"][-1]), float(other["time"][-1]))
        if not pairs or time <= 0:
            text = "not determined: the runs have no off-centre start in common"
            rows.append(Row(label, "relaxation", simulated(name), "formula", "not determined", text))
            continue
        controlled = [(i, j) for i, j in pairs if _has_control(result, i) and _has_control(other, j)]
        chosen = controlled or pairs
        here = _displacements(result, [i for i, _ in chosen], time, controlled=bool(controlled))
        there = _displacements(other, [j for _, j in chosen], time, controlled=bool(controlled))
        row, _, _ = formula_row(label, "relaxation", simulated(name), here, there)
        note = "controls subtracted on both sides" if controlled else "controls not subtracted"
        rows.append(replace(row, statement=f"{row.statement}; {note}"))
    return result, rows


def _ends(dataset: xr.Dataset) -> xr.Dataset:
    """What the mean positions do not tell, noise on: `end_distance` (start), mean distance from the path at the last
    time, and `still` (start), 1 where s of every replica stays the same to 1e-6."""
    noisy = dataset.sel(control=0) if "control" in dataset.dims else dataset
    kept = noisy["diverged"] == 0
    position = noisy["position"].where(kept)
    moved = abs(position - position.isel(time=0)).max("time").max("replica")
    result = xr.Dataset({"still": (moved < 1e-6).astype("int8")})
    result["still"].attrs = {"units": "1", "long_name": "s of every replica stays the same"}
    if "distance" in noisy:
        result["end_distance"] = noisy["distance"].isel(time=-1).where(kept).mean("replica")
        result["end_distance"].attrs = {"units": "parameter", "long_name": "mean distance from the path at the end"}
    return result.drop_vars("control", errors="ignore").load()


def _has_control(relaxed: xr.Dataset, start: int) -> bool:
    if 1 not in relaxed["control"].values:
        return False
    return bool(np.isfinite(relaxed["position"].sel(control=1).isel(start=start).values).all())


def _displacements(relaxed: xr.Dataset, starts: list[int], time: float, *, controlled: bool) -> Estimate:
    """Mean displacement towards the own end at `time`, from the chosen starts, noise on; less that of the control."""
    noisy = relaxed.sel(control=0).isel(start=starts)
    sign = np.where(noisy["start"].values < 0.5, -1.0, 1.0)
    at = noisy.interp(time=time)
    moved, stderr = sign * (at["position"].values - noisy["start"].values), at["position_stderr"].values
    if controlled:
        still = relaxed.sel(control=1).isel(start=starts).interp(time=time)
        moved = moved - sign * (still["position"].values - noisy["start"].values)
        stderr = np.hypot(stderr, np.nan_to_num(still["position_stderr"].values))
    return Estimate.independent(moved, stderr)


def between(
    first: xr.Dataset,
    second: xr.Dataset,
    *,
    time: float | None = None,
    alignment: Alignment = Alignment(),  # noqa: B008 (frozen)
) -> xr.Dataset:
    """Displacements s(t) − s(0) of two `relaxation` groups from the starts both have, noise on, as the dataset of
    `_pair.pair` at one time, along `start`; and the whole curves, `position_first`, `position_second` (start, time),
    with `_stderr` and their `position_z`.

    time: at which to compare (default: the latest that both have). The second's curves are interpolated linearly to
    the first's times. Errors are those of the mean over replicas, which are few on a network: each difference enters χ²
    as the Gaussian z that is as improbable as its Student's (Welch) t. Controls are subtracted where both sides have
    one from that start. Raises UserError without a start or a time in common.
    """
    second = alignment.apply(second)
    one, two = summaries.relaxation(first), summaries.relaxation(second)
    starts = _common_starts(one, two)
    if not starts:
        raise UserError(
            f"relaxation/start: expected a start in common, found {_listed(one['start'])} and {_listed(two['start'])}"
        )
    latest = min(float(one["time"][-1]), float(two["time"][-1]))
    at = latest if time is None else time
    require(0 < at <= latest, "time", f"a time up to {latest:.4g}, which both runs have", at)
    chosen = [one.isel(start=[i for i, _ in starts]), two.isel(start=[j for _, j in starts])]
    controlled = all(_has_control(side, i) for side in chosen for i in range(len(starts)))
    ends = [_moved(side, at, controlled=controlled) for side in chosen]
    counts = [side["replicas"].sel(control=0).values for side in chosen]
    result = pair(
        _student(ends, counts),
        {"start": xr.DataArray(chosen[0]["start"].values, dims="start", attrs=dict(first["start"].attrs))},
        units="1",
        long_name=f"displacement in s up to t = {at:.4g}",
        alignment=alignment,
        attrs={
            "compared_at_time": at,
            "control": "subtracted on both sides" if controlled else "not subtracted",
            "replicas_first": counts[0],
            "replicas_second": counts[1],
            "error": "of the mean over replicas, widened to the Gaussian equivalent of Student's t",
        },
    )
    times = one["time"].values[one["time"].values <= latest * (1 + 1e-9)]
    a, b = (side.sel(control=0).interp(time=times) for side in chosen)
    error = np.hypot(a["position_stderr"].values, b["position_stderr"].values)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(error > 0, (a["position"].values - b["position"].values) / error, np.nan)
    result = result.assign_coords(time=("time", times, dict(first["time"].attrs)))
    for name, values, text in (
        ("position_first", a["position"].values, "mean position s, first"),
        ("position_first_stderr", a["position_stderr"].values, "standard error of the mean position s, first"),
        ("position_second", b["position"].values, "mean position s, second"),
        ("position_second_stderr", b["position_stderr"].values, "standard error of the mean position s, second"),
        ("position_z", z, "(first − second) / standard error; neighbouring times are correlated"),
    ):
        result[name] = (("start", "time"), values, {"units": "1", "long_name": text})
    return result


def _common_starts(one: xr.Dataset, two: xr.Dataset) -> list[tuple[int, int]]:
    return [
        (i, j)
        for i, a in enumerate(one["start"].values)
        for j, b in enumerate(two["start"].values)
        if abs(a - b) < SAME_START
    ]


def _listed(starts: xr.DataArray) -> str:
    return ", ".join(f"{s:.3g}" for s in starts.values)


def _moved(relaxed: xr.Dataset, time: float, *, controlled: bool) -> Estimate:
    """Mean displacement s(t) − s(0) at `time` from every start, less that of the control."""
    noisy = relaxed.sel(control=0)
    at = noisy.interp(time=time)
    moved, stderr = at["position"].values - noisy["start"].values, at["position_stderr"].values
    if controlled:
        still = relaxed.sel(control=1).interp(time=time)
        moved = moved - (still["position"].values - noisy["start"].values)
        stderr = np.hypot(stderr, np.nan_to_num(still["position_stderr"].values))
    return Estimate.independent(moved, stderr)


def _student(ends: list[Estimate], replicas: list[np.ndarray]) -> list[Estimate]:
    """The same with errors widened so that the difference's z is the Gaussian equivalent of its Welch t.

    Degrees of freedom ``(a + b)² / (a² / (n_a − 1) + b² / (n_b − 1))`` of the variances a, b. Welch (1947)."""
    a, b = (np.square(e.stderr) for e in ends)
    difference = ends[0].value - ends[1].value
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = [np.where(v > 0, v**2 / (n - 1), 0.0) for v, n in ((a, replicas[0]), (b, replicas[1]))]
        freedom = np.clip((a + b) ** 2 / (spread[0] + spread[1]), 1.0, None)
        t = difference / np.sqrt(a + b)
        widening = np.where(np.abs(t) > 0, t / statistics.gaussian_significance(t, freedom), 1.0)
        # Far out the tail underflows; there the widening no longer decides anything.
        widening = np.where(np.isfinite(widening) & (widening >= 1), widening, np.maximum(np.abs(t) / 8, 1.0))
    return [Estimate.independent(e.value, widening * e.stderr) for e in ends]
