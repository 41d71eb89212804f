"""Heavy-ball SGD leaves its exact variance and drifts at its exact rate."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from entropy_sim import theory
from entropy_sim._kernels import Ensemble
from entropy_sim.dynamics import SGD
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Barrier, Channel, Exponential, Quadratic
from entropy_sim.noise import GradientCovariance

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
    ("make", "message"),
    [
        (lambda: SGD(-0.1), r"dynamics\.learning_rate: expected a positive number, found -0\.1"),
        (lambda: SGD(0.1, 1.0), r"dynamics\.momentum: expected 0 <= momentum < 1, found 1\.0"),
        (
            lambda: SGD(0.2376, 0.9).check(Channel(), GradientCovariance()),
            r"dynamics\.learning_rate: expected less than 0\.2375, the stability limit 2 \(1 \+ momentum\)/k",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()
