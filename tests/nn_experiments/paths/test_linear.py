"""The straight line: exact ends, equal spacing, numpy and torch."""

import numpy as np
import pytest

from entropy_sim.errors import UserError
from nn_experiments.paths.linear import linear


def test_straight_line_is_equally_spaced_and_ends_exactly():
    torch = pytest.importorskip("torch")
    ends = np.random.default_rng(1).normal(size=(2, 6))
    points = linear(ends, 5)
    assert np.array_equal(points[[0, 4]], ends)
    assert np.allclose(np.diff(points, axis=0), (ends[1] - ends[0]) / 4, atol=1e-15)
    tensor = linear(torch.from_numpy(ends).requires_grad_(), 5)
    assert not tensor.requires_grad
    assert np.allclose(tensor.numpy(), points, rtol=1e-14)


@pytest.mark.parametrize(
    ("ends", "count", "message"),
    [
        (np.ones((2, 3)), 5, r"points: expected finite, distinct successive points"),
        (np.eye(3), 5, r"ends: expected two of them, found 3"),
        (np.eye(2), 1, r"count: expected at least 2 points, found 1"),
    ],
)
def test_refusals(ends, count, message):
    with pytest.raises(UserError, match=message):
        linear(ends, count)
