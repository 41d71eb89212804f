"""An interrupted path search goes on to the same numbers, whoever searches; foreign and damaged files are refused."""

import dataclasses

import numpy as np
import pytest

from entropy_sim.errors import UserError
from nn_experiments.paths.autoneb import AutoNEB
from nn_experiments.paths.curves import BezierCurve, PolygonalChain
from nn_experiments.paths.resume import Resume

torch = pytest.importorskip("torch")

ENDS = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
FINDERS = [
    AutoNEB(pivots=5, cycles=((0.02, 12), (0.01, 15), (0.01, 9)), insertions=2, insertion_threshold=1e-6),
    BezierCurve(steps=36, records=3, optimizer="adam"),
    PolygonalChain(control_points=2, steps=36, records=3),
]


class Interrupted(Exception):
    """Stands for a killed process."""


class Noisy:
    """A valley whose gradient has noise from a stream, as minibatches have; stops after `calls` of them."""

    def __init__(self, calls=10**9):
        self.generator = torch.Generator().manual_seed(7)
        self.left = calls

    def values(self, points):
        x, y = points.T
        return (y - 1 + x**2) ** 2

    def value_and_gradient(self, points):
        if self.left == 0:
            raise Interrupted
        self.left -= 1
        noise = torch.randn(2, generator=self.generator, dtype=torch.float64)
        x, y = points.T
        slope = 2 * (y - 1 + x**2)
        return self.values(points), torch.stack([2 * x * slope, slope], dim=1) + 0.3 * noise

    def full(self, points):
        x, y = points.T
        slope = 2 * (y - 1 + x**2)
        return self.values(points), torch.stack([2 * x * slope, slope], dim=1)


def search(finder, noisy, path=None, every=0.0, ends=ENDS):
    resume = None if path is None else Resume(path, noisy.generator, every)
    return finder.run(noisy.value_and_gradient, ends, evaluate=noisy.values, full=noisy.full, resume=resume)


@pytest.mark.parametrize("finder", FINDERS, ids=lambda f: type(f).__name__)
def test_interrupted_anywhere_it_ends_with_the_same_numbers(finder, tmp_path):
    whole = search(finder, Noisy())
    for calls in (1, 5, 12, 13, 30):
        path = tmp_path / f"{calls}.safetensors"
        with pytest.raises(Interrupted):
            search(finder, Noisy(calls), path)
        again = search(finder, Noisy(), path)
        assert torch.equal(again.points, whole.points)
        assert np.array_equal(again.loss_between, whole.loss_between)
        assert again.history == whole.history
        assert again.converged == whole.converged


@pytest.mark.parametrize("finder", FINDERS, ids=lambda f: type(f).__name__)
def test_it_really_goes_on_and_needs_the_stream(finder, tmp_path):
    with pytest.raises(Interrupted):
        search(finder, Noisy(20), tmp_path / "a.safetensors")
    rest = Noisy()
    search(finder, rest, tmp_path / "a.safetensors")
    assert 10**9 - rest.left == 36 - 19  # the step under way is repeated, no more
    finished = Noisy()
    search(finder, finished, tmp_path / "a.safetensors")
    assert finished.left == 10**9
    with pytest.raises(Interrupted):
        search(finder, Noisy(20), tmp_path / "b.safetensors")
    noisy = Noisy()
    without = finder.run(
        noisy.value_and_gradient,
        ENDS,
        evaluate=noisy.values,
        full=noisy.full,
        resume=Resume(tmp_path / "b.safetensors", None, 0.0),
    )
    assert not torch.equal(without.points, search(finder, Noisy()).points)


@pytest.mark.parametrize("finder", FINDERS, ids=lambda f: type(f).__name__)
def test_a_loss_that_is_no_number_keeps_the_last_good_state(finder, tmp_path):
    path = tmp_path / "state.safetensors"
    noisy = Noisy()
    original = noisy.value_and_gradient

    def sometimes(points):
        values, gradients = original(points)
        if 10**9 - noisy.left == 17:
            values[1] = torch.nan
        return values, gradients

    noisy.value_and_gradient = sometimes
    with pytest.raises(UserError, match=r"found nan at point \d of \d, .*step \d+.*; the state of .* is kept in .*"):
        search(finder, noisy, path)
    assert torch.equal(search(finder, Noisy(), path).points, search(finder, Noisy()).points)


def test_writing_less_often_changes_nothing(tmp_path):
    finder = FINDERS[1]
    with pytest.raises(Interrupted):
        search(finder, Noisy(20), tmp_path / "never.safetensors", every=3600.0)
    assert not list(tmp_path.iterdir())
    assert torch.equal(
        search(finder, Noisy(), tmp_path / "never.safetensors", 3600.0).points, search(finder, Noisy()).points
    )


def test_numpy_states_too(tmp_path):
    def valley(points):
        x, y = points.T
        slope = 2 * (y - 1 + x**2)
        return (y - 1 + x**2) ** 2, np.stack([2 * x * slope, slope], axis=1)

    finder, ends = FINDERS[0], ENDS.numpy()
    whole = finder.run(valley, ends, resume=Resume(tmp_path / "state.safetensors"))
    again = finder.run(valley, ends, resume=Resume(tmp_path / "state.safetensors"))
    assert isinstance(again.points, np.ndarray)
    assert np.array_equal(again.points, whole.points)
    assert again.history == whole.history


def test_foreign_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    finder = FINDERS[0]
    search(finder, Noisy(), path)
    for other, ends in ((dataclasses.replace(finder, momentum=0.5), ENDS), (finder, 2 * ENDS), (FINDERS[1], ENDS)):
        with pytest.raises(UserError, match="expected the state of this search, found that of another configuration"):
            search(other, Noisy(), path, ends=ends)
    content = path.read_bytes()
    path.write_bytes(content[:-3] + b"abc")
    with pytest.raises(UserError, match="found a damaged file"):
        search(finder, Noisy(), path)
    path.write_bytes(content[:50])
    with pytest.raises(UserError, match="expected the state of a path search, found"):
        search(finder, Noisy(), path)
    with pytest.raises(UserError, match=r"resume: expected a name ending in \.safetensors, found .*x\.pt"):
        Resume(tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"resume.every: expected a number of seconds >= 0, found -1"):
        Resume(path, every=-1)
