"""Closed forms against Lyapunov equations, quadrature, iterated recursions and numerical derivatives."""

import numpy as np
import pytest
from scipy import linalg

from entropy_sim import theory
from entropy_sim.errors import UserError

GRID = [
    (0.3, 0.05, 0.0),
    (2.0, 0.9, 0.0),
    (1.0, 0.1, 0.9),
    (30.0, 0.1, 0.6),
    (2.4, 1.0, 0.3),
]  # k, eta, beta: all stable


def heavy_ball(curvature, learning_rate, momentum):
    """One step of all modes as a matrix on (x, v)."""
    k = np.diag(np.atleast_1d(curvature))
    one = np.eye(len(k))
    a = learning_rate * k
    return np.block([[one - a, momentum * one], [-a, momentum * one]])


def kick_covariance(noise, learning_rate):
    return learning_rate**2 * np.kron(np.ones((2, 2)), np.atleast_2d(noise))


def slope(function, y, h=1e-4):
    """Fourth-order central difference."""
    return (8 * (function(y + h) - function(y - h)) - (function(y + 2 * h) - function(y - 2 * h))) / (12 * h)


def stiffness(y):
    """Three modes that vary along y, and their slopes; shape (…, 3)."""
    y = np.asarray(y)[..., None]
    rate = np.array([0.3, -0.7, 1.1])
    return np.array([1.0, 4.0, 0.2]) * np.exp(rate * np.sin(y))


def stiffness_slope(y):
    y = np.asarray(y)[..., None]
    return stiffness(y[..., 0]) * np.array([0.3, -0.7, 1.1]) * np.cos(y)


# --- variances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "h", "_"), [g for g in GRID if g[0] * g[1] < 2])
def test_langevin_variances_solve_the_discrete_lyapunov_equation(k, h, _):
    temperature = 0.7
    euler = linalg.solve_discrete_lyapunov([[1 - h * k]], [[2 * temperature * h]])
    assert theory.variance_euler_maruyama(k, temperature, h) == pytest.approx(euler[0, 0], rel=1e-12)
    # Leimkuhler-Matthews on (x, the random number that the next step uses again).
    half = np.sqrt(2 * temperature * h) / 2
    step, kick = np.array([[1 - h * k, half], [0.0, 0.0]]), np.array([half, 1.0])
    both = linalg.solve_discrete_lyapunov(step, np.outer(kick, kick))
    assert theory.variance_leimkuhler_matthews(k, temperature, h) == pytest.approx(both[0, 0], rel=1e-12)


@pytest.mark.parametrize(("k", "eta", "beta"), GRID)
def test_sgd_variance_solves_the_discrete_lyapunov_equation(k, eta, beta):
    exact = linalg.solve_discrete_lyapunov(heavy_ball(k, eta, beta), kick_covariance(1.7, eta))[0, 0]
    assert theory.variance_sgd(k, 1.7, eta, beta) == pytest.approx(exact, rel=1e-10)
    assert theory.variance_sgd_curvature_proportional(k, 1.7 / k, eta, beta) == pytest.approx(exact, rel=1e-10)


def test_simulated_variances_reject_the_common_mistakes():
    """40000 walkers: relative standard error 0.7 %; every wrong formula lies at least 5 standard errors away."""
    rng = np.random.default_rng(7)
    walkers, k, eta, beta, noise, temperature = 40_000, 2.0, 0.15, 0.8, 1.5, 0.4
    x, v, y = np.zeros((3, walkers))
    for _ in range(120):
        v = beta * v - eta * (k * x + np.sqrt(noise) * rng.normal(size=walkers))
        x += v
        y += -eta * k * y + np.sqrt(2 * temperature * eta) * rng.normal(size=walkers)
    error = np.sqrt(2 / walkers)

    def z(samples, variance):
        return (np.mean(samples**2) / variance - 1) / error

    assert abs(z(x, theory.variance_sgd(k, noise, eta, beta))) < 3.5
    assert abs(z(y, theory.variance_euler_maruyama(k, temperature, eta))) < 3.5
    mutants = {
        "missing 1/(1-beta)": z(x, (1 - beta) * theory.variance_sgd(k, noise, eta, beta)),
        "T_eff / k": z(x, theory.effective_temperature(noise, eta, beta) / k),
        "momentum in the limit only": z(x, theory.variance_sgd(k, noise, eta / (1 - beta))),
        "T / k for Euler-Maruyama": z(y, temperature / k),
    }
    assert {name for name, score in mutants.items() if abs(score) < 5} == set()


