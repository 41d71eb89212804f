"""BAOAB against an obvious loop, its exact discrete variances, its clock, and quadrature on hyperplanes."""

import numpy as np
import pytest

from entropy_sim import theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import Underdamped
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Channel, MullerBrown, Quadratic
from entropy_sim.measurements import mean_force
from entropy_sim.noise import CurvaturePower, GradientCovariance, Thermal

STIFFNESS, TEMPERATURE, WALKERS = np.array([1.0, 4.0, 9.0]), 0.1, 40_000
DYNAMICS = Underdamped(0.5, 0.8)  # h² k = 0.25, 1, 2.25


def test_a_step_is_baoab_from_rest_with_two_half_kicks():
    """Against two gradients a step. Mutant: a first whole kick (the merged one) differs."""
    landscape, h, gamma = MullerBrown(scale=0.05), 0.02, 1.5
    dynamics = Underdamped(h, gamma)
    rng = np.random.default_rng(1)
    x = np.ascontiguousarray(landscape.path(rng.uniform(0.1, 0.9, 64)).T)
    v, theta, memory, keep = np.zeros_like(x), x.copy(), np.zeros((3, 64)), np.exp(-gamma * h)
    mutant_memory = np.concatenate([np.zeros((2, 64)), np.ones((1, 64))])
    mutant = x.copy()
    for _ in range(20):
        noise = rng.normal(size=(2, 64)) * np.sqrt(2 * TEMPERATURE)
        for state, carried in ((theta, memory), (mutant, mutant_memory)):
            gradient = np.ascontiguousarray(landscape.gradient_at(state.T).T)
            dynamics.function(state, gradient, noise, np.zeros((0, 64)), carried, dynamics.params())
        v = v - 0.5 * h * landscape.gradient_at(x.T).T
        x = x + 0.5 * h * v
        v = keep * v + np.sqrt(0.5 * (1 - keep**2)) * noise
        x = x + 0.5 * h * v
        v = v - 0.5 * h * landscape.gradient_at(x.T).T
        np.testing.assert_allclose(theta, x, rtol=1e-11)
    assert np.abs(mutant - x).max() > 1e-3


def test_variances_on_a_harmonic_well_are_exact():
    """Relative standard error 0.7 %. Mutants: the position variance of leapfrog, T / (k (1 - h² k/4)), and of the other
    splitting (OBABO has it); T for the velocity at the ends of steps."""
    start = np.zeros((WALKERS, 3))
    ensemble = Ensemble(Quadratic((tuple(STIFFNESS),)), Thermal(TEMPERATURE), DYNAMICS, start, seed=1)
    ensemble.advance(60)  # memory of the second moment: exp(-0.8 · 30)
    theta, between = ensemble.theta, ensemble.state()["memory"][:, :3]
    velocity = between - 0.5 * DYNAMICS.step * STIFFNESS * theta
    error = np.sqrt(2.0 / WALKERS)
    leapfrog = TEMPERATURE / (STIFFNESS * (1 - DYNAMICS.step**2 * STIFFNESS / 4))
    variance = (theta**2).mean(axis=0)
    exact = DYNAMICS.variance(STIFFNESS, np.full(3, TEMPERATURE))
    np.testing.assert_allclose(exact, TEMPERATURE / STIFFNESS, rtol=1e-14)
    assert np.abs(variance / exact - 1).max() < 4 * error
    assert np.abs(variance / leapfrog - 1).min() > 5 * error
    exact = theory.velocity_variance_baoab(STIFFNESS, TEMPERATURE, DYNAMICS.step)
    variance = (velocity**2).mean(axis=0)
    assert np.abs(variance / exact - 1).max() < 4 * error
    assert np.abs(variance / TEMPERATURE - 1).min() > 5 * error
    assert np.abs((between**2).mean(axis=0) / TEMPERATURE - 1).max() < 4 * error
    assert np.abs((theta * velocity).mean(axis=0) / np.sqrt(TEMPERATURE / STIFFNESS * exact)).max() < 4 / WALKERS**0.5


@pytest.mark.parametrize(("h", "gamma"), [(0.1, 1.0), (1.5, 2.0), (1.0, 8.0)])
def test_mobility_and_diffusion_on_the_common_clock_are_exactly_one_and_t(h, gamma):
    """Under a force of 0.5 and none: the drift to rounding, the diffusion to 0.7 %. Mutant: h / gamma a step."""
    dynamics = Underdamped(h, gamma)
    early, late = (int(np.ceil(n / min(1.0, gamma * h))) for n in (20, 120))

    def moved(noisy):
        # A well so wide and far that its slope at the start is -0.5 all along.
        k = 1e-14
        landscape = Quadratic(((k,),), centre=(0.5 / k,), start=(0.0,), end=(1.0,))
        walkers = WALKERS if noisy else 1
        ensemble = Ensemble(landscape, Thermal(TEMPERATURE), dynamics, np.zeros((walkers, 1)), noisy=noisy, seed=2)
        ensemble.advance(early)
        before = ensemble.theta
        ensemble.advance(late - early)
        return (ensemble.theta - before)[:, 0]

    time = (late - early) * dynamics.time_step
    assert moved(False)[0] == pytest.approx(0.5 * time, rel=1e-6)
    # The sum of an AR(1)'s steps: 2 T t, less the memory at both ends (1 - c^n ~ 1, of order 1/n, exact here).
    c, n, x = np.exp(-gamma * h), late - early, moved(True)
    exact = n * (1 + c) / (1 - c) - 2 * c * (1 - c**n) / (1 - c) ** 2 - 0.5 * (1 - c**n)
    found, stderr = x.var(ddof=1), x.var(ddof=1) * np.sqrt(2 / WALKERS)
    assert abs(found - TEMPERATURE * h**2 * exact) < 4 * stderr
    assert 2 * TEMPERATURE * time == pytest.approx(TEMPERATURE * h**2 * n * (1 + c) / (1 - c), rel=1e-12)
    if gamma * h > 2:
        assert abs(found - 2 * TEMPERATURE * n * h / gamma) > 5 * stderr


