"""The two-layer linear network: geometry of the hyperbola, samples as drawn by a slow reimplementation, exact laws."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from entropy_sim import theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD, Overdamped
from entropy_sim.errors import UserError
from entropy_sim.landscapes import GeneratedSamples, Samples, TwoLayerLinear
from entropy_sim.measurements import Stationary, mean_force, profile
from entropy_sim.measurements.profile import exact_mean_force
from entropy_sim.noise import Label, Minibatch, Thermal

X = (0.5, -1.2, 2.0, 0.3, -0.7)
Y = (0.9, -1.0, 3.1, 0.2, -2.0)
GIVEN = TwoLayerLinear(Samples(X, Y), balance=4.0)
NEGATIVE = TwoLayerLinear(GeneratedSamples(slope=-2.0, residual=0.3, size=10), balance=20.0)
LANDSCAPES = [
    pytest.param(TwoLayerLinear(), id="generated"),
    pytest.param(GIVEN, id="given"),
    pytest.param(NEGATIVE, id="negative"),
]


def test_energy_and_gradient_are_those_of_the_samples():
    theta = np.random.default_rng(0).normal(size=(50, 2))
    f = theta[:, :1] * theta[:, 1:] * X
    np.testing.assert_allclose(GIVEN.energy(theta), 0.5 * ((f - Y) ** 2).mean(axis=1), rtol=1e-13)
    residual = ((f - Y) * X).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(GIVEN.gradient_at(theta), residual * theta[:, ::-1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("landscape", LANDSCAPES)
def test_the_path_is_the_valley_measured_by_its_arc_length(landscape):
    a, s = landscape.product, np.linspace(0.0, 1.0, 9)
    point = landscape.path(s)
    np.testing.assert_allclose(point[:, 0] * point[:, 1], a, rtol=1e-14)
    balance = point[:, 0] ** 2 - point[:, 1] ** 2
    np.testing.assert_allclose(balance[[0, 4, 8]], landscape.balance * np.array([-1.0, 0.0, 1.0]), atol=1e-12)
    np.testing.assert_allclose(landscape.gradient_at(point), 0.0, atol=1e-14)
    # Arc length in u, dw/du = -a/u², by quadrature.
    lengths = [
        quad(lambda u: np.sqrt(1.0 + (a / u**2) ** 2), p, q, epsabs=0, epsrel=1e-13)[0]
        for p, q in zip(point[:-1, 0], point[1:, 0], strict=True)
    ]
    np.testing.assert_allclose(lengths, landscape.arc_length / 8, rtol=1e-12)


@pytest.mark.parametrize("landscape", LANDSCAPES)
def test_tangent_bend_and_stiffness_are_derivatives(landscape):
    s, h = np.array([0.1, 0.35, 0.8]), 1e-4 / landscape.arc_length
    t, normal, base = landscape.tangent(s), landscape.mode_directions(s)[:, 0], landscape.path(s)
    np.testing.assert_allclose(t, (landscape.path(s + h) - landscape.path(s - h)) / 2e-4, atol=1e-7)
    bend = (landscape.tangent(s + h) - landscape.tangent(s - h)) / 2e-4
    np.testing.assert_allclose(landscape.path_curvature(s), bend, atol=1e-6)

    def along(direction, shift, step=1e-5):
        at = base + shift * t
        change = landscape.gradient_at(at + step * direction) - landscape.gradient_at(at - step * direction)
        return (change * direction).sum(axis=1) / (2 * step)

    np.testing.assert_allclose(landscape.curvature(s)[:, 0], along(normal, 0.0), rtol=1e-8)
    np.testing.assert_allclose(landscape.tangential_curvature(s), along(t, 0.0), atol=1e-8)
    slope = (along(normal, 1e-4) - along(normal, -1e-4)) / 2e-4
    np.testing.assert_allclose(landscape.curvature_slope(s)[:, 0], slope, rtol=1e-5)
    hessian = theory.two_layer_hessian(*base.T, landscape.second_moment, landscape.product)
    np.testing.assert_allclose(np.trace(hessian, axis1=1, axis2=2), landscape.curvature(s)[:, 0], rtol=1e-12)


@pytest.mark.parametrize("landscape", LANDSCAPES)
def test_every_point_is_told_its_nearest_point_of_the_branch(landscape):
    generator = np.random.default_rng(1)
    theta = generator.normal(size=(150, 2)) * 10 ** generator.uniform(-2, 1.5, size=(150, 1))
    a = landscape.product

    def distance(tau, point):
        return np.hypot(np.sqrt(abs(a)) * np.exp(tau) - point[0], a / np.sqrt(abs(a)) * np.exp(-tau) - point[1])

    grid = np.linspace(-6.0, 6.0, 801)
    expected = []
    for point in theta:
        i = int(np.argmin(distance(grid, point)))
        best = minimize_scalar(distance, bounds=(grid[i] - 0.02, grid[i] + 0.02), args=(point,), method="bounded")
        expected.append(best.fun)
    np.testing.assert_allclose(landscape.distance(theta), expected, rtol=1e-6, atol=1e-7)
    s = np.linspace(-0.2, 1.2, 15)
    inside = landscape.path(s)
    np.testing.assert_allclose(landscape.position(inside), s, atol=1e-13)
    beside = inside + 0.1 * landscape.mode_directions(s)[:, 0]
    np.testing.assert_allclose(landscape.position(beside), s, atol=1e-13)
    assert np.isnan(landscape.position(np.array([[np.nan, 1.0], [1.0, np.nan]]))).all()
    assert np.isfinite(landscape.position(np.array([[0.0, 0.0], [-5.0, -5.0], [7.0, 7.0], [1e8, 1e-8]]))).all()


# --- samples drawn ---------------------------------------------------------------------------------------------------


def philox(counter, seed):
    """Philox-4x32-7 in Python integers."""
    c, key = list(counter), [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(7):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ key[0], q & 0xFFFFFFFF, (p >> 32) ^ c[3] ^ key[1], p & 0xFFFFFFFF]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def drawn(walker, step, seed, batch, n, replacement):
    """The samples of a batch, one by one."""
    words = [w for j in range(-(-batch // 4)) for w in philox((walker, 2**31 + j, step, 0), seed)]
    if replacement:
        return [words[m] * n >> 32 for m in range(batch)]
    left, found = list(range(n)), []
    for m in range(batch):
        k = m + (words[m] * (n - m) >> 32)
        left[m], left[k] = left[k], left[m]
        found.append(left[m])
    return found


@pytest.mark.parametrize(
    ("batch", "replacement"), [(1, True), (6, True), (9, True), (2, False), (4, False), (5, False)]
)
def test_minibatches_are_those_of_an_obvious_loop(batch, replacement):
    seed, eta, steps, n = 2**40 + 7, 0.05, 4, len(X)
    start = GIVEN.path([0.1, 0.6, 0.9]) * 1.1
    ensemble = Ensemble(GIVEN, Minibatch(batch, replacement), SGD(eta), start, seed=seed, first_walker=6)
    ensemble.advance(steps)
    x, y = np.array(X), np.array(Y)
    for walker, theta in enumerate(start):
        for step in range(steps):
            few = batch if replacement else min(batch, n - batch)
            chosen = drawn(6 + walker, step, seed, few, n, replacement)
            if not replacement and few < batch:  # those left out are drawn where they are fewer
                chosen = [i for i in range(n) if i not in chosen]
            u, w = theta
            g = (x[chosen] * (u * w * x[chosen] - y[chosen])).mean()
            theta = np.array([u - eta * g * w, w - eta * g * u])
        np.testing.assert_allclose(ensemble.theta[walker], theta, rtol=1e-12)


@pytest.mark.parametrize("noise", [Minibatch(3), Minibatch(2, False), Label(0.3, 3), Label(0.3, None)])
def test_draws_do_not_depend_on_threads_blocks_or_chunks(noise):
    def final(pieces, **options):
        ensemble = Ensemble(GIVEN, noise, SGD(0.02), np.repeat(GIVEN.path(0.3), 200, axis=0), seed=9, **options)
        for steps in pieces:
            ensemble.advance(steps)
        return ensemble.theta

    reference = final((30,), threads=1)
    np.testing.assert_array_equal(final((1, 12, 17), threads=2, block=64), reference)
    assert len(np.unique(reference[:, 0])) > 150
    np.testing.assert_array_equal(final((30,), first_walker=50)[:150], reference[50:])


def test_all_samples_of_each_batch_are_the_full_gradient():
    full = Ensemble(GIVEN, Minibatch(5, False), SGD(0.05), GIVEN.path([0.2, 0.7]) * 1.3)
    plain = Ensemble(GIVEN, Minibatch(5, False), SGD(0.05), GIVEN.path([0.2, 0.7]) * 1.3, noisy=False)
    for ensemble in (full, plain):
        ensemble.advance(20)
    np.testing.assert_array_equal(full.theta, plain.theta)


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (Minibatch(3), lambda v, m: v / 3),
        (Minibatch(3, False), lambda v, m: v / 3 * 2 / 4),
        (Label(0.3, 3), lambda v, m: (v + 0.09 * m) / 3),
        (Label(0.3, 4, False), lambda v, m: v / 4 * 1 / 4 + 0.09 * m / 4),
        (Label(0.3, None), lambda v, m: 0.09 * m / 5),
    ],
)
def test_declared_variance_is_that_of_the_data(noise, expected):
    """Population formulas (Cochran, 1977), and the variance over walkers as drawn: relative standard error 1.5 %."""
    x, y, s = np.array(X), np.array(Y), np.array([0.2, 0.9])
    g = x * (GIVEN.product * x - y)
    across = expected(g.var(), (x * x).mean()) * (GIVEN.path(s) ** 2).sum(axis=1)
    np.testing.assert_allclose(noise.transverse(GIVEN, s)[:, 0], across, rtol=1e-12)
    np.testing.assert_array_equal(noise.along(GIVEN, s), 0.0)
    ensemble = Ensemble(GIVEN, noise, SGD(0.01), np.repeat(GIVEN.path(0.9), 20_000, axis=0), seed=1)
    ensemble.advance(1)
    steps = (GIVEN.path(0.9) - ensemble.theta) / 0.01
    normal, t = GIVEN.mode_directions(0.9)[0, 0], GIVEN.tangent(0.9)[0]
    np.testing.assert_allclose(steps @ t, 0.0, atol=1e-12)
    square = (steps @ normal) ** 2
    assert abs(square.mean() - across[1]) < 4 * square.std() / np.sqrt(20_000)
    assert abs((steps @ normal).mean()) < 4 * np.sqrt(across[1] / 20_000)


def test_labels_of_the_drawn_samples_are_perturbed_not_those_of_an_average_one():
    """Fourth moment of g = (x_1 e_1 + x_2 e_2) / 2: ``3/16 (2 E x⁴ + 2 (E x²)²)``, were x² the mean one 3/4 (E x²)²."""
    x = np.array(X)
    landscape, walkers = TwoLayerLinear(Samples(X, tuple(1.5 * x))), 40_000
    ensemble = Ensemble(landscape, Label(1.0, 2), SGD(0.01), np.repeat(landscape.path(0.7), walkers, axis=0), seed=8)
    ensemble.advance(1)
    fourth = ((landscape.path(0.7)[:, 0] - ensemble.theta[:, 0]) / (0.01 * landscape.path(0.7)[:, 1])) ** 4
    error, second = fourth.std() / np.sqrt(walkers), (x**2).mean()
    assert abs(fourth.mean() - 3 / 8 * ((x**4).mean() + second**2)) < 4 * error
    assert abs(fourth.mean() - 3 / 4 * second**2) > 5 * error


@pytest.mark.parametrize("noise", [Minibatch(3), Minibatch(3, False), Label(0.3, 2)])
def test_a_diverged_walker_is_flagged_and_leaves_the_others_alone(noise):
    start = np.repeat(GIVEN.path(0.7), 6, axis=0)
    alone = Ensemble(GIVEN, noise, SGD(0.05), start, seed=3)
    start[1], start[2, 0], start[3, 1], start[4] = np.nan, np.inf, -1e300, 1e7
    mixed = Ensemble(GIVEN, noise, SGD(0.05), start, seed=3)
    for ensemble in (alone, mixed):
        ensemble.advance(5)
    np.testing.assert_array_equal(mixed.diverged, [False, True, True, True, True, False])
    np.testing.assert_array_equal(mixed.theta[[0, 5]], alone.theta[[0, 5]])


# --- dynamics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [Minibatch(2), Minibatch(4, False), Label(0.5, 2), Label(0.5, None)])
def test_each_step_multiplies_the_balance_by_exactly_one_minus_eta_g_squared(noise):
    eta = 0.1
    ensemble = Ensemble(GIVEN, noise, SGD(eta), np.repeat(GIVEN.path(0.95), 100, axis=0), seed=2)
    for _ in range(5):
        u, w = ensemble.theta.T
        ensemble.advance(1)
        after = ensemble.theta
        g = (w - after[:, 1]) / (eta * u)
        found = after[:, 0] ** 2 - after[:, 1] ** 2
        np.testing.assert_allclose(found, theory.balance_after_step(u, w, g, eta), rtol=1e-14)
    assert np.abs(g).std() > 0.01


def test_realisable_data_without_noise_do_not_drift():
    landscape = TwoLayerLinear(GeneratedSamples(residual=0.0))
    ensemble = Ensemble(landscape, Minibatch(2), SGD(0.05), np.repeat(landscape.path(0.9), 64, axis=0))
    ensemble.advance(1000)
    np.testing.assert_allclose(ensemble.theta, np.repeat(landscape.path(0.9), 64, axis=0), rtol=1e-13)


def test_constrained_force_of_label_noise_is_the_slope_of_the_balance_potential():
    """Leading order in eta, as a sequence: the excess over theory halves with eta (relative standard error 0.5 %)."""
    landscape, s, sigma, batch = TwoLayerLinear(GeneratedSamples(residual=0.0)), 0.85, 0.3, 4
    excess = []
    for eta in (0.08, 0.04):
        group = mean_force(
            landscape,
            Label(sigma, batch),
            SGD(eta),
            positions=(s,),
            replicas=16,
            walkers=256,
            burn_in=8.0,
            duration=4000 * eta,
            stride=5,
            seed=3,
        )["mean_force"]
        found = group["mean_force"].mean("time_window").values[0]
        exact = -0.25 * eta * sigma**2 / batch * landscape.curvature_slope(s)[0, 0]
        error = found.std(ddof=1) / 4 / abs(exact)
        excess.append((found.mean() / exact - 1.0, error))
        assert abs(found.mean() - 0.5 * exact) > 5 * error * abs(exact)  # a missing factor 2
    (coarse, coarse_error), (fine, fine_error) = excess
    assert fine_error < 0.01
    # 1 + eta k / 2 + the part of the minibatch curvature: first order in eta.
    assert abs(coarse - 2 * fine) < 4 * np.hypot(coarse_error, 2 * fine_error) + coarse**2
    assert coarse > 5 * coarse_error


# --- input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TwoLayerLinear(balance=0.0), r"landscape\.balance: expected a positive number, found 0\.0"),
        (
            lambda: TwoLayerLinear(Samples((1.0,), (0.0,))),
            r"landscape\.data: expected inputs and targets that correlate",
        ),
        (lambda: TwoLayerLinear(Samples((0.0,), (1.0,))), r"landscape\.data: expected an input other than 0"),
        (
            lambda: Stationary(TwoLayerLinear(), Thermal(), Overdamped()),
            r"expected one with a stationary density, found a flat valley without end",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize(("batch", "replacement"), [(1, True), (4, True), (4, False)])
def test_the_potential_has_the_stiffness_that_fluctuates_with_the_batch(batch, replacement, momentum):
    """Against the moment equations of samples really drawn, `covariance_sgd_sampled_hessians`, at many places."""
    landscape, dynamics = TwoLayerLinear(GeneratedSamples(size=24), balance=2.0), SGD(0.05, momentum)
    noise, s = Minibatch(batch, replacement=replacement), np.array([0.05, 0.3, 0.5, 0.8])
    x = landscape._samples[0]
    square = (landscape.path(s) ** 2).sum(axis=1)
    across = noise.transverse(landscape, s)[:, 0]
    expected = [
        theory.covariance_sgd_sampled_hessians(
            (x * x * q)[:, None, None], [[c]], 0.05, batch, momentum, replacement=replacement
        )[0, 0]
        for q, c in zip(square, across, strict=True)
    ]
    slope = landscape.curvature_slope(s)[:, 0]
    found = exact_mean_force(landscape, noise, dynamics, s)
    np.testing.assert_allclose(found, -0.5 * slope * expected, rtol=1e-9, atol=1e-15)
    fixed = dynamics.variance(landscape.curvature(s)[:, 0], across)
    assert (np.array(expected) > 1.01 * fixed).all()


def test_a_stiffness_that_fluctuates_without_bound_leaves_no_potential():
    """V S = 1: the second moment diverges though each step is stable on average."""
    landscape = TwoLayerLinear(GeneratedSamples(size=24), balance=2.0)
    k = float(landscape.curvature(np.linspace(0, 1, 101)).max())
    stable, wild = (profile(landscape, Minibatch(1), SGD(eta / k))["profile"] for eta in (0.1, 1.5))
    assert np.isfinite(stable["effective_potential"]).all()
    assert "effective_potential" not in wild
