"""Both Langevin integrators leave their exact discrete variances; the other's formula is rejected."""

import numpy as np
import pytest

from entropy_sim import theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD, Overdamped
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Channel, MullerBrown, Quadratic
from entropy_sim.noise import CurvaturePower, GradientCovariance, Thermal

STIFFNESS = np.array([1.0, 4.0, 9.0])  # h k = 0.15, 0.6, 1.35
TEMPERATURE, STEP, WALKERS = 0.1, 0.15, 40_000


def final_variance(noise, dynamics, stiffness=STIFFNESS, steps=200):
    """Variance over independent walkers after `steps` steps from 0 (slowest memory (1 - 0.15)^400), and its error."""
    start = np.zeros((WALKERS, len(stiffness)))
    ensemble = Ensemble(Quadratic((tuple(stiffness),)), noise, dynamics, start, seed=1)
    ensemble.advance(steps)
    variance = (ensemble.theta**2).mean(axis=0)
    return variance, variance * np.sqrt(2.0 / WALKERS)


def exact(scheme):
    euler = scheme == "euler_maruyama"
    return (theory.variance_euler_maruyama if euler else theory.variance_leimkuhler_matthews)(
        STIFFNESS, TEMPERATURE, STEP
    )


class TwoFunctions(Thermal):
    """The same noise, for which no function takes the whole step."""

    isotropic = False


@pytest.mark.parametrize("constrained", [False, True])
def test_the_whole_step_is_noise_and_update_one_after_the_other(constrained):
    channel, start = Channel(transverse_directions=2), np.full((70, 3), 0.3)
    frame = np.repeat([[[1.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.0, 0.0, 0.0]]], 70, axis=0) if constrained else None
    ends = []
    for noise in (Thermal(0.2), TwoFunctions(0.2)):
        assert (Overdamped().whole_step(channel, noise) is None) == isinstance(noise, TwoFunctions)
        ensemble = Ensemble(channel, noise, Overdamped(0.01), start, seed=4, frame=frame)
        ensemble.advance(50)
        ends.append(ensemble.theta)
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-11)
    assert np.ptp(ends[0][:, 1]) > 0.1
    assert Overdamped(scheme="leimkuhler_matthews").whole_step(channel, Thermal(0.2)) is None


@pytest.mark.parametrize("scheme", ["euler_maruyama", "leimkuhler_matthews"])
def test_stationary_variance_is_exactly_that_of_the_scheme(scheme):
    """Relative standard error 0.7 %. Mutant: the other scheme's variance (T/k for Euler-Maruyama)."""
    variance, stderr = final_variance(Thermal(TEMPERATURE), Overdamped(STEP, scheme))
    other = "leimkuhler_matthews" if scheme == "euler_maruyama" else "euler_maruyama"
    assert np.abs((variance - exact(scheme)) / stderr).max() < 4
    assert np.abs((variance - exact(other)) / stderr).min() > 5
    dynamics = Overdamped(STEP, scheme)
    np.testing.assert_allclose(dynamics.variance(STIFFNESS, np.full(3, TEMPERATURE)), exact(scheme), rtol=1e-12)


def test_free_diffusion_grows_as_2_t():
    """Mutant: D t (a missing factor 2)."""
    variance, stderr = final_variance(Thermal(TEMPERATURE), Overdamped(STEP), np.array([0.0, 0.0]), steps=100)
    assert np.abs((variance - 2 * TEMPERATURE * STEP * 100) / stderr).max() < 4
    assert np.abs((variance - TEMPERATURE * STEP * 100) / stderr).min() > 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Overdamped(0.0), r"dynamics\.step: expected a positive number, found 0\.0"),
        (lambda: Overdamped(scheme="verlet"), r"dynamics\.scheme: expected one of euler_maruyama, leimkuhler_matthews"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("landscape", "noise", "dynamics", "message"),
    [
        (Channel(), Thermal(), Overdamped(0.125), r"dynamics\.step: expected less than 0\.125, the stability limit"),
        (Quadratic(((1.0, 4.0),)), Thermal(), Overdamped(0.5), r"expected less than 0\.5, the stability limit 2/k"),
        (MullerBrown(), Thermal(), Overdamped(0.01), r"dynamics\.step: expected less than 0\.000"),
        (
            Channel(),
            CurvaturePower(),
            Overdamped(scheme="leimkuhler_matthews"),
            r"dynamics\.scheme: expected euler_maruyama for CurvaturePower",
        ),
        (
            Channel(),
            GradientCovariance(),
            Overdamped(),
            r"noise: expected one that supplies a diffusion for Overdamped, found GradientCovariance, which supplies a "
            r"gradient covariance",
        ),
        (
            Channel(),
            Thermal(),
            SGD(),
            r"expected one that supplies a gradient covariance or .* for SGD, found Thermal, which supplies a dif",
        ),
    ],
)
def test_pairs_that_do_not_fit_are_refused_by_name(landscape, noise, dynamics, message):
    with pytest.raises(UserError, match=message):
        dynamics.check(landscape, noise)


def test_a_step_just_below_the_limit_is_accepted():
    Overdamped(0.1249).check(Channel(), Thermal())
    SGD(0.2374, 0.9).check(Channel(), GradientCovariance())
