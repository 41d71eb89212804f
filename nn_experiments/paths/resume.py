"""The state of a path search on disk, so that an interrupted one goes on from there to the same numbers.

One safetensors file holds the tensors of the state and, in its header, the rest as JSON: the configuration of the
finder, the ends (as a checksum), the numbers of the state, and a checksum of the tensors; never a pickle. It is written
between steps, whole or not at all, and only of a state whose losses were finite.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from entropy_sim.errors import UserError, require
from entropy_sim.path_geometry import Array
from entropy_sim.run_files import config_json, write_whole

if TYPE_CHECKING:
    import torch

#: The arrays of a state by name, and its numbers as plain JSON.
Content = tuple[dict[str, Array], dict[str, Any]]
_STREAM = "minibatch_stream"


@dataclass
class Resume:
    """Where a path search keeps its state. A file that is there is gone on from; a finder never deletes it.

    path: a .safetensors file. generator: the stream of minibatches, kept and set back with the state. every: seconds
    between two writings; how often changes no numbers.

    Raises UserError for a file of another configuration or other ends, or a damaged one."""

    path: Path
    generator: torch.Generator | None = None
    every: float = 60.0
    _identity: str = field(default="", init=False, repr=False)
    _last: float = field(default_factory=time.monotonic, init=False, repr=False)
    _stream: Any = field(default=None, init=False, repr=False)
    _written: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        require(self.path.suffix == ".safetensors", "resume", "a name ending in .safetensors", str(self.path))
        require(self.every >= 0, "resume.every", "a number of seconds >= 0", self.every)

    def begin(self, finder: Any, ends: Array) -> Content | None:
        """Take note of what is searched, and give the state that is there, None if there is none."""
        import torch

        digest = hashlib.sha256(_numpy(ends).tobytes()).hexdigest()
        self._identity = json.dumps({"finder": json.loads(config_json(finder)), "ends": digest}, sort_keys=True)
        if not self.path.exists():
            return None
        tensors, header = _read(self.path)
        if header.get("identity") != self._identity:
            raise UserError(
                f"{self.path}: expected the state of this search, found that of another configuration or other ends "
                f"(delete it to start anew)"
            )
        stream = tensors.pop(_STREAM, None)
        if self.generator is not None and stream is not None:
            self.generator.set_state(stream)
        self._written = f"; the state of {json.loads(header['where'])} is kept in {self.path}"
        arrays = {name: _as(tensor, ends, torch) for name, tensor in tensors.items()}
        return arrays, json.loads(header["numbers"])

    def before_step(self) -> None:
        """To be called before a step draws anything."""
        if self.generator is not None and self._due():
            self._stream = self.generator.get_state().clone()

    def after_values(self, content: Callable[[], Content], where: str) -> None:
        """To be called in a step whose losses were found finite, before it changes the state; writes if it is time."""
        if self._due() and (self.generator is None or self._stream is not None):
            self._write(content(), where, self._stream)

    def finish(self, content: Content, where: str) -> None:
        """Write now, between two steps."""
        self._write(content, where, None if self.generator is None else self.generator.get_state())

    def kept(self) -> str:
        """What is kept, as the end of a message."""
        return self._written

    def _due(self) -> bool:
        return time.monotonic() - self._last >= self.every

    def _write(self, content: Content, where: str, stream: Any) -> None:
        import torch
        from safetensors.torch import save_file

        arrays, state = content
        tensors = {name: torch.from_numpy(_numpy(array).copy()) for name, array in arrays.items()}
        if stream is not None:
            tensors[_STREAM] = stream
        header = {
            "identity": self._identity,
            "numbers": json.dumps(state),
            "where": json.dumps(where),
            "sha256": _checksum(tensors),
        }
        write_whole(self.path, lambda temporary: save_file(tensors, str(temporary), metadata=header))
        self._last, self._stream = time.monotonic(), None
        self._written = f"; the state of {where} is kept in {self.path}"


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: expected the state of a path search, found {str(error).splitlines()[0]}") from error
    if header.get("sha256") != _checksum(tensors):
        raise UserError(f"{path}: expected the state of a path search, found a damaged file (delete it to start anew)")
    return tensors, header


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _numpy(array: Array) -> np.ndarray:
    return array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)


def _as(tensor: torch.Tensor, kind: Array, torch: Any) -> Array:
    return tensor.to(kind.device) if isinstance(kind, torch.Tensor) else tensor.numpy()
