"""Open valleys: where nothing confines walkers no density is stationary, and that depends on the noise."""

import dataclasses

import pytest

from entropy_sim.dynamics import SGD, Adam, Overdamped, Preconditioned
from entropy_sim.errors import UserError
from entropy_sim.landscapes import (
    Barrier,
    Channel,
    Confining,
    Custom,
    Exponential,
    Interpolated,
    Power,
    Tilted,
)
from entropy_sim.measurements import Stationary
from entropy_sim.noise import (
    Constant,
    CurvatureCovariance,
    CurvaturePower,
    GradientCovariance,
    Levy,
    LowRankCovariance,
    StateDependent,
    Thermal,
)


@pytest.mark.parametrize(
    ("channel", "obstacle"),
    [
        (Channel(), None),
        (Channel(along=Tilted(1.0)), None),
        (Channel(boundary="open"), "nothing confines towards s = -inf"),
        (Channel(along=Confining(), boundary="open"), None),
        (Channel(along=Confining(strength=1e-3, order=4), stiffness=Exponential(), boundary="open"), None),
        (Channel(along=Barrier(0.1), boundary="open"), None),
        (Channel(along=Barrier(-0.1), boundary="open"), "energy falls without bound towards s = -inf"),
        (Channel(along=Barrier(0.0), boundary="open"), "nothing confines towards s = -inf"),
        (Channel(along=Tilted(0.0), boundary="open"), "nothing confines towards s = -inf"),
        (Channel(along=Tilted(0.1), boundary="open"), "energy falls without bound towards s = +inf"),
        (Channel(along=Interpolated((1.0, 0.0, 1.0)), boundary="open"), None),
        (Channel(along=Interpolated((1.0, 0.0, 1.0), ends="flat"), boundary="open"), "nothing confines"),
        (Channel(Exponential(), boundary="open"), "nothing confines towards s = -inf"),
        (Channel(Exponential(16.0, 1.0), boundary="open"), "nothing confines towards s = +inf"),
        (Channel(Power(exponent=0.4), transverse_directions=5, boundary="open"), "nothing confines"),  # p ~ 1/|s|
        (Channel(Power(exponent=0.5), transverse_directions=5, boundary="open"), None),
        (Channel(Power(exponent=-1.0), boundary="open"), "nothing confines"),
    ],
    ids=repr,
)
def test_only_what_confines_has_a_stationary_density(channel, obstacle):
    found = channel.stationary_obstacle()
    assert (found is None) == (obstacle is None)
    if obstacle is not None:
        assert obstacle in found
        with pytest.raises(UserError, match=r"landscape: expected one with a stationary density, found an open valley"):
            Stationary(channel, Thermal(), Overdamped(1e-4))


GROWING, FALLING = Power(exponent=2.0), Power(exponent=-2.0)


@pytest.mark.parametrize(
    ("stiffness", "noise", "dynamics", "confined"),
    [
        # V / D_y of k ∝ |y|²: ln |y| times the ratio of the variances for D ∝ 1, |y|² for ∝ k, -|y|^-2 for ∝ 1/k.
        (GROWING, CurvaturePower(0.1, 0.0, 0.1), Overdamped(1e-5), False),
        (GROWING, CurvaturePower(0.1, 0.0, 0.09), Overdamped(1e-5), True),
        (GROWING, CurvaturePower(0.1, 1.0, 0.1), Overdamped(1e-5), True),
        (GROWING, CurvaturePower(0.1, -1.0, 0.1), Overdamped(1e-5), False),
        (FALLING, CurvaturePower(0.1, 1.0, 0.1), Overdamped(1e-5), False),
        (GROWING, GradientCovariance(((0.1, 0.1),)), SGD(1e-5), False),
        (GROWING, GradientCovariance(((0.1, 0.2),)), SGD(1e-5), True),
        (GROWING, LowRankCovariance(((0.0, 0.4),), 0.1), SGD(1e-5), True),
        (GROWING, CurvatureCovariance(0.1, 1.0, 0.1), SGD(1e-5), True),
        (GROWING, CurvatureCovariance(0.1, 1.0, 0.1), Preconditioned(1e-5), False),
        (GROWING, CurvatureCovariance(0.2, 1.0, 0.1), Preconditioned(1e-5), True),
        (GROWING, CurvatureCovariance(0.1, 1.0, 0.1), Adam(1e-5), True),
        (GROWING, GradientCovariance(((0.1, 0.39),)), Adam(1e-5), True),
        # Adam's walkers feel the root of the ratio: 1.5 · 1.5^½ < 2 < 1.5 · 1.9^½, but 1.5 · 1.5 > 2.
        (Power(exponent=1.5), GradientCovariance(((0.1, 0.15),)), Adam(1e-5), False),
        (Power(exponent=1.5), GradientCovariance(((0.1, 0.19),)), Adam(1e-5), True),
        # Not known to do far out what it does here.
        (GROWING, StateDependent(Constant(0.1), Constant(0.1)), Overdamped(1e-5), False),
        (GROWING, Levy(), Overdamped(1e-5), False),
    ],
    ids=repr,
)
def test_what_confines_an_open_valley_depends_on_the_noise(tmp_path, stiffness, noise, dynamics, confined):
    channel = Channel(stiffness, transverse_directions=1, boundary="open")
    held = dataclasses.replace(channel, along=Confining())
    Stationary(held, noise, dynamics)  # U confines whatever the noise
    if confined:
        Stationary(channel, noise, dynamics)
    else:
        with pytest.raises(UserError, match="found an open valley that nothing confines towards s = -inf: "):
            Stationary(channel, noise, dynamics)
    power = stiffness.exponent / 2
    file = tmp_path / "mine.py"
    file.write_text(
        f"def energy(x, p):\n    return 0.5 * (1 + ((x[0] - 0.5) / 0.2) ** 2) ** {power} * x[1] ** 2\n\n"
        "def gradient(x, p):\n    u = (x[0] - 0.5) / 0.2\n"
        f"    return {power} * (1 + u * u) ** {power - 1} * u / 0.2 * x[1] ** 2, (1 + u * u) ** {power} * x[1]\n"
    )
    if noise.stiffness_exponent == 0.0 and type(noise) is not CurvaturePower:
        mine = Custom(str(file), start=(0.0, 0.0), end=(1.0, 0.0))
        ratio = float(noise.transverse(mine, 0.5)[0, 0] / noise.along(mine, 0.5)[0])
        assert (mine.stationary_obstacle(*dynamics.far_out(0.0, ratio)) is None) == confined
        assert mine.stationary_obstacle(None) is not None
        assert mine.stationary_obstacle(1.0) is None
