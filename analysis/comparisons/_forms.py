"""A measurement against several forms of theory: the variables that every comparison with theory has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.agreement import Row, formula_row
from analysis.comparisons._pair import LEVEL
from analysis.uncertainty import Estimate
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
    return {n: (d, v, {"units": u, "long_name": t}) for n, (d, v, u, t) in variables.items()}, lines
