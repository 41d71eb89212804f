"""Everything that two runs have in common, compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import xarray as xr

from analysis import summaries
from analysis.agreement import Row, number
from analysis.comparisons import (
    barrier,
    effective_potential,
    escape,
    mean_force,
    profile,
    relaxation,
    spectrum,
    stationary,
)
from analysis.comparisons._pair import Alignment, row
from analysis.runs import over_runs
from entropy_sim.errors import UserError

#: Curves of a profile that are compared as far as both have them.
PROFILE_VARIABLES = (
    "loss",
    "hessian_trace",
    "hessian_trace_transverse",
    "hessian_trace_slope",
    "hessian_max_eigenvalue",
    "noise_trace",
    "log_determinant",
    "effective_potential",
)
MEASUREMENTS = ("profile", "spectrum", "mean_force", "relaxation", "stationary", "escape", "barrier")


def all_between(
    label: str,
    first: xr.DataTree,
    second: xr.DataTree,
    alignment: Alignment = Alignment(),  # noqa: B008 (frozen)
    measurements: tuple[str, ...] = MEASUREMENTS,
) -> tuple[dict[str, xr.Dataset], list[Row]]:
    """The datasets of every comparison between two runs, by `<measurement>` or `<measurement>_<variable>`, and their
    lines of the table.

    What only one of them measured is left out; what cannot be compared gets a line that says why.
    """
    groups: dict[str, xr.Dataset] = {}
    rows: list[Row] = []
    for measurement in (m for m in measurements if m in first.children and m in second.children):
        try:
            jobs = _jobs(measurement, first, second, alignment)
        except UserError as error:
            rows.append(_not_determined(label, measurement, measurement.replace("_", " "), error))
            continue
        for name, quantity, compute in jobs:
            try:
                found = compute()
            except UserError as error:
                rows.append(_not_determined(label, measurement, quantity, error))
                continue
            groups[name] = found
            rows.append(row(label, measurement, quantity, found))
            if name == "escape":
                rows[-1] = _with_rates(rows[-1], found)
            length = summaries.arc_length(first)
            if name == "mean_force" and length is not None:
                new, lines = _potentials(label, found, length)
                groups |= new
                rows += lines
    return groups, rows


Job = tuple[str, str, Callable[[], xr.Dataset]]


def _jobs(measurement: str, first: xr.DataTree, second: xr.DataTree, alignment: Alignment) -> list[Job]:
    """Name, quantity in words and function of every comparison of one measurement."""
    if measurement in ("escape", "barrier"):
        a, b = (tree[measurement].to_dataset() for tree in (first, second))
        if measurement == "escape":
            a, b = over_runs("escape", a), over_runs("escape", b)
            return [("escape", "escape", partial(escape.between, a, b, alignment=alignment))]
        return [
            (f"barrier_{v}", v.replace("_", " "), partial(barrier.between, a, b, v, alignment=alignment))
            for v in barrier.HEIGHTS
        ]
    if measurement == "spectrum":  # whose runs are not averaged: exchanging them is the test
        a, b = (tree[measurement].to_dataset() for tree in (first, second))
        return [
            (f"spectrum_{m}", f"{m} of the spectral density", partial(spectrum.between, a, b, m, alignment=alignment))
            for m in spectrum.MOMENTS
        ]
    a, b = (summaries.the_measurement(tree, measurement) for tree in (first, second))
    if measurement == "mean_force":
        lengths = summaries.arc_length(first), summaries.arc_length(second)
        return [("mean_force", "mean force", partial(mean_force.between, a, b, lengths, alignment=alignment))]
    if measurement == "relaxation":
        return [("relaxation", "displacement", partial(relaxation.between, a, b, alignment=alignment))]
    compare = profile.between if measurement == "profile" else stationary.between
    names = PROFILE_VARIABLES if measurement == "profile" else ("density", "free_energy")
    return [
        (
            f"{measurement}_{v}",
            str(a[v].attrs.get("long_name", v)),
            partial(compare, a, b, v, alignment=alignment),
        )
        for v in names
        if v in a and v in b
    ]


def _potentials(label: str, force: xr.Dataset, length: float) -> tuple[dict[str, xr.Dataset], list[Row]]:
    try:
        potential, height = effective_potential.between(force, length)
    except UserError as error:
        return {}, [_not_determined(label, "effective_potential", "effective potential", error)]
    groups = {"effective_potential": potential, "effective_potential_barrier": height}
    names = ("effective potential", "entropic barrier")
    return groups, [
        row(label, "effective_potential", name, one) for name, one in zip(names, groups.values(), strict=True)
    ]


def _not_determined(label: str, measurement: str, quantity: str, error: UserError) -> Row:
    return Row(label, measurement, quantity, "formula", "not determined", f"not determined: {error}")


def _with_rates(one: Row, found: xr.Dataset) -> Row:
    """The line of an escape: the ratio of the rates, of one setting, and the log-rank test."""
    if found["rate_ratio"].size > 1:
        return replace(one, statement=f"{one.statement} (log-rank, {found['rate_ratio'].size} settings)")
    value, low, high = (float(found[f"rate_ratio{e}"].values.ravel()[0]) for e in ("", "_low", "_high"))
    z = float(found["log_rank_z"].values.ravel()[0])
    words = f"rates first/second = {number(value)} ({number(low)} … {number(high)}), log-rank z = {number(z)}"
    words = words if one.verdict != "not determined" else "nobody escaped, or nobody was followed"
    return replace(
        one,
        statement=f"{one.verdict}: {words}",
        ratio=value,
        ratio_low=low,
        ratio_high=high,
        measured=value,
        measured_stderr=0.5 * (high - low),
    )
