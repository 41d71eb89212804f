"""Finished units of work on disk, so that a measurement that was interrupted goes on from there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from entropy_sim.run_files import config_json
from nn_experiments import states
from nn_experiments.workers import Workers

U = TypeVar("U")


@dataclass(frozen=True)
class Cache:
    """Results of units in a folder, each whole or not at all; none without a folder. owner: the run they belong to.

    Results are dicts of arrays, tuples, and JSON's plain values, and come back as they were.
    """

    folder: Path | None = None
    owner: str = ""

    @classmethod
    def of(cls, folder: Path | None, paths: Mapping[str, Tensor], **belongs_to: Any) -> Cache:
        """The cache of a measurement on these paths (P, D). belongs_to: configurations, part of the owner."""
        if folder is None:
            return cls()
        points = {name: hashlib.sha256(p.detach().cpu().double().numpy().tobytes()) for name, p in paths.items()}
        return cls(folder, config_json({**belongs_to, **{name: p.hexdigest() for name, p in points.items()}}))

    def path(self, *key: Any) -> Path | None:
        if self.folder is None:
            return None
        name = hashlib.sha256(f"{self.owner} {key}".encode()).hexdigest()[:24]
        return self.folder / f"{name}.safetensors"

    def get(self, path: Path | None) -> dict[str, Any] | None:
        if path is None or not path.exists():
            return None
        found: dict[str, Any] = _each(states.load(path, self.owner), Tensor, lambda value: value.numpy())
        return found

    def put(self, path: Path | None, result: dict[str, Any]) -> dict[str, Any]:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            states.save(path, _each(result, np.ndarray, torch.as_tensor), self.owner)
        return result

    def map(
        self, workers: Workers, function: Callable[[U], dict[str, Any]], units: Iterable[U], label: str
    ) -> list[dict[str, Any]]:
        """`workers.map(function, units, label)`, of which only what is not there yet is done."""
        return workers.map(_kept, [_Kept(self, (label, i), function, unit) for i, unit in enumerate(units)], label)


class _Kept(NamedTuple):
    cache: Cache
    key: tuple[str, int]
    function: Callable[[Any], dict[str, Any]]
    unit: Any


def _kept(work: _Kept) -> dict[str, Any]:
    place = work.cache.path(*work.key)
    found = work.cache.get(place)
    return work.cache.put(place, work.function(work.unit)) if found is None else found


def _each(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """The value with every part of this kind changed."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, dict):
        return {key: _each(part, kind, change) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_each(part, kind, change) for part in value)
    return value
