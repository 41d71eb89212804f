"""A landscape from a file: the same numbers as the built-in one it copies, and everything wrong is refused."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from analysis.cli import main
from entropy_sim.dynamics import Overdamped
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Channel, Confining, Custom, MullerBrown, Power, Quadratic, Tilted
from entropy_sim.measurements import MeanForce, Profile, Relaxation, Stationary
from entropy_sim.noise import Thermal
from entropy_sim.run_files import config_from_file, config_json, read_tree, write_tree

CHANNEL = '''
from math import floor

def shape(y, end, middle):
    """The stiffness of a Bump and its slope, with mirror images beyond 0…1."""
    r = y - 2 * floor(y / 2)
    mirrored = r > 1 + 1e-12
    u = 2 * ((2 - r if mirrored else r) - 0.5)
    inside = max(0.0, 1 - u * u)
    slope = -12 * (middle - end) * u * inside**2
    return end + (middle - end) * inside**3, -slope if mirrored else slope

def energy(x, p):
    return 0.5 * shape(x[0], p[0], p[1])[0] * x[1] ** 2

def gradient(x, p):
    k, slope = shape(x[0], p[0], p[1])
    return 0.5 * slope * x[1] ** 2, k * x[1]

def path(s):
    return s**2 * (3 - 2 * s) * 0.5 + 0.5 * s, 0.0  # any parametrisation
'''
REFERENCE = Channel(transverse_directions=1)
S = np.linspace(0.0, 1.0, 41)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("custom") / "channel.py"
    path.write_text(CHANNEL)
    return path


@pytest.fixture(scope="module")
def copy(file):
    return Custom(str(file), (1.0, 16.0))


def test_a_copy_of_a_channel_is_the_channel(copy):
    for name in ("path", "tangent", "path_energy", "path_slope", "path_curvature", "mode_directions"):
        found, expected = getattr(copy, name)(S), getattr(REFERENCE, name)(S)
        np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-12, err_msg=name)
    np.testing.assert_allclose(copy.curvature(S), REFERENCE.curvature(S), rtol=1e-12)
    np.testing.assert_allclose(copy.tangential_curvature(S), 0.0, atol=1e-9)
    inner = S[1:-1]  # at the mirrors the third derivative of the stiffness jumps
    np.testing.assert_allclose(copy.curvature_slope(inner), REFERENCE.curvature_slope(inner), rtol=1e-8, atol=1e-7)
    theta = np.random.default_rng(0).uniform([-2.0, -1.0], [3.0, 1.0], (300, 2))
    np.testing.assert_allclose(copy.energy(theta), REFERENCE.energy(theta), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(copy.gradient_at(theta), REFERENCE.gradient_at(theta), rtol=1e-9, atol=1e-9)
    within = np.random.default_rng(0).uniform([0.0, -1.0], [1.0, 1.0], (300, 2))
    np.testing.assert_allclose(copy.position(within), REFERENCE.position(within), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(copy.distance(within), REFERENCE.distance(within), rtol=1e-9, atol=1e-9)


def test_positions_go_on_beyond_the_ends_and_survive_divergence(copy):
    found = copy.position(np.array([[1.5, 0.3], [-0.25, 0.3], [np.nan, 0.0], [0.5, np.nan]]))
    np.testing.assert_allclose(found, [1.5, -0.25, np.nan, np.nan])
    np.testing.assert_allclose(copy.distance(np.array([[1.5, 0.3], [-0.25, 0.3]])), 0.3)


def test_every_measurement_gives_the_numbers_of_the_channel(copy):
    system = Thermal(0.1), Overdamped(2e-3)
    options = {"positions": (0.3, 0.5), "replicas": 2, "walkers": 64, "burn_in": 0.2, "duration": 0.4, "seed": 3}
    made, expected = (MeanForce(x, *system, **options).run(threads=1)["mean_force"] for x in (copy, REFERENCE))
    np.testing.assert_allclose(made["mean_force"], expected["mean_force"], rtol=1e-8)
    made, expected = (Profile(x, *system, points=11).run(threads=1)["profile"] for x in (copy, REFERENCE))
    for name in ("hessian_eigenvalue", "effective_potential", "log_determinant", "hessian_trace"):
        np.testing.assert_allclose(made[name], expected[name], rtol=1e-8, atol=1e-8, err_msg=name)
    options = {"starts": (0.4, 0.6), "replicas": 64, "duration": 0.2, "records": 4}
    made, expected = (Relaxation(x, *system, **options).run(threads=1)["relaxation"] for x in (copy, REFERENCE))
    # The copy's coordinate goes on where the channel's is folded back.
    folded = 1.0 - abs(1.0 - abs(made["position"]))
    np.testing.assert_allclose(folded, expected["position"], rtol=1e-7, atol=1e-9)
    options = {"walkers": 64, "burn_in": 0.1, "duration": 0.2}
    tree = Stationary(copy, *system, **options).run(threads=1)  # beyond the ends is outside, where a channel folds
    assert 0.0 < tree["stationary"].attrs["outside"] < 0.2


def test_a_path_through_points_is_the_same_spline_as_that_of_muller_brown(tmp_path):
    surface = MullerBrown(scale=0.1)
    file = tmp_path / "surface.py"
    file.write_text(
        "from math import exp\n"
        "T = ((-200., -1., 0., -10., 1., 0.), (-100., -1., 0., -10., 0., .5),\n"
        "     (-170., -6.5, 11., -6.5, -.5, 1.5), (15., .7, .6, .7, -1., 1.))\n"
        "def energy(x, p):\n"
        "    e = 0.0\n"
        "    for A, a, b, c, X, Y in T:\n"
        "        u, v = x[0] - X, x[1] - Y\n"
        "        e += p[0] * A * exp(a * u * u + b * u * v + c * v * v)\n"
        "    return e\n"
        "def gradient(x, p):\n"
        "    f, g = 0.0, 0.0\n"
        "    for A, a, b, c, X, Y in T:\n"
        "        u, v = x[0] - X, x[1] - Y\n"
        "        e = p[0] * A * exp(a * u * u + b * u * v + c * v * v)\n"
        "        f += e * (2 * a * u + b * v)\n"
        "        g += e * (b * u + 2 * c * v)\n"
        "    return f, g\n"
    )
    points = np.array(surface.points)
    custom = Custom(str(file), (0.1,), tuple(points[0]), tuple(points[-1]), tuple(points[1:-1].ravel()))
    for name in ("path", "tangent", "path_curvature", "path_energy", "curvature", "tangential_curvature"):
        found, expected = getattr(custom, name)(S), getattr(surface, name)(S)
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(custom.curvature_slope(S), surface.curvature_slope(S), rtol=1e-5, atol=1e-3)
    theta = surface.path(S) + 0.05 * surface.mode_directions(S)[:, 0]
    np.testing.assert_allclose(custom.position(theta), surface.position(theta), atol=1e-12)


def test_modes_are_sorted_and_belong_to_their_slopes(tmp_path):
    """Stiffnesses 1 + y and 3 - y of two skewed directions: exact eigenvalues, directions and slopes."""
    file = tmp_path / "skew.py"
    file.write_text(
        "def energy(x):\n"
        "    a, b = 0.6 * x[1] + 0.8 * x[2], -0.8 * x[1] + 0.6 * x[2]\n"
        "    return 0.5 * (1 + x[0]) * a * a + 0.5 * (3 - x[0]) * b * b\n"
        "def gradient(theta, out, p):\n"
        "    for w in range(theta.shape[1]):\n"
        "        y, u, v = theta[0, w], theta[1, w], theta[2, w]\n"
        "        a, b = 0.6 * u + 0.8 * v, -0.8 * u + 0.6 * v\n"
        "        out[0, w] = 0.5 * a * a - 0.5 * b * b\n"
        "        out[1, w] = 0.6 * (1 + y) * a - 0.8 * (3 - y) * b\n"
        "        out[2, w] = 0.8 * (1 + y) * a + 0.6 * (3 - y) * b\n"
    )
    landscape = Custom(str(file), start=(0.0, 0.0, 0.0), end=(2.0, 0.0, 0.0))
    s = np.array([0.1, 0.9])  # y = 0.2: 2.8 and 1.2; y = 1.8: 2.8 and 1.2, exchanged
    np.testing.assert_allclose(landscape.curvature(s), [[2.8, 1.2], [2.8, 1.2]], rtol=1e-10)
    np.testing.assert_allclose(landscape.curvature_slope(s), [[-1.0, 1.0], [1.0, -1.0]], rtol=1e-7)
    stiff, soft = np.array([0.0, -0.8, 0.6]), np.array([0.0, 0.6, 0.8])
    overlap = np.abs(landscape.mode_directions(s) @ np.stack([stiff, soft], axis=1))
    np.testing.assert_allclose(overlap, [np.eye(2), np.eye(2)[::-1]], atol=1e-9)


def changed(file, old, new, tmp_path):
    text = file.read_text()
    assert old in text
    other = tmp_path / "other.py"
    other.write_text(text.replace(old, new))
    return str(other)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return 0.5 * slope", "return 0.501 * slope", r"found component 0 = \S+ where differences of the energy give"),
        ("k * x[1]\n", "-k * x[1]\n", r"found component 1 = \S+ where differences of the energy give \S+, at x = \("),
        ("k * x[1]\n", "k * x[1] / 0.0\n", r"expected a finite gradient from .* found component 1 = -?inf"),
        (", k * x[1]\n", "\n", r"expected 2 numbers \(a tuple or an array\) from gradient"),
        ("return 0.5 * shape", "return 0 * x[0] / 0.0 + shape", r"expected a finite energy from"),
        ("return s**2 * (3 - 2 * s) * 0.5 + 0.5 * s, 0.0", "return s", r"2 or more finite numbers from path\(s\)"),
        ("return s**2 * (3 - 2 * s) * 0.5 + 0.5 * s, 0.0", "return 1.0, 0.0", r"path\(s\) of .* to move on with s"),
        ("def path", "def other", r"expected a function path\(s\) in .* or landscape\.start and landscape\.end"),
    ],
)
def test_a_wrong_file_is_refused_by_name(file, tmp_path, old, new, message):
    with pytest.raises(UserError, match=r"^landscape\.file: .*" + message):
        Custom(changed(file, old, new, tmp_path), (1.0, 16.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": (0.0, 0.0)}, r"landscape\.end: expected 2 numbers"),
        ({"end": (0.0, 0.0)}, r"landscape\.start: expected a start where an end"),
        (
            {"start": (0.0, 0.0), "end": (1.0, 0.0), "waypoints": (1.0,)},
            r"landscape\.waypoints: expected a multiple of 2",
        ),
        ({"start": (0.0, 0.0), "end": (0.0, 0.0)}, r"landscape\.end: expected successive points of the path that"),
        ({"parameters": (float("nan"), 1.0)}, r"landscape\.parameters: expected finite numbers"),
    ],
)
def test_bad_options_are_refused_by_name(file, options, message):
    with pytest.raises(UserError, match=message):
        Custom(str(file), **{"parameters": (1.0, 16.0), **options})


def test_a_run_is_repeated_from_its_dataset_when_the_file_is_gone(file, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(file.read_text())
    options = {"positions": (0.3,), "walkers": 16, "replicas": 1, "burn_in": 0.1, "duration": 0.2}
    first = MeanForce(Custom(str(mine), (1.0, 9.0)), Thermal(0.1), Overdamped(), **options)
    write_tree(first.run(threads=1), tmp_path / "run.nc")
    mine.unlink()
    again = config_from_file(MeanForce, tmp_path / "run.nc")
    assert config_json(again) == config_json(first)
    np.testing.assert_array_equal(
        again.run(threads=1)["mean_force"]["mean_force"], read_tree(tmp_path / "run.nc")["mean_force"]["mean_force"]
    )
    mine.write_text(file.read_text() + "\n")
    with pytest.raises(UserError, match=r"as the configuration knows it .* found it changed"):
        config_from_file(MeanForce, tmp_path / "run.nc")


def test_the_example_of_the_documentation_runs_from_the_command_line(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[3] / "docs" / "own_landscape.md").read_text()
    example, noise = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "valley.py").write_text(example)
    (tmp_path / "noise.py").write_text(noise)
    monkeypatch.chdir(tmp_path)
    line = next(line for line in page.splitlines() if "simulate mean-force" in line).split()[1:]
    again = line
    quick = ["--walkers", "16", "--replicas", "2", "--duration", "1", "--burn-in", "0.5", "--out", "run.nc"]
    assert main([*line, *quick]) == 0
    force = read_tree(tmp_path / "run.nc")["mean_force"]["mean_force_curved"].mean(["replica", "time_window"])
    assert (force.sel(s=slice(0.2, 0.4)) < 0).all()
    assert (force.sel(s=slice(0.6, 0.8)) > 0).all()
    line = next(line for line in page.splitlines() if "simulate relaxation" in line).split()[1:]
    assert main([*line, "--replicas", "8", "--duration", "1", "--out", "relaxation.nc"]) == 0
    assert read_tree(tmp_path / "relaxation.nc").attrs["noise"] == "CustomDiffusion"
    (tmp_path / "valley.py").write_text(example.replace("0.5 * slope", "0.6 * slope"))
    capsys.readouterr()
    assert main([*again, *quick]) == 2
    assert "found component 0 = " in capsys.readouterr().err


def test_it_is_an_ordinary_value(copy, file):
    assert copy == Custom(str(file), (1.0, 16.0))
    assert hash(copy) == hash(Custom(str(file), (1.0, 16.0)))
    assert dataclasses.replace(copy, parameters=(1.0, 4.0)).curvature([0.5]) == pytest.approx(4.0)
    assert copy.stationary_obstacle() is None
    assert Quadratic().stationary_obstacle() is None


OPEN = """
def energy(x, p):
    k = (1 + (x[0] - 0.5) ** 2 / 0.04) ** (0.5 * p[0])
    return 0.5 * k * x[1] ** 2 + p[1] * max(0.0, abs(x[0] - 0.5) - 0.5) ** 2 - p[2] * x[0]

