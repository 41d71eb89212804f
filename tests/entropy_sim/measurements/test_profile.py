"""The exact profile against closed forms and against the landscapes' own numbers."""

import numpy as np
import pytest

from entropy_sim import schema, theory
from entropy_sim.dynamics import SGD, Overdamped
from entropy_sim.errors import UserError
from entropy_sim.landscapes import (
    Barrier,
    Bump,
    Channel,
    CurvedChannel,
    Custom,
    Interpolated,
    MullerBrown,
    Quadratic,
    Tabulated,
)
from entropy_sim.measurements import Escape, MeanForce, Profile, profile
from entropy_sim.measurements.profile import exact_effective_potential
from entropy_sim.noise import (
    CurvatureCovariance,
    CurvaturePower,
    GradientCovariance,
    TabulatedCovariance,
    Thermal,
)

CHANNEL = Channel(Bump(1.0, 9.0, 0.4), Barrier(0.02), 2, (1.0, 2.5), length=1.5)
S = np.linspace(0, 1, 51)
K = CHANNEL.curvature(S)
U = CHANNEL.path_energy(S)


@pytest.mark.parametrize(
    ("noise", "dynamics", "closed_form"),
    [
        (Thermal(0.3), Overdamped(0.02, "leimkuhler_matthews"), lambda: theory.effective_potential_thermal(K, 0.3, U)),
        (
            Thermal(0.3),
            Overdamped(0.05),
            lambda: theory.effective_potential_constant_noise(K, np.full_like(K, 2 * 0.3 / 0.05), 0.05, 0.0, U),
        ),
        (
            CurvaturePower(0.3, 0.7),
            Overdamped(1e-9),
            lambda: theory.effective_potential_curvature_power(K, 0.3, 0.7, U),
        ),
        (
            CurvatureCovariance(0.3, 1.0),
            SGD(0.1, 0.6),
            lambda: theory.effective_potential_curvature_proportional(K, 0.3, 0.1, 0.6, U),
        ),
        (
            GradientCovariance(((0.1, 0.2, 0.3),)),
            SGD(0.1, 0.6),
            lambda: theory.effective_potential_constant_noise(K, np.array([0.2, 0.3]), 0.1, 0.6, U),
        ),
    ],
)
def test_effective_potential_is_the_closed_form_of_each_noise_and_dynamics(noise, dynamics, closed_form):
    found = Profile(CHANNEL, noise, dynamics).run()["profile"]["effective_potential"].values[0]
    expected = closed_form()
    np.testing.assert_allclose(found, expected - expected[0], atol=1e-7)


def test_effective_potential_is_zero_where_it_says():
    """Also where U(0) is not 0: -T ln p above that of s = 0, as the integral of the mean force is."""
    channel = Channel(Bump(1.0, 4.0), Interpolated((0.5, 1.0, 0.7)), transverse_directions=1)
    group = Profile(channel, Thermal(0.1), Overdamped(1e-6)).run()["profile"]
    assert group.attrs["effective_potential_zero"] == "s = 0"
    exact = channel.path_energy(S) - 0.5 + 0.05 * np.log(channel.curvature(S)[:, 0])
    np.testing.assert_allclose(group["effective_potential"][0], exact, atol=1e-6)
    forces = MeanForce(channel, Thermal(0.1), Overdamped(0.01), (0.0, 0.5), walkers=8, duration=1.0).run()["mean_force"]
    assert forces.attrs["effective_potential_zero"] == "s = 0"
    assert float(forces["effective_potential"][0]) == 0.0


def test_channel_profile_holds_its_curvature():
    group = profile(CHANNEL, Thermal(0.3), Overdamped(0.02), points=51)["profile"]
    np.testing.assert_allclose(group["loss"][0], U, atol=1e-15)
    np.testing.assert_allclose(group["hessian_trace_transverse"][0], K.sum(axis=1))
    np.testing.assert_allclose(group["hessian_max_eigenvalue"][0], K[:, 1])
    np.testing.assert_allclose(group["hessian_eigenvalue"][0], K[:, ::-1])
    np.testing.assert_allclose(group["log_determinant"][0], np.log(K).sum(axis=1))
    h, inner = 1e-4, S[1:-1]
    traces = [CHANNEL.curvature(inner + e).sum(axis=1) for e in (h, -h)]
    slope = (traces[0] - traces[1]) / (2 * h * 1.5)
    np.testing.assert_allclose(group["hessian_trace_slope"][0, 1:-1], slope, atol=1e-4)
    energies = [CHANNEL.path_energy(inner + e) for e in (h, 0.0, -h)]
    bend = (energies[0] - 2 * energies[1] + energies[2]) / (h * 1.5) ** 2
    along = (group["hessian_trace"] - group["hessian_trace_transverse"])[0]
    np.testing.assert_allclose(along[1:-1], bend, atol=1e-5)
    assert "noise_trace" not in group
    np.testing.assert_allclose(np.abs(CHANNEL.path_slope(S)), group["gradient_norm"][0], atol=1e-12)


def test_gradient_noise_is_in_the_order_of_the_eigenvalues():
    noise = GradientCovariance(((0.1, 0.2, 0.3),))
    group = profile(CHANNEL, noise, SGD(0.02), points=3)["profile"]
    np.testing.assert_allclose(group["noise_eigenvalue"][0], [[0.3, 0.2]] * 3)
    np.testing.assert_allclose(group["noise_trace_transverse"][0], 0.5)
    np.testing.assert_allclose(group["noise_trace"][0], 0.6)


