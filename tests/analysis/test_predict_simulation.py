from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats

from analysis import predict_simulation as ps
from analysis.predict import FINITE_RATE, PROPORTIONAL, THERMAL
from analysis.simulated import with_profile
from analysis.uncertainty import Estimate, agreement
from entropy_sim.errors import UserError
from entropy_sim.run_files import read_tree

S = np.linspace(0.1, 0.9, 9)
REFERENCE = Path(__file__).parents[2] / "data" / "reference"


def z(measured, error, value):
    return agreement(Estimate.independent(measured, error), Estimate.independent(value, 0 * value)).z


def test_langevin_force_is_exact_and_the_step_is_seen(channel):
    known = channel()
    found = ps.predict_simulation(known.tree(), S)
    np.testing.assert_allclose(found["force"].sel(form=ps.FINITE_STEP), known.force(S), atol=1e-6)
    assert float(found["force_stderr"].max()) < 1e-5
    thermal = channel(step=1e-9).force(S)
    np.testing.assert_allclose(found["force"].sel(form=THERMAL), thermal, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_sgd_force_is_exact(channel, momentum):
    known = channel(scale=0.3, momentum=momentum)
    found = ps.predict_simulation(known.tree(), S)
    assert list(found["form"].values) == [PROPORTIONAL, FINITE_RATE]
    np.testing.assert_allclose(found["force"].sel(form=FINITE_RATE), known.force(S), atol=1e-6)
    c = 0.3 * known.step / (4 * (1 - momentum))
    energetic = -known.height * np.pi * np.sin(2 * np.pi * S) / known.length
    small = energetic - c * known.curvature_slope(S).sum(-1)
    np.testing.assert_allclose(found["force"].sel(form=PROPORTIONAL), small, atol=1e-6)


def test_measured_force_agrees_and_mutants_are_rejected(channel):
    """Errors of 0.35 per mille of the largest force: the exact form passes, six wrong ones fail by 5 sigma."""
    known = channel(momentum=0.5, scale=0.3)
    measured = known.mean_force()["mean_force"].mean(("replica", "time_window")).values
    error = np.full(9, known.error / np.sqrt(8))
    right = ps.predict_simulation(known.tree(), S)["force"].sel(form=FINITE_RATE).values
    assert z(measured, error, right) < 3
    without = channel(momentum=0.0, scale=0.3).force(S)  # no 1/(1−beta)
    for mutant in (without, -right, 2 * right, channel(momentum=0.5, scale=0.3, height=0).force(S)):
        assert z(measured, error, mutant) > 5


def test_leimkuhler_matthews_has_one_form(channel):
    tree = channel().tree()
    tree.attrs["config"] = tree.attrs["config"].replace("euler_maruyama", "leimkuhler_matthews")
    assert list(ps.predict_simulation(tree, S)["form"].values) == [THERMAL]


def test_thermal_density_is_the_product_of_inverse_roots(channel):
    """Against an adaptive integral of exp(−U/T) k_1^(−1/2) k_2^(−1/2) over each bin."""
    known = channel()
    bins = (np.arange(10) + 0.5) / 10

    def weight(s):
        energy = known.height * np.sin(np.pi * s) ** 2 / known.temperature
        return np.exp(-energy) / np.prod(known.curvature([s])) ** 0.5

    mass = np.array([integrate.quad(weight, s - 0.05, s + 0.05)[0] for s in bins])
    found = ps.predict_stationary(known.tree(), bins)
    np.testing.assert_allclose(found["density"].values[0], mass / mass.mean(), rtol=2e-4)
    shift = found["free_energy"].values[0] + known.temperature * np.log(mass)
    np.testing.assert_allclose(shift, shift[0], atol=1e-4)


def test_reduced_relaxation_of_a_linear_force():
    """Pure diffusion between reflecting ends: <s> = 1/2 − sum 4/(pi m)² cos(pi m s0) exp(−(pi m)² D t / L²), odd m;
    and a strong constant force carries the mean at its own velocity."""
    n = 41
    profile = ps.Profile(np.linspace(0, 1, n), np.zeros(n), np.ones((n, 1)), np.ones((n, 1)), np.full(n, 0.1))
    thermal = ps.Setting({"type": "Thermal", "temperature": 0.1}, {"type": "Overdamped", "step": 0.01})
    length, t, s0 = 2.0, 3.0, 0.3
    from scipy.linalg import expm

    centres = (np.arange(200) + 0.5) / 200
    start = np.array([np.interp(s0, centres, row) for row in np.eye(200)])
    generator = ps._generator(thermal, profile, length)
    np.testing.assert_allclose(generator.sum(0), 0, atol=1e-9 * np.abs(generator).max())
    m = np.arange(1, 200, 2)
    decay = np.exp(-((np.pi * m) ** 2) * 0.1 * t / length**2)
    expected = 0.5 - (4 / (np.pi * m) ** 2 * np.cos(np.pi * m * s0) * decay).sum()
    assert centres @ expm(t * generator) @ start == pytest.approx(expected, abs=2e-4)

    hill = ps.Profile(profile.s, -0.5 * profile.s * length, profile.stiffness, profile.noise, np.full(n, 1e-3))
    moved = centres @ expm(0.8 * ps._generator(thermal, hill, length)) @ start
    assert moved == pytest.approx(s0 + 0.5 * 0.8 / length, abs=2e-3)


def test_a_drift_that_outruns_the_noise_by_far_is_not_throttled():
    """D_y = 1e-8 and f = 0.5 on 200 cells of 0.01: f h / D = 5e5, far beyond exp; the mean still moves at speed f."""
    x = np.array([-6660.0, -701.0, -699.0, 0.0, 699.0, 6660.0])
    np.testing.assert_allclose(ps._bernoulli(x), [6660, 701, 699, 1, 0, 0], atol=1e-12)
    n, length, s0 = 41, 2.0, 0.3
    s = np.linspace(0, 1, n)
    thermal = ps.Setting({"type": "Thermal", "temperature": 1e-8}, {"type": "Overdamped", "step": 0.01})
    hill = ps.Profile(s, -0.5 * s * length, np.ones((n, 1)), np.full((n, 1), 1e-8), np.full(n, 1e-8))
    centres = (np.arange(200) + 0.5) / 200
    start = np.array([np.interp(s0, centres, row) for row in np.eye(200)])
    propagator = ps._propagator(ps._generator(thermal, hill, length), 0.8)
    np.testing.assert_allclose(propagator.sum(0), 1, atol=1e-12)
    assert centres @ propagator @ start == pytest.approx(s0 + 0.5 * 0.8 / length, abs=1e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_reduced_dynamics_of_sgd_have_its_finite_learning_rate(channel, momentum):
    """The drift is the exact force; the small-step one is off by more than 5 % somewhere."""
    known = channel(scale=0.3, momentum=momentum, step=0.1)
    setting, profile, length = ps.read(known.tree(), "relaxation")
    force, _ = ps._reduced(setting, profile, S, length)
    np.testing.assert_allclose(force, known.force(S), atol=1e-5)
    small = ps.predict_simulation(known.tree(), S)["force"].sel(form=PROPORTIONAL).values
    assert np.abs(force - small).max() > 0.05 * np.abs(force).max() * (1 - momentum)
    bins = (np.arange(10) + 0.5) / 10
    for found in (ps.predict_stationary(known.tree(), bins), ps.predict_relaxation(known.tree(), S, np.arange(3.0))):
        assert list(found["form"].values) == [f"fast transverse modes, {FINITE_RATE}"]
        assert "(2(1+β) − η k_i)" in str(found["formula"].values[0])


def test_relaxation_starts_at_the_start_and_ends_at_the_stationary_mean(channel):
    known = channel()
    starts = np.array([0.2, 0.4, 0.9])
    found = ps.predict_relaxation(known.tree(), starts, np.linspace(0, 400, 5))["position"].values[0]
    np.testing.assert_allclose(found[:, 0], starts, atol=1e-12)
    np.testing.assert_allclose(found[:, -1], 0.5, atol=1e-4)


def test_mean_positions_follow_the_drift_where_there_is_hardly_noise():
    """Beside an unstable point, where cells with fitted rates smear walkers over both sides: off by 1e-2 there."""
    starts, length, d = np.array([0.2, 0.47, 0.5, 0.52, 0.8]), 20.0, 1e-8

    def force(s):
        return 0.8 * s * (1 - s) * (s - 0.48) * length  # away from 0.48

    found = ps.mean_positions(lambda s: (force(s), np.full(len(s), d)), length, starts, 2.0, 6, 201)
    exact = integrate.solve_ivp(lambda t, s: force(s) / length, (0, 10), starts, t_eval=np.arange(6) * 2.0, rtol=1e-10)
    np.testing.assert_allclose(found, exact.y, atol=2e-5)
    assert found[1, -1] < 0.45 < 0.6 < found[2, -1]


def test_mean_positions_of_diffusion_between_reflecting_ends_and_in_a_well():
    """Both exact: a cosine series; and, far from the ends, (s0 − ½) exp(−a t), whatever the noise."""
    starts, length, d, a = np.array([0.05, 0.3, 0.45]), 3.0, 0.2, 0.5
    flat = ps.mean_positions(lambda s: (0 * s, np.full(len(s), d)), length, starts, 1.5, 4, 201)
    n, t = np.arange(1, 400, 2)[:, None, None], np.arange(4) * 1.5
    terms = 4 / (n * np.pi) ** 2 * np.cos(n * np.pi * starts[:, None]) * np.exp(-d * (n * np.pi / length) ** 2 * t)
    np.testing.assert_allclose(flat[:, 1:], (0.5 - terms.sum(0))[:, 1:], atol=2e-5)
    well = ps.mean_positions(lambda s: (-a * (s - 0.5) * length, np.full(len(s), 1e-3)), length, starts, 1.5, 4, 201)
    np.testing.assert_allclose(well, 0.5 + (starts[:, None] - 0.5) * np.exp(-a * t), atol=2e-5)


def test_the_twin_s_relaxation_is_the_reduced_dynamics():
    """The committed run, from its own profile: cells with fitted rates missed it by 4 % and said so of the run."""
    tree = with_profile(read_tree(REFERENCE / "twin_relaxation.nc"))
    walkers = tree["relaxation"]["position"].sel(control=0).isel(time=-1).values
    starts, times = tree["relaxation"]["start"].values, tree["relaxation"]["time"].values
    found = ps.predict_relaxation(tree, starts, times).isel(form=0, time=-1)
    assert found["position_stderr"].values.max() < 2e-5
    z = (walkers.mean(1) - found["position"].values) / (walkers.std(1, ddof=1) / np.sqrt(walkers.shape[1]))
    assert (z**2).sum() < stats.chi2.isf(1e-3, len(z))


def test_what_cannot_be_predicted_says_why(channel):
    tree = channel(groups=("mean_force",)).tree()
    with pytest.raises(UserError, match="no prediction without a profile of the path"):
        ps.predict_simulation(tree, S)
    tree = channel().tree()
    tree["profile"] = tree["profile"].to_dataset().drop_vars("hessian_eigenvalue")
    with pytest.raises(UserError, match="expected hessian_eigenvalue"):
        ps.predict_simulation(tree, S)
    tree = channel().tree()
    tree["profile"]["hessian_eigenvalue"][:] *= 0.5
    with pytest.raises(UserError, match="expected all transverse modes"):
        ps.predict_simulation(tree, S)
    tree = channel().tree()
    tree.attrs["config"] = "{}"
    with pytest.raises(UserError, match="expected a noise and a dynamics"):
        ps.predict_simulation(tree, S)
    for old, new, found in (
        ('"type": "SGD"', '"type": "Adam"', "Adam"),
        ('"momentum"', '"nesterov": true, "momentum"', "SGD with nesterov or weight_decay"),
        ('"momentum"', '"weight_decay": 0.1, "momentum"', "SGD with nesterov or weight_decay"),
    ):
        tree = channel(scale=0.3).tree()
        assert old in tree.attrs["config"]
        tree.attrs["config"] = tree.attrs["config"].replace(old, new)
        with pytest.raises(UserError, match=f"expected Overdamped or heavy-ball SGD to predict from, found {found}"):
            ps.predict_simulation(tree, S)
    with pytest.raises(UserError, match="equal bins that fill"):
        ps.predict_stationary(channel().tree(), S)


def test_what_is_left_of_an_even_start(channel):
    """At once it is 1 less the stationary density; after many relaxation times nothing; in between it decays."""

    def left(burn_in):
        tree = channel(groups=("profile", "stationary")).tree()
        config = json.loads(tree.attrs["config"])
        tree.attrs["config"] = json.dumps(config | {"burn_in": burn_in})
        return ps.start_remembered(tree, s), ps.predict_stationary(tree, s)["density"].values[0]

    s = (np.arange(20) + 0.5) / 20
    at_once, density = left(0.0)
    np.testing.assert_allclose(at_once, 1 - density, atol=0.01)
    later, _ = left(10.0)
    assert 0 < np.abs(later).max() < 0.7 * np.abs(at_once).max()
    assert np.abs(left(1000.0)[0]).max() < 1e-6
    tree = channel(groups=("profile", "stationary")).tree()
    with pytest.raises(UserError, match="stationary: expected noise along the path and a burn_in"):
        ps.start_remembered(tree, s)
