"""The stationary density of s: p ∝ exp(-U/T) prod k_i^(-1/2), exactly, and refusals where there is none."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from entropy_sim import schema
from entropy_sim._ensemble import Ensemble
from entropy_sim.checkpoint import Checkpoint
from entropy_sim.dynamics import SGD, Overdamped
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Barrier, Bump, Channel, Confining, Exponential, Quadratic
from entropy_sim.measurements import Stationary, stationary
from entropy_sim.measurements.base import Execution
from entropy_sim.measurements.stationary import _count, effective_bins
from entropy_sim.noise import CurvaturePower, GradientCovariance, Levy, Thermal

LM = Overdamped(0.01, "leimkuhler_matthews")


def probability(channel, temperature, edges, power=0.5):
    """Exact probability of each bin, with prod k_i^(-power)."""
    s = np.linspace(0, 1, 20_001)
    weight = np.exp(-channel.path_energy(s) / temperature) * np.prod(channel.curvature(s) ** -power, axis=1)
    total = np.concatenate([[0.0], np.cumsum(0.5 * (weight[1:] + weight[:-1]))])
    return np.diff(np.interp(edges, s, total / total[-1]))


@pytest.mark.parametrize("boundary", ["reflecting", "periodic"])
def test_marginal_is_the_product_of_inverse_roots_of_the_stiffness(boundary):
    """One snapshot of independent walkers: a chi-squared test needs nothing decorrelated. T = 1 is far from fast
    transverse modes, where the formula still holds. Mutants: prod k_i^(-1), a flat density, U left out."""
    channel = Channel(Bump(1.0, 4.0, 0.5), Barrier(0.5), 2, (1.0, 1.5), length=1.5, boundary=boundary)
    walkers, bins = 30_000, 15
    start = channel.path((np.arange(walkers) + 0.5) / walkers)
    ensemble = Ensemble(channel, Thermal(1.0), LM, start, seed=3)
    ensemble.advance(800)  # x forgets as exp(-2 k t), t = 8
    edges = np.linspace(0, 1, bins + 1)
    counts = np.histogram(channel.position(ensemble.theta), edges)[0]

    def p_value(expected):
        return stats.chisquare(counts, walkers * expected / expected.sum()).pvalue

    assert p_value(probability(channel, 1.0, edges)) > 1e-3
    without_u = Channel(channel.stiffness, transverse_directions=2, length=1.5)
    for mutant in (
        probability(channel, 1.0, edges, power=1.0),
        np.full(bins, 1 / bins),
        probability(without_u, 1.0, edges),
    ):
        assert p_value(mutant) < 5e-7  # five standard deviations


def test_density_and_free_energy_have_honest_error_bars():
    channel = Channel(Exponential(1.0, 9.0), transverse_directions=1)
    edges = np.linspace(0, 1, 11)
    exact, mutant = (10 * probability(channel, 0.5, edges, power=power) for power in (0.5, 1.0))
    squares = []
    for seed in range(8):
        settings = {"bins": 10, "walkers": 640, "burn_in": 8.0, "duration": 20.0, "stride": 5, "seed": seed}
        tree = stationary(channel, Thermal(0.5), LM, **settings)
        group = tree["stationary"]
        assert schema.faults(tree) == []
        density, stderr = group["density"].values, group["density_stderr"].values
        z = (density - exact) / stderr
        assert np.abs(z).max() < 4.5  # Student, 31 degrees of freedom
        squares.append(np.mean(z**2))
        assert stderr.max() < 0.03 * density.max()
        assert np.abs((density - mutant) / stderr).max() > 5
        assert density.mean() == pytest.approx(1.0)
        np.testing.assert_allclose(group["free_energy"], -0.5 * np.log(density))
        np.testing.assert_allclose(group["free_energy_stderr"], 0.5 * stderr / density)
        assert group.attrs["free_energy_is"] == "-T ln p"
    # Neighbouring bins go together: about five of ten are independent, 38 in all.
    assert 0.5 < np.mean(squares) < 1.7


def test_the_number_of_independent_bins_is_that_of_their_correlations():
    """Bins of known correlation r^|i−j|: n² / Σ r_ij², from 32 groups of walkers to a tenth on average over 100 such
    estimates. Without freeing r² of the bias of chance it is 30 % too small for independent bins."""
    n, random = 40, np.random.default_rng(0)
    for r, tolerance in ((0.0, 0.05), (0.8, 0.1)):
        matrix = r ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
        root = np.linalg.cholesky(matrix)
        found = [effective_bins(5 + root @ random.standard_normal((n, 32))) for _ in range(100)]
        assert np.mean(found) == pytest.approx(n**2 / (matrix**2).sum(), rel=tolerance)
        if r == 0:
            naive = [n**2 / (np.corrcoef(random.standard_normal((n, 32))) ** 2).sum() for _ in range(100)]
            assert np.mean(naive) < 0.7 * n
    assert np.isnan(effective_bins(np.ones((10, 32))))
    group = Stationary(duration=20.0).run()["stationary"]
    assert 1 <= group.attrs["effective_bins"] < 15  # slow motion along s: most of 50 bins go together


def test_default_run_shows_the_entropic_barrier():
    group = Stationary(duration=40.0).run()["stationary"]
    density = group["density"].values
    exact = 50 * probability(Channel(), 0.01, np.linspace(0, 1, 51))
    assert density[:5].mean() > 30 * density[23:27].mean()
    np.testing.assert_allclose(density[:5].mean() + density[-5:].mean(), 2 * exact[:5].mean(), rtol=0.05)


def test_numbers_do_not_depend_on_threads():
    measurement = Stationary(walkers=200, burn_in=0.5, duration=2.0)
    one, two = measurement.run(threads=1), measurement.run(threads=2)
    np.testing.assert_array_equal(one["stationary"]["density"], two["stationary"]["density"])
    np.testing.assert_array_equal(one["stationary"]["density_stderr"], two["stationary"]["density_stderr"])


def test_non_thermal_noise_gives_minus_ln_p():
    tree = stationary(Channel(), CurvaturePower(), Overdamped(), walkers=64, burn_in=1.0, duration=2.0, bins=2)
    group = tree["stationary"]
    assert group.attrs["free_energy_is"] == "-ln p"
    np.testing.assert_allclose(group["free_energy"], -np.log(group["density"]))


def test_walkers_off_the_path_and_diverged_ones_are_told_apart():
    located = np.zeros((2, 64))
    located[0] = 0.4
    located[0, 1], located[1, 2], located[0, 3], located[0, 4], located[0, 5] = np.nan, np.nan, -0.1, 1.1, 1.0
    out = np.zeros((12, 32))
    empty = np.zeros((0, 64))
    _count(empty, empty, located, empty, 0, out, np.array([10.0]))
    counts = out.sum(axis=1)
    assert counts[10:].tolist() == [2, 2]  # off 0…1, and not finite
    assert counts[9] == 1
    assert counts[4] == 64 - 5
    bowl = stationary(Quadratic(((1.0, 2.0),)), Thermal(1.0), Overdamped(0.1), walkers=640, burn_in=3.0, bins=4)
    outside = 2 * stats.norm.sf(1.0, scale=np.sqrt(1 / 0.95))
    assert bowl["stationary"].attrs["outside"] == pytest.approx(outside, rel=0.02)


def test_nobody_left_is_no_density(monkeypatch):
    """Everything is NaN but the number of the diverged. Mutant: a density of 0, with an error of 0."""
    monkeypatch.setattr("entropy_sim._ensemble.DIVERGENCE_BOUND", 1e-3)
    measurement = Stationary(Channel(Bump(), length=1e-3), walkers=64, burn_in=0.5, duration=0.5)
    tree = measurement.run()
    assert schema.faults(tree) == []
    group = tree["stationary"]
    assert group.attrs["diverged"] == 64
    for name in group.data_vars:
        assert np.isnan(group[name]).all()
    for name in ("outside", "effective_bins", "effective_sample_size", "autocorrelation_time"):
        assert np.isnan(group.attrs[name])


def test_a_group_without_walkers_has_no_density(monkeypatch):
    """Half of the groups have lost all their walkers: the spread of the others is the error. Mutant: a density of 0 for
    every group that is lost, seven times the error."""
    measurement = Stationary(Channel(Bump(1.0, 1.0), transverse_directions=1), Thermal(0.5), walkers=6400, duration=5.0)
    follow = Stationary._follow

    def half(self, how, left_out=None):
        return follow(self, how, np.arange(self.walkers) % 32 < 16)

    whole = measurement.run()["stationary"]
    monkeypatch.setattr(Stationary, "_follow", half)
    found = measurement.run()["stationary"]
    assert found.attrs["diverged"] == 3200
    ratio = float((found["density_stderr"] / whole["density_stderr"]).mean())
    assert ratio == pytest.approx(np.sqrt(2), rel=0.15)
    assert found.attrs["stderr_from"] == "16 groups of walkers"
    size = found.attrs["effective_sample_size"] / whole.attrs["effective_sample_size"]
    assert 0.2 < size < 1.25


def test_what_walkers_did_before_they_diverged_counts_neither(tmp_path):
    """Jumps so far that the walls' force overshoots. The histogram is that of a slow count of the survivors; with what
    the others did before it would be another. An interruption of the second run changes nothing."""
    system = Channel(Bump(), Confining(1.0, 1.0, 4), 2, boundary="open"), Levy(1.0, 0.1), Overdamped(0.01)
    options = {"walkers": 320, "burn_in": 0.5, "duration": 4.0, "stride": 20, "bins": 5, "seed": 2}
    measurement = Stationary(*system, **options)
    group = measurement.run()["stationary"]
    start = system[0].path((np.arange(320) + 0.5) / 320)
    ensemble, seen = Ensemble(*system, start, seed=2), []
    for step in range(50, 450, 20):
        ensemble.advance_to(step)
        seen.append(system[0].position(ensemble.theta))
    ensemble.advance_to(450)
    lost = ensemble.diverged
    assert group.attrs["diverged"] == lost.sum() > 10
    everyone, survivors = (np.histogram(s, 5, (0.0, 1.0))[0] for s in (np.array(seen), np.array(seen)[:, ~lost]))
    np.testing.assert_allclose(group["density"], 5 * survivors / survivors.sum(), rtol=1e-12)
    assert np.abs(everyone - survivors).min() > 0

    checkpoint = Checkpoint(tmp_path / "state.npz", measurement)
    first = measurement._follow(Execution())
    checkpoint.save("stationary", first.state())
    again = measurement.run(checkpoint=Checkpoint(tmp_path / "state.npz", measurement))["stationary"]
    xr.testing.assert_identical(again.to_dataset(), group.to_dataset())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"landscape": Quadratic(((1.0, 0.0),))},
            r"landscape: expected one with a stationary density, found a flat or falling direction without bound",
        ),
        ({"noise": CurvaturePower(along_path=0.0)}, r"found no noise along the path \(CurvaturePower\)"),
        ({"noise": Thermal(0.0)}, r"found no noise along the path \(Thermal\)"),
        (
            {"noise": GradientCovariance(((0.0, 1.0, 1.0, 1.0, 1.0),)), "dynamics": SGD()},
            r"found no noise along the path \(GradientCovariance\)",
        ),
        ({"bins": 1}, r"bins: expected at least 2, found 1"),
        ({"walkers": 8}, r"walkers: expected at least 64, found 8"),
        ({"stride": 0}, r"stride: expected at least 1, found 0"),
        ({"stride": 10**6}, r"stride: expected at most the 20000 steps of the duration"),
    ],
)
def test_bad_input_is_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        Stationary(**options)


def test_autocorrelation_time_counts_only_the_samples_on_the_path():
    """A trap wider than the path: nearly half of the walkers are outside. Each walker counts once, so
    that tau is one spacing. A mutant that counts the walkers outside too finds nearly twice that."""
    channel = Channel(Bump(1.0, 1.0), Confining(1.0, 0.0), boundary="open")
    options = {"bins": 10, "walkers": 4096, "burn_in": 6.0, "duration": 0.01, "stride": 1}
    found = [stationary(channel, Thermal(1.0), LM, **options, seed=seed)["stationary"].attrs for seed in range(6)]
    assert min(a["outside"] for a in found) > 0.4
    tau = np.array([a["autocorrelation_time"] for a in found]) / LM.time_step
    assert abs(tau.mean() - 1.0) < 4 * np.sqrt(2 / 31 / len(found))
    total = [a["effective_sample_size"] * t for a, t in zip(found, tau, strict=True)]
    np.testing.assert_allclose(total, [4096 * (1 - a["outside"]) for a in found], rtol=1e-9)