def test_the_oscillating_and_the_overdamped_rate():
    dynamics = Underdamped(1e-3, 4.0)
    rate = dynamics.relaxation_rate(np.array([1e-6, 1.0, 100.0]), np.zeros(3))
    np.testing.assert_allclose(rate, [1e-6, 4 * (2 - np.sqrt(3)), 8.0], rtol=1e-5)


def quadrature(surface, s, temperature, width=0.9):
    """Average force over the line normal to the path at s, exp(-L/T) on |offset| < width."""
    t, normal, anchor = surface.tangent(s)[0], surface.mode_directions(s)[0, 0], surface.path(s)[0]
    points = anchor + np.linspace(-width, width, 4001)[:, None] * normal
    energy = surface.energy(points)
    weight = np.exp(-(energy - energy.min()) / temperature)
    return (weight * (-surface.gradient_at(points) @ t)).sum() / weight.sum()


def test_constrained_baoab_samples_the_plane_whatever_the_tangential_velocity_does():
    """Müller-Brown, oblique planes, far from quadratic. Mutant: the force at the path point (no fluctuations)."""
    surface, temperature, s = MullerBrown(scale=0.05), 1.0, (0.85, 0.9)
    tree = mean_force(
        surface,
        Thermal(temperature),
        Underdamped(0.04, 5.0),
        positions=s,
        burn_in=1.0,
        duration=10.0,
        walkers=1000,
        time_windows=1,
    )["mean_force"]
    values, stderr = tree["mean_force"].values[:, :, 0], tree["mean_force_stderr"].values[:, :, 0]
    force, error = values.mean(axis=1), np.sqrt((stderr**2).sum(axis=1)) / values.shape[1]
    exact = np.array([quadrature(surface, x, temperature) for x in s])
    assert np.abs((force - exact) / error).max() < 4
    assert np.abs((force + surface.path_slope(np.array(s))) / error).min() > 5


def test_the_velocity_along_the_tangent_stays_bounded_and_moves_nothing():
    landscape = Quadratic(((2.0, 0.5), (0.5, 1.0)))
    t = np.array([0.6, 0.8])
    frame = np.repeat(np.array([[t, [1.0, 2.0], [0.0, 0.0]]]), 2000, axis=0)
    start = np.repeat([[1.0, 2.0]], 2000, axis=0)
    dynamics = Underdamped(0.2, 1.0)
    ensemble = Ensemble(landscape, Thermal(TEMPERATURE), dynamics, start, frame=frame, seed=3)
    ensemble.advance(400)
    np.testing.assert_allclose((ensemble.theta - start) @ t, 0.0, atol=1e-13)
    # The steady velocity under the mean tangential force, between kicks: c h F / (1 - c).
    normal = np.array([-0.8, 0.6])
    hessian = np.array([[2.0, 0.5], [0.5, 1.0]])
    k = normal @ hessian @ normal
    mean = start[0] - normal * (normal @ hessian @ start[0]) / k
    c = np.exp(-dynamics.friction * dynamics.step)
    along = ensemble.state()["memory"][:, :2] @ t
    expected = -c * dynamics.step * (t @ hessian @ mean) / (1 - c)
    assert abs(along.mean() - expected) < 4 * along.std() / np.sqrt(2000)
    across = (ensemble.theta - mean) @ normal
    assert abs((across**2).mean() * k / TEMPERATURE - 1) < 4 * np.sqrt(2 / 2000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Underdamped(0.0), r"dynamics\.step: expected a positive number, found 0\.0"),
        (lambda: Underdamped(0.1, float("nan")), r"dynamics\.friction: expected a positive number, found nan"),
        (
            lambda: Underdamped(0.5).check(Channel(), Thermal()),
            r"dynamics\.step: expected less than 0\.5, the stability limit 2/√k at the largest stiffness 16, found 0\.",
        ),
        (
            lambda: Underdamped().check(Channel(), CurvaturePower()),
            r"noise: expected constant isotropic noise such as Thermal for Underdamped, found CurvaturePower",
        ),
        (
            lambda: Underdamped().check(Channel(), GradientCovariance()),
            r"noise: expected one that supplies a diffusion for Underdamped, found GradientCovariance",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_just_below_the_limit_is_stable_and_above_it_is_not(monkeypatch):
    Underdamped(0.499).check(Channel(), Thermal())
    monkeypatch.setattr(Quadratic, "largest_stiffness", lambda self, along=True: 0.0)  # nothing is refused
    for h, stays in ((0.499, True), (0.501, False)):
        ensemble = Ensemble(Quadratic(((16.0,),)), Thermal(), Underdamped(h, 0.1), np.ones((1, 1)), noisy=False)
        ensemble.advance(4000)
        assert (not ensemble.diverged[0]) == stays
