"""Mean force against its predictions, and against another mean force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from analysis import ladder, predict, summaries
from analysis.agreement import Row
from analysis.comparisons._forms import against_forms, ranking
from analysis.comparisons._pair import Alignment, common_points, onto, pair, same_length, simulated
from analysis.uncertainty import Estimate
from entropy_sim.errors import UserError


def simulated_form(
    label: str, simulation: xr.Dataset, s: np.ndarray, profile_error: Estimate | None = None
) -> xr.Dataset:
    """The mean force of a twin's own simulation, interpolated to s (cubic spline), in the layout of a prediction.

    The twin is built from the measured profile, so its force is as uncertain as the profile, whatever its Monte-Carlo
    error. profile_error: the finite-learning-rate form at s from the same profile; its covariance is added to that of
    the simulation, scaled up by |simulated/predicted| where this exceeds 1 and the prediction its own error.
    """
    name = simulated(label)
    text = "simulation of the twin; error: Monte-Carlo only"
    summary = summaries.mean_force(simulation)
    good = np.isfinite(summary["net"].values) & np.isfinite(summary["net_stderr"].values)
    at = summary["s"].values[good]
    if at.size < 2:
        nothing = Estimate(np.full(len(s), np.nan), np.full((len(s), len(s)), np.nan))
        return predict.as_dataset({name: nothing}, {name: text}, s)
    onto = predict.spline_matrix(at, s)
    found = Estimate.independent(summary["net"].values[good], summary["net_stderr"].values[good]).transform(onto)
    if profile_error is not None:
        size, error = np.abs(profile_error.value), profile_error.stderr
        scale = np.ones_like(size)
        known = size > error
        scale[known] = np.maximum(1.0, np.abs(found.value[known]) / size[known])
        covariance = found.covariance + scale[:, None] * profile_error.covariance * scale
        found = Estimate(found.value, covariance)
        text = (
            "simulation of the twin; error: Monte-Carlo and, in quadrature, the relative error that the profile gives "
            "the finite-learning-rate form at the same s (at least its absolute error)"
        )
    return predict.as_dataset({name: found}, {name: text}, s)


def against_theory(
    label: str, dataset: xr.Dataset, predictions: xr.Dataset | None, *, exact: bool, quantity: str = "net"
) -> tuple[xr.Dataset, list[Row]]:
    """The force at the measured s against every form of `predictions` (on the same s)."""
    result = summaries.mean_force(dataset)
    result.attrs["compared"] = quantity
    measured = Estimate.independent(result[quantity].values, result[f"{quantity}_stderr"].values)
    if predictions is None:
        return result, []
    forms = [str(form) for form in predictions["form"].values]
    found, rows = against_forms(
        (label, "mean_force", forms),
        measured,
        [predict.estimate(predictions, form) for form in predictions["form"].values],
        "s",
        "loss / parameter",
        exact=exact,
    )
    result = result.assign_coords(form=predictions["form"], formula=predictions["formula"])
    force, along = "loss / parameter", ("form", "s")
    for name, dims, values, units, text in (
        ("predicted", along, predictions["force"], force, "predicted mean force along +s"),
        ("predicted_stderr", along, predictions["force_stderr"], force, "standard error of the prediction"),
        (
            "predicted_covariance",
            ("form", "s", "s_other"),
            predictions["covariance"],
            "loss^2 / parameter^2",
            "covariance of the prediction",
        ),
    ):
        result[name] = (dims, values.values, {"units": units, "long_name": text})
    result = result.assign(found)
    for name in ("effective_temperature", "noise_ratio"):
        if name in predictions:
            result[name] = predictions[name]
    result.attrs |= {f"prediction_{k}": v for k, v in predictions.attrs.items()}
    return result, rows if exact else [*rows, *ranking(label, "mean_force", result)]


def between(
    first: xr.Dataset,
    second: xr.Dataset,
    lengths: tuple[float | None, float | None] = (None, None),
    *,
    alignment: Alignment = Alignment(),  # noqa: B008 (frozen)
) -> xr.Dataset:
    """The mean force per arc length of two `mean_force` groups, as the dataset of `_pair.pair`.

    Less the control on both sides if both have one, otherwise as it is. lengths: of the two paths, in their own units
    (None: not known). Raises UserError for paths of different length.
    """
    second = alignment.apply(second)
    same_length(lengths[0], None if lengths[1] is None else alignment.length * lengths[1])
    summary = [summaries.mean_force(one) for one in (first, second)]
    compared = "net" if all("control" in one for one in summary) else "force"
    s, s_second = (one["s"].values.astype(float) for one in summary)
    at = common_points(s, s_second)
    a, b = (Estimate.independent(one[compared].values, one[f"{compared}_stderr"].values) for one in summary)
    return pair(
        (onto(at, s, a), onto(at, s_second, b)),
        {"s": xr.DataArray(at, dims="s", attrs=dict(first["s"].attrs))},
        units="loss / parameter",
        long_name="mean force along +s",
        alignment=alignment,
        attrs={"compared": compared, "control": "subtracted on both sides" if compared == "net" else "not subtracted"},
    )


def ladder_limits(label: str, dataset: xr.Dataset) -> tuple[dict[str, xr.Dataset], list[Row]]:
    """A ladder's ratio of measured to predicted force at zero noise (`analysis.ladder`), over linear response in the
    finite time of the windows and over its stationary formula, as far as measured; with the first's sensitivity."""
    groups: dict[str, xr.Dataset] = {}
    rows = []
    for denominator, words in (("predicted", "linear response"), ("formula", "stationary formula")):
        if f"mean_force_{denominator}" not in dataset:
            continue
        choices = ladder.Extrapolation(denominator=denominator)  # type: ignore[arg-type]
        quantity = f"ladder: {words}, at zero noise"
        try:
            found = ladder.extrapolate(dataset, choices)
        except UserError as error:
            rows.append(Row(label, "mean_force", quantity, "formula", "not determined", f"not determined: {error}"))
            continue
        text = str(found.attrs["statement"])
        if "ratio_mean" in found:
            groups[f"ladder{'' if denominator == 'predicted' else '_formula'}/{label}"] = found
        if denominator == "predicted":
            others = ladder.sensitivity(dataset, choices)
            groups[f"ladder_sensitivity/{label}"] = others
            text = ladder.statement(found, others)
        limit, stderr, low, high = (float(found[f"limit{e}"]) for e in ("", "_stderr", "_low", "_high"))
        z = (limit - 1) / stderr if stderr > 0 else np.nan
        verdict = str(found.attrs["verdict"])
        line = Row(label, "mean_force", quantity, "formula", verdict, text, expected=1.0, z=z)
        rows.append(replace(line, ratio=limit, ratio_low=low, ratio_high=high, measured=limit, measured_stderr=stderr))
    return groups, rows
