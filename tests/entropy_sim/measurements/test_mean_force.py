"""Constrained mean forces against their closed forms and against quadrature; wrong formulas are rejected."""

import json

import numpy as np
import pytest

from entropy_sim import schema, theory
from entropy_sim.dynamics import SGD, Overdamped
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Barrier, Bump, Channel, Exponential, MullerBrown, Quadratic, Tabulated
from entropy_sim.measurements import MeanForce, mean_force
from entropy_sim.measurements.base import mean_and_stderr
from entropy_sim.measurements.profile import exact_mean_force
from entropy_sim.noise import CurvatureCovariance, CurvaturePower, TabulatedCovariance, Thermal
from entropy_sim.run_files import config_json, from_jsonable

CHANNEL = Channel(Bump(1.0, 9.0, 0.4), Barrier(0.02), 2, (1.0, 2.5), length=1.5)
LM = Overdamped(0.02, "leimkuhler_matthews")
S = np.array([0.2, 0.35, 0.5, 0.7])


def total(tree, name="mean_force"):
    """Mean over replicas and windows, with the error from the replicas' spread over walkers."""
    group = tree["mean_force"]
    values, stderr = group[name].values, group[f"{name}_stderr"].values
    # Windows of one walker are correlated: take their errors as fully so, which is never too small.
    return values.mean(axis=(1, 2)), np.sqrt((stderr.mean(axis=2) ** 2).sum(axis=1)) / values.shape[1]


def measure(landscape, noise, dynamics, **options):
    defaults = {"positions": tuple(S), "walkers": 500, "replicas": 2, "burn_in": 8.0, "duration": 30.0}
    return mean_force(landscape, noise, dynamics, **{**defaults, "time_windows": 1, **options})


def test_thermal_mean_force_is_minus_u_slope_minus_half_t_k_slope_over_k():
    """Leimkuhler-Matthews has T/k exactly. Mutants: a flipped sign, a missing 1/2, U left out."""
    force, stderr = total(measure(CHANNEL, Thermal(0.02), LM))
    k, dk, du = CHANNEL.curvature(S), CHANNEL.curvature_slope(S), CHANNEL.path_slope(S)
    exact = theory.mean_force_thermal(k, dk, 0.02, du)
    off = np.array([0, 1, 3])  # in the middle the force is zero by symmetry
    assert np.abs((force - exact)[off] / stderr[off]).max() < 4
    np.testing.assert_allclose(force[2], 0.0, atol=1e-12)
    mutants = {
        "flipped sign": -exact,
        "without 1/2": 2 * (exact + du) - du,
        "without U": exact + du,
    }
    for name, mutant in mutants.items():
        assert np.abs((force - mutant)[off] / stderr[off]).min() > 5, name


