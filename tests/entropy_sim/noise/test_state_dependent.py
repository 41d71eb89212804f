"""State-dependent noise: exact covariances, exact densities in every interpretation, an independent integrator."""

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import chi2

from entropy_sim import theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD, Overdamped
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Barrier, Bump, Channel, Exponential, MullerBrown, Quadratic
from entropy_sim.landscapes.interpolated import Interpolated
from entropy_sim.measurements import MeanForce, Profile
from entropy_sim.noise import (
    Constant,
    CurvaturePower,
    CustomCovariance,
    CustomDiffusion,
    LowRankCovariance,
    StateDependent,
    StateDependentCovariance,
)

INTERPRETATIONS = ("ito", "stratonovich", "anti_ito")
STRAIGHT = Channel(Exponential(1.0, 1.0), Barrier(0.05), transverse_directions=1)

FILE = """
from math import sin, cos

def diagonal(x, p):
    return 0.0, p[0] + sin(x[1]) ** 2, 0.5

def factor(x, p):
    return (1.0 + 0.8 * sin(2 * x[1]), 0.3), (0.2, sin(x[0])), (sin(x[2]) * x[0] / (1 + x[0] ** 2), cos(x[1]))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / "noise.py"
    path.write_text(FILE)
    return path


def matrix(x):
    first = 1.0 + 0.8 * np.sin(2 * x[1]), 0.3
    f = np.array([first, (0.2, np.sin(x[0])), (np.sin(x[2]) * x[0] / (1 + x[0] ** 2), np.cos(x[1]))])
    return np.diag([0.0, 0.4 + np.sin(x[1]) ** 2, 0.5]), f


def covariance_and_drift(noise, landscape, x):
    """Exact covariance (its function applied to unit vectors) and added drift at a point x (d,)."""
    n, d = noise.normals(landscape), len(x)
    theta = np.ascontiguousarray(np.repeat(x[:, None], n, axis=1))
    gradient, factor = np.zeros((d, n)), np.zeros((d, n))
    numbers = np.uint64(0), 0, 0, noise.params(landscape, 1.0)
    noise.function_for(landscape)(theta, gradient, np.zeros((0, n)), np.eye(n, dtype=np.float32), factor, *numbers)
    return factor @ factor.T, -gradient[:, 0]


# --- covariances -----------------------------------------------------------------------------------------------------


def test_covariance_along_the_path_is_the_declared_one():
    landscape = Channel(transverse_directions=2, length=2.0)
    noise = StateDependent(Bump(0.1, 0.4), Exponential(0.2, 0.8))
    for y in (0.6, 1.3, 2.7, -0.6):  # the last two are mirror images of 1.3 and 0.6
        s = (y if 0 <= y <= 2 else 4.0 - y if y > 2 else -y) / 2.0
        expected = 2 * np.diag([Bump(0.1, 0.4).value(s), *(Exponential(0.2, 0.8).value(s),) * 2])
        found = covariance_and_drift(noise, landscape, np.array([y, 0.3, -0.2]))[0]
        np.testing.assert_allclose(found, expected, rtol=1e-11)
    gradient = StateDependentCovariance(Bump(0.1, 0.4), Exponential(0.2, 0.8))
    half = covariance_and_drift(gradient, landscape, np.array([1.3, 0.0, 0.0]))[0]
    np.testing.assert_allclose(2 * half, covariance_and_drift(noise, landscape, np.array([1.3, 0.0, 0.0]))[0])
    np.testing.assert_allclose(noise.along(landscape, [0.3]), Bump(0.1, 0.4).value(0.3))
    np.testing.assert_allclose(noise.transverse(landscape, [0.3]), [[Exponential(0.2, 0.8).value(0.3)] * 2])


def test_a_profile_proportional_to_the_stiffness_is_curvature_power():
    noise, other = StateDependent(Constant(0.02), Bump(0.1, 1.6)), CurvaturePower(0.1, 1.0, 0.02)
    made, expected = (Profile(noise=n).run(threads=1)["profile"]["effective_potential"] for n in (noise, other))
    np.testing.assert_allclose(made, expected, rtol=1e-12, atol=1e-14)

    def final(n):
        ensemble = Ensemble(Channel(), n, Overdamped(), Channel().path(np.linspace(0.1, 0.9, 70)), seed=2)
        ensemble.advance(200)
        return ensemble.theta

    np.testing.assert_allclose(final(noise), final(other), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [CustomDiffusion, CustomCovariance])
def test_covariance_from_a_file_is_the_declared_one(file, make):
    noise, bowl = make(str(file), (0.4,)), Quadratic(((1.0, 1.0, 1.0),), start=(0.2, 0.1, 0.3), end=(0.5, 0.4, 0.1))
    scale = 2.0 if make is CustomDiffusion else 1.0
    for x in (np.array([0.7, -0.3, 1.1]), np.array([-2.0, 0.5, 0.0])):
        own, f = matrix(x)
        np.testing.assert_allclose(covariance_and_drift(noise, bowl, x)[0], scale * (own + f @ f.T), rtol=1e-12)
    own, f = matrix(bowl.path(0.25)[0])
    modes, t = bowl.mode_directions(0.25)[0], bowl.tangent(0.25)[0]
    np.testing.assert_allclose(noise.along(bowl, [0.25]), t @ (own + f @ f.T) @ t)
    np.testing.assert_allclose(noise.transverse(bowl, [0.25])[0], np.diag(modes @ (own + f @ f.T) @ modes.T))
    assert noise.normals(bowl) == 5


def test_a_singular_covariance_moves_only_in_its_range(tmp_path):
    (tmp_path / "one.py").write_text("def factor(x):\n    return ((1.0 + 0 * x[0],), (2.0,), (0.0,))\n")
    noise = CustomCovariance(str(tmp_path / "one.py"))
    flat = Quadratic(((0.0, 0.0, 0.0),))
    assert noise.normals(flat) == 1
    fixed = LowRankCovariance(((1.0, 2.0, 0.0),))
    for n in (noise, fixed):
        np.testing.assert_allclose(
            covariance_and_drift(n, flat, np.zeros(3))[0], np.outer([1, 2, 0], [1, 2, 0]), rtol=1e-12
        )
        ensemble = Ensemble(flat, n, SGD(0.1), np.zeros((2000, 3)), seed=1)
        ensemble.advance(50)
        np.testing.assert_allclose(ensemble.theta @ [2.0, -1.0, 0.0], 0.0, atol=1e-12)
        np.testing.assert_array_equal(ensemble.theta[:, 2], 0.0)
        # variance of the first coordinate: 50 steps of (0.1)²; relative standard error sqrt(2/2000) = 3 %
        assert abs(ensemble.theta[:, 0].var() / 0.5 - 1.0) < 4 * np.sqrt(2 / 2000)
    both = LowRankCovariance(((1.0, 2.0, 0.0), (0.0, 0.5, -1.0)), 0.3)
    f = np.array(both.factors).T
    np.testing.assert_allclose(covariance_and_drift(both, flat, np.zeros(3))[0], f @ f.T + 0.3 * np.eye(3), rtol=1e-12)
    np.testing.assert_allclose(both.along(flat, [0.5]), 1.3)
    np.testing.assert_allclose(both.transverse(flat, [0.5]).sum(), np.trace(f @ f.T) + 0.9 - 1.3)


# --- interpretations -------------------------------------------------------------------------------------------------


def test_drifts_of_a_full_matrix_are_their_formulas(file):
    """Against derivatives of the matrices in plain numpy, by a square root of D that is not the code's factor."""
    bowl, x, h = Quadratic(((1.0, 1.0, 1.0),)), np.array([0.7, -0.3, 1.1]), 1e-5

    def d(at):
        own, f = matrix(at)
        return own + f @ f.T

    def b(at):
        own, f = matrix(at)
        return np.hstack([np.sqrt(own), f])

    steps = h * np.eye(3)
    divergence = sum((d(x + e)[:, j] - d(x - e)[:, j]) / (2 * h) for j, e in enumerate(steps))
    stratonovich = sum(
        b(x)[j, k] * (b(x + e)[:, k] - b(x - e)[:, k]) / (2 * h) for j, e in enumerate(steps) for k in range(5)
    )
    expected = {"ito": np.zeros(3), "stratonovich": stratonovich, "anti_ito": divergence}
    for name, drift in expected.items():
        noise = CustomDiffusion(str(file), (0.4,), name)
        np.testing.assert_allclose(covariance_and_drift(noise, bowl, x)[1], drift, rtol=1e-6, atol=1e-8, err_msg=name)
        line = Quadratic(((1.0, 1.0, 1.0),), start=tuple(x - 0.1), end=tuple(x + 0.1))
        np.testing.assert_allclose(noise.drift(line, [0.5]), drift @ line.tangent(0.5)[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", [Bump(0.1, 0.6), Exponential(0.1, 0.6)], ids=["flat ends", "kinked ends"])
def test_densities_of_the_three_interpretations_are_exact(shape):
    """``p ∝ D^-(1-lambda) exp(int f / D)`` between mirrors; each rejects the other two, and a drift left unmirrored."""
    walkers, bins, s = 16_000, 20, np.linspace(0.0, 1.0, 4001)
    densities = {
        name: theory.stationary_density(s, -STRAIGHT.path_slope(s), shape.value(s), name) for name in INTERPRETATIONS
    }
    edges = np.linspace(0.0, 1.0, bins + 1)
    cumulative = {
        n: np.interp(edges, s, np.concatenate([[0.0], np.cumsum((p[1:] + p[:-1]) / 2 * np.diff(s))]))
        for n, p in densities.items()
    }
    for name in INTERPRETATIONS:
        noise = StateDependent(shape, Constant(0.01), name)
        start = STRAIGHT.path((np.arange(walkers) + 0.5) / walkers)
        ensemble = Ensemble(STRAIGHT, noise, Overdamped(4e-4), start, seed=6)
        ensemble.advance(4000)  # 1.6 units of time; relaxation takes 1 / (pi² D) = 0.2 … 1, from an even spread
        seen = np.histogram(STRAIGHT.position(ensemble.theta), edges)[0]
        for other in INTERPRETATIONS:
            expected = walkers * np.diff(cumulative[other])
            z = float(-ndtri(chi2.sf(((seen - expected) ** 2 / expected).sum(), bins - 1)))
            assert z < 4.0 if other == name else z > 5.0, (name, other, z)


def test_a_heun_stratonovich_integration_in_numpy_agrees(file):
    """Low rank with a diagonal, in three dimensions: means and second moments after a finite time."""
    bowl, n, h, steps = Quadratic(((1.0, 1.0, 1.0),)), 30_000, 0.005, 80
    rng = np.random.default_rng(3)

    def kicked(x, w):
        """B(x) w for x (3, n) and w (4, n)."""
        first = (1.0 + 0.8 * np.sin(2 * x[1])) * w[2] + 0.3 * w[3]
        second = np.sqrt(0.4 + np.sin(x[1]) ** 2) * w[0] + 0.2 * w[2] + np.sin(x[0]) * w[3]
        third = np.sqrt(0.5) * w[1] + np.sin(x[2]) * x[0] / (1 + x[0] ** 2) * w[2] + np.cos(x[1]) * w[3]
        return np.sqrt(2.0) * np.stack([first, second, third])

    x = np.full((3, n), 0.5)
    for _ in range(steps):
        w = np.sqrt(h) * rng.standard_normal((4, n))
        forward = x - h * x + kicked(x, w)
        x = x - 0.5 * h * (x + forward) + 0.5 * (kicked(x, w) + kicked(forward, w))

    def moments(values):
        all_of = np.concatenate([values, values**2, values[:, :1] * values[:, 1:]], axis=1)
        return all_of.mean(axis=0), all_of.std(axis=0) / np.sqrt(len(all_of))

    expected, error = moments(x.T)
    worst = {}
    for name in INTERPRETATIONS:
        ensemble = Ensemble(bowl, CustomDiffusion(str(file), (0.4,), name), Overdamped(h), np.full((n, 3), 0.5))
        ensemble.advance(steps)
        found, own_error = moments(ensemble.theta)
        worst[name] = np.abs((found - expected) / np.hypot(error, own_error)).max()
    assert worst["stratonovich"] < 4.0, worst
    assert worst["ito"] > 5.0, worst
    assert worst["anti_ito"] > 5.0, worst


def test_the_drift_counts_in_the_effective_potential():
    """Anti-Itô with D_y(y): the potential is U less D_y, measured and exact alike; the mean force has no such part."""
    noise = StateDependent(Exponential(0.1, 0.5), Constant(0.01), "anti_ito")
    flat = Channel(Exponential(1.0, 1.0), transverse_directions=1)
    profile = Profile(flat, noise, points=11).run(threads=1)["profile"]
    s = np.linspace(0.0, 1.0, 11)
    np.testing.assert_allclose(profile["effective_potential"][0], 0.1 - Exponential(0.1, 0.5).value(s), atol=1e-9)
    options = {"positions": tuple(s), "replicas": 1, "walkers": 64, "burn_in": 0.1, "duration": 0.2}
    measured = MeanForce(flat, noise, **options).run(threads=1)["mean_force"]
    np.testing.assert_allclose(measured["effective_potential"], 0.1 - Exponential(0.1, 0.5).value(s), atol=2e-3)
    np.testing.assert_allclose(measured["mean_force"], 0.0, atol=1e-12)


def test_an_effective_potential_is_given_only_where_variances_follow_from_the_path(tmp_path):
    flat = Channel(transverse_directions=1)
    (tmp_path / "y.py").write_text("def diagonal(x):\n    return 0.01, 0.02 + 0.01 * x[0]\n")
    (tmp_path / "x.py").write_text("def diagonal(x):\n    return 0.01, 0.02 + 0.01 * x[1] ** 2\n")
    given = Profile(flat, CustomDiffusion(str(tmp_path / "y.py"))).run(threads=1)["profile"]
    reference = Profile(flat, StateDependent(Constant(0.01), Interpolated((0.02, 0.03)))).run(threads=1)["profile"]
    np.testing.assert_allclose(given["effective_potential"], reference["effective_potential"], rtol=1e-9)
    other = Profile(flat, CustomDiffusion(str(tmp_path / "x.py"))).run(threads=1)["profile"]
    assert "effective_potential" not in other


def test_numbers_do_not_depend_on_threads_blocks_or_chunks(file):
    bowl = Quadratic(((1.0, 1.0, 1.0),))
    for noise, landscape in (
        (CustomDiffusion(str(file), (0.4,), "anti_ito"), bowl),
        (StateDependent(interpretation="stratonovich"), STRAIGHT),
    ):
        start = landscape.path(np.linspace(0.1, 0.9, 300))

        def run(pieces=(20,), start=start, landscape=landscape, noise=noise, **options):
            ensemble = Ensemble(landscape, noise, Overdamped(1e-3), start, seed=5, **options)
            for steps in pieces:
                ensemble.advance(steps)
            return ensemble.theta

        reference = run(threads=1, block=320)
        for options in ({"threads": 2}, {"threads": 3, "block": 64}, {"pieces": (1, 2, 17)}):
            np.testing.assert_array_equal(run(**options), reference)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: StateDependent(interpretation="some"), r"noise\.interpretation: expected one of ito, stratonovich,"),
        (lambda f: Constant(-1.0), r"noise\.size: expected a number >= 0, found -1\.0"),
        (
            lambda f: StateDependent().check(MullerBrown()),
            r"expected a straight channel .* StateDependent, found Muller",
        ),
        (
            lambda f: StateDependent(Interpolated((1.0, -1.0, 1.0))).check(Channel()),
            r"noise\.along_path: expected a strength >= 0, found -1",
        ),
        (
            lambda f: StateDependent(Exponential(1.0, 2.0)).check(Channel(boundary="periodic")),
            r"noise\.along_path: expected the same value at s = 0 and 1 for boundary periodic, found 1 and 2",
        ),
        (lambda f: CustomDiffusion(str(f) + "x"), r"noise\.file: expected a Python file, found no file"),
        (lambda f: CustomDiffusion(f("x = 1")), r"noise\.file: expected a function diagonal in .*, found no function"),
        (
            lambda f: CustomDiffusion(f("def diagonal(x):\n    return 1.0, 2.0")).check(Quadratic(((1.0, 1.0, 1.0),))),
            r"noise\.file: expected 3 numbers from diagonal of .*, found 2",
        ),
        (
            lambda f: CustomDiffusion(f("def diagonal(x):\n    return 1.0, x[0]")).check(Quadratic()),
            r"noise\.file: expected diagonal of .* >= 0 on the path, found component 1 = -1 at s = 0",
        ),
        (
            lambda f: CustomDiffusion(f("def factor(x):\n    return 1.0, x[0]")).check(Quadratic()),
            r"noise\.file: expected 2 rows of as many numbers each from factor of .*, found 2",
        ),
        (
            lambda f: CustomDiffusion(f("def factor(x):\n    return (1.0,), (1 / (x[0] - x[0]),)")).check(Quadratic()),
            r"noise\.file: expected finite numbers from factor of .* on the path",
        ),
        (lambda f: LowRankCovariance(((1.0, 2.0), (1.0,))), r"noise\.factors: expected rows of as many numbers each"),
        (lambda f: LowRankCovariance(((1.0, 2.0),), -1.0), r"noise\.variance: expected a number >= 0"),
        (lambda f: LowRankCovariance().check(Channel()), r"noise\.factors: expected 5 columns .* found 2"),
    ],
)
def test_bad_input_is_refused_by_name(make, message, tmp_path):
    class Text(str):
        __slots__ = ()

        def __call__(self, text):
            (tmp_path / "bad.py").write_text(text)
            return str(tmp_path / "bad.py")

    with pytest.raises(UserError, match=message):
        make(Text(tmp_path / "bad.py"))
