"""Alpha-stable noise: its law against scipy and exact characteristic functions, and what it leaves undefined."""

import numpy as np
import pytest
from scipy.stats import levy_stable

from entropy_sim import theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD, Adam, Overdamped, Underdamped
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Channel, Quadratic
from entropy_sim.measurements import MeanForce, Profile, Relaxation, Stationary
from entropy_sim.noise import Levy, LevyGradient, Thermal

BOWL = Quadratic(((1.0, 4.0, 2.0),))
FREQUENCIES = np.array([0.3, 1.0, 2.5])


def unit_law(noise, walkers=40_000, step=7):
    """One step's noise, (d, walkers), at a time step of 1."""
    out, empty = np.empty((3, walkers)), np.zeros((3, walkers))
    xi = np.random.default_rng(step).standard_normal((noise.normals(BOWL), walkers), dtype=np.float32)
    function, params = noise.function_for(BOWL), noise.params(BOWL, 1.0)
    function(empty, empty.copy(), np.zeros((0, walkers)), xi, out, np.uint64(2), 0, step, params)
    return out


def characteristic_z(values, scale, alpha, frequencies=FREQUENCIES):
    """z-scores of <cos(u x)> of independent values (n,) at frequencies in units of 1 / scale."""
    c = np.cos(np.outer(frequencies / scale, values))
    expected = theory.stable_characteristic(frequencies, 1.0, alpha)
    return (c.mean(axis=1) - expected) / (c.std(axis=1) / np.sqrt(values.size))


@pytest.mark.parametrize("components", ["independent", "isotropic"])
@pytest.mark.parametrize("alpha", [0.4, 1.0, 1.5, 2.0])
def test_the_unit_law_is_stable_along_every_axis(alpha, components):
    x = unit_law(LevyGradient(alpha, 1.0, components))
    z = np.array([characteristic_z(row, 1.0, alpha) for row in x])
    assert np.abs(z).max() < 4.0, z
    # Along a diagonal: the scale of a sum of independent components is 2^(1/alpha), of isotropic ones sqrt(2).
    scales = {"independent": 2.0 ** (1.0 / alpha), "isotropic": 2.0**0.5}
    assert np.abs(characteristic_z(x[0] + x[1], scales.pop(components), alpha)).max() < 4.0
    other = scales.popitem()[1]
    if alpha < 2.0:  # the other kind of components is rejected (relative standard error of <cos>: 1 %)
        assert np.abs(characteristic_z(x[0] + x[1], other, alpha)).max() > 5.0


@pytest.mark.parametrize("alpha", [0.7, 1.3, 1.8])
def test_quantiles_far_into_the_tails_are_those_of_scipy(alpha):
    x = np.concatenate([unit_law(LevyGradient(alpha, 1.0, c), 60_000).ravel() for c in ("independent", "isotropic")])
    for p in (0.5, 0.9, 0.99, 0.999, 0.9999):
        above = float((x > levy_stable.ppf(p, alpha, 0.0)).mean())
        # Components that jump together are not independent: the variance of the share is up to three times binomial.
        error = np.sqrt(2.0 * p * (1 - p) / x.size)
        assert abs(above - (1 - p)) < 4.0 * error, p


@pytest.mark.parametrize("components", ["independent", "isotropic"])
@pytest.mark.parametrize("alpha", [0.8, 1.5])
def test_eulers_stationary_law_on_a_quadratic_is_exact(alpha, components):
    h, sigma, n = 0.2, 0.3, 30_000
    noise = Levy(alpha, sigma, components)
    ensemble = Ensemble(BOWL, noise, Overdamped(h), np.zeros((n, 3)), seed=4)
    ensemble.advance(120)
    assert not ensemble.diverged.all()
    x = ensemble.theta[~ensemble.diverged]
    for i, k in enumerate((1.0, 4.0, 2.0)):
        scale = theory.scale_levy_euler(k, sigma, h, alpha)
        assert np.abs(characteristic_z(x[:, i], scale, alpha)).max() < 4.0
        # Wrong: increments that scale as h^(1/2); the scale of the continuous process.
        wrong = scale * h ** (0.5 - 1.0 / alpha), sigma / (alpha * k) ** (1.0 / alpha)
        assert np.abs(characteristic_z(x[:, i], wrong[0], alpha)).max() > 5.0
        if k == 4.0:
            assert np.abs(characteristic_z(x[:, i], wrong[1], alpha)).max() > 5.0


