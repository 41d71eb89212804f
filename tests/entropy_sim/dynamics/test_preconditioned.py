"""Preconditioned SGD: exact variances, a force of the thermal form for a = b = 1, invariance, the alpha-family."""

import numpy as np
import pytest

from entropy_sim import theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD, Preconditioned
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Barrier, Channel, Exponential, Quadratic, Tabulated
from entropy_sim.measurements import Profile, mean_force
from entropy_sim.measurements.base import timescale_ratio
from entropy_sim.noise import CurvatureCovariance, GradientCovariance, TabulatedCovariance, Thermal

CHANNEL = Channel(Exponential(1.0, 9.0), transverse_directions=3, amplitudes=(0.5, 1.0, 4.0))
S = np.array([0.1, 0.5, 0.9])


def force_of(noise, dynamics, channel=CHANNEL, **options):
    defaults = {"positions": tuple(S), "walkers": 600, "burn_in": 10.0, "duration": 30.0, "time_windows": 1}
    group = mean_force(channel, noise, dynamics, **{**defaults, **options})["mean_force"]
    values, stderr = group["mean_force"].values[:, :, 0], group["mean_force_stderr"].values[:, :, 0]
    return values.mean(axis=1), np.sqrt((stderr**2).sum(axis=1)) / values.shape[1]


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.3, 0.0])
def test_stationary_variance_on_a_plane(exponent, momentum):
    """Relative standard error 1 %. Mutants: exponents a ± 0.1, P once instead of twice in the noise."""
    walkers, rate, c = 20_000, 0.3 if exponent >= 0.5 else 0.04, 0.4
    dynamics = Preconditioned(rate, exponent, momentum)
    anchor = CHANNEL.path([0.3])
    frame = np.repeat(np.stack([CHANNEL.tangent([0.3]), anchor, 0 * anchor], axis=1), walkers, axis=0)
    ensemble = Ensemble(
        CHANNEL, GradientCovariance(((c,),)), dynamics, np.repeat(anchor, walkers, axis=0), frame=frame, seed=2
    )
    ensemble.advance(150)
    x = ensemble.theta
    np.testing.assert_array_equal(x[:, 0], anchor[0, 0])
    variance, error = (x[:, 1:] ** 2).mean(axis=0), np.sqrt(2.0 / walkers)
    k = CHANNEL.curvature([0.3])[0]
    exact = dynamics.variance(k, np.full(3, c))
    # Independent of theory: the second moments of (x, v), iterated to their end.
    p = k**-exponent
    for i in range(3):
        a = rate * p[i] * k[i]
        step = np.array([[1.0 - a, momentum], [-a, momentum]])
        kick, sigma = rate**2 * p[i] ** 2 * c * np.ones((2, 2)), np.zeros((2, 2))
        for _ in range(2000):
            sigma = step @ sigma @ step.T + kick
        assert exact[i] == pytest.approx(sigma[0, 0], rel=1e-9)
    assert np.abs(variance / exact - 1).max() < 4 * error
    other = exponent - 0.1 if exponent else 0.1
    mutants = {"exponent": Preconditioned(rate, other, momentum).variance(k, np.full(3, c))}
    if exponent:
        mutants["P once"] = theory.variance_sgd(k ** (1 - exponent), c * k**-exponent, rate, momentum)
    for name, mutant in mutants.items():
        assert np.abs(variance / mutant - 1).max() > 5 * error, name


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_natural_gradient_with_noise_like_the_curvature_has_the_thermal_force(momentum):
    """-(T/2) sum k'/k, T = eta c (1+beta) / ((1-beta) (2(1+beta) - eta)), at any stiffness: eta k reaches 18.

    Mutants: the form of plain SGD with the same small-rate temperature, T without its finite-rate factor."""
    rate, c = 0.5, 0.1
    force, stderr = force_of(CurvatureCovariance(c), Preconditioned(rate, 1.0, momentum), burn_in=100.0, duration=300.0)
    k, dk = CHANNEL.curvature(S), CHANNEL.curvature_slope(S)
    temperature = rate * c * (1 + momentum) / ((1 - momentum) * (2 * (1 + momentum) - rate))
    exact = theory.mean_force_thermal(k, dk, temperature)
    np.testing.assert_allclose(theory.mean_force_preconditioned(k, dk, c, rate, momentum=momentum), exact, rtol=1e-12)
    assert np.abs((force - exact) / stderr).max() < 4
    small = theory.effective_temperature(c, rate, momentum)
    assert np.abs((force - theory.mean_force_curvature_power(k, dk, small, 1.0)) / stderr).min() > 5
    assert np.abs((force - theory.mean_force_thermal(k, dk, small)) / stderr).max() > 5


def test_forces_do_not_change_when_all_curvature_is_multiplied():
    """k -> 50 k with the same random numbers: to rounding for a = 1; plain SGD scales."""
    scaled = Channel(Exponential(50.0, 450.0), transverse_directions=3, amplitudes=(0.5, 1.0, 4.0))
    options = {"walkers": 64, "replicas": 1, "burn_in": 1.0, "duration": 4.0}
    natural = [force_of(CurvatureCovariance(0.1), Preconditioned(0.4), c, **options)[0] for c in (CHANNEL, scaled)]
    np.testing.assert_allclose(natural[1], natural[0], rtol=1e-9)
    plain = [force_of(CurvatureCovariance(0.1), SGD(1e-3), c, **options)[0] for c in (CHANNEL, scaled)]
    assert np.all(plain[1] / plain[0] > 5)