@pytest.mark.parametrize(("k", "beta"), [(2.0, 0.0), (2.0, 0.9), (0.0, 0.5), (-0.3, 0.4)])
@pytest.mark.parametrize("steps", [0, 1, 7, 60])
def test_transient_variance_is_the_iterated_moment_recursion(k, beta, steps):
    eta, noise = 0.1, 1.3
    step, kick, moments = heavy_ball(k, eta, beta), kick_covariance(noise, eta), np.zeros((2, 2))
    for _ in range(steps):
        moments = step @ moments @ step.T + kick
    found = theory.variance_sgd_transient([k, 1.0], noise, eta, steps, beta)
    assert found.shape == (2,)
    assert found[0] == pytest.approx(moments[0, 0], rel=1e-11)
    if beta == 0.0 and k > 0:
        closed = theory.variance_sgd(k, noise, eta) * (1 - (1 - eta * k) ** (2 * steps))
        assert found[0] == pytest.approx(closed, rel=1e-11)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_learning_rates_beyond_the_stability_limit_diverge(beta):
    limit = theory.stability_limit(3.0, beta)
    radius = [np.max(np.abs(linalg.eigvals(heavy_ball(3.0, f * limit, beta)))) for f in (0.999, 1.001)]
    assert radius[0] < 1 < radius[1]


# --- covariances ----------------------------------------------------------------------------------------------------


def random_symmetric(rng, n):
    a = rng.normal(size=(n, n))
    return a @ a.T


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_covariances_of_many_modes(beta):
    rng = np.random.default_rng(3)
    k, noise, eta = np.array([0.5, 1.0, 6.0]), random_symmetric(rng, 3), 0.25
    exact = linalg.solve_discrete_lyapunov(heavy_ball(k, eta, beta), kick_covariance(noise, eta))[:3, :3]
    assert np.allclose(theory.covariance_sgd(k, noise, eta, beta), exact, rtol=1e-11)
    assert np.allclose(np.diag(exact), theory.variance_sgd(k, np.diag(noise), eta, beta), rtol=1e-11)
    continuous = linalg.solve_continuous_lyapunov(np.diag(k), eta * noise / (1 - beta))
    assert np.allclose(theory.covariance_lyapunov(k, noise, eta, beta), continuous, rtol=1e-12)


def test_exact_covariance_tends_to_the_lyapunov_form_at_first_order():
    k, noise = np.array([0.5, 6.0]), np.array([[1.0, 0.4], [0.4, 2.0]])

    def error(eta):
        return np.max(
            np.abs(theory.covariance_sgd(k, noise, eta, 0.9) / theory.covariance_lyapunov(k, noise, eta, 0.9) - 1)
        )

    assert -0.1 < np.log2(error(1e-6) / error(5e-7)) - 1 < 0.1
    assert error(1e-11) < 1e-8  # no cancellation


# --- mean forces ----------------------------------------------------------------------------------------------------

Y, T, ETA, BETA = 0.4, 0.3, 0.2, 0.5


def potential(y):
    return 0.1 * np.cos(2 * y)


POTENTIAL_SLOPE = -0.2 * np.sin(2 * Y)


def test_thermal_potential_is_minus_t_log_of_the_boltzmann_integral():
    """Quadrature of exp(-L/T) over each transverse coordinate."""
    x = np.linspace(-12, 12, 4001)

    def free_energy(y):
        integrals = np.trapezoid(np.exp(-0.5 * stiffness(y)[:, None] * x**2 / T), x, axis=-1)
        return potential(y) - T * np.log(integrals).sum()

    found = theory.effective_potential_thermal(stiffness(np.array([0.0, 1.2])), T, potential(np.array([0.0, 1.2])))
    assert found[1] - found[0] == pytest.approx(free_energy(1.2) - free_energy(0.0), rel=1e-10)
    force = theory.mean_force_thermal(stiffness(Y), stiffness_slope(Y), T, POTENTIAL_SLOPE)
    assert force == pytest.approx(-slope(free_energy, Y), rel=1e-8)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_curvature_power_potential_and_force_agree_with_the_variances(alpha):
    def v(y):
        return theory.effective_potential_curvature_power(stiffness(y), T, alpha, potential(y))

    force = theory.mean_force_curvature_power(stiffness(Y), stiffness_slope(Y), T, alpha, POTENTIAL_SLOPE)
    assert force == pytest.approx(-slope(v, Y), rel=1e-9)
    # <x²> = D / k solves the continuous Lyapunov equation 2 k <x²> = 2 D.
    k = stiffness(Y)
    sigma = linalg.solve_continuous_lyapunov(np.diag(k), 2 * T * np.diag(k**alpha))
    assert force == pytest.approx(
        theory.mean_force_general(np.diag(stiffness_slope(Y)), sigma, POTENTIAL_SLOPE), rel=1e-12
    )


