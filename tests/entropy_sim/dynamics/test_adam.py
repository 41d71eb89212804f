"""Adam takes PyTorch's steps; its fluctuations tend to the predicted ones as the second moments get slow."""

import numpy as np
import pytest

from entropy_sim import theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import Adam
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Channel, Exponential, Quadratic
from entropy_sim.measurements import Profile, mean_force
from entropy_sim.measurements.base import timescale_ratio
from entropy_sim.noise import CurvatureCovariance, GradientCovariance, Thermal

K, C = np.array([0.5, 2.0, 8.0]), np.array([0.2, 1.0, 0.5])


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"beta1": 0.5, "beta2": 0.9, "epsilon": 0.01}, {"weight_decay": 0.3}, {"beta1": 0.0}]
)
def test_every_step_is_that_of_pytorch(options, decoupled):
    """The same noise, recorded, bias corrections from the first step on; differences are rounding."""
    torch = pytest.importorskip("torch")
    rng, h, walkers = np.random.default_rng(0), np.array([[2.0, 0.5], [0.5, 1.0]]), 64
    dynamics = Adam(0.05, decoupled=decoupled, **options)
    parameter = torch.nn.Parameter(torch.tensor(rng.normal(size=(2, walkers))))
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind(
        [parameter],
        lr=0.05,
        betas=(dynamics.beta1, dynamics.beta2),
        eps=dynamics.epsilon,
        weight_decay=dynamics.weight_decay,
    )
    theta = parameter.detach().numpy().copy()
    memory = np.zeros((dynamics.memory_rows(2), walkers))
    for _ in range(60):
        noise = rng.normal(size=(2, walkers))
        dynamics.function(theta, h @ theta, noise, np.zeros((0, walkers)), memory, dynamics.params())
        parameter.grad = torch.tensor(h) @ parameter.detach() + torch.tensor(noise)
        optimizer.step()
        np.testing.assert_allclose(theta, parameter.detach().numpy(), rtol=0, atol=1e-13)


def late_variance(dynamics, walkers=20_000, records=4, apart=150, burn_in=3000):
    """Mean of x² over walkers and a few late times, with the error from the walkers' spread."""
    landscape, noise = Quadratic((tuple(K),)), GradientCovariance((tuple(C),))
    ensemble = Ensemble(landscape, noise, dynamics, np.zeros((walkers, 3)), seed=5)
    ensemble.advance(burn_in)
    square = np.zeros((walkers, 3))
    for _ in range(records):
        ensemble.advance(apart)
        square += ensemble.theta**2 / records
    return square.mean(axis=0), square.std(axis=0) / np.sqrt(walkers)


def test_variance_with_slow_second_moments_is_the_self_consistent_one():
    """eta k / √C from 0.06 to 0.6, standard error 0.5 %. Mutants: SGD's form, the small-eta form, momentum left out."""
    eta = 0.05
    variance, stderr = late_variance(Adam(eta, 0.5, 0.999))
    exact = theory.variance_adam(K, C, eta, 0.5)
    # What 1 - beta2 = 0.001 leaves is of that order: less than the error bars.
    assert np.abs((variance - exact) / stderr).max() < 4
    mutants = {"as SGD": eta * C / (2 * K), "small eta": eta * np.sqrt(C) / (2 * K)}
    mutants["without momentum"] = theory.variance_adam(K, C, eta)
    for name, mutant in mutants.items():
        assert np.abs((variance - mutant) / stderr).max() > 5, name


def test_without_memory_it_is_sign_descent():
    """β1 = β2 = 0: each step is eta · sign g. Exact reference: the stationary law of x on its lattice, by iteration."""
    eta, k, c = 0.05, K[1], C[1]
    variance, stderr = late_variance(Adam(eta, 0.0, 0.0, 1e-12), burn_in=1000)
    from scipy.special import ndtr

    # From 0, x lives on the multiples of eta; even and odd ones in turn, so average two times.
    j = np.arange(-60, 61)
    down = ndtr(k * eta * j / np.sqrt(c))
    p = np.where(j == 0, 1.0, 0.0)
    for _ in range(4000):
        moved = np.zeros_like(p)
        moved[:-1] += (p * down)[1:]
        moved[1:] += (p * (1 - down))[:-1]
        p, before = moved, p
    even = (p if p[60] > 0 else before) * (eta * j) ** 2  # after an even number of steps
    assert abs(variance[1] - even.sum()) / stderr[1] < 4
    assert even.sum() == pytest.approx(theory.variance_sign_descent(k, c, eta), rel=0.1)
    slow = theory.variance_adam(k, c, eta)
    assert abs(variance[1] - slow) / stderr[1] > 5


