"""Effective potential, the integral of minus the mean force, measured and predicted by the same rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr
from scipy.interpolate import make_interp_spline

from analysis import predict, summaries
from analysis.agreement import Row, number, plus_minus
from analysis.comparisons._forms import against_forms
from analysis.comparisons._pair import Alignment, pair
from analysis.uncertainty import Estimate
from entropy_sim.errors import require


def against_theory(
    label: str, force: xr.Dataset, arc_length: float, *, quantity: str = "net", profile: xr.Dataset | None = None
) -> tuple[xr.Dataset | None, list[Row]]:
    """The integral of a compared mean force (`mean_force`'s result), measured and predicted by the same rule.

    profile: of a simulation; its exact `effective_potential`, if it has one, stands beside the measured barrier. Zero
    at the first measured point; the predicted potentials of forms that are NaN at a point in between are left out.
    Both are held against each other as integrals by the same rule, with the covariance that integration gives
    (`_forms`). The barrier is the highest measured point above each end of the measured range.
    """
    keep = np.isfinite(force[quantity].values) & np.isfinite(force[f"{quantity}_stderr"].values)
    if keep.sum() < 3:
        text = "not determined: fewer than 3 points have a force with an error"
        return None, [Row(label, "effective_potential", "entropic barrier", "result", "not determined", text)]
    one = force.isel(s=np.flatnonzero(keep))
    s = one["s"].values
    y = s * arc_length
    potential = integrate(Estimate.independent(one[quantity].values, one[f"{quantity}_stderr"].values), y)
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
        energy = known["effective_potential"].values
        if known.sizes["s"] > 1 and np.isfinite(energy).all():
            exact = predict.spline_matrix(known["s"].values, s) @ energy
    rule = _spline_rule(y)
    statistical = Estimate.independent(one[quantity].values, one[f"{quantity}_stderr"].values).transform(rule)
    ruled: Estimate | None = None  # the exact force at these points by the same rule
    if "form" in one.dims:
        forms, values, errors, compared = [], [], [], []
        for form in one["form"].values:
            part = one.sel(form=form)
            covariance = part["predicted_covariance"].isel(s_other=np.flatnonzero(keep)).values
            if np.isfinite(part["predicted"].values).all():
                predicted = Estimate(part["predicted"].values, covariance)
                found = integrate(predicted, y)
                forms.append(str(form))
                values.append(found.value)
                errors.append(found.stderr)
                ruled = predicted.transform(rule)
                # What the rule leaves open is common to both but for that of their difference.
                apart = Estimate(one[quantity].values - predicted.value, 0 * predicted.covariance)
                open_part = rule @ apart.value - summaries.integrate(apart, y).value
                compared.append(Estimate(ruled.value, ruled.covariance + np.outer(open_part, open_part)))
        if forms:
            result = result.assign_coords(form=np.array(forms, dtype=object))
            result["predicted"] = (("form", "s"), np.array(values), {"units": "loss", "long_name": "predicted"})
            result["predicted_stderr"] = (
                ("form", "s"),
                np.array(errors),
                {"units": "loss", "long_name": "standard error of the prediction"},
            )
            found_by_form, _ = against_forms(
                (label, "effective_potential", forms), statistical, compared, "s", "loss", exact=quantity == "force"
            )
            result = result.assign(found_by_form)
    rows = [_barrier_row(label, result, potential, s, exact, None if ruled is None else statistical.minus(ruled))]
    if not (one[f"{quantity}_stderr"].values > 0).any():
        words = "; the error is the quadrature's alone: the forces state none"
        rows = [replace(rows[0], statement=rows[0].statement + words)]
    first, last = np.flatnonzero(keep)[[0, -1]]
    if gaps := int((~keep[first:last]).sum()):
        words = f"; across {gaps} point{'s' if gaps > 1 else ''} without a force"
        rows = [replace(rows[0], statement=rows[0].statement + words)]
    return result, rows


def integrate(force: Estimate, y: np.ndarray) -> Estimate:
    """−∫ f dy through a cubic spline. What the few points leave open, the difference d from the trapezoidal rule, is a
    systematic error common to all points: d dᵀ is added to the statistical covariance."""
    found = force.transform(_spline_rule(y))
    d = found.value - summaries.integrate(force, y).value
    return Estimate(found.value, found.covariance + np.outer(d, d))


def _spline_rule(y: np.ndarray) -> np.ndarray:
    """The matrix of minus the integral of the cubic spline from y[0] to each y."""
    spline = make_interp_spline(y, np.eye(len(y)), k=min(3, len(y) - 1)).antiderivative()
    return -(np.asarray(spline(y)) - np.asarray(spline(y[0])))


def _barrier_row(
    label: str,
    result: xr.Dataset,
    potential: Estimate,
    s: np.ndarray,
    exact: np.ndarray | None = None,
    beyond: Estimate | None = None,
) -> Row:
    """The line of the barrier. exact: the exact potential at s. beyond: measured − exact potential where both are
    integrals by the same rule over the same points (of the last form, with statistical errors alone), from which z is:
    where the force has structure between the points, no rule on them can see it."""
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
        top = int(np.argmax(potential.value))
        heights = {"left": exact[top] - exact[0], "right": exact[top] - exact[-1]}
        words += f"; exact {number(heights['left'])} and {number(heights['right'])}"
        away = {n: (getattr(found, n) - h) / getattr(found, f"{n}_stderr") for n, h in heights.items()}
        if beyond is not None:
            each = {}
            for side, end in (("left", 0), ("right", len(s) - 1)):
                row = np.zeros((1, len(s)))
                row[0, top] += 1.0
                row[0, end] -= 1.0
                one = beyond.transform(row)
                each[side] = float(getattr(found, side) - one.value[0])
                away[side] = float(one.value[0] / one.stderr[0]) if one.stderr[0] > 0 else np.nan
            words += f", by the same rule at these points {number(each['left'])} and {number(each['right'])}"
        words += f" (z = {away['left']:.1f} and {away['right']:.1f})"
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


def between(force: xr.Dataset, arc_length: float) -> tuple[xr.Dataset, xr.Dataset]:
    """The effective potentials of two mean forces (`mean_force.between`'s result), above the first common point, and
    the height of the barrier, each as the dataset of `_pair.pair`.

    Both are integrated by the same rule over the places where both forces are known, so its error on what the forces
    share cancels: what it leaves open of their difference, spline less trapezoid, is added to the covariance of one.
    The barrier is the first's highest point above the higher of its two ends (the lower barrier), and the second's at
    the same places. Raises UserError with fewer than 3 places.
    """
    known = np.isfinite(force["first"].values) & np.isfinite(force["second"].values)
    require(int(known.sum()) >= 3, "mean_force", "at least 3 places where both forces are known", int(known.sum()))
    one = force.isel(s=np.flatnonzero(known))
    s = one["s"].values
    found = []
    rule = _spline_rule(s * arc_length)
    for side in ("first", "second"):
        error = np.nan_to_num(one[f"{side}_stderr"].values)
        found.append(Estimate.independent(one[side].values, error).transform(rule))
    difference = Estimate(one["difference"].values, np.zeros((len(s), len(s))))
    open_part = rule @ difference.value - summaries.integrate(difference, s * arc_length).value
    found[0] = Estimate(found[0].value, found[0].covariance + np.outer(open_part, open_part))
    attrs = {n: v for n, v in force.attrs.items() if n != "verdict"}
    alignment = Alignment(attrs["aligned_length"], attrs["aligned_loss"], attrs["aligned_time"])
    potential = pair(
        found,
        {"s": one["s"]},
        units="loss",
        long_name="effective potential",
        alignment=alignment,
        attrs={"zero": f"s = {s[0]:.3g}", "rule": "cubic spline; its error: that on the difference"},
    )
    top = int(np.argmax(found[0].value))
    end = 0 if found[0].value[0] >= found[0].value[-1] else len(s) - 1
    height = np.zeros((1, len(s)))
    height[0, top] += 1.0
    height[0, end] -= 1.0
    barrier = pair(
        [one.transform(height) for one in found],
        {"top": xr.DataArray([s[top]], dims="top", attrs={"units": "1", "long_name": "position of the barrier's top"})},
        units="loss",
        long_name=f"barrier above s = {s[end]:.3g}",
        alignment=alignment,
        attrs={"end": float(s[end])},
    )
    return potential, barrier