def test_sgds_stationary_law_on_a_quadratic_is_exact():
    eta, sigma, alpha = 0.2, 0.3, 1.5
    ensemble = Ensemble(BOWL, LevyGradient(alpha, sigma), SGD(eta), np.zeros((30_000, 3)), seed=4)
    ensemble.advance(120)
    for i, k in enumerate((1.0, 4.0, 2.0)):
        scale = theory.scale_levy_sgd(k, sigma, eta, alpha)
        assert np.abs(characteristic_z(ensemble.theta[:, i], scale, alpha)).max() < 4.0
        # Wrong: gradient noise whose increments scale as a process's.
        wrong = theory.scale_levy_euler(k, sigma, eta, alpha)
        assert np.abs(characteristic_z(ensemble.theta[:, i], wrong, alpha)).max() > 5.0


@pytest.mark.parametrize("components", ["independent", "isotropic"])
def test_numbers_do_not_depend_on_threads_blocks_or_chunks(components):
    def run(pieces=(30,), **options):
        ensemble = Ensemble(Channel(), Levy(1.5, 0.1, components), Overdamped(), np.zeros((300, 5)), seed=5, **options)
        for steps in pieces:
            ensemble.advance(steps)
        return ensemble.theta

    reference = run(threads=1, block=320)
    assert len(np.unique(reference[:, 1:])) == 4 * 300
    for options in ({"threads": 2}, {"threads": 3, "block": 64}, {"pieces": (1, 2, 27)}):
        np.testing.assert_array_equal(run(**options), reference)


def test_at_alpha_two_it_is_thermal_noise():
    s = np.array([0.2, 0.5])
    np.testing.assert_allclose(Levy(2.0, 0.3).transverse(Channel(), s), Thermal(0.09).transverse(Channel(), s))
    made, expected = (Profile(noise=n).run(threads=1)["profile"] for n in (Levy(2.0, 0.3), Thermal(0.09)))
    np.testing.assert_allclose(made["effective_potential"], expected["effective_potential"])
    x = unit_law(Levy(2.0, 0.3))
    np.testing.assert_allclose(x.var(axis=1), 2 * 0.09, rtol=4 * np.sqrt(2 / 40_000))
    MeanForce(noise=Levy(2.0, 0.3))


def test_what_has_no_value_is_absent_and_what_has_is_finite():
    gradient = LevyGradient(1.5, 0.05)
    for noise, dynamics in ((Levy(1.5, 0.05), Overdamped()), (gradient, SGD()), (gradient, Adam())):
        profile = Profile(noise=noise, dynamics=dynamics).run(threads=1)
        for name in ("effective_potential", "noise_trace", "noise_eigenvalue", "noise_trace_transverse"):
            assert name not in profile["profile"]
        assert np.isnan(profile.attrs["timescale_ratio"])
        with pytest.raises(UserError, match=r"^noise: expected one of finite variance for mean_force .* found Levy"):
            MeanForce(noise=noise, dynamics=dynamics)
        options = {"walkers": 64, "burn_in": 0.1, "duration": 0.2}
        density = Stationary(noise=noise, dynamics=dynamics, **options).run(threads=1)["stationary"]["density"]
        assert float(density.mean()) == pytest.approx(1.0)


def test_walkers_thrown_too_far_are_flagged_and_left_out():
    noise = Levy(0.3, 1.0)
    tree = Relaxation(BOWL, noise, Overdamped(0.1), starts=(0.5,), replicas=2000, duration=2.0, records=4).run(
        threads=1
    )
    group = tree["relaxation"].sel(control=0)
    share = float((group["diverged"] > 0).mean())
    # P(|zeta| > x) -> 2 sin(pi alpha / 2) Gamma(alpha) / pi x^-alpha for each of 3 coordinates, in the time of the run.
    one = 2.0 * np.sin(0.15 * np.pi) * 2.99157 / np.pi * (1e8) ** -0.3
    expected = 1.0 - np.exp(-3 * 2.0 * one)
    assert abs(share - expected) < 5 * np.sqrt(expected / 2000) + 0.1 * expected
    assert np.isnan(group["position"].values[group["diverged"].values > 0][:, -1]).all()
    assert np.isfinite(group["position"].values[group["diverged"].values == 0]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Levy(0.0), r"noise\.tail_index: expected 0\.1…2, found 0\.0"),
        (lambda: Levy(2.1), r"noise\.tail_index: expected 0\.1…2, found 2\.1"),
        (lambda: LevyGradient(float("nan")), r"noise\.tail_index: expected 0\.1…2, found nan"),
        (lambda: LevyGradient(1.5, -1.0), r"noise\.scale: expected a number >= 0"),
        (lambda: Levy(components="some"), r"noise\.components: expected one of independent, isotropic"),
        (lambda: Profile(noise=Levy(), dynamics=Underdamped()), r"expected constant isotropic noise .* found Levy"),
        (lambda: Profile(noise=Levy(), dynamics=SGD()), r"noise: expected one that supplies a gradient covariance"),
        (
            lambda: Profile(noise=Levy(), dynamics=Overdamped(scheme="leimkuhler_matthews")),
            r"dynamics\.scheme: expected euler_maruyama for Levy",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()
