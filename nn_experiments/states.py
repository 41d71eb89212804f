"""The state of unfinished work on disk: nested tensors and numbers in one safetensors file; never a pickle.

The file's metadata hold the layout as JSON, what the state belongs to, and a SHA-256 of everything. One file, so that
it is always whole.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entropy_sim.errors import UserError
from entropy_sim.run_files import write_whole


def flattened(state: Any, name: str = "state") -> tuple[Any, dict[str, Tensor]]:
    """`state`, dicts, lists and tuples of tensors and JSON's plain values, as (layout, tensors by name); on the CPU."""
    if isinstance(state, Tensor):
        # Transposed matrices come back transposed: with another order in memory, products round differently.
        order = sorted(range(state.dim()), key=lambda i: (-state.stride()[i], i))
        return {"tensor": [name, order]}, {name: state.detach().to("cpu").permute(order).clone().contiguous()}
    if isinstance(state, dict):
        rows = [(key, *flattened(value, f"{name}.{key}")) for key, value in state.items()]
        return {"dict": [[key, layout] for key, layout, _ in rows]}, {k: v for *_, t in rows for k, v in t.items()}
    if isinstance(state, list | tuple):
        kind = type(state).__name__
        parts = [flattened(value, f"{name}.{i}") for i, value in enumerate(state)]
        return {kind: [layout for layout, _ in parts]}, {k: v for _, t in parts for k, v in t.items()}
    if state is None or isinstance(state, bool | int | float | str):
        return {"value": state}, {}
    raise TypeError(f"a state cannot hold a {type(state).__name__}")


def restored(layout: Any, tensors: dict[str, Tensor]) -> Any:
    """The state of which `flattened` made this."""
    ((kind, content),) = layout.items()
    if kind == "tensor":
        name, order = content
        return tensors[name].permute(np.argsort(order).tolist())
    if kind == "dict":
        return {key: restored(value, tensors) for key, value in content}
    if kind in ("list", "tuple"):
        parts = [restored(value, tensors) for value in content]
        return tuple(parts) if kind == "tuple" else parts
    return content


def save(path: Path | str, state: Any, owner: str) -> Path:
    """Write `state` to `path`, whole or not at all. owner: what it belongs to, such as a configuration as JSON.

    Raises UserError if the place cannot be written.
    """
    from safetensors.torch import save_file

    layout, tensors = flattened(state)
    text = json.dumps(layout)
    metadata = {"layout": text, "owner": owner, "sha256": _checksum(text, owner, tensors)}
    return write_whole(path, lambda temporary: save_file(tensors, str(temporary), metadata))


def load(path: Path | str, owner: str) -> Any:
    """The state that was saved, on the CPU.

    Raises UserError if the file is damaged or belongs to something else; both say how to go on.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: expected the state of unfinished work, found {error} ({_REMEDY})") from error
    text, found = metadata.get("layout", ""), metadata.get("owner", "")
    if metadata.get("sha256") != _checksum(text, found, tensors):
        raise UserError(f"{path}: expected the state of unfinished work, found a damaged file ({_REMEDY})")
    if found != owner:
        raise UserError(f"{path}: expected unfinished work of this configuration, found that of another ({_REMEDY})")
    return restored(json.loads(text), tensors)


_REMEDY = "delete it, or --overwrite, to start anew"


def _checksum(text: str, owner: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps([text, owner]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
