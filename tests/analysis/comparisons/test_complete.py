"""Every comparison has its statistics, and says how the two sides were aligned."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from analysis.compare import compare
from analysis.comparisons import (
    MEASUREMENTS,
    Alignment,
    barrier,
    effective_potential,
    escape,
    mean_force,
    profile,
    relaxation,
    stationary,
)
from entropy_sim.run_files import read_tree, write_tree
from tests.analysis.comparisons import test_between as made
from tests.analysis.comparisons.test_spectrum import made as spectrum_of

#: length ×2, loss ×3: the same numbers in other units have to be the same, and the clock ×4/3 slower.
ALIGNMENT = Alignment(length=2.0, loss=3.0)


def pairs(channel, alignment):
    """Every `between`, of two measurements of one truth."""
    one, two = channel(seed=1), channel(seed=2)
    force = mean_force.between(one.mean_force(), two.mean_force(), alignment=alignment)
    potential, height = effective_potential.between(force, 2.0)
    return {
        "profile": profile.between(made_profile(1), made_profile(2), "hessian_trace", alignment=alignment),
        "mean_force": force,
        "effective_potential": potential,
        "effective_potential_barrier": height,
        "relaxation": relaxation.between(one.relaxation(), two.relaxation(), alignment=alignment),
        "stationary": stationary.between(one.stationary(), two.stationary(), alignment=alignment),
        "escape": escape.between(made.escapes(1.0, 60, 1), made.escapes(1.0, 60, 2), alignment=alignment),
        "barrier": barrier.between(
            made.barriers([0.1, 0.2, 0.4]), made.barriers(np.array([0.1, 0.2, 0.4]) / alignment.loss, seed=3),
            alignment=alignment,
        ),
    }  # fmt: skip


def made_profile(seed):
    from tests.analysis.conftest import MadeUpNetwork

    return MadeUpNetwork(seed=seed).profile()


NUMBERS = ("chi_squared", "degrees_of_freedom", "p_value", "overall_z")
ALIGNED = ("aligned_s", "aligned_length", "aligned_loss", "aligned_time", "alignment", "verdict", "intervals")


@pytest.mark.parametrize("alignment", [Alignment(), ALIGNMENT])
def test_every_pair_has_difference_z_chi_squared_p_ratio_and_alignment(channel, alignment, tmp_path):
    found = pairs(channel, alignment)
    assert {n.split("_barrier")[0] for n in found} | {"spectrum"} == {*MEASUREMENTS, "effective_potential"}
    tree = xr.DataTree.from_dict(found)
    tree.attrs = {"source": "analysis"}
    write_tree(tree, tmp_path / "pairs.nc", check=False)
    again = read_tree(tmp_path / "pairs.nc", check=False)
    for name in found:
        ds = again[name].to_dataset()
        (dim,) = ds["first"].dims
        assert {"first", "second", "difference", "z", "covariance", *NUMBERS} <= set(ds), name
        assert {f"{n}_stderr" for n in ("first", "second", "difference")} <= set(ds), name
        assert ds["covariance"].dims == (dim, f"{dim}_other"), name
        np.testing.assert_allclose(np.diag(ds["covariance"]), ds["difference_stderr"] ** 2)
        np.testing.assert_allclose(ds["difference"], ds["first"] - ds["second"])
        ratio = "rate_ratio" if name == "escape" else "ratio"
        low, value, high = (ds[f"{ratio}{end}"].values for end in ("_low", "", "_high"))
        known = np.isfinite(value) & np.isfinite(low) & np.isfinite(high)
        assert known.any(), name
        assert (low[known] <= value[known]).all(), name
        assert (value[known] <= high[known]).all(), name
        assert all(ds[n].ndim == 0 and np.isfinite(ds[n]) for n in NUMBERS), name
        assert 0 <= float(ds["p_value"]) <= 1
        assert set(ALIGNED) <= set(ds.attrs), name
        assert ds.attrs["aligned_time"] == pytest.approx(alignment.length**2 / alignment.loss)
        assert all(v.attrs.get("units") and v.attrs.get("long_name") for v in ds.data_vars.values()), name


def test_errors_of_an_integral_are_correlated_in_every_potential(channel):
    """χ² uses them: from the variances alone it would be another number."""
    ds = pairs(channel, Alignment())["effective_potential"]
    covariance, d = ds["covariance"].values[1:, 1:], ds["difference"].values[1:]
    correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert np.abs(np.diag(correlation, 1)).min() > 0.3
    full = d @ np.linalg.pinv(covariance, hermitian=True) @ d
    assert float(ds["chi_squared"]) == pytest.approx(full, rel=1e-6)
    assert float(ds["chi_squared"]) != pytest.approx((d**2 / np.diag(covariance)).sum(), rel=0.05)


def test_every_comparison_with_theory_has_them_too(channel):
    """Mean force, potential, relaxation and density, for each form."""
    tree = compare([("sim", channel(scale=0.3).tree()), ("thermal", channel().tree())])
    for path, prefixes in (
        ("mean_force/sim", [""]),
        ("effective_potential/sim", [""]),
        ("relaxation/sim", [""]),
        ("stationary/thermal", ["density_", "free_energy_"]),
    ):
        ds = tree[path].to_dataset()
        for prefix in prefixes:
            names = {
                f"{prefix}{n}" for n in ("difference", "z", "chi_squared", "degrees_of_freedom", "p_value", "verdict")
            }
            if prefix != "free_energy_":
                names |= {f"{prefix}{n}{e}" for n in ("ratio", "overall_ratio") for e in ("", "_low", "_high")}
            assert names <= set(ds), path
            assert ds[f"{prefix}difference"].dims[0] == "form"
            assert ds[f"{prefix}p_value"].dims == ("form",)
            assert np.isfinite(ds[f"{prefix}p_value"]).all()


def test_a_spectrum_has_them(channel):
    from analysis.comparisons import spectrum

    ds = spectrum.between(spectrum_of(seed=1), spectrum_of(seed=2), alignment=ALIGNMENT)
    assert {"difference", "z", "ratio_low", "overall_ratio_high", "distance", *NUMBERS} <= set(ds)
    assert set(ALIGNED) <= set(ds.attrs)
