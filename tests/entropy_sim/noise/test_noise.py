"""Every noise has the covariance it declares, and refuses what it cannot act on."""

import numpy as np
import pytest

from entropy_sim.errors import UserError
from entropy_sim.landscapes import Channel, MullerBrown, Quadratic, Tabulated
from entropy_sim.noise import (
    CurvatureCovariance,
    CurvaturePower,
    GradientCovariance,
    TabulatedCovariance,
    Thermal,
)

CHANNEL = Channel(transverse_directions=2, amplitudes=(1.0, 3.0))
FULL = ((2.0, 0.6, -0.4), (0.6, 1.0, 0.3), (-0.4, 0.3, 0.5))
SINGULAR = ((1.0, 2.0, 0.0), (2.0, 4.0, 0.0), (0.0, 0.0, 0.0))


def covariance(noise, landscape, s):
    """The exact covariance of the noise at path point s: its function applied to unit vectors."""
    d = landscape.dimension
    theta = np.ascontiguousarray(np.repeat(landscape.path(s), d, axis=0).T)
    field, gradient, factor = np.zeros((noise.field_rows(landscape), d)), np.zeros((d, d)), np.zeros((d, d))
    function = noise.field_function(landscape)
    if function is not None:
        function(theta, field, landscape.params())
    numbers = np.uint64(0), 0, 0, noise.params(landscape, 1.0)
    noise.function_for(landscape)(theta, gradient, field, np.eye(d, dtype=np.float32), factor, *numbers)
    return factor @ factor.T


@pytest.mark.parametrize(
    ("noise", "landscape", "expected"),
    [
        (Thermal(0.3), CHANNEL, np.eye(3) * 0.6),
        (CurvaturePower(0.3, 1.0, 0.05), CHANNEL, np.diag([0.1, 0.6 * 16, 0.6 * 48])),
        (CurvaturePower(0.3, -0.5, 0.0), CHANNEL, np.diag([0.0, 0.6 * 16**-0.5, 0.6 * 48**-0.5])),
        (CurvatureCovariance(0.3, 0.5, 0.05), CHANNEL, np.diag([0.05, 0.3 * 4, 0.3 * 48**0.5])),
        (GradientCovariance(((0.7,),)), CHANNEL, np.eye(3) * 0.7),
        (GradientCovariance(((0.7, 0.0, 2.0),)), CHANNEL, np.diag([0.7, 0.0, 2.0])),
        (GradientCovariance(FULL), CHANNEL, np.array(FULL)),
        (GradientCovariance(SINGULAR), CHANNEL, np.array(SINGULAR)),
        (TabulatedCovariance(0.5), Tabulated(), 0.5 * np.diag([0.1, 16.0, 4.0, 1.0, 1.0, 1.0, 1.0])),
    ],
)
def test_covariance_is_the_declared_one(noise, landscape, expected):
    found = covariance(noise, landscape, 0.5)
    np.testing.assert_allclose(found, expected, atol=1e-12, rtol=1e-10)
    factor = 2.0 if noise.supplies == "diffusion" else 1.0  # a diffusion D makes noise of covariance 2 D
    np.testing.assert_allclose(factor * noise.along(landscape, [0.5]), expected[0, 0], atol=1e-12)
    modes = landscape.mode_directions([0.5])[0]
    across = np.diag(modes @ expected @ modes.T)
    np.testing.assert_allclose(factor * noise.transverse(landscape, [0.5])[0], across, atol=1e-12, rtol=1e-10)


def test_modes_of_a_dense_bowl_see_their_own_share_of_the_noise():
    bowl = Quadratic(((3.0, 1.0, 0.0), (1.0, 2.0, 0.5), (0.0, 0.5, 1.0)), end=(1.0, 1.0, 1.0))
    noise = GradientCovariance(FULL)
    modes, t = bowl.mode_directions([0.0])[0], bowl.tangent([0.0])[0]
    expected = [m @ np.array(FULL) @ m for m in modes]
    np.testing.assert_allclose(noise.transverse(bowl, [0.0, 1.0]), [expected] * 2, rtol=1e-12)
    np.testing.assert_allclose(noise.along(bowl, [0.0]), t @ np.array(FULL) @ t, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Thermal(-1.0), r"noise\.temperature: expected a number >= 0, found -1\.0"),
        (lambda: CurvaturePower(temperature=float("nan")), r"noise\.temperature: expected a number >= 0, found nan"),
        (lambda: CurvaturePower(along_path=-0.1), r"noise\.along_path: expected a number >= 0, found -0\.1"),
        (lambda: CurvaturePower(exponent=float("inf")), r"noise\.exponent: expected a finite number"),
        (lambda: CurvatureCovariance(scale=-1.0), r"noise\.scale: expected a number >= 0"),
        (lambda: TabulatedCovariance(-1.0), r"noise\.scale: expected a number >= 0"),
        (lambda: GradientCovariance(((1.0, 2.0), (3.0, 4.0))), r"noise\.covariance: expected a symmetric matrix"),
        (lambda: GradientCovariance(((1.0, 2.0), (2.0, 1.0))), r"expected no negative eigenvalue, found -1"),
        (lambda: GradientCovariance(((-1.0,),)), r"noise\.covariance: expected variances >= 0"),
        (lambda: GradientCovariance(((1.0, 2.0), (3.0,))), r"expected one number, one row, or a square matrix"),
        (
            lambda: GradientCovariance(FULL).check(MullerBrown()),
            r"expected 1 or 2 columns .* found 3",
        ),
        (
            lambda: CurvaturePower().check(MullerBrown()),
            r"noise: expected a landscape with a transverse stiffness .* for CurvaturePower, found MullerBrown",
        ),
        (
            lambda: TabulatedCovariance().check(Channel()),
            r"noise: expected a landscape with tabulated gradient noise .* found Channel",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()
