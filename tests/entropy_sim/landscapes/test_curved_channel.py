"""The curved channel: derivatives against finite differences, geometry, and where it refuses."""

import numpy as np
import pytest

from entropy_sim import theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD, Overdamped
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Barrier, Channel, CurvedChannel, Exponential
from entropy_sim.measurements import profile
from entropy_sim.noise import GradientCovariance, Thermal


def differences(function, theta, h=1e-6):
    """Central differences of function (n, ...) along each coordinate of theta (n, d), on a new last axis."""
    shifts = h * np.eye(theta.shape[-1])
    return np.stack([(function(theta + e) - function(theta - e)) / (2 * h) for e in shifts], axis=-1)


def test_gradient_is_the_derivative_of_the_energy(bent):
    # Everywhere in the plane, in mirror images and on the far side of the centre too.
    theta = np.random.default_rng(0).normal(size=(300, bent.dimension))
    theta = theta[np.hypot(theta[:, 0], theta[:, 1]) > 0.2]
    found, expected = bent.gradient_at(theta), differences(bent.energy, theta)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_energy_is_that_of_the_straight_channel_in_polar_coordinates(bent):
    """Written out for one point from the formula, with an explicit rotation."""
    s, d = 0.3, bent.dimension
    offset = np.linspace(0.2, -0.1, d - 1)
    phi = s * np.radians(bent.angle)
    theta = np.concatenate([(bent.radius + offset[0]) * np.array([np.cos(phi), np.sin(phi)]), offset[1:]])
    turn = np.eye(d - 1)
    if d > 2:
        psi = 2 * np.pi * (bent.twist_start + bent.twist * s)
        turn[:2, :2] = [[np.cos(psi), -np.sin(psi)], [np.sin(psi), np.cos(psi)]]
    shapes = bent.profiles or (bent.stiffness,) * (d - 1)
    k = np.array([shape.value(np.array(s)) for shape in shapes]) * np.array(bent.amplitudes or (1.0,) * (d - 1))
    hessian = turn @ np.diag(k) @ turn.T
    expected = bent.along.value(np.array(s)) + 0.5 * offset @ hessian @ offset
    np.testing.assert_allclose(bent.energy(theta), expected, rtol=1e-13)


def test_transverse_hessian_and_its_slope_are_those_of_the_gradient(bent):
    s = np.array([0.15, 0.4, 0.62])
    base, t = bent.path(s), bent.tangent(s)
    q = np.eye(bent.dimension) - t[:, :, None] * t[:, None, :]

    def hessian(shift):
        return differences(bent.gradient_at, base + shift * t, 1e-5)

    np.testing.assert_allclose(bent.transverse_hessian(s), q @ hessian(0.0) @ q, atol=1e-6)
    slope = q @ ((hessian(1e-4) - hessian(-1e-4)) / 2e-4) @ q
    np.testing.assert_allclose(bent.transverse_hessian_slope(s), slope, rtol=1e-4, atol=1e-3)
    modes = bent.mode_directions(s)
    np.testing.assert_allclose(np.einsum("nmi,ni->nm", modes, t), 0.0, atol=1e-15)
    in_modes = np.einsum("nmi,nij,nlj->nml", modes, bent.transverse_hessian(s), modes)
    np.testing.assert_allclose(in_modes, bent.curvature(s)[:, :, None] * np.eye(bent.dimension - 1), atol=1e-12)
    diagonal = np.einsum("nmi,nij,nmj->nm", modes, slope, modes)
    np.testing.assert_allclose(bent.curvature_slope(s), diagonal, rtol=1e-4, atol=1e-3)
    along = np.einsum("ni,nij,nj->n", t, hessian(0.0), t)
    np.testing.assert_allclose(bent.tangential_curvature(s), along, rtol=1e-5, atol=1e-5)


