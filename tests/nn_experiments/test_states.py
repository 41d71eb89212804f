from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from entropy_sim.errors import UserError
from nn_experiments import states


def example() -> dict[str, Any]:
    matrix = torch.arange(6.0).reshape(2, 3)
    return {
        "matrix": matrix.T,
        "half": torch.tensor([0.1], dtype=torch.bfloat16),
        "scalar": torch.tensor(3.0, dtype=torch.float64),
        "bytes": torch.tensor([1, 255], dtype=torch.uint8),
        "none left": torch.empty(0, dtype=torch.int64),
        "by index": {0: {"Q": [matrix[:, 1], []], "step": 3}, 1: {}},
        "numbers": (0.1, float("inf"), True, None, "text"),
        "four": torch.arange(24.0).reshape(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_what_is_saved_is_loaded_types_and_order_in_memory_included(tmp_path: Path) -> None:
    path = states.save(tmp_path / "a.safetensors", example(), "owner")
    found = states.load(path, "owner")
    assert same(found, example())
    assert found["matrix"].stride() == (1, 3)
    assert found["four"].is_contiguous(memory_format=torch.channels_last)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_saved_tensors_are_not_those_in_use(tmp_path: Path) -> None:
    layout, tensors = states.flattened({"theta": (theta := torch.zeros(3))})
    theta += 1
    assert states.restored(layout, tensors)["theta"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("at", [-1, 200, 4])
def test_a_damaged_file_is_refused(tmp_path: Path, at: int) -> None:
    path = states.save(tmp_path / "a.safetensors", example(), "owner")
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.safetensors: expected the state .* \(delete it, or --overwrite, to start"):
        states.load(path, "owner")


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    path = states.save(tmp_path / "a.safetensors", example(), "owner")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="expected the state of unfinished work, found .*delete it"):
        states.load(path, "owner")


def test_somebody_elses_is_refused(tmp_path: Path) -> None:
    path = states.save(tmp_path / "a.safetensors", example(), "owner")
    with pytest.raises(UserError, match="expected unfinished work of this configuration, found that of another"):
        states.load(path, "another")


def test_only_plain_values() -> None:
    with pytest.raises(TypeError, match="a state cannot hold a set"):
        states.flattened({"a": {1}})
