"""SGD leaves its exact variance, drifts at its exact rate, takes PyTorch's steps, and is stable up to its limit."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from entropy_sim import theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Barrier, Channel, Exponential, MullerBrown, Quadratic
from entropy_sim.measurements import Profile, mean_force
from entropy_sim.noise import CurvatureCovariance, GradientCovariance

WALKERS = 40_000


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_stationary_variance(momentum):
    """Relative standard error 0.7 %. Mutants: a missing 1/(1-beta), a missing (1+beta), the small-rate formula."""
    k, c, eta = np.array([1.0, 3.0, 6.0]), np.array([0.5, 1.0, 2.0]), 0.2
    start = np.zeros((WALKERS, 3))
    ensemble = Ensemble(Quadratic((tuple(k),)), GradientCovariance((tuple(c),)), SGD(eta, momentum), start, seed=2)
    ensemble.advance(300)  # the slowest memory of the second moment is below (0.9)^300
    variance = (ensemble.theta**2).mean(axis=0)
    stderr = variance * np.sqrt(2.0 / WALKERS)
    exact = theory.variance_sgd(k, c, eta, momentum)
    assert np.abs((variance - exact) / stderr).max() < 4
    small_rate = eta * c / (2 * k * (1 - momentum))
    mutants = {"small rate": small_rate}
    if momentum:
        mutants["without 1/(1-beta)"] = exact * (1 - momentum)
        mutants["without (1+beta)"] = eta * c / (k * (1 - momentum) * (2 - eta * k))
    for name, mutant in mutants.items():
        assert np.abs((variance - mutant) / stderr).max() > 5, name
    np.testing.assert_allclose(SGD(eta, momentum).variance(k, c), exact, rtol=1e-12)


def test_full_covariance_reaches_every_pair_of_modes():
    """Off-diagonal elements included. Mutant: the covariance of the diagonal noise."""
    k, eta, beta = np.array([1.0, 3.0]), 0.2, 0.6
    c = np.array([[1.0, -0.6], [-0.6, 0.8]])
    start = np.zeros((WALKERS, 2))
    noise = GradientCovariance(tuple(map(tuple, c)))
    ensemble = Ensemble(Quadratic((tuple(k),)), noise, SGD(eta, beta), start, seed=4)
    ensemble.advance(300)
    product = ensemble.theta[:, 0] * ensemble.theta[:, 1]
    exact = theory.covariance_sgd(k, c, eta, beta)[0, 1]
    stderr = product.std() / np.sqrt(WALKERS)
    assert abs(product.mean() - exact) / stderr < 4
    assert abs(product.mean()) / stderr > 5


@pytest.mark.parametrize(("momentum", "rate", "c", "steps"), [(0.0, 0.3, 0.2, 1200), (0.9, 0.5, 0.008, 800)])
def test_drift_along_a_channel(momentum, rate, c, steps):
    """Mean displacement against the drift formula, integrated. Slow y: k'/k = 0.012, and its inertia is left out.

    Mutants: a missing 1/(1-beta), a missing factor 1/2, the small-rate variance, a flipped sign.
    """
    channel = Channel(Exponential(1.0, 1.6), Barrier(0.004), 2, (1.0, 2.0), length=40.0)
    noise = GradientCovariance(((0.0, c, c),))  # none along the path
    walkers, burn_in = 4000, 100
    ensemble = Ensemble(channel, noise, SGD(rate, momentum), channel.path(np.full(walkers, 0.4)), seed=6)
    ensemble.advance(burn_in)
    before = ensemble.theta[:, 0]
    ensemble.advance(steps)
    moved = ensemble.theta[:, 0] - before
    stderr = moved.std(ddof=1) / np.sqrt(walkers)

    def predicted(factor=1.0, entropic=1.0, small_rate=False):
        def drift(_, y):
            at = y / channel.length
            k = channel.curvature(at)
            variance = theory.variance_sgd(k, c, rate, momentum)
            if small_rate:
                variance = theory.effective_temperature(c, rate, momentum) / k
            slope = entropic * channel.curvature_slope(at)
            return factor * theory.drift_sgd(slope, variance, rate, momentum, channel.path_slope(at))

        return solve_ivp(drift, (0, steps), [before.mean()], rtol=1e-6).y[0, -1] - before.mean()

    assert abs(moved.mean() - predicted()) / stderr < 4
    mutants = {"factor 1/2": predicted(entropic=2.0), "flipped sign": predicted(-1.0)}
    mutants["small rate"] = predicted(small_rate=True)
    if momentum:
        mutants["without 1/(1-beta)"] = predicted(1 - momentum)
    for name, mutant in mutants.items():
        assert abs(moved.mean() - mutant) / stderr > 5, name


@pytest.mark.parametrize(
    ("momentum", "nesterov", "decay"), [(0.5, True, 0.0), (0.9, True, 0.0), (0.0, False, 2.0), (0.9, True, 2.0)]
)
def test_stationary_variance_with_nesterov_momentum_and_weight_decay(momentum, nesterov, decay):
    """Relative standard error 0.7 %. Mutants: heavy ball, no weight decay, the small-rate formula."""
    k, c, eta = np.array([0.5, 1.0, 3.0]), np.array([0.5, 1.0, 2.0]), 0.2
    dynamics = SGD(eta, momentum, nesterov, decay)
    start = np.zeros((WALKERS, 3))
    ensemble = Ensemble(Quadratic((tuple(k),)), GradientCovariance((tuple(c),)), dynamics, start, seed=2)
    ensemble.advance(300)
    variance = (ensemble.theta**2).mean(axis=0)
    stderr = variance * np.sqrt(2.0 / WALKERS)
    exact = dynamics.variance(k, c)
    assert np.abs((variance - exact) / stderr).max() < 4
    mutants = {"small rate": eta * c / (2 * (k + decay) * (1 - momentum))}
    if nesterov:
        mutants["heavy ball"] = theory.variance_sgd(k, c, eta, momentum, decay)
    if decay:
        mutants["no decay"] = SGD(eta, momentum, nesterov).variance(k, c)
    for name, mutant in mutants.items():
        assert np.abs((variance - mutant) / stderr).max() > 5, name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.3},
        {"momentum": 0.9},
        {"momentum": 0.9, "weight_decay": 0.05},
        {"momentum": 0.7, "nesterov": True},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.05},
    ],
)
def test_every_step_is_that_of_pytorch(options):
    """The same noise, recorded; differences are rounding."""
    torch = pytest.importorskip("torch")
    rng, h = np.random.default_rng(0), np.array([[2.0, 0.5], [0.5, 1.0]])
    dynamics, walkers = SGD(0.1, **options), 64
    parameter = torch.nn.Parameter(torch.tensor(rng.normal(size=(2, walkers))))
    optimizer = torch.optim.SGD([parameter], lr=0.1, **options)
    theta = parameter.detach().numpy().copy()
    memory = np.zeros((dynamics.memory_rows(2), walkers))
    for _ in range(50):
        noise = rng.normal(size=(2, walkers))
        dynamics.function(theta, h @ theta, noise, np.zeros((0, walkers)), memory, dynamics.params())
        parameter.grad = torch.tensor(h) @ parameter.detach() + torch.tensor(noise)
        optimizer.step()
        np.testing.assert_allclose(theta, parameter.detach().numpy(), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "dynamics",
    [
        SGD(0.1),
        SGD(0.1, 0.9),
        SGD(0.1, 0.9, True),
        SGD(0.1, 0.0, False, 3.0),
        SGD(0.1, 0.5, False, 3.0),
        SGD(0.1, 0.5, True, 3.0),
    ],
)
def test_the_limit_named_is_where_the_iteration_starts_to_diverge(dynamics):
    with pytest.raises(UserError, match="expected less than") as caught:
        dynamics.check_stability(1e6)
    limit = float(str(caught.value).split("expected less than ")[1].split(",")[0])  # of eta at this stiffness
    highest = limit * (1e6 + dynamics.weight_decay) / dynamics.learning_rate - dynamics.weight_decay  # of k at this eta
    theta, memory = np.ones((1, 64)), np.zeros((dynamics.memory_rows(1), 64))
    none = np.zeros((1, 64))
    for factor, stays in ((0.999, True), (1.001, False)):
        theta[:], memory[:] = 1.0, 0.0
        for _ in range(20_000):
            dynamics.function(theta, highest * factor * theta, none, none[:0], memory, dynamics.params())
        assert (np.abs(theta).max() < 1e-2) == stays
        assert np.abs(theta).max() < 1e-2 or np.abs(theta).max() > 10


def test_weight_decay_narrows_the_fluctuations_and_is_no_part_of_the_force():
    """Mutants: k + lambda everywhere (the penalty in the loss: <x²> enters with the same k', so the force would also
    hold -lambda t·theta), the variance without decay."""
    channel, c, decay = Channel(Exponential(1.0, 3.0), Barrier(0.05), 2, (1.0, 2.0)), 0.3, 2.0
    dynamics, s = SGD(0.1, 0.5, False, decay), np.array([0.3, 0.8])
    options = {"positions": tuple(s), "walkers": 1000, "burn_in": 5.0, "duration": 20.0, "time_windows": 1}
    group = mean_force(channel, CurvatureCovariance(c), dynamics, **options)["mean_force"]
    force = group["mean_force"].values[:, :, 0].mean(axis=1)
    stderr = np.sqrt((group["mean_force_stderr"].values[:, :, 0] ** 2).sum(axis=1)) / 4
    k, dk, du = channel.curvature(s), channel.curvature_slope(s), channel.path_slope(s)
    exact = theory.mean_force_covariance(c * k, k, dk, 0.1, 0.5, du, decay)
    assert np.abs((force - exact) / stderr).max() < 4
    assert np.abs((force - theory.mean_force_covariance(c * k, k, dk, 0.1, 0.5, du)) / stderr).min() > 5
    assert np.abs((force - (exact - decay * s)) / stderr).min() > 5
    np.testing.assert_allclose(group["mean_force_control"].values[:, 0, 0], -du, atol=1e-12)


def test_profile_leaves_the_effective_potential_out_where_decay_pulls_off_the_path():
    decayed = SGD(1e-4, 0.0, False, 0.1)
    assert "effective_potential" not in Profile(MullerBrown(), GradientCovariance(), decayed).run()["profile"]
    off = Quadratic(((1.0, 4.0),), centre=(0.0, 1.0))
    assert "effective_potential" not in Profile(off, GradientCovariance(), decayed).run()["profile"]
    assert "effective_potential" in Profile(off, GradientCovariance(), SGD(1e-4)).run()["profile"]
    assert "effective_potential" in Profile(Channel(), GradientCovariance(), decayed).run()["profile"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(-0.1), r"dynamics\.learning_rate: expected a positive number, found -0\.1"),
        (lambda: SGD(0.1, 1.0), r"dynamics\.momentum: expected 0 <= momentum < 1, found 1\.0"),
        (lambda: SGD(0.1, nesterov=True), r"dynamics\.momentum: expected above 0 for nesterov, found 0\.0"),
        (lambda: SGD(0.1, weight_decay=-1.0), r"dynamics\.weight_decay: expected a number >= 0, found -1\.0"),
        (
            lambda: SGD(0.1, 0.9, True).check(Channel(), GradientCovariance()),
            r"expected less than 0\.0848214, the stability limit 2 \(1 \+ momentum\)/\(\(1 \+ 2 momentum\) k\) at the "
            r"largest stiffness 16, found 0\.1",
        ),
        (
            lambda: SGD(0.125, weight_decay=0.1).check(Channel(), GradientCovariance()),
            r"expected less than 0\.124224, the stability limit 2 \(1 \+ momentum\)/\(k \+ weight_decay\)",
        ),
        (
            lambda: SGD(0.2376, 0.9).check(Channel(), GradientCovariance()),
            r"dynamics\.learning_rate: expected less than 0\.2375, the stability limit 2 \(1 \+ momentum\)/k",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()
