"""Several searches between the same ends: how they differ, and how far apart their paths are."""

import dataclasses

import numpy as np
import pytest
import torch

from entropy_sim import path_geometry, schema
from entropy_sim.errors import UserError
from nn_experiments.paths.autoneb import AutoNEB
from nn_experiments.paths.base import PathResult
from nn_experiments.paths.curves import BezierCurve
from nn_experiments.paths.ensemble import PathEnsemble, ensemble_variables, path_distances
from nn_experiments.paths.linear import StraightLine
from nn_experiments.paths.resume import Resume

ENDS = np.array([[-1.0, 0.0], [1.0, 0.0]])


def ring(points):
    """A circular valley of radius 1: two paths, above and below, and a hill of 100 between."""
    x, y = points.T
    excess = x**2 + y**2 - 1
    return 100 * excess**2, 400 * excess[:, None] * points


def flat(points):
    return 0 * points[:, 0], 0 * points


def of(points) -> PathResult:
    found = StraightLine(points=3).run(flat, points)
    return dataclasses.replace(found, points=points, arc_length=path_geometry.arc_length(points))


def test_chains_bend_by_the_size_asked_for_and_across_the_line():
    ends = np.random.default_rng(0).normal(size=(2, 400))
    axis = ends[1] - ends[0]
    fine = np.linspace(0, 1, 25)
    for modes in (1, 3):
        config = PathEnsemble(runs=4, bend=0.2, modes=modes, seed=5)
        assert np.array_equal(config.chain(ends, 0), ends)
        first, second = config.chain(ends, 1), config.chain(ends, 2)
        for chain in (first, second):
            offset = chain - (ends[0] + fine[:, None] * axis)
            assert np.allclose(offset @ axis, 0, atol=1e-9)
            assert np.allclose(offset[[0, -1]], 0)
            square = np.trapezoid((offset**2).sum(1), fine)
            cross = 2 / np.sqrt(400)  # what random directions have in common, for a few of them
            assert np.sqrt(square) == pytest.approx(0.2 * np.linalg.norm(axis), rel=1e-12 if modes == 1 else cross)
            assert np.linalg.matrix_rank(offset, tol=1e-9) == modes
        assert not np.allclose(first, second)
        assert np.array_equal(first, config.chain(ends, 1))
        assert not np.allclose(first, dataclasses.replace(config, seed=6).chain(ends, 1))
    tensor = config.chain(torch.from_numpy(ends), 1)
    assert np.allclose(tensor.numpy(), config.chain(ends, 1), atol=1e-12)
    through = config.chain(ends, 1, [np.ones(400)])
    assert np.allclose(through[12], 1)
    assert np.array_equal(through[[0, -1]], ends)
    assert np.allclose(config.chain(ends, 2, [np.ones(400)]), second)


def test_searches_find_both_ways_round_a_ring():
    finder = AutoNEB(pivots=21, cycles=((2e-4, 150), (2e-4, 100)), momentum=0.5, insertions=0)
    ensemble = PathEnsemble(runs=3, bend=0.5, modes=1)
    results = ensemble.run(finder, ring, ENDS, through=[np.array([0.0, -0.9]), np.array([0.0, 0.9])])
    below, above = results[1], results[2]
    for found, sign in ((below, -1), (above, 1)):
        assert np.allclose((found.points**2).sum(1), 1, atol=0.02)
        assert found.points[10, 1] == pytest.approx(sign, abs=0.02)
    distance = path_distances(results)
    # A half circle to the other one: the nearest points are the ends for |angle| below 90 degrees.
    angle = np.linspace(0, np.pi / 2, 20_001)
    exact = np.sqrt(np.mean((2 * np.sin(angle / 2)) ** 2)) / np.pi
    assert distance[1, 2] == pytest.approx(exact, rel=0.02)
    assert np.array_equal(distance, distance.T)
    assert np.array_equal(np.diag(distance), np.zeros(3))


def test_distance_of_parallel_lines_and_of_the_same_curve_sampled_otherwise():
    """Two lines in 50 dimensions, 0.3 apart and 2 long; the second with more points."""
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(50, 50)))[0]

    def line(height, count):
        points = np.zeros((count, 50))
        points[:, 0], points[:, 1] = np.linspace(0, 2, count), height
        return of(points @ rotation + 7.0)

    distances = path_distances([line(0.0, 4), line(0.3, 9), line(0.0, 7)])
    assert distances[0, 1] == pytest.approx(0.15, rel=1e-7)
    assert distances[0, 2] == pytest.approx(0.0, abs=1e-6)
    floats = [dataclasses.replace(r, points=torch.from_numpy(r.points).float()) for r in (line(0.0, 4), line(0.3, 9))]
    assert path_distances(floats)[0, 1] == pytest.approx(0.15, rel=1e-4)


def test_the_first_search_is_the_finder_s_own_and_the_others_have_streams_of_their_own():
    seeds = []
    finder = BezierCurve(steps=5, seed=4, points=5)
    results = PathEnsemble(runs=3, bend=0.0).run(finder, ring, ENDS + 0.1, reseed=seeds.append)
    alone = finder.run(ring, ENDS + 0.1)
    assert np.array_equal(results[0].points, alone.points)
    assert len(seeds) == len(set(seeds)) == 2
    assert 4 not in seeds
    assert not np.array_equal(results[1].points, results[2].points)  # the t are drawn anew, unbent chains or not
    assert PathEnsemble(seed=1).finder(finder, 1).seed not in seeds


def test_every_search_keeps_its_own_state(tmp_path):
    finder = AutoNEB(pivots=5, cycles=((1e-3, 5), (1e-3, 5)))
    ensemble = PathEnsemble(runs=2)

    calls = []

    def counted(points):
        calls.append(len(points))
        return ring(points)

    def search():
        return ensemble.run(
            finder,
            counted,
            ENDS,
            evaluate=lambda points: ring(points)[0],
            full=ring,
            resume=lambda run: Resume(tmp_path / f"path_{run}.safetensors"),
        )

    whole = search()
    assert len(calls) == 20
    again = search()
    assert len(calls) == 20
    for a, b in zip(whole, again, strict=True):
        assert np.array_equal(a.points, b.points)


def test_what_is_stored_is_valid_beside_the_path_that_is_measured():
    results = PathEnsemble(runs=3).run(BezierCurve(steps=5, points=5), ring, ENDS + 0.1)
    first = results[0]
    group = schema.make(
        "path",
        {
            "s": (("s",), path_geometry.normalised_arc_length(first.points)),
            "arc_length": (("s",), first.arc_length),
            **ensemble_variables(results),
        },
    )
    assert group["run_distance"].shape == (3, 3)
    assert group["run_highest_loss"].values.tolist() == [r.loss_between.max() for r in results]
    assert group["run_arc_length"].values.tolist() == [r.arc_length[-1] for r in results]
    assert group["run_converged"].values.tolist() == [int(r.converged) for r in results]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 0}, "ensemble.runs: expected at least 1, found 0"),
        ({"bend": -1.0}, "ensemble.bend: expected a number >= 0, found -1"),
        ({"modes": 0}, "ensemble.modes: expected 1…23, found 0"),
        ({"seed": -1}, "ensemble.seed: expected a number >= 0, found -1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UserError, match=message):
        PathEnsemble(**options)


def test_more_points_than_searches_are_refused():
    with pytest.raises(UserError, match="ensemble.runs: expected more than the 2 points to go through, found 2"):
        PathEnsemble(runs=2).run(StraightLine(), ring, ENDS, through=[ENDS[0], ENDS[1]])