def gradient(x, p):
    y = x[0] - 0.5
    foot = 1 + y ** 2 / 0.04
    k = foot ** (0.5 * p[0])
    wall = 2 * p[1] * max(0.0, abs(y) - 0.5) * (1.0 if y > 0 else -1.0)
    return 0.5 * p[0] * k / foot * y / 0.04 * x[1] ** 2 + wall - p[2], k * x[1]
"""


@pytest.mark.parametrize(
    ("exponent", "strength", "drop"),
    [(0.0, 0.0, 0.0), (-2.0, 0.0, 0.0), (1.9, 0.0, 0.0), (2.1, 0.0, 0.0), (0.0, 1e-3, 0.0), (2.1, 0.0, 0.1)],
)
def test_a_valley_has_a_stationary_density_where_the_open_channel_has_one(tmp_path, exponent, strength, drop):
    """Flat and uniform, widening, narrowing too slowly and fast enough, weakly confined, falling on one side."""
    file = tmp_path / "open.py"
    file.write_text(OPEN)
    mine = Custom(str(file), (exponent, strength, drop), start=(0.0, 0.0), end=(1.0, 0.0))
    along = Confining(strength) if strength else Tilted(drop)
    channel = Channel(Power(1.0, exponent), along, 1, boundary="open")
    assert (mine.stationary_obstacle() is None) == (channel.stationary_obstacle() is None)
    if channel.stationary_obstacle() is not None:
        with pytest.raises(
            UserError, match=r"landscape: expected one with a stationary density, found a valley (that|whose)"
        ):
            Stationary(mine)
