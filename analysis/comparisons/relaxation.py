"""Relaxation: mean positions and displacements against theory, against a twin, and against another run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import xarray as xr

from analysis import summaries
from analysis.agreement import Row, formula_row
from analysis.comparisons._forms import against_forms, ranking
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
    (form, start, time), and its standard error, against which the displacements s(t) − s(0) at the last time are held
    (`_forms`)."""
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
            [
                Estimate.independent(*end)
                for end in zip(ends, predicted["position_stderr"].values[:, :, -1], strict=True)
            ],
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


def against_network_theory(
    label: str, dataset: xr.Dataset, twins: Mapping[str, xr.Dataset], predicted: xr.Dataset | None
) -> tuple[xr.Dataset, list[Row]]:
    """`against_theory` of a network, and its displacements s(t) − s(0) at the last time against each form of
    `predicted` (`predict_relaxation`), by ratio, χ² and likelihood.

    Over the starts that have a noise-free control, which is subtracted, or, if none has, over all as they are. The
    spread of the few replicas is pooled over all starts. `position_predicted` has no energetic part."""
    result, rows = against_theory(label, dataset, twins)
    if predicted is None:
        return result, rows
    count = result.sizes["start"]
    controlled = [i for i in range(count) if _has_control(result, i)]
    chosen = controlled or list(range(count))
    last = float(result["time"][-1])
    moved = _moved(result.isel(start=chosen), last, controlled=bool(controlled))
    here = Estimate.independent(moved.value, _pooled_errors(result)[chosen])
    covariance = predicted["covariance"].values
    forms = [str(f) for f in predicted["form"].values]
    expected = [
        Estimate(predicted["displacement"].values[i], covariance[i]).select(np.array(chosen)) for i in range(len(forms))
    ]
    quantities = [f"displacement at the end, {form}" for form in forms]
    found, lines = against_forms((label, "relaxation", quantities), here, expected, "start", "1", exact=False)
    scored = xr.Dataset(found, {"form": forms, "start": result["start"].values[chosen]})
    note = "control subtracted" if controlled else "control not subtracted"
    rows += [replace(line, statement=f"{line.statement}; {note}") for line in lines]
    rows += ranking(label, "relaxation", scored)
    result = result.merge(scored.reindex(start=result["start"].values), combine_attrs="override")
    result = result.assign_coords(form=predicted["form"], formula=predicted["formula"])
    result["position_predicted"] = (("form", "start", "time"), predicted["position"].values)
    result["position_predicted"].attrs = {"units": "1", "long_name": "predicted mean position s, without the loss"}
    result["displacement_predicted"] = (("form", "start"), predicted["displacement"].values)
    result["displacement_predicted"].attrs = {"units": "1", "long_name": "predicted displacement s(t) − s(0)"}
    error = np.sqrt(np.clip(np.einsum("fii->fi", covariance), 0.0, None))
    result["displacement_predicted_stderr"] = (("form", "start"), error)
    result["displacement_predicted_stderr"].attrs = {"units": "1", "long_name": "standard error of the prediction"}
    result.attrs |= {"compared_at_time": last, "control_in_comparison": note, "prediction_dropped": predicted.dropped}
    return result, rows


def _pooled_errors(relaxed: xr.Dataset) -> np.ndarray:
    """Standard errors (start) of the mean positions at the end, noise on, from the spread of replicas pooled over the
    starts; NaN where nobody survived, or no start has two."""
    at = relaxed.sel(control=0)
    count, error = at["replicas"].values, at["position_stderr"].isel(time=-1).values
    several = (count > 1) & np.isfinite(error)
    freedom = (count[several] - 1).sum()
    if not freedom:
        return np.full(count.shape, np.nan)
    variance = (error[several] ** 2 * count[several] * (count[several] - 1)).sum() / freedom
    with np.errstate(divide="ignore"):
        return np.where(count > 0, np.sqrt(variance / count), np.nan)


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