def test_a_twin_of_a_twin_is_the_same():
    """from_profile reads what Profile writes: the twin of the channel has its stiffness at the profile's points."""
    tree = profile(CHANNEL, CurvatureCovariance(0.3, 1.0, 0.07), SGD(0.02), points=9)
    twin = Tabulated.from_profile(tree, "path", bulk_modes=0)
    s = np.linspace(0, 1, 9)
    np.testing.assert_allclose(np.sort(twin.curvature(s)), np.sort(CHANNEL.curvature(s)), rtol=1e-12)
    np.testing.assert_allclose(twin.noise_variance_at(s)[:, 0], 0.07, rtol=1e-9)
    again = profile(twin, TabulatedCovariance(), SGD(0.02), points=9)
    for name in ("loss", "hessian_trace_transverse", "noise_trace", "noise_eigenvalue"):
        np.testing.assert_allclose(again["profile"][name], tree["profile"][name], rtol=1e-10, atol=1e-14)


def test_what_cannot_be_known_is_absent():
    saddle = MullerBrown(scale=0.01)
    assert (saddle.curvature(S) < 0).any()
    group = Profile(saddle, Thermal(), Overdamped(1e-3)).run()["profile"]
    assert "log_determinant" not in group
    assert "effective_potential" not in group
    assert exact_effective_potential(saddle, Thermal(), Overdamped(1e-3), S) is None
    np.testing.assert_allclose(group["hessian_trace"][0], np.trace(saddle.hessian(saddle.path(S)), axis1=1, axis2=2))


@pytest.mark.parametrize("landscape", [Channel(), Tabulated(), Quadratic(), MullerBrown(scale=0.01)])
def test_every_landscape_gives_a_valid_dataset(landscape):
    tree = Profile(landscape, Thermal(), Overdamped(1e-3), points=5).run()
    assert schema.faults(tree) == []
    assert tree.attrs["system"] == type(landscape).__name__


@pytest.mark.parametrize(
    ("noise", "dynamics"), [(Thermal(0.1), Overdamped(0.01)), (GradientCovariance(((0.1,),)), SGD(0.02))]
)
def test_of_no_transverse_mode_there_is_no_eigenvalue_and_no_entropy(noise, dynamics):
    """One coordinate, L = (theta - 1)²: what sums over the modes is 0, what is highest among them absent."""
    tree = Profile(Quadratic(((2.0,),), centre=(1.0,)), noise, dynamics).run()
    assert schema.faults(tree) == []
    group, energy = tree["profile"], (2.0 * S - 1.0) ** 2
    np.testing.assert_allclose(group["loss"][0], energy, atol=1e-15)
    np.testing.assert_allclose(group["effective_potential"][0], energy - 1.0, atol=1e-12)
    np.testing.assert_allclose(group["hessian_trace"][0], 2.0, rtol=1e-6)
    for name in ("hessian_trace_transverse", "hessian_trace_slope", "log_determinant"):
        np.testing.assert_array_equal(group[name], 0.0)
    assert not {"hessian_eigenvalue", "hessian_max_eigenvalue", "noise_eigenvalue"} & set(group.data_vars)
    assert group.attrs["effective_potential_from"] == "exact variances"
    if "noise_trace" in group:
        np.testing.assert_allclose(group["noise_trace"], 0.1)
        np.testing.assert_array_equal(group["noise_trace_transverse"], 0.0)


def test_bad_input_is_refused_by_name():
    with pytest.raises(UserError, match=r"points: expected at least 2, found 1"):
        Profile(points=1)
    with pytest.raises(UserError, match=r"found Thermal, which supplies a diffusion"):
        Profile(dynamics=SGD())


QUARTIC = """
def energy(x, p):
    return 5.0 * x[1] ** 2 + 2000.0 * (1.0 + 4.0 * x[0] ** 2) * x[1] ** 4
def gradient(x, p):
    return (16000.0 * x[0] * x[1] ** 4, 10.0 * x[1] + 8000.0 * (1.0 + 4.0 * x[0] ** 2) * x[1] ** 3)
"""


def test_a_potential_that_is_only_harmonic_is_not_called_exact(tmp_path):
    """Across a quartic whose stiffness is the same everywhere it is 0, while the exact one rises by a third of T; what
    escapes are compared with says the same."""
    file = tmp_path / "quartic.py"
    file.write_text(QUARTIC)
    quartic = Custom(str(file), start=(0.0, 0.0), end=(1.0, 0.0))
    t, x = 0.1, np.linspace(-1, 1, 20_001)
    weight = [np.exp(-(5 * x**2 + 2000 * (1 + 4 * y**2) * x**4) / t).sum() for y in (0.0, 1.0)]
    group = Profile(quartic, Thermal(t), Overdamped(1e-4)).run()["profile"]
    assert abs(group["effective_potential"].values).max() < 1e-6
    assert -t * np.log(weight[1] / weight[0]) > 0.3 * t
    assert group.attrs["effective_potential_from"].startswith("harmonic variances, though")
    options = {"start": 0.5, "lower": 0.1, "upper": 0.9, "replicas": 2, "duration": 1e-3}
    passage = Escape(quartic, Thermal(t), Overdamped(1e-4), **options).run()["escape"]
    assert "harmonic variances, though" in passage.attrs["reduced"]


@pytest.mark.parametrize(
    ("landscape", "expected"),
    [
        (CHANNEL, "exact variances"),
        (Quadratic(), "exact variances"),
        (CurvedChannel(), "harmonic variances in the planes normal"),
    ],
)
def test_what_the_potential_is_from_is_said(landscape, expected):
    group = Profile(landscape, Thermal(0.1), Overdamped(1e-3)).run()["profile"]
    assert group.attrs["effective_potential_from"].startswith(expected)
