"""The table of a comparison: one row per formula, criterion or measured number, with its verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import xarray as xr
from scipy import special

from analysis.uncertainty import (
    SIGMAS,
    Agreement,
    Estimate,
    Ratio,
    agreement,
    chi2_verdict,
    ratio,
    ratio_verdict,
)

UNITS = dict.fromkeys(("ratio", "ratio_low", "ratio_high", "z", "chi_squared", "degrees_of_freedom", "p_value"), "1")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    kind: "formula" (verdict: agrees, disagrees), "criterion" (met, not met) or "result" (no verdict: a number without
    anything to hold it against); "not determined" is a verdict of any kind. statement: the row in words, with its
    numbers. Numbers that do not apply are NaN; `units` are those of measured and expected.
    """

    run: str
    measurement: str
    quantity: str
    kind: str
    verdict: str
    statement: str
    units: str = "1"
    measured: float = np.nan
    measured_stderr: float = np.nan
    expected: float = np.nan
    expected_stderr: float = np.nan
    ratio: float = np.nan
    ratio_low: float = np.nan
    ratio_high: float = np.nan
    z: float = np.nan
    chi_squared: float = np.nan
    degrees_of_freedom: int = 0
    p_value: float = np.nan


def as_dataset(rows: Sequence[Row]) -> xr.Dataset:
    """The table as a dataset with one dimension, `row`."""
    data = {}
    for field in fields(Row):
        values = [getattr(row, field.name) for row in rows]
        kind = object if values and isinstance(values[0], str) else float
        data[field.name] = ("row", np.array(values, dtype=kind), {"long_name": field.name.replace("_", " ")})
    table = xr.Dataset(data)
    for name, units in UNITS.items():
        table[name].attrs["units"] = units
    return table


def rows(table: xr.Dataset) -> list[Row]:
    """The rows of a table read back from a file; older comparisons say chi2 and p."""
    table = table.rename({old: new for old, new in (("chi2", "chi_squared"), ("p", "p_value")) if old in table})
    return [
        Row(**{f.name: _plain(table[f.name].values[i], f.name) for f in fields(Row)})  # type: ignore[arg-type]
        for i in range(table.sizes.get("row", 0))
    ]


def _plain(value: object, name: str) -> str | float | int:
    if isinstance(value, str):
        return value
    number = float(value)  # type: ignore[arg-type]
    return int(number) if name == "degrees_of_freedom" else number


# --- words ----------------------------------------------------------------------------------------------------------


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power(exponent: int) -> str:
    return f"×10{str(exponent).translate(_SUPERSCRIPTS)}"


def number(value: float) -> str:
    """A number with three digits: "0.0021", "36200", "1.25×10⁻⁵"."""
    if not np.isfinite(value):
        return "unknown"
    if value == 0:
        return "0"
    power = int(np.floor(np.log10(abs(value)) + 1e-12))
    if -3 <= power < 6:
        return f"{round(value, 2 - power):.{max(0, 2 - power)}f}".replace("-", "−")
    return f"{value / 10.0**power:.2f}{_power(power)}".replace("-", "−")


def plus_minus(value: float, stderr: float) -> str:
    """A number with its standard error, both to the error's second digit: "0.21 ± 0.05". An error that is rounding's
    alone is none."""
    if not np.isfinite(stderr) or stderr <= 1e-12 * abs(value) or not np.isfinite(value):
        return number(value)
    last = int(np.floor(np.log10(stderr))) - 1
    power = int(np.floor(np.log10(max(abs(value), stderr))))
    if -3 <= power < 6:
        power = 0
    digits = max(0, power - last)
    text = f"{value / 10.0**power:.{digits}f} ± {stderr / 10.0**power:.{digits}f}".replace("-", "−")
    return f"({text}){_power(power)}" if power else text


def ratio_words(found: Ratio) -> str:
    """The ratio with its error, or with its interval where that is lopsided or unbounded."""
    if not np.isfinite(found.value):
        return "measured/predicted could not be formed"
    if not np.isfinite(found.stderr):
        return f"measured/predicted = {found.value:.2g}, between {found.low:.2g} and {found.high:.2g}"
    up, down = found.high - found.value, found.value - found.low
    if max(up, down) > 1.5 * min(up, down):
        return f"measured/predicted = {found.value:.2g} (+{up:.1g} −{down:.1g})"
    return f"measured/predicted = {plus_minus(found.value, found.stderr)}"


# --- rows -----------------------------------------------------------------------------------------------------------


