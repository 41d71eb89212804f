"""Each measurement held against its predictions: the aligned dataset of the comparison, and the rows of the table.

Groups of a comparison are `<measurement>/<label>`; see `analysis.compare` for their variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import xarray as xr
from scipy.interpolate import make_interp_spline

from analysis import predict, summaries
from analysis.agreement import Row, formula_row, number, plus_minus
from analysis.uncertainty import Estimate, Ratio
from entropy_sim import statistics

LEVEL = 0.6827  # of confidence intervals: one standard error


def _simulated(label: str) -> str:
    return f"simulated: {label}"


def simulated_form(
    label: str, simulation: xr.Dataset, s: np.ndarray, profile_error: Estimate | None = None
) -> xr.Dataset:
    """The mean force of a twin's own simulation, interpolated to s (cubic spline), in the layout of a prediction.

    The twin is built from the measured profile, so its force is as uncertain as the profile, whatever its Monte-Carlo
    error. profile_error: the finite-learning-rate form at s from the same profile; its covariance is added to that of
    the simulation, scaled up by |simulated/predicted| where this exceeds 1 and the prediction its own error.
    """
    name = _simulated(label)
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


def mean_force(
    label: str, dataset: xr.Dataset, predictions: xr.Dataset | None, *, exact: bool, quantity: str = "net"
) -> tuple[xr.Dataset, list[Row]]:
    """The force at the measured s against every form of `predictions` (on the same s)."""
    result = summaries.mean_force(dataset)
    result.attrs["compared"] = quantity
    measured = Estimate.independent(result[quantity].values, result[f"{quantity}_stderr"].values)
    rows: list[Row] = []
    if predictions is None:
        return result, rows
    fits, tests, verdicts, z, points = [], [], [], [], []
    for form in predictions["form"].values:
        predicted = predict.estimate(predictions, form)
        row, fit, test = formula_row(label, "mean_force", str(form), measured, predicted, exact=exact)
        rows.append(row)
        fits.append(fit)
        tests.append(test)
        verdicts.append(row.verdict)
        error = np.hypot(measured.stderr, predicted.stderr)
        with np.errstate(divide="ignore", invalid="ignore"):
            z.append(np.where(error > 0, (measured.value - predicted.value) / error, np.nan))
        points.append(statistics.ratio(measured.value, measured.stderr, predicted.value, predicted.stderr, level=LEVEL))
    result = result.assign_coords(form=predictions["form"], formula=predictions["formula"])
    force, one = "loss / parameter", "1"
    along = ("form", "s")
    new = {
        "predicted": (along, predictions["force"].values, force, "predicted mean force along +s"),
        "predicted_stderr": (along, predictions["force_stderr"].values, force, "standard error of the prediction"),
        "predicted_covariance": (
            ("form", "s", "s_other"),
            predictions["covariance"].values,
            "loss^2 / parameter^2",
            "covariance of the prediction",
        ),
        "difference": (along, measured.value - predictions["force"].values, force, "measured − predicted"),
        "z": (along, np.array(z), one, "(measured − predicted) / standard error"),
        "ratio": (along, np.array([p.value for p in points]), one, "measured / predicted"),
        "ratio_low": (along, np.array([p.low for p in points]), one, "measured / predicted, lower end (68 %)"),
        "ratio_high": (along, np.array([p.high for p in points]), one, "measured / predicted, upper end (68 %)"),
        **_overall(fits),
        "chi2": (("form",), np.array([t.chi2 for t in tests]), one, "chi2 of measured − predicted"),
        "degrees_of_freedom": (("form",), np.array([t.degrees_of_freedom for t in tests]), one, "degrees of freedom"),
        "p": (("form",), np.array([t.p for t in tests]), one, "p-value of chi2"),
        "verdict": (("form",), np.array(verdicts, dtype=object), one, "agreement"),
    }
    for name, (dims, values, units, text) in new.items():
        result[name] = (dims, values, {"units": units, "long_name": text})
    for name in ("effective_temperature", "noise_ratio"):
        if name in predictions:
            result[name] = predictions[name]
    result.attrs |= {f"prediction_{k}": v for k, v in predictions.attrs.items()}
    return result, rows


def _overall(fits: list[Ratio]) -> dict[str, tuple]:
    return {
        "overall_ratio": (("form",), np.array([f.value for f in fits]), "1", "measured / predicted, all points"),
        "overall_ratio_low": (("form",), np.array([f.low for f in fits]), "1", "lower end (68 %)"),
        "overall_ratio_high": (("form",), np.array([f.high for f in fits]), "1", "upper end (68 %)"),
    }


def effective_potential(
    label: str, force: xr.Dataset, arc_length: float, *, quantity: str = "net", profile: xr.Dataset | None = None
) -> tuple[xr.Dataset | None, list[Row]]:
    """The integral of a compared mean force (`mean_force`'s result), measured and predicted by the same rule.

    profile: of a simulation; its exact `effective_potential`, if it has one, stands beside the measured barrier. Zero
    at the first measured point; the predicted potentials of forms that are NaN at a point in between are left out. The
    barrier is the highest measured point above each end of the measured range.
    """
    keep = np.isfinite(force[quantity].values) & np.isfinite(force[f"{quantity}_stderr"].values)
    if keep.sum() < 3:
        text = "not determined: fewer than 3 points have a force with an error"
        return None, [Row(label, "effective_potential", "entropic barrier", "result", "not determined", text)]
    one = force.isel(s=np.flatnonzero(keep))
    s = one["s"].values
    y = s * arc_length
    potential = _integrate(Estimate.independent(one[quantity].values, one[f"{quantity}_stderr"].values), y)
    result = xr.Dataset(
        {
            "potential": ("s", potential.value, {"units": "loss", "long_name": "effective potential"}),
            "potential_stderr": ("s", potential.stderr, {"units": "loss", "long_name": "standard error"}),
            "covariance": (("s", "s_other"), potential.covariance, {"units": "loss^2", "long_name": "covariance"}),
            "arc_length": ("s", y, {"units": "parameter", "long_name": "arc length y"}),
        },
        {"s": one["s"]},
        attrs={
            "zero": f"s = {s[0]:.3g}",
            "rule": "cubic spline; its difference from the trapezoidal rule is in the errors",
        },
    )
    exact = None
    if profile is not None and "effective_potential" in profile:
        known = predict.path_profile(profile)
        exact = predict.spline_matrix(known["s"].values, s) @ known["effective_potential"].values
    rows = [_barrier_row(label, result, potential, s, exact)]
    if "form" in one.dims:
        forms, values, errors = [], [], []
        for form in one["form"].values:
            part = one.sel(form=form)
            covariance = part["predicted_covariance"].isel(s_other=np.flatnonzero(keep)).values
            if np.isfinite(part["predicted"].values).all():
                found = _integrate(Estimate(part["predicted"].values, covariance), y)
                forms.append(str(form))
                values.append(found.value)
                errors.append(found.stderr)
        if forms:
            if exact is not None and np.isfinite(rows[0].expected):
                # Where the force has structure between the points, no rule on them can see it.
                top = int(np.argmax(potential.value))
                words = f"; the last form, {forms[-1]}, at these points by the same rule: "
                words += f"{number(values[-1][top] - values[-1][0])} and {number(values[-1][top] - values[-1][-1])}"
                rows[0] = replace(rows[0], statement=rows[0].statement + words)
            result = result.assign_coords(form=np.array(forms, dtype=object))
            result["predicted"] = (("form", "s"), np.array(values), {"units": "loss", "long_name": "predicted"})
            result["predicted_stderr"] = (
                ("form", "s"),
                np.array(errors),
                {"units": "loss", "long_name": "standard error of the prediction"},
            )
    return result, rows


def _integrate(force: Estimate, y: np.ndarray) -> Estimate:
    """−∫ f dy through a cubic spline. What the few points leave open, the difference d from the trapezoidal rule, is a
    systematic error common to all points: d dᵀ is added to the statistical covariance."""
    spline = make_interp_spline(y, np.eye(len(y)), k=min(3, len(y) - 1)).antiderivative()
    found = force.transform(-(np.asarray(spline(y)) - np.asarray(spline(y[0]))))
    d = found.value - summaries.integrate(force, y).value
    return Estimate(found.value, found.covariance + np.outer(d, d))


def _barrier_row(
    label: str, result: xr.Dataset, potential: Estimate, s: np.ndarray, exact: np.ndarray | None = None
) -> Row:
    found = summaries.barrier(potential, s)
    assert found is not None
    for side, value, stderr in (
        ("left", found.left, found.left_stderr),
        ("right", found.right, found.right_stderr),
    ):
        text = f"entropic barrier above the {side} end of the measured range"
        result[f"barrier_{side}"] = ((), value, {"units": "loss", "long_name": text})
        result[f"barrier_{side}_stderr"] = ((), stderr, {"units": "loss", "long_name": f"standard error of {text}"})
    result["barrier_position"] = ((), found.position, {"units": "1", "long_name": "position of the barrier's top"})
    if found.position in (s[0], s[-1]):
        text = f"none: the potential is highest at the end of the measured range, s = {found.position:.3g}"
        return Row(label, "effective_potential", "entropic barrier", "result", "", text, units="loss")
    words = (
        f"{plus_minus(found.left, found.left_stderr)} loss above s = {s[0]:.3g} and "
        f"{plus_minus(found.right, found.right_stderr)} above s = {s[-1]:.3g}, top at s = {found.position:.3g}"
    )
    lower = "left" if found.left <= found.right else "right"
    expected = z = np.nan
    if exact is not None:
        top = exact[np.argmax(potential.value)]
        heights = {"left": top - exact[0], "right": top - exact[-1]}
        away = {n: (getattr(found, n) - h) / getattr(found, f"{n}_stderr") for n, h in heights.items()}
        words += f"; exact {number(heights['left'])} (z = {away['left']:.1f})"
        words += f" and {number(heights['right'])} (z = {away['right']:.1f})"
        expected, z = float(heights[lower]), float(away[lower])
    return Row(
        label,
        "effective_potential",
        "entropic barrier",
        "result",
        "",
        words,
        units="loss",
        measured=getattr(found, lower),
        measured_stderr=getattr(found, f"{lower}_stderr"),
        expected=expected,
        z=z,
    )


def relaxation(
    label: str,
    dataset: xr.Dataset,
    twins: Mapping[str, xr.Dataset] | None = None,
    predicted: xr.Dataset | None = None,
) -> tuple[xr.Dataset, list[Row]]:
    """Mean positions and displacements (`summaries.relaxation`); for a network, beside those of its twins: the
    displacement from common starts at the latest common time, as a ratio. predicted: the mean position s(t), dims
    (form, start, time), against which the mean positions at the last time are held."""
    result = summaries.relaxation(dataset)
    result = result.merge(_ends(dataset), combine_attrs="override")
    rows = []
    if predicted is not None:
        last = result.sel(control=0).isel(time=-1)
        measured = Estimate.independent(last["position"].values, last["position_stderr"].values)
        for i, form in enumerate(map(str, predicted["form"].values)):
            expected = predicted["position"].values[i, :, -1]
            exactly = Estimate.independent(expected, np.zeros_like(expected))
            quantity = f"mean position at the end, {form}"
            row, _, _ = formula_row(label, "relaxation", quantity, measured, exactly, exact=True, amplitude=False)
            rows.append(row)
        result = result.assign_coords(form=predicted["form"], formula=predicted["formula"])
        result["position_predicted"] = (("form", "start", "time"), predicted["position"].values)
        result["position_predicted"].attrs = {"units": "1", "long_name": "predicted mean position s"}
    for name, twin in (twins or {}).items():
        other = summaries.relaxation(twin)
        pairs = [
            (i, j)
            for i, a in enumerate(result["start"].values)
            for j, b in enumerate(other["start"].values)
            if abs(a - b) < 1e-3 and not 0.45 <= a <= 0.55
        ]
        time = min(float(result["time"][-1]), float(other["time"][-1]))
        if not pairs or time <= 0:
            text = "not determined: the runs have no off-centre start in common"
            rows.append(Row(label, "relaxation", _simulated(name), "formula", "not determined", text))
            continue
        controlled = [(i, j) for i, j in pairs if _has_control(result, i) and _has_control(other, j)]
        chosen = controlled or pairs
        here = _displacements(result, [i for i, _ in chosen], time, controlled=bool(controlled))
        there = _displacements(other, [j for _, j in chosen], time, controlled=bool(controlled))
        row, _, _ = formula_row(label, "relaxation", _simulated(name), here, there)
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
    return result.drop_vars("control", errors="ignore")


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


def stationary(label: str, dataset: xr.Dataset, predicted: xr.Dataset) -> tuple[xr.Dataset, list[Row]]:
    """The density of s against each form of `predicted` (form, s), normalised over the same bins, and the free energy
    up to a constant, which the weighted mean difference fixes (one degree of freedom each)."""
    result = dataset[[n for n in ("density", "density_stderr", "free_energy", "free_energy_stderr") if n in dataset]]
    result = result.assign_coords(form=predicted["form"], formula=predicted["formula"])
    rows: list[Row] = []
    for name in ("density", "free_energy"):
        if name not in dataset or name not in predicted:
            continue
        value = dataset[name].values
        has_error = f"{name}_stderr" in dataset
        stderr = dataset[f"{name}_stderr"].values if has_error else np.full(value.shape, np.nan)
        measured = Estimate.independent(value, stderr)
        for i, form in enumerate(predicted["form"].values):
            expected = predicted[name].values[i]
            if name == "free_energy":
                good = measured.determined() & np.isfinite(expected)
                if good.any():
                    shift = np.average((value - expected)[good], weights=stderr[good] ** -2)
                    predicted[name].values[i] = expected = expected + shift
            test_against = Estimate.independent(expected, np.zeros_like(expected))
            row, _, _ = formula_row(
                label,
                "stationary",
                f"{name.replace('_', ' ')}, {form}",
                measured,
                test_against,
                exact=True,
                constraints=1,
                amplitude=False,
            )
            rows.append(row)
        spec = {"units": dataset[name].attrs["units"], "long_name": f"predicted {dataset[name].attrs['long_name']}"}
        result[f"{name}_predicted"] = (("form", "s"), predicted[name].values, spec)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(stderr > 0, (value - predicted[name].values) / stderr, np.nan)
        result[f"{name}_z"] = (("form", "s"), z, {"units": "1", "long_name": "(measured − predicted) / standard error"})
    result.attrs |= dataset.attrs
    return result, rows