def test_euler_maruyama_shifts_the_mean_force_by_its_own_variance():
    """Mutant: the continuous formula."""
    dynamics = Overdamped(0.06)  # h k = 1.35 in the middle
    force, stderr = total(measure(CHANNEL, Thermal(0.02), dynamics))
    k, dk, du = CHANNEL.curvature(S), CHANNEL.curvature_slope(S), CHANNEL.path_slope(S)
    exact = theory.mean_force(dk, theory.variance_euler_maruyama(k, 0.02, 0.06), du)
    off = np.array([0, 1, 3])
    assert np.abs((force - exact)[off] / stderr[off]).max() < 4
    assert np.abs((force - theory.mean_force_thermal(k, dk, 0.02, du))[off] / stderr[off]).min() > 5
    np.testing.assert_allclose(exact_mean_force(CHANNEL, Thermal(0.02), dynamics, S), exact, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_curvature_power_noise_gives_the_alpha_family(exponent):
    """Mutant: the thermal formula with the same T."""
    dynamics = Overdamped(0.002)  # 1 - h k / 2 within 2 %; the exact discrete variance is used
    noise = CurvaturePower(0.02, exponent)
    force, stderr = total(measure(CHANNEL, noise, dynamics, stride=20, walkers=200))
    k, dk, du = CHANNEL.curvature(S), CHANNEL.curvature_slope(S), CHANNEL.path_slope(S)
    exact = theory.mean_force(dk, theory.variance_euler_maruyama(k, 0.02 * k**exponent, 0.002), du)
    off = np.array([0, 1, 3])
    assert np.abs((force - exact)[off] / stderr[off]).max() < 4
    thermal = theory.mean_force_thermal(k, dk, 0.02, du)
    assert np.abs((force - thermal)[off] / stderr[off]).max() > 5
    # The continuous form agrees to the order of h k.
    np.testing.assert_allclose(theory.mean_force_curvature_power(k, dk, 0.02, exponent, du), exact, rtol=0.03)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_sgd_mean_force_with_noise_proportional_to_the_curvature(momentum):
    """Projected after momentum. Mutants: small learning rate, a missing 1/(1-beta)."""
    rate, c = 0.06, 0.3
    dynamics = SGD(rate, momentum)
    force, stderr = total(measure(CHANNEL, CurvatureCovariance(c, 1.0), dynamics))
    k, dk, du = CHANNEL.curvature(S), CHANNEL.curvature_slope(S), CHANNEL.path_slope(S)
    exact = theory.mean_force(dk, theory.variance_sgd_curvature_proportional(k, c, rate, momentum), du)
    off = np.array([0, 1, 3])
    assert np.abs((force - exact)[off] / stderr[off]).max() < 4
    small = theory.mean_force_curvature_proportional(dk.sum(-1), c, rate, momentum, du)
    assert np.abs((force - small)[off] / stderr[off]).max() > 5
    if momentum:
        mutant = (1 - momentum) * (exact + du) - du
        assert np.abs((force - mutant)[off] / stderr[off]).min() > 5


def test_the_twin_of_a_network_has_the_mean_force_of_its_tables():
    """State-dependent noise of each mode from the table. Mutant: the noise of the path's beginning everywhere."""
    twin, rate = Tabulated(), 0.05
    s = np.array([0.15, 0.4, 0.8])
    tree = measure(twin, TabulatedCovariance(0.1), SGD(rate, 0.5), positions=tuple(s))
    force, stderr = total(tree)
    k, dk, c = twin.curvature(s), twin.curvature_slope(s), 0.1 * twin.noise_variance_at(s)[:, 1:]
    exact = theory.mean_force_covariance(c, k, dk, rate, 0.5, twin.path_slope(s))
    assert np.abs((force - exact) / stderr).max() < 4
    mutant = theory.mean_force_covariance(0.1 * twin.noise_variance_at([0.0])[:, 1:], k, dk, rate, 0.5)
    assert np.abs((force - mutant) / stderr).min() > 5


def test_effective_potential_is_the_integral_with_propagated_errors():
    """Exponential stiffness: the thermal force is -T everywhere, so the trapezoidal rule is exact and V = T y."""
    channel = Channel(Exponential(1.0, np.exp(2.0)), transverse_directions=1)
    positions = tuple(np.linspace(0, 1, 9))
    tree = measure(channel, Thermal(0.05), LM, positions=positions, time_windows=2, burn_in=10.0)
    group = tree["mean_force"]
    force, _ = total(tree)
    y = np.array(positions)
    work = np.concatenate([[0.0], np.cumsum(-0.5 * (force[1:] + force[:-1]) * np.diff(y))])
    np.testing.assert_allclose(group["effective_potential"], work, atol=1e-12)
    z = (group["effective_potential"].values - 0.05 * y)[1:] / group["effective_potential_stderr"].values[1:]
    assert np.abs(z).max() < 4
    assert np.abs(work[-1] - 0.1) > 5 * group["effective_potential_stderr"].values[-1]  # a missing 1/2
    walkers = group["mean_force"].sizes["replica"] * 500
    assert group["effective_sample_size"].values.min() > walkers
    # An AR(1) x with 1 - h k = e^(-h/tau) has x² decorrelating with coefficient (1 - h k)²; k = 1 at s = 0.
    # Leimkuhler-Matthews adds a one-step moving average, worth less than one step.
    h, a = 0.02, (1 - 0.02) ** 2
    expected = h * (1 + a) / (1 - a)
    assert group["position_autocorrelation_time"].values[0] == pytest.approx(expected, rel=0.15)
    np.testing.assert_allclose(np.diff(group["time_window"]), 15.0)


def quadrature(surface, s, temperature, width=0.9):
    """Both averages over the line normal to the path at s, exp(-L/T) on |offset| < width."""
    t, normal, anchor = surface.tangent(s)[0], surface.mode_directions(s)[0, 0], surface.path(s)[0]
    r = np.linspace(-width, width, 4001)
    points = anchor + r[:, None] * normal
    energy = surface.energy(points)
    weight = np.exp(-(energy - energy.min()) / temperature)
    force = -surface.gradient_at(points) @ t
    bend = 1.0 - (points - anchor) @ surface.path_curvature(s)[0]
    return np.array([(weight * force).sum(), (weight * force * bend).sum()]) / weight.sum()


def test_curved_path_both_averages_equal_quadrature_over_the_plane():
    """Müller-Brown, far from quadratic. Mutants: each average in place of the other."""
    surface, temperature = MullerBrown(scale=0.05), 1.0
    s = (0.85, 0.9)
    tree = measure(
        surface,
        Thermal(temperature),
        Overdamped(1e-3, "leimkuhler_matthews"),
        positions=s,
        burn_in=1.0,
        duration=10.0,
        walkers=1000,
    )
    exact = np.array([quadrature(surface, x, temperature) for x in s])
    plain, curved = total(tree), total(tree, "mean_force_curved")
    assert np.abs((plain[0] - exact[:, 0]) / plain[1]).max() < 4
    assert np.abs((curved[0] - exact[:, 1]) / curved[1]).max() < 4
    assert np.abs((plain[0] - exact[:, 1]) / plain[1]).min() > 5
    assert np.abs((curved[0] - exact[:, 0]) / curved[1]).min() > 5
    assert "mean_force_curved" in tree["mean_force"].attrs["effective_potential_from"]


def test_the_control_is_the_noiseless_force_at_the_path_point():
    tree = measure(CHANNEL, Thermal(0.02), LM, walkers=2, duration=2.0)
    control = tree["mean_force"]["mean_force_control"].values[:, 0, 0]
    np.testing.assert_allclose(control, -CHANNEL.path_slope(S), atol=1e-12)


def test_dataset_is_valid_reproducible_and_carries_its_configuration():
    measurement = MeanForce(CHANNEL, Thermal(0.02), LM, (0.2, 0.6), 2, 70, 0.5, 1.0, 2)
    first, second = measurement.run(threads=1), measurement.run(threads=2)
    assert schema.faults(first) == []
    np.testing.assert_array_equal(first["mean_force"]["mean_force"], second["mean_force"]["mean_force"])
    assert from_jsonable(MeanForce, json.loads(first.attrs["config"])) == measurement
    assert first.attrs["config"] == config_json(measurement)
    assert first["path"]["arc_length"].values[-1] == pytest.approx(0.6 * 1.5)
    other = MeanForce(CHANNEL, Thermal(0.02), LM, (0.2, 0.6), 2, 70, 0.5, 1.0, 2, seed=1).run()
    assert not np.array_equal(first["mean_force"]["mean_force"], other["mean_force"]["mean_force"])


def test_diverged_walkers_are_counted_and_left_out():
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan], [2.0, np.nan, np.nan]])
    mean, stderr = mean_and_stderr(values, axis=1)
    np.testing.assert_allclose(mean, [2.0, np.nan, 2.0])
    np.testing.assert_allclose(stderr, [1.0, np.nan, np.nan])
    # A direction that falls off to one side: every walker leaves in the end, and none poisons the run.
    tree = MeanForce(Quadratic(((1.0, -3.0),)), Thermal(0.1), Overdamped(0.3), (0.0, 1.0), 1, 4, 0.0, 40.0, 1).run()
    assert np.all(tree["mean_force"]["diverged"] == 1.0)
    assert np.isnan(tree["mean_force"]["mean_force"]).all()
    assert "effective_potential" not in tree["mean_force"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": ()}, r"positions: expected positions s in 0…1"),
        ({"positions": (0.2, 1.2)}, r"positions: expected positions s in 0…1, found \(0\.2, 1\.2\)"),
        ({"positions": (0.5, 0.2)}, r"positions: expected increasing positions"),
        ({"walkers": 0}, r"walkers: expected at least 1, found 0"),
        ({"replicas": 0}, r"replicas: expected at least 1, found 0"),
        ({"duration": -1.0}, r"duration: expected a positive number, found -1\.0"),
        ({"duration": 1e9}, r"duration: expected 1 to 10⁹ steps of 0\.005"),
        ({"burn_in": float("nan")}, r"burn_in: expected a positive number, found nan"),
        ({"time_windows": 10**6}, r"time_windows: expected .* found 1000000"),
        ({"seed": -1}, r"seed: expected 0…2\^64 - 1"),
        ({"dynamics": SGD()}, r"noise: expected one that supplies a gradient .* for SGD, found Thermal"),
        ({"dynamics": Overdamped(0.5)}, r"dynamics\.step: expected less than 0\.125"),
    ],
)
def test_bad_input_is_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        MeanForce(**options)


def test_threads_must_be_positive():
    with pytest.raises(UserError, match=r"threads: expected a positive number, found 0"):
        MeanForce().run(threads=0)