def formula_row(
    run: str,
    measurement: str,
    formula: str,
    measured: Estimate,
    predicted: Estimate,
    *,
    exact: bool = False,
    constraints: int = 0,
    amplitude: bool = True,
    independent: float | None = None,
) -> tuple[Row, Ratio, Agreement]:
    """Measured points against a formula: the overall ratio with its interval, and chi2 of the points.

    exact: judge by chi2 of measured − predicted (the simulator, where the formula should hold point by point);
    otherwise by the ratio (the network, where the size of a force is in question, and the points' scatter widens the
    interval), and by chi2 too where it rejects the formula at its own size. amplitude: whether a ratio means anything
    (not for a density or a potential up to a constant). independent: how many of the points are (see `agreement`).
    """
    fit = ratio(measured, predicted) if amplitude else Ratio(np.nan, np.nan, np.nan, np.nan, 0)
    test = agreement(measured, predicted, constraints=constraints, independent=independent)
    verdict = chi2_verdict(test) if exact else ratio_verdict(fit, test)
    if (
        exact
        and amplitude
        and verdict == "agrees"
        and np.isfinite(fit.value)
        and ratio_verdict(fit) == "not determined"
    ):
        verdict = "not determined"  # so noisy that no force at all would have passed too
    points = test.degrees_of_freedom + constraints if test.degrees_of_freedom else 0
    parts = [ratio_words(fit)] if amplitude else []
    if (exact or not amplitude) and np.isfinite(test.p_value):
        parts.append(f"χ² = {test.chi_squared:.1f} for {test.degrees_of_freedom} degrees of freedom, z = {test.z:.1f}")
        if independent is not None:
            parts.append(f"{independent:.2g} of the points are independent")
    reason = "; ".join(parts)
    if verdict == "not determined":
        reason = _why_not(fit, measured, predicted) if amplitude else "no point has a value and an error"
    elif not exact:
        if verdict == "disagrees" and ratio_verdict(fit) != "disagrees":
            reason += f"; {_rejected(fit, test)}"
        reason += f", {points} point" + ("s" if points != 1 else "")
    row = Row(
        run=run,
        measurement=measurement,
        quantity=formula,
        kind="formula",
        verdict=verdict,
        statement=f"{verdict}: {reason}",
        ratio=fit.value,
        ratio_low=fit.low,
        ratio_high=fit.high,
        expected=1.0,
        measured=fit.value,
        measured_stderr=fit.stderr,
        z=test.z,
        chi_squared=test.chi_squared,
        degrees_of_freedom=test.degrees_of_freedom,
        p_value=test.p_value,
    )
    return row, fit, test


def _rejected(fit: Ratio, test: Agreement) -> str:
    """Why a formula disagrees whose ratio alone would not: its chi2, at the best factor too."""
    at_one = f"χ² {test.chi_squared:.1f}/{test.degrees_of_freedom}"
    best = special.chdtrc(fit.degrees_of_freedom, fit.chi_squared) if fit.degrees_of_freedom > 0 else np.nan
    if best < 2 * special.ndtr(-SIGMAS):
        at_best = f"{fit.chi_squared:.1f}/{fit.degrees_of_freedom}"
        return f"no single factor fits ({at_one} at its own size, {at_best} at the best)"
    return f"rejected at its own size ({at_one})"


def _why_not(fit: Ratio, measured: Estimate, predicted: Estimate) -> str:
    if not measured.determined().any():
        return "no point has a measured value with an error"
    if not np.isfinite(predicted.value).any():
        return "the formula does not hold at any point"
    if not np.isfinite(fit.value):
        return "measurement and prediction have no point in common"
    return f"{ratio_words(fit)}: the errors are too large to tell agreement from disagreement"


def criterion_row(
    run: str,
    measurement: str,
    quantity: str,
    *,
    met: bool | None,
    statement: str,
    **numbers: float | str,
) -> Row:
    """A criterion and whether the run meets it; None: not determined."""
    verdict = "not determined" if met is None else "met" if met else "not met"
    return Row(run, measurement, quantity, "criterion", verdict, f"{verdict}: {statement}", **numbers)  # type: ignore[arg-type]


def words(row: Row) -> str:
    """The statement without the verdict at its beginning."""
    return row.statement.removeprefix(f"{row.verdict}: ") if row.verdict else row.statement


def count(table: Sequence[Row]) -> dict[str, int]:
    """How many rows there are of each verdict, results aside."""
    found: dict[str, int] = {}
    for row in table:
        if row.kind != "result":
            found[row.verdict] = found.get(row.verdict, 0) + 1
    return found