def test_path_is_a_circle_measured_by_its_arc_length(bent):
    s, h = np.linspace(0.05, 0.95, 7), 1e-4 / bent.arc_length
    velocity = (bent.path(s + h) - bent.path(s - h)) / 2e-4
    np.testing.assert_allclose(bent.tangent(s), velocity, atol=1e-7)
    bend = (bent.tangent(s + h) - bent.tangent(s - h)) / 2e-4
    np.testing.assert_allclose(bent.path_curvature(s), bend, atol=1e-7)
    np.testing.assert_allclose(bent.position(bent.path(s)), s, atol=1e-14)
    beside = bent.path(s) + 0.3 * bent.mode_directions(s)[:, -1]
    np.testing.assert_allclose(bent.distance(beside), 0.3, rtol=1e-12)
    np.testing.assert_allclose(bent.position(beside), s, atol=1e-14)
    np.testing.assert_allclose(bent.path_energy(s), bent.along.value(s), atol=1e-14)


def test_the_angle_is_exact_in_all_directions():
    theta = np.random.default_rng(1).normal(size=(10_000, 2)) * [1.0, 1e-3] ** np.arange(2)
    expected = np.mod(np.arctan2(theta[:, 1], theta[:, 0]) / (2 * np.pi), 1.0)
    np.testing.assert_allclose(CurvedChannel().position(theta), expected, atol=1e-15)
    axes = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    np.testing.assert_allclose(CurvedChannel().position(axes), [0.0, 0.25, 0.5, 0.75], atol=1e-15)


def test_an_arc_goes_on_in_its_mirror_images(twisted):
    s = np.array([0.2, 0.7])
    phi = s * np.pi / 2
    for image in (-phi, np.pi - phi, np.pi + phi):
        theta = 1.3 * np.stack([np.cos(image), np.sin(image), 0 * s], axis=1)
        np.testing.assert_allclose(twisted.position(theta), s, atol=1e-14)


def test_without_bend_and_twist_it_is_the_channel():
    """A radius of 10⁶ bends no more: energy and force of the straight channel."""
    bent = CurvedChannel(Exponential(1.0, 5.0), Barrier(0.3), 2, (1.0, 4.0), 1e6, 180.0)
    straight = Channel(Exponential(1.0, 5.0), Barrier(0.3), 2, (1.0, 4.0), bent.arc_length)
    x, outwards, t = np.array([0.3, -0.2]), bent.path(0.3)[0] / 1e6, bent.tangent(0.3)[0]
    theta = bent.path(0.3)[0] + x[0] * outwards + [0.0, 0.0, x[1]]
    unrolled = np.array([0.3 * bent.arc_length, *x])
    np.testing.assert_allclose(bent.energy(theta), straight.energy(unrolled), rtol=1e-8)
    g = bent.gradient_at(theta)
    np.testing.assert_allclose([g @ outwards, g[2]], straight.gradient_at(unrolled)[1:], rtol=1e-8)
    np.testing.assert_allclose(g @ t, straight.gradient_at(unrolled)[0], rtol=1e-5)


def test_the_centre_and_nan_do_no_harm():
    theta = np.array([[0.0, 0.0], [1e-310, 0.0], [np.nan, 1.0], [1.0, np.nan], [1e-200, 0.3]])
    gradient = CurvedChannel().gradient_at(theta)
    assert np.isfinite(gradient[[0, 1, 4]]).all()
    np.testing.assert_array_equal(gradient[0], 0.0)
    assert np.isnan(gradient[2:4]).all()
    assert np.isnan(CurvedChannel().position(theta)[2:4]).all()
    # Walkers released at the centre find the valley, or are flagged: none is lost in silence.
    start = np.random.default_rng(2).normal(size=(200, 2)) * 1e-3
    ensemble = Ensemble(CurvedChannel(), Thermal(1e-3), Overdamped(1e-3), start)
    ensemble.advance(8000)
    far = CurvedChannel().distance(ensemble.theta[~ensemble.diverged])
    assert (far < 0.4).all()
    assert np.isnan(ensemble.theta[ensemble.diverged]).any(axis=1).all()