def test_curvature_power_is_continuous_at_thermal_noise():
    k = np.array([1e-8, 2.0, 1e8])
    near = theory.effective_potential_curvature_power(k, T, 1e-13)
    assert near == pytest.approx(theory.effective_potential_thermal(k, T), rel=1e-10)
    label = theory.effective_potential_curvature_power([2.0, 3.0], T, 1.0)
    assert label == pytest.approx(0.5 * T * (1.0 + 2.0), rel=1e-14)


def test_finite_learning_rate_potentials_are_the_work_against_the_force():
    ratio, noise = 0.6, np.array([1.0, 0.3, 2.0])

    def proportional(y):
        return theory.effective_potential_curvature_proportional(stiffness(y), ratio, ETA, BETA, potential(y))

    def constant(y):
        return theory.effective_potential_constant_noise(stiffness(y), noise, ETA, BETA, potential(y))

    arguments = (stiffness(Y), stiffness_slope(Y), ETA, BETA, POTENTIAL_SLOPE)
    assert theory.mean_force_covariance(ratio * stiffness(Y), *arguments) == pytest.approx(
        -slope(proportional, Y), rel=1e-9
    )
    assert theory.mean_force_covariance(noise, *arguments) == pytest.approx(-slope(constant, Y), rel=1e-9)


def test_constant_noise_potential_contains_euler_maruyama():
    h = 0.3

    def v(y):
        return theory.effective_potential_constant_noise(stiffness(y), np.full(3, 2 * T / h), h)

    variance = theory.variance_euler_maruyama(stiffness(Y), T, h)
    assert theory.mean_force(stiffness_slope(Y), variance) == pytest.approx(-slope(v, Y), rel=1e-9)


def test_curvature_proportional_force_is_the_small_learning_rate_limit():
    def difference(eta):
        exact = theory.mean_force_covariance(0.6 * stiffness(Y), stiffness(Y), stiffness_slope(Y), eta, BETA)
        limit = theory.mean_force_curvature_proportional(stiffness_slope(Y).sum(), 0.6, eta, BETA)
        return float(exact / limit - 1)

    assert abs(difference(1e-6)) < 1e-5
    assert -0.1 < np.log2(difference(1e-3) / difference(5e-4)) - 1 < 0.1


@pytest.mark.parametrize("rank", [5, 3])
def test_curvature_proportional_force_in_a_rotating_frame(rank):
    """H = J J^T with J(y) arbitrary, so eigenvectors rotate (and null directions change) along y: for C = c H only the
    slope of the trace remains. Sigma is the minimum-norm solution of the Lyapunov equation, by least squares."""
    rng = np.random.default_rng(11)
    j, dj = rng.normal(size=(2, 5, rank))
    h, dh = j @ j.T, dj @ j.T + j @ dj.T
    ratio, one = 0.8, np.eye(5)
    operator = np.kron(h, one) + np.kron(one, h)
    sigma = np.linalg.lstsq(operator, (ETA * ratio * h / (1 - BETA)).ravel(), rcond=1e-10)[0].reshape(5, 5)
    expected = theory.mean_force_general(dh, sigma)
    found = theory.mean_force_curvature_proportional(np.trace(dh), ratio, ETA, BETA)
    assert found == pytest.approx(expected, rel=1e-9)


def test_simulated_drift_of_sgd():
    """L = ½ k(y) x² with k = 2 + y/50, noise on x alone; the drift of y in the 400 steps after the first 200."""
    rng = np.random.default_rng(5)
    walkers, eta, beta, noise, rate = 10_000, 0.1, 0.6, 1.0, 0.02
    x, y, vx, vy = np.zeros((4, walkers))
    for step in range(600):
        if step == 200:
            start = y.copy()
        k = 2.0 + rate * y
        vx, vy = (
            beta * vx - eta * (k * x + np.sqrt(noise) * rng.normal(size=walkers)),
            beta * vy - eta * 0.5 * rate * x * x,
        )
        x, y = x + vx, y + vy
    per_step = (y - start) / 400
    error = per_step.std(ddof=1) / np.sqrt(walkers)
    stiff = 2.0 + rate * 0.5 * (start.mean() + y.mean())
    expected = theory.drift_sgd([rate], theory.variance_sgd([stiff], noise, eta, beta), eta, beta)
    assert error / abs(expected) < 0.01
    assert abs(per_step.mean() - expected) < 3.5 * error
    for mutant in (expected * (1 - beta), -expected, expected * 2, expected * (1 - eta * stiff / (2 * (1 + beta)))):
        assert abs(per_step.mean() - mutant) > 5 * error