def test_mean_force_is_that_of_the_root_of_the_curvature():
    """C = c k. Mutants: the thermal and the SGD form with the same size at k = 1, a flipped sign."""
    eta, c, s = 0.004, 0.2, np.array([0.2, 0.8])
    channel = Channel(Exponential(1.0, 9.0), transverse_directions=2)
    options = {"positions": tuple(s), "walkers": 1000, "burn_in": 20.0, "duration": 30.0, "time_windows": 1}
    group = mean_force(channel, CurvatureCovariance(c), Adam(eta), stride=20, **options)["mean_force"]
    force = group["mean_force"].values[:, :, 0].mean(axis=1)
    stderr = np.sqrt((group["mean_force_stderr"].values[:, :, 0] ** 2).sum(axis=1)) / 4
    k, dk = channel.curvature(s), channel.curvature_slope(s)
    exact = theory.mean_force(dk, theory.variance_adam(k, c * k, eta, 0.9))
    assert np.abs((force - exact) / stderr).max() < 4
    temperature = 0.5 * eta * np.sqrt(c)
    for exponent in (0.0, 1.0):
        mutant = theory.mean_force_curvature_power(k, dk, temperature, exponent)
        assert np.abs((force - mutant) / stderr).max() > 5, exponent
    root = theory.mean_force_curvature_power(k, dk, temperature, 0.5)  # d/dy of (eta √c / 2) sum √k
    np.testing.assert_allclose(root, exact, rtol=0.03)
    assert np.abs((force + exact) / stderr).min() > 5


def test_the_final_update_is_projected_not_the_gradient():
    """Oblique plane, no noise, against an obvious loop. Mutant: the gradient projected before the moments."""
    h, t, anchor = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([0.6, 0.8]), np.array([1.0, 2.0])
    frame = np.array([[t, anchor, [0.0, 0.0]]])
    dynamics = Adam(0.02, 0.8, 0.95)
    landscape = Quadratic(tuple(map(tuple, h)))
    ensemble = Ensemble(landscape, GradientCovariance(), dynamics, anchor[None], frame=frame, noisy=False)
    ensemble.advance(25)

    def loop(project_gradient):
        x, m, v = anchor.copy(), np.zeros(2), np.zeros(2)
        for n in range(1, 26):
            g = h @ x
            g = g - project_gradient * t * (t @ g)
            m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
            x = x - 0.02 * (m / (1 - 0.8**n)) / (np.sqrt(v / (1 - 0.95**n)) + 1e-8)
            x = x - t * (t @ (x - anchor))
        return x

    np.testing.assert_allclose(ensemble.theta[0], loop(False), rtol=1e-12)
    assert np.abs(ensemble.theta[0] - loop(True)).max() > 1e-3


def test_profile_has_no_effective_potential_and_no_variance_is_claimed():
    found = Profile(Channel(), CurvatureCovariance(), Adam()).run()["profile"]
    assert "effective_potential" not in found
    with pytest.raises(UserError, match="dynamics: expected one with an exact variance .* found Adam"):
        Adam().variance(K, C)


def test_timescale_ratio_uses_the_mobilities():
    """D_y = eta / 2 and rates √(k / c), where √C is far above epsilon."""
    channel, c = Channel(Exponential(1.0, 4.0), transverse_directions=1), 0.3
    ratio = timescale_ratio(channel, CurvatureCovariance(c, 1.0, 0.7), Adam(0.01))
    assert ratio == pytest.approx(0.5 * 0.01 * np.log(4.0) ** 2 / np.sqrt(1.0 / c), rel=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(0.0), r"dynamics\.learning_rate: expected a positive number, found 0\.0"),
        (lambda: Adam(beta1=1.0), r"dynamics\.beta1: expected 0 <= beta1 < 1, found 1\.0"),
        (lambda: Adam(beta2=float("nan")), r"dynamics\.beta2: expected 0 <= beta2 < 1, found nan"),
        (lambda: Adam(epsilon=0.0), r"dynamics\.epsilon: expected a positive number, found 0\.0"),
        (lambda: Adam(weight_decay=-0.1), r"dynamics\.weight_decay: expected a number >= 0, found -0\.1"),
        (
            lambda: Adam(0.5, weight_decay=4.0, decoupled=True),
            r"dynamics\.learning_rate: expected less than 0\.5, the stability limit 2/weight_decay",
        ),
        (
            lambda: Adam().check(Channel(), Thermal()),
            r"noise: expected one that supplies a gradient covariance or .* for Adam, found Thermal",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()
