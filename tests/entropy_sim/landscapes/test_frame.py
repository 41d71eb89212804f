"""The turning frame of a bent path: directions, noise and preconditioning that follow it, against matrices."""

import numpy as np
import pytest

from entropy_sim import theory
from entropy_sim._kernels import evaluate
from entropy_sim.dynamics import SGD, Overdamped, Preconditioned
from entropy_sim.errors import UserError
from entropy_sim.landscapes import CurvedChannel, Exponential
from entropy_sim.measurements import mean_force, profile
from entropy_sim.noise import Constant, CurvatureCovariance, CurvaturePower, Label, StateDependent

S = np.array([0.03, 0.3, 0.55, 0.81])


def beside(landscape, s):
    """Points off the path, whose place along it is s."""
    x = 0.2 * np.cos(np.arange(landscape.dimension - 1))
    return landscape.path(s) + np.einsum("m,nmd->nd", x, landscape.mode_directions(s))


def field(landscape, theta):
    return evaluate(
        landscape.transverse_stiffness, theta, landscape.params(), landscape.dimension + landscape.frame_rows
    ).T.copy()


def power(landscape, s, exponent):
    """H^a across the path and nothing along it, (d, d): from the eigenvectors of the Hessian, not from its modes."""
    values, vectors = np.linalg.eigh(landscape.transverse_hessian(s)[0])
    across = np.abs(vectors.T @ landscape.tangent(s)[0]) < 0.5
    return (vectors[:, across] * values[across] ** exponent) @ vectors[:, across].T


def test_stiffness_beside_the_path_is_that_at_the_same_place_on_it(bent):
    found = field(bent, beside(bent, S))[1 : bent.dimension]
    np.testing.assert_allclose(found.T, bent.curvature(S), rtol=1e-12)


def covariance(landscape, noise, theta):
    """Of the noise at one point: kicks by unit vectors of normals are the columns of a root of it, no statistics."""
    d = landscape.dimension
    points = np.repeat(theta[:, None], d, axis=1)
    root, gradient, fields = np.zeros((d, d)), np.zeros((d, d)), field(landscape, points.T)
    normals, numbers = np.eye(d, dtype=np.float32), noise.params(landscape, 0.01)
    noise.function_for(landscape)(points, gradient, fields, normals, root, np.uint64(0), 0, 0, numbers)
    assert not gradient.any()
    return root @ root.T


@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.0, -0.7])
def test_noise_has_the_covariance_of_that_power_of_the_hessian(bent, exponent):
    temperature, along = 0.3, 0.7
    for s, theta in zip(S, beside(bent, S), strict=True):
        t = bent.tangent(s)[0]
        expected = 2.0 * temperature * power(bent, s, exponent) + 2.0 * along * np.outer(t, t)
        found = covariance(bent, CurvaturePower(temperature, exponent, along), theta)
        np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())


def test_noise_of_a_mirror_image_is_mirrored(twisted):
    noise, mirror = CurvaturePower(0.3, 0.7, 0.7), np.array([1.0, -1.0, 1.0])  # phi -> -phi
    for theta in beside(twisted, S):
        expected = mirror[:, None] * covariance(twisted, noise, theta) * mirror
        np.testing.assert_allclose(covariance(twisted, noise, mirror * theta), expected, atol=1e-12)


@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.3, 0.0])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_preconditioner_is_that_power_of_the_hessian(bent, exponent, momentum):
    rng = np.random.default_rng(0)
    d, eta = bent.dimension, 0.05
    dynamics = Preconditioned(eta, exponent, momentum)
    for s in S:
        before = beside(bent, s).T
        gradient, noise, memory = rng.normal(size=(3, d, 1))
        memory = memory if momentum else memory[:0]
        theta, velocity, force = before.copy(), memory.copy(), gradient + noise
        dynamics.function(theta, gradient, noise, field(bent, before.T), velocity, dynamics.params())
        t = bent.tangent(s)[0]
        preconditioner = power(bent, s, -exponent) + np.outer(t, t)
        expected = -eta * preconditioner @ force + (momentum * memory if momentum else 0.0)
        np.testing.assert_allclose(theta - before, expected, atol=1e-10)
        if momentum:
            np.testing.assert_allclose(velocity, expected, atol=1e-10)


@pytest.mark.parametrize(
    ("noise", "dynamics"),
    [
        (CurvatureCovariance(0.05, 1.0, 0.05), SGD(0.1)),
        (CurvatureCovariance(0.05, 0.5, 0.05), SGD(0.05, momentum=0.5)),
        (Label(0.5, 4), SGD(0.1)),
        (CurvatureCovariance(0.05, 0.5, 0.05), Preconditioned(0.1, 1.0)),
    ],
)
def test_mean_force_is_that_of_the_matrices(noise, dynamics):
    """Held in planes that turn: -1/2 Tr(Q d_t H Q Sigma), Sigma the same function of H as the noise."""
    landscape = CurvedChannel(
        Exponential(1.0, 2.0), transverse_directions=2, amplitudes=(1.0, 4.0), radius=2.0, angle=90.0, twist=0.5
    )
    s = np.array([0.2, 0.5, 0.8])
    tree = mean_force(
        landscape,
        noise,
        dynamics,
        positions=tuple(s),
        replicas=32,
        walkers=64,
        burn_in=10.0,
        duration=50.0,
        stride=5,
        seed=2,
    )
    found = tree["mean_force"]["mean_force_curved"].mean("time_window").transpose("s", "replica").values
    average, error = found.mean(axis=1), found.std(axis=1, ddof=1) / np.sqrt(found.shape[1])
    exponent = getattr(noise, "exponent", 1.0)
    scale = getattr(noise, "scale", 0.25 / 4)
    expected = []
    for at in s:
        c = scale * power(landscape, at, exponent)
        h, slope = landscape.transverse_hessian(at), landscape.transverse_hessian_slope(at)
        if isinstance(dynamics, SGD):
            options = {"exact": True, "tangent": landscape.tangent(at)}
            expected.append(
                theory.mean_force_lyapunov(
                    h, c[None], slope, dynamics.learning_rate, dynamics.momentum, **options
                ).item()
            )
        else:  # P H = 1: the variance of eta P C P / (2 - eta)
            inverse = power(landscape, at, -1.0)
            sigma = dynamics.learning_rate / (2.0 - dynamics.learning_rate) * inverse @ c @ inverse
            expected.append(-0.5 * np.trace(slope[0] @ sigma))
    assert np.abs((average - expected) / error).max() < 4.0
    assert np.all(np.abs(expected) > 20.0 * error)


def test_a_profile_has_the_effective_potential_of_noise_that_turns_with_the_frame():
    landscape = CurvedChannel(
        Exponential(1.0, 5.0), transverse_directions=2, amplitudes=(1.0, 4.0), angle=90.0, twist=0.7
    )
    tree = profile(landscape, CurvaturePower(0.02, 1.0, 0.02), Overdamped(1e-6), points=11)
    found = tree["profile"]["effective_potential"].values.ravel()
    expected = 0.01 * landscape.curvature(np.linspace(0.0, 1.0, 11)).sum(axis=1)
    np.testing.assert_allclose(found, expected - expected[0], rtol=1e-4, atol=1e-12)


def test_noise_along_a_straight_path_is_refused():
    with pytest.raises(UserError, match=r"noise: expected a straight channel .* StateDependent, found CurvedChannel"):
        StateDependent(Constant(0.01), Constant(0.01)).check(CurvedChannel())
