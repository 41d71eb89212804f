"""A measurement against several forms of theory: the variables that every comparison with theory has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from analysis.agreement import Row, formula_row, number
from analysis.uncertainty import LEVEL, SIGMAS, Estimate
from entropy_sim import statistics


def against_forms(
    row: tuple[str, str, Sequence[str]],
    measured: Estimate,
    predicted: Sequence[Estimate],
    dim: str,
    units: str,
    *,
    exact: bool,
    constraints: int = 0,
    amplitude: bool = True,
    independent: float | None = None,
) -> tuple[dict[str, Any], list[Row]]:
    """Variables over (form, dim): `difference` = measured − predicted, its `z`, and `ratio` with its 68 % interval
    `ratio_low`, `ratio_high` (Fieller); over form: `overall_ratio` (+ `_low`, `_high`), `chi_squared` with the full
    covariance of both, `degrees_of_freedom`, `p_value`, `verdict`; and the lines of the table.

    row: run, measurement, and the quantity of each form. The rest as in `agreement.formula_row`."""
    run, measurement, quantities = row
    lines, fits, tests, z, points, differences = [], [], [], [], [], []
    for quantity, one in zip(quantities, predicted, strict=True):
        line, fit, test = formula_row(
            run,
            measurement,
            quantity,
            measured,
            one,
            exact=exact,
            constraints=constraints,
            amplitude=amplitude,
            independent=independent,
        )
        lines.append(line)
        fits.append(fit)
        tests.append(test)
        difference, error = measured.value - one.value, np.hypot(measured.stderr, one.stderr)
        differences.append(difference)
        with np.errstate(divide="ignore", invalid="ignore"):
            z.append(np.where(error > 0, difference / error, np.nan))
        points.append(statistics.ratio(measured.value, measured.stderr, one.value, one.stderr, level=LEVEL))
    along, each = ("form", dim), ("form",)
    variables: dict[str, Any] = {
        "difference": (along, np.array(differences), units, "measured − predicted"),
        "z": (along, np.array(z), "1", "(measured − predicted) / standard error"),
    }
    if amplitude:
        variables |= {
            "ratio": (along, np.array([p.value for p in points]), "1", "measured / predicted"),
            "ratio_low": (along, np.array([p.low for p in points]), "1", "measured / predicted, lower end (68 %)"),
            "ratio_high": (along, np.array([p.high for p in points]), "1", "measured / predicted, upper end (68 %)"),
            "overall_ratio": (each, np.array([f.value for f in fits]), "1", "measured / predicted, all points"),
            "overall_ratio_low": (each, np.array([f.low for f in fits]), "1", "lower end (68 %)"),
            "overall_ratio_high": (each, np.array([f.high for f in fits]), "1", "upper end (68 %)"),
        }
    variables |= {
        "chi_squared": (each, np.array([t.chi_squared for t in tests]), "1", "χ² of measured − predicted"),
        "degrees_of_freedom": (each, np.array([t.degrees_of_freedom for t in tests]), "1", "degrees of freedom"),
        "p_value": (each, np.array([t.p_value for t in tests]), "1", "p-value of χ²"),
        "verdict": (each, np.array([line.verdict for line in lines], dtype=object), "1", "agreement"),
    }
    score, none, points_used = log_likelihoods(measured, predicted)
    variables |= {
        "log_likelihood": (each, score, "1", "ln L of the measured values under the form, over places all forms know"),
        "log_likelihood_of_none": ((), none, "1", "ln L of the measured values under no effect at all"),
        "places_scored": ((), points_used, "1", "places at which forms are scored"),
    }
    return {n: (d, v, {"units": u, "long_name": t}) for n, (d, v, u, t) in variables.items()}, lines


def log_likelihoods(measured: Estimate, predicted: Sequence[Estimate]) -> tuple[np.ndarray, float, int]:
    """``ln L = −½ (d^T C^-1 d + ln det 2πC)``, d = measured − predicted, C the summed covariance of both, of each form
    and of 0 everywhere, and over how many places: those where the measurement and every form are known, but for forms
    that are known at less than half of the places, which have none (NaN). No form has a parameter: none is penalised.
    """
    known = measured.determined()
    usable = [np.isfinite(p.value) & np.isfinite(p.stderr) for p in predicted]
    entering = [known.any() and (u & known).sum() >= 0.5 * known.sum() for u in usable]
    common = known.copy()
    for u, enters in zip(usable, entering, strict=True):
        common &= u if enters else True
    if not common.any():
        return np.full(len(predicted), np.nan), np.nan, 0
    m = measured.select(common)

    def score(value: np.ndarray, covariance: np.ndarray) -> float:
        d, c = m.value - value, m.covariance + covariance
        sign, logarithm = np.linalg.slogdet(2 * np.pi * c)
        return float(-0.5 * (d @ np.linalg.solve(c, d) + logarithm)) if sign > 0 else np.nan

    found = [
        score(p.select(common).value, p.select(common).covariance) if enters else np.nan
        for p, enters in zip(predicted, entering, strict=True)
    ]
    return np.array(found), score(0 * m.value, 0 * m.covariance), int(common.sum())


def ranking(run: str, measurement: str, found: xr.Dataset) -> list[Row]:
    """Two results in words, from a dataset with the variables above: the forms in the order of their likelihood, and
    where each of them fails, by how much. Nothing without forms."""
    scores = found["log_likelihood"].values
    if not np.isfinite(scores).any():
        return []
    forms = [str(f) for f in found["form"].values]
    order = [i for i in np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable") if np.isfinite(scores[i])]
    best = float(scores[order[0]])
    below = [f"{forms[i]} {number(float(scores[i]) - best)}" for i in order[1:]]
    below.append(f"no force at all {number(float(found['log_likelihood_of_none']) - best)}")
    words = f"{forms[order[0]]} is the likeliest; ln L below it, over {int(found['places_scored'])} places: "
    rows = [Row(run, measurement, "forms by likelihood", "result", "", words + ", ".join(below))]
    parts = []
    for i, form in enumerate(forms):
        z = found["z"].values[i]
        if not np.isfinite(z).any():
            parts.append(f"{form}: not known at any place")
            continue
        out, worst = int((np.abs(z) > SIGMAS).sum()), int(np.nanargmax(np.abs(z)))
        ratio = float(found["ratio"].values[i, worst])
        parts.append(
            f"{form}: {out} of {int(np.isfinite(z).sum())}, worst at {found['z'].dims[1]} = "
            f"{float(found[found['z'].dims[1]][worst]):.2g} (z = {z[worst]:.1f}, measured/predicted {number(ratio)})"
        )
    text = f"places beyond {SIGMAS:g} standard errors: " + "; ".join(parts)
    return [*rows, Row(run, measurement, "where forms fail", "result", "", text)]