@pytest.mark.parametrize(("a", "b"), [(0.5, 1.0), (0.5, 0.5), (1.0, 0.5)])
def test_the_family_alpha_is_noise_exponent_less_preconditioner_exponent(a, b):
    """Small learning rate; bias by it below 1.2 %, taken into account exactly. Mutants: alpha ± 1/2."""
    rate, c = 0.02, 0.3
    force, stderr = force_of(CurvatureCovariance(c, b), Preconditioned(rate, a), burn_in=15.0, duration=40.0)
    k, dk = CHANNEL.curvature(S), CHANNEL.curvature_slope(S)
    exact = theory.mean_force(dk, Preconditioned(rate, a).variance(k, c * k**b))
    assert np.abs((force - exact) / stderr).max() < 4
    temperature = 0.5 * rate * c
    np.testing.assert_allclose(theory.mean_force_curvature_power(k, dk, temperature, b - a), exact, rtol=0.08)
    for wrong in (b - a - 0.5, b - a + 0.5):
        assert np.abs((force - theory.mean_force_curvature_power(k, dk, temperature, wrong)) / stderr).max() > 5


def test_effective_potential_is_the_closed_form():
    channel = Channel(Exponential(1.0, 9.0), Barrier(0.02), 2, (1.0, 2.5), length=1.5)
    dynamics = Preconditioned(0.3, 0.5, 0.4)
    group = Profile(channel, CurvatureCovariance(0.2, 1.0), dynamics).run()["profile"]
    s = group["s"].values
    found = group["effective_potential"].values[0]
    expected = theory.effective_potential_preconditioned(
        channel.curvature(s), 0.2, 0.3, 0.5, 1.0, 0.4, channel.path_energy(s)
    )
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-7)


def test_the_final_update_is_projected_after_momentum_and_preconditioner():
    """An oblique plane, no noise, against an obvious loop. Mutant: the gradient projected instead."""
    t, anchor = np.array([0.6, 0.8, 0.0, 0.0]), np.array([0.3, 0.5, -0.4, 0.6])
    frame = np.array([[t, anchor, 0 * anchor]])
    dynamics = Preconditioned(0.03, 0.7, 0.5)
    ensemble = Ensemble(CHANNEL, GradientCovariance(), dynamics, anchor[None], frame=frame, noisy=False)
    ensemble.advance(12)

    def loop(where):
        x, v = anchor.copy(), np.zeros(4)
        for _ in range(12):
            g = CHANNEL.gradient_at(x)
            g = g - (where == "gradient") * t * (t @ g)
            p = np.concatenate([[1.0], CHANNEL.curvature(CHANNEL.position(x))[0] ** -0.7])
            v = 0.5 * v - 0.03 * p * g
            x = x + v
            x = x - t * (t @ (x - anchor))
        return x

    np.testing.assert_allclose(ensemble.theta[0], loop("update"), rtol=1e-10)
    assert np.abs(ensemble.theta[0] - loop("gradient")).max() > 1e-3


def test_along_the_path_the_mobility_is_one():
    channel = Channel(Exponential(1.0, 9.0), Barrier(0.02), 1)
    ensemble = Ensemble(channel, GradientCovariance(), Preconditioned(0.1, 1.0), channel.path([0.3]), noisy=False)
    ensemble.advance(1)
    assert ensemble.theta[0, 0] == pytest.approx(0.3 - 0.1 * channel.path_slope([0.3])[0], rel=1e-12)


def test_timescale_ratio_uses_the_preconditioned_rate():
    """D_y = eta C_y / 2; every mode falls by 1 - eta per step for a = 1."""
    channel = Channel(Exponential(2.0, 8.0), transverse_directions=1)
    ratio = timescale_ratio(channel, CurvatureCovariance(0.1, 1.0, 0.6), Preconditioned(0.02))
    assert ratio == pytest.approx(0.5 * 0.02 * 0.6 * np.log(4.0) ** 2 * 0.02 / -np.log1p(-0.02), rel=1e-9)


def test_the_twin_of_a_network_can_be_preconditioned():
    dynamics = Preconditioned(0.05, 1.0)
    found = Profile(Tabulated(), TabulatedCovariance(), dynamics).run()["profile"]
    assert np.isfinite(found["effective_potential"]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Preconditioned(-1.0), r"dynamics\.learning_rate: expected a positive number, found -1\.0"),
        (lambda: Preconditioned(exponent=1.5), r"dynamics\.exponent: expected 0 <= exponent <= 1, found 1\.5"),
        (lambda: Preconditioned(momentum=1.0), r"dynamics\.momentum: expected 0 <= momentum < 1, found 1\.0"),
        (
            lambda: Preconditioned(2.0).check(Channel(), CurvatureCovariance()),
            r"dynamics\.learning_rate: expected less than 2, the stability limit 2 \(1 \+ momentum\)/k\^\(1 - ",
        ),
        (
            lambda: Preconditioned(0.5, 0.5).check(Channel(), CurvatureCovariance()),
            r"expected less than 0\.5, the stability limit .* at the largest stiffness 16, found 0\.5",
        ),
        (
            lambda: Preconditioned().check(Quadratic(), GradientCovariance()),
            r"dynamics: expected a landscape with a transverse stiffness beside its path too .* found Quadratic",
        ),
        (
            lambda: Preconditioned().check(Channel(), Thermal()),
            r"noise: expected one that supplies a gradient covariance or .* for Preconditioned, found Thermal",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()
