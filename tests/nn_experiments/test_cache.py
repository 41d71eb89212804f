"""Finished units of work come back as they were, and only to whom they belong."""

import numpy as np
import pytest
import torch

from entropy_sim.errors import UserError
from nn_experiments.cache import Cache
from nn_experiments.workers import Workers

RESULT = {
    "single": np.arange(3, dtype=np.float32),
    "double": np.array([[0.1, np.nan]]),
    "pair": (np.array([True, False]), np.zeros((2, 0))),
    "nothing": None,
    "lost": False,
    "list": [1.5, 2],
}


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b and type(a) is type(b)


def test_results_come_back_as_they_were(tmp_path):
    cache = Cache.of(tmp_path, {"path": torch.eye(2)}, experiment="mine")
    place = cache.path("unit", 3)
    assert cache.get(place) is None
    assert same(cache.put(place, RESULT), RESULT)
    assert same(cache.get(place), RESULT)


def test_another_unit_configuration_or_path_finds_nothing(tmp_path):
    made = Cache.of(tmp_path, {"path": torch.eye(2)}, experiment="mine")
    made.put(made.path("unit", 3), RESULT)
    others = [
        Cache.of(tmp_path, {"path": torch.eye(2) * 2}, experiment="mine"),
        Cache.of(tmp_path, {"line": torch.eye(2)}, experiment="mine"),
        Cache.of(tmp_path, {"path": torch.eye(2)}, experiment="yours"),
    ]
    assert all(other.get(other.path("unit", 3)) is None for other in others)
    assert made.get(made.path("unit", 4)) is None
    assert same(made.get(made.path("unit", 3)), RESULT)


def test_a_damaged_unit_is_refused(tmp_path):
    cache = Cache.of(tmp_path, {"path": torch.eye(2)})
    place = cache.path("unit")
    cache.put(place, RESULT)
    content = bytearray(place.read_bytes())
    content[-1] ^= 1
    place.write_bytes(content)
    with pytest.raises(UserError, match="found a damaged file"):
        cache.get(place)


def twice(x):
    if x == 3 and not _ALLOWED:
        raise RuntimeError("cut")
    _DONE.append(x)
    return {"y": 2 * x}


_DONE: list[int] = []
_ALLOWED: list[bool] = []


def test_only_what_is_missing_is_done(tmp_path):
    for folder, expected in ((None, [1, 2, 1, 2, 3]), (tmp_path, [1, 2, 3])):
        _DONE.clear()
        _ALLOWED.clear()
        cache, workers = Cache.of(folder, {}), Workers(1)
        with pytest.raises(RuntimeError, match="cut"):
            cache.map(workers, twice, [1, 2, 3], "doubling")
        _ALLOWED.append(True)
        assert cache.map(workers, twice, [1, 2, 3], "doubling") == [{"y": 2}, {"y": 4}, {"y": 6}]
        assert expected == _DONE
