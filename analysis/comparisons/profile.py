"""Profiles of two paths: each curve that both have, at the same s."""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis.comparisons._pair import Alignment, common_points, onto, pair
from analysis.predict import path_profile
from analysis.uncertainty import Estimate
from entropy_sim.errors import require


def variables(first: xr.Dataset, second: xr.Dataset) -> list[str]:
    """The curves along the path that both profiles have, leaving out coordinates, errors and lists of eigenvalues."""
    return [
        str(n)
        for n, v in first.data_vars.items()
        if n in second and not str(n).endswith("_stderr") and set(v.dims) <= {"path_kind", "s"} and "s" in v.dims
    ]


def between(
    first: xr.Dataset,
    second: xr.Dataset,
    variable: str,
    *,
    path_kind: str | None = None,
    alignment: Alignment = Alignment(),  # noqa: B008 (frozen)
) -> xr.Dataset:
    """One curve of two profiles as the dataset of `_pair.pair`, at the points of the coarser one.

    path_kind: the kind of path on both sides (default: the first of each that is not the straight line). Potentials,
    known up to a constant, are compared above the first common point. Raises UserError for a variable that one lacks.
    """
    second = alignment.apply(second)
    found = []
    for profile in (first, second):
        one = path_profile(profile, path_kind)
        require(variable in one, "variable", f"one of {', '.join(variables(first, second))}", variable)
        error = one[f"{variable}_stderr"].values if f"{variable}_stderr" in one else np.zeros(one.sizes["s"])
        found.append((one["s"].values.astype(float), Estimate.independent(one[variable].values, error), one[variable]))
    (s, a, data), (s_second, b, _) = found
    at = common_points(s, s_second)
    first_value, second_value = onto(at, s, a), onto(at, s_second, b)
    note = {}
    if variable == "effective_potential":
        above = np.eye(len(at)) - np.eye(len(at))[:1]
        first_value, second_value = first_value.transform(above), second_value.transform(above)
        note = {"zero": f"s = {at[0]:.3g}"}
    s_axis = xr.DataArray(at, dims="s", attrs={"units": "1", "long_name": "normalised arc length s"})
    return pair(
        (first_value, second_value),
        {"s": s_axis},
        units=str(data.attrs.get("units", "1")),
        long_name=str(data.attrs.get("long_name", variable)),
        alignment=alignment,
        attrs={"variable": variable, **note},
    )