def test_the_free_energy_round_the_circle_is_the_determinant():
    """-T ln of the numerically integrated Boltzmann weight of each half plane, r dr dz, is U + (T/2) ln det H."""
    t, s = 0.02, np.array([0.1, 0.35, 0.8])
    landscape = CurvedChannel(Exponential(1.0, 2.0), Barrier(0.1), 2, (1.0, 4.0), 1.5, 180.0, 0.3)
    x = np.linspace(-1.2, 1.2, 481)
    rho, z = np.meshgrid(x, x, indexing="ij")
    points = landscape.path(s)[:, None, None, :] * (1.0 + rho[..., None] / 1.5)
    points = points + z[..., None] * np.array([0.0, 0.0, 1.0])
    weight = np.exp(-landscape.energy(points) / t) * (1.5 + rho)
    free = -t * np.log(weight.sum(axis=(1, 2)))
    expected = landscape.path_energy(s) + 0.5 * t * np.log(landscape.curvature(s)).sum(axis=1)
    np.testing.assert_allclose(np.diff(free), np.diff(expected), rtol=1e-6)
    assert abs(np.diff(expected)).min() > 1e-3


def test_lyapunov_force_of_the_path_is_that_of_its_matrices(twisted):
    """c H noise: -(eta c / 4) Tr(Q d_t H), in a frame that turns; the trace does not see the turning."""
    s = np.array([0.2, 0.6])
    h, slope = twisted.transverse_hessian(s), twisted.transverse_hessian_slope(s)
    force = theory.mean_force_lyapunov(h, 0.3 * h, slope, 0.01, tangent=twisted.tangent(s))
    np.testing.assert_allclose(force, -0.01 * 0.3 / 4 * twisted.curvature_slope(s).sum(axis=1), rtol=1e-9)


def test_numbers_do_not_depend_on_threads_blocks_or_chunks(bent):
    def final(pieces, **options):
        start = bent.path(np.linspace(0.1, 0.9, 300))
        ensemble = Ensemble(bent, Thermal(0.05), Overdamped(1e-3), start, seed=5, **options)
        for steps in pieces:
            ensemble.advance(steps)
        return ensemble.theta

    reference = final((60,), threads=1, block=320)
    np.testing.assert_array_equal(final((60,), threads=2), reference)
    np.testing.assert_array_equal(final((1, 20, 39), threads=3, block=64), reference)


def test_a_profile_has_no_effective_potential_where_modes_covary_in_a_turning_frame(twisted):
    def known(landscape, noise, dynamics):
        return "effective_potential" in profile(landscape, noise, dynamics)["profile"]

    anisotropic = GradientCovariance(((0.1, 0.1, 0.2),))
    assert known(twisted, Thermal(0.01), Overdamped())
    assert not known(twisted, anisotropic, SGD(0.01))
    assert known(CurvedChannel(transverse_directions=2), anisotropic, SGD(0.01))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CurvedChannel(radius=-1.0), r"landscape\.radius: expected a positive number, found -1\.0"),
        (lambda: CurvedChannel(angle=100.0), r"landscape\.angle: expected 360, or 180/n .* found 100\.0"),
        (lambda: CurvedChannel(angle=float("nan")), r"landscape\.angle: expected 360"),
        (lambda: CurvedChannel(angle=270.0), r"landscape\.angle: expected 360"),
        (lambda: CurvedChannel(twist=0.5), r"landscape\.twist: expected 0 with fewer than two"),
        (lambda: CurvedChannel(twist=0.3, transverse_directions=2), r"landscape\.twist: expected whole half turns"),
        (lambda: CurvedChannel(Exponential()), r"landscape\.stiffness: expected the same value at s = 0 and 1"),
        (lambda: CurvedChannel(transverse_directions=0), r"landscape\.transverse_directions: expected at least 1"),
        (lambda: CurvedChannel(amplitudes=(1.0, 2.0)), r"landscape\.amplitudes: expected one for each"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()
