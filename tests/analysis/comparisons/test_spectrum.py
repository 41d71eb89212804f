"""Spectra with known moments and distances: exponentials of mean w have spread √2 w, and lie |w₁ − w₂| apart."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from analysis import agreement
from analysis.compare import compare
from analysis.comparisons import Alignment, all_between, spectrum
from entropy_sim import schema
from entropy_sim.errors import UserError

X = np.linspace(0.0, 30.0, 3001)


def made(widths=(0.5, 1.0, 0.6), error=0.02, seed=0, scale=1.0, spread=0.0):
    """Densities at s = 0, ½, 1; means off by `spread` at random, the same for all s."""
    off = 1 + spread * np.random.default_rng(seed).standard_normal()
    each = np.stack([np.exp(-X / (w * off)) for w in widths])
    each /= np.trapezoid(each, X)[:, None]
    return schema.make(
        "spectrum",
        {
            "s": (("s",), np.linspace(0, 1, len(widths))),
            "eigenvalue": (("eigenvalue",), X * scale),
            "density": (("s", "eigenvalue"), each / scale),
            "density_stderr": (("s", "eigenvalue"), error * each / scale),
        },
        {"samples": 100},
    )


def runs(count, widths=(0.5, 1.0, 0.6), seed=0, spread=0.05):
    return xr.concat([made(widths, seed=100 * seed + i, spread=spread) for i in range(count)], "run")


def test_moments_of_exponentials():
    """And the bound of the error: one in constant proportion to the density is that of the mean."""
    mean, wide = spectrum.moment(made()), spectrum.moment(made(), "spread")
    np.testing.assert_allclose(mean.value, [0.5, 1.0, 0.6], rtol=1e-3)
    np.testing.assert_allclose(wide.value, np.sqrt(2) * np.array([0.5, 1.0, 0.6]), rtol=1e-3)
    np.testing.assert_allclose(mean.stderr, 0.02 * mean.value, rtol=1e-6)
    np.testing.assert_allclose(wide.stderr, 0.01 * wide.value, rtol=1e-6)
    broadened = made().assign_attrs(gaussian_width=0.5)
    np.testing.assert_allclose(spectrum.moment(broadened, "spread").value ** 2, wide.value**2 - 0.25, rtol=1e-6)
    several = spectrum.moment(runs(400))
    np.testing.assert_allclose(several.stderr / several.value, 0.05 / 20, rtol=0.15)
    with pytest.raises(UserError, match="which: expected one of mean, spread, found 'kurtosis'"):
        spectrum.moment(made(), "kurtosis")


def test_the_distance_is_scipy_s_and_that_of_exponentials():
    a, b = (np.exp(-X / w) / w for w in (0.5, 1.2))
    assert float(spectrum.wasserstein(a, b, X)) == pytest.approx(0.7, rel=1e-3)
    expected = scipy.stats.wasserstein_distance(X, X, a, b)
    assert float(spectrum.wasserstein(a, b, X)) == pytest.approx(expected, rel=1e-3)
    assert float(spectrum.wasserstein(a, a, X)) == 0


def test_equal_and_different_spectra():
    same = spectrum.between(made(seed=1), made(seed=2, scale=1.001))
    assert same.attrs["verdict"] == "agrees"
    other = spectrum.between(made(), made((0.5, 2.0, 0.6)))
    assert float(other["overall_z"]) > 5
    np.testing.assert_allclose(other["distance"], [0, 1, 0], atol=1e-3)
    assert np.isnan(other["distance_p_value"])
    stretched = spectrum.between(made(), made(scale=4.0), alignment=Alignment(length=2.0))
    np.testing.assert_allclose(stretched["ratio"], 1, rtol=1e-6)
    assert float(spectrum.between(made(), made(scale=4.0))["overall_z"]) > 5


def test_exchanging_runs_finds_a_difference_and_not_one_that_is_none():
    """Four against four: 70 exchanges, so that p is at least 2/70. Under the truth p ≤ 0.1 in a tenth of the cases."""
    null = [float(spectrum.between(runs(4, seed=i), runs(4, seed=1000 + i))["distance_p_value"]) for i in range(60)]
    assert sum(p <= 0.1 for p in null) <= 6 + 3 * np.sqrt(6)
    apart = spectrum.between(runs(4, seed=1), runs(4, (0.6, 1.3, 0.8), seed=2))
    assert float(apart["distance_p_value"]) == pytest.approx(2 / 70)
    assert apart.attrs["error"] == "scatter of runs"
    assert "runs exchanged" in apart.attrs["note"]
    assert np.isnan(spectrum.between(runs(2), runs(2, seed=3))["distance_p_value"])


def test_the_trace_of_the_spectrum_is_the_trace_of_the_profile(network):
    """With 200 parameters; a wrong number, and another data set, are told."""
    profile = network(profile_noise=0.01).profile(points=3)
    curve = profile["hessian_trace"].sel(path_kind="neb").values
    found, (row,) = spectrum.against_profile("n", made(curve / 200), profile, 200, True)
    assert row.verdict == "agrees"
    assert row.ratio == pytest.approx(1, abs=0.03)
    assert "Its mean, Tr H / D, is 0.4" in found.attrs["statement"]
    _, (wrong,) = spectrum.against_profile("n", made(curve / 200), profile, 250, True)
    assert wrong.verdict == "disagrees"
    other, (result,) = spectrum.against_profile("n", made(curve / 200), profile, 250, False)
    assert (result.kind, other.attrs["verdict"]) == ("result", "not determined")
    assert result.statement.endswith("of different samples")
    with pytest.raises(UserError, match="parameters: expected their number"):
        spectrum.against_profile("n", made(), profile, None, True)


def test_a_network_with_a_spectrum_and_another(network, tmp_path):
    """In the table, between two networks, in the figures and in the report's."""
    from analysis import plots

    one, two = (network(groups=("path", "profile"), seed=i).tree() for i in (1, 2))
    for tree, widths in ((one, (0.5, 1.0, 0.6)), (two, (0.5, 2.0, 0.6))):
        tree["spectrum"] = made(widths)
        tree.attrs |= {"parameters": 180, "training_samples": 1438}
    tree = compare([], one, [("other", two)])
    said = {(r.run, r.quantity): r for r in agreement.rows(tree["table"].to_dataset())}
    assert said["network", "Tr H from the spectral density"].kind == "result"
    assert said["network and other", "mean of the spectral density"].verdict == "disagrees"
    assert "Wasserstein distance up to 1" in said["network and other", "mean of the spectral density"].statement
    names = {name: caption for name, _, caption, _ in plots.further_figures("network", one, tree)}
    assert "Tr H / D, is 0.55" in names["spectrum"]
    _, rows = all_between("a and b", one, network(groups=("path", "profile")).tree())
    assert not [r for r in rows if r.measurement == "spectrum"]
