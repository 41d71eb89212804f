"""Stationary density and free energy, against theory and against another density."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from analysis.agreement import Row, number
from analysis.comparisons._forms import against_forms
from analysis.comparisons._pair import Alignment, pair
from analysis.uncertainty import Estimate
from entropy_sim.errors import UserError, require

#: Standard errors by which walkers may still remember where they started in a density that is judged.
REMEMBERED = 1.0


def against_theory(
    label: str, dataset: xr.Dataset, predicted: xr.Dataset, remembered: float = 0.0
) -> tuple[xr.Dataset, list[Row]]:
    """The density of s against each form of `predicted` (form, s), normalised over the same bins, and the free energy
    up to a constant, which the weighted mean difference fixes (one degree of freedom each). Bins are correlated; the
    run tells how many are independent (`effective_bins`), else they are taken to be so. remembered: by how many
    standard errors the walkers' start is still seen; beyond 1 nothing is determined: that density is not stationary."""
    _is_density(dataset)
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
        forms, expected = list(map(str, predicted["form"].values)), []
        for i in range(len(forms)):
            one = predicted[name].values[i]
            if name == "free_energy":
                good = measured.determined() & np.isfinite(one)
                if good.any():
                    shift = np.average((value - one)[good], weights=stderr[good] ** -2)
                    predicted[name].values[i] = one = one + shift
            expected.append(Estimate.independent(one, np.zeros_like(one)))
        units = str(dataset[name].attrs["units"])
        found, lines = against_forms(
            (label, "stationary", [f"{name.replace('_', ' ')}, {form}" for form in forms]),
            measured,
            expected,
            "s",
            units,
            exact=True,
            constraints=1,
            amplitude=name == "density",
            independent=_independent(dataset),
        )
        if remembered > REMEMBERED:
            text = f"not determined: after its burn-in the density is still {number(remembered)} standard errors from "
            text += "the stationary one, by the reduced dynamics: walkers remember where they started"
            lines = [replace(line, verdict="not determined", statement=text) for line in lines]
            found["verdict"][1][:] = "not determined"
        rows += lines
        spec = {"units": units, "long_name": f"predicted {dataset[name].attrs['long_name']}"}
        result[f"{name}_predicted"] = (("form", "s"), predicted[name].values, spec)
        result = result.assign({f"{name}_{key}": variable for key, variable in found.items()})
    result.attrs |= dataset.attrs
    return result, rows


def between(
    first: xr.Dataset,
    second: xr.Dataset,
    variable: str = "density",
    *,
    alignment: Alignment = Alignment(),  # noqa: B008 (frozen)
) -> xr.Dataset:
    """`density` or `free_energy` of two `stationary` groups, as the dataset of `_pair.pair`, on the coarser bins.

    A density's finer bins are averaged over the part of each coarse bin that they fill (exact where the edges fall
    together; attribute `bins`), and the normalisation takes one degree of freedom. Free energies need the same bins;
    the constant between them, which takes one too, is fixed by the weighted mean difference. Raises UserError for bins
    that do not fill 0…1, or a variable that one lacks.
    """
    second = alignment.apply(second)
    found = []
    for one in (first, second):
        require(variable in one, "variable", "density or free_energy, on both sides", variable)
        s = one["s"].values.astype(float)
        if not np.allclose(s, (np.arange(len(s)) + 0.5) / len(s), atol=1e-6):
            raise UserError("stationary/s: expected the centres of equal bins that fill 0…1, found others")
        error = one[f"{variable}_stderr"].values if f"{variable}_stderr" in one else np.zeros(len(s))
        _is_density(one)
        found.append(Estimate.independent(one[variable].values, error))
    sizes = [len(e.value) for e in found]
    coarse = min(sizes)
    if variable == "density":
        found = [e.transform(_rebinned(len(e.value), coarse)) for e in found]
    else:
        require(sizes[0] == sizes[1], "stationary/s", "the same bins for a free energy", sizes)
        found[1] = _shifted(*found)
    exact = all(size % coarse == 0 for size in sizes)
    known = [k for k in map(_independent, (first, second)) if k is not None]
    independent = min(*known, float(coarse - 1)) if len(known) == 2 else None
    s = (np.arange(coarse) + 0.5) / coarse
    return pair(
        found,
        {"s": xr.DataArray(s, dims="s", attrs=dict(first["s"].attrs))},
        units=str(first[variable].attrs.get("units", "1")),
        long_name=str(first[variable].attrs.get("long_name", variable)),
        alignment=alignment,
        constraints=1,
        amplitude=variable == "density",
        independent=independent,
        attrs={
            "variable": variable,
            "bins": f"{sizes[0]} and {sizes[1]} on {coarse}: " + ("exact" if exact else "shared in proportion"),
            "independent_bins": independent if independent is not None else "taken to be all: not stored",
        },
    )


def _is_density(dataset: xr.Dataset) -> None:
    """Raise UserError for a density with negative values, or a mean over s that is not 1 where all bins are known."""
    value = dataset["density"].values
    if np.nanmin(value, initial=0.0) < 0 or (np.isfinite(value).all() and abs(value.mean() - 1) > 0.2):
        found = f"{float(np.nanmin(value)):.3g} … {float(np.nanmax(value)):.3g} with mean {float(value.mean()):.3g}"
        raise UserError(f"stationary/density: expected a density over s of mean 1, found {found}")


def _independent(dataset: xr.Dataset) -> float | None:
    """How many bins of a run are independent, None if it does not tell."""
    found = np.atleast_1d(np.asarray(dataset.attrs.get("effective_bins", np.nan), float))
    return float(found[0]) if found.size == 1 and np.isfinite(found[0]) else None


def _rebinned(bins: int, coarse: int) -> np.ndarray:
    """The matrix (coarse, bins) of averages over the part of each fine bin that lies in a coarse one."""
    edges, fine = np.arange(coarse + 1) / coarse, np.arange(bins + 1) / bins
    overlap = np.minimum(edges[1:, None], fine[None, 1:]) - np.maximum(edges[:-1, None], fine[None, :-1])
    return np.clip(overlap, 0.0, None) * coarse


def _shifted(first: Estimate, second: Estimate) -> Estimate:
    """The second with the constant that the weighted mean difference leaves over the bins that both know."""
    variance = first.stderr**2 + second.stderr**2
    good = np.isfinite(first.value) & np.isfinite(second.value) & (variance > 0) & np.isfinite(variance)
    if not good.any():
        return second
    shift = np.average((first.value - second.value)[good], weights=1 / variance[good])
    return Estimate(second.value + shift, second.covariance)