# --- density --------------------------------------------------------------------------------------------------------


def test_stationary_density_is_the_null_vector_of_the_fokker_planck_operator():
    """Finite volumes for ∂(D p) − f p = 0 flux with state-dependent D; without 1/D the density is another one."""
    y = np.linspace(-3.0, 3.0, 1201)
    d, f = 0.5 * (1 + y**2) ** 0.7, -np.sin(y)
    h = y[1] - y[0]
    # Zero Itô flux f p - d(D p)/dy = 0 between neighbours, midpoint rule: a recursion for p.
    p = np.ones_like(y)
    for i in range(len(y) - 1):
        p[i + 1] = p[i] * (d[i] / h + f[i] / 2) / (d[i + 1] / h - f[i + 1] / 2)
    p /= np.trapezoid(p, y)
    found = theory.stationary_density(y, f, d)
    assert np.allclose(found, p, rtol=2e-5)
    assert np.max(np.abs(theory.stationary_density(y, f, d) * d / np.trapezoid(found * d, y) / p - 1)) > 0.1


def test_stationary_density_of_thermal_noise():
    y = np.linspace(-1, 1, 2001)
    force = theory.mean_force_thermal(stiffness(y), stiffness_slope(y), T)
    product = np.prod(stiffness(y), axis=-1) ** -0.5
    found = theory.stationary_density(y, force, T)
    assert np.allclose(found, product / np.trapezoid(product, y), rtol=1e-6)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.variance_sgd([1.0, 50.0], 1.0, 0.1, 0.5),
            r"learning_rate: expected less than 0\.06, the stab.* 50",
        ),
        (lambda: theory.variance_euler_maruyama(4.0, 1.0, 0.5), r"step: expected less than 0\.5, the stability limit"),
        (lambda: theory.variance_leimkuhler_matthews(4.0, 1.0, 0.6), r"step: expected less than 0\.5"),
        (lambda: theory.covariance_sgd([1.0, 50.0], np.eye(2), 0.1), r"learning_rate: expected less than 0\.04"),
        (
            lambda: theory.effective_potential_constant_noise([30.0], [1.0], 0.1),
            r"learning_rate: expected less than 0\.0666667, the stability limit at curvature 30, found 0\.1",
        ),
        (lambda: theory.effective_potential_curvature_proportional([30.0], 1.0, 0.1), "learning_rate: expected less"),
        (lambda: theory.variance_sgd(0.0, 1.0, 0.1), r"curvature: expected a curvature k > 0, found 0"),
        (lambda: theory.mean_force_thermal([1.0, -2.0], [1.0, 1.0], 0.1), r"curvature: expected .* k > 0, found -2"),
        (lambda: theory.effective_potential_thermal([np.nan], 0.1), r"curvature: expected .*, found nan"),
        (lambda: theory.variance_euler_maruyama(1.0, -0.1, 0.1), r"temperature: expected a number >= 0, found -0\.1"),
        (lambda: theory.variance_sgd(1.0, -1.0, 0.1), r"noise: expected a number >= 0, found -1"),
        (lambda: theory.variance_sgd(1.0, 1.0, 0.1, 1.0), r"momentum: expected 0 <= beta < 1, found 1"),
        (lambda: theory.variance_sgd(1.0, 1.0, 0.0), r"learning_rate: expected a number > 0, found 0"),
        (lambda: theory.variance_sgd_transient(1.0, 1.0, 0.1, -1), r"steps: expected a number of steps >= 0, found -1"),
        (lambda: theory.stationary_density([0, 2, 1], [0, 0, 0], 1), r"position: expected increasing values"),
        (lambda: theory.stationary_density([0, 1], [0, 0, 0], 1), r"force: expected the shape \(2,\), found \(3,\)"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_shapes_broadcast():
    k = np.ones((4, 3))
    assert theory.variance_sgd(k, 1.0, 0.1).shape == (4, 3)
    assert theory.mean_force_covariance(k, k, k, np.full(4, 0.1)).shape == (4,)
    assert theory.effective_potential_curvature_power(k, 1.0, 0.0).shape == (4,)
    assert theory.covariance_sgd(k, np.ones((4, 3, 3)), np.full(4, 0.1), 0.5).shape == (4, 3, 3)
    assert np.ndim(theory.variance_sgd(1.0, 1.0, 0.1)) == 0
