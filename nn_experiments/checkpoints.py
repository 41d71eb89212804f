"""Parameters on disk: a safetensors file and a JSON record beside it; never a pickle.

`NAME.safetensors` holds one tensor for each named parameter, `NAME.json` the SHA-256 of that file, the architecture
(names, shapes, type) and whatever record the caller gives, such as configuration, seed and scores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from entropy_sim.errors import UserError
from entropy_sim.run_files import to_jsonable, write_whole
from nn_experiments.objective import Objective


def architecture(objective: Objective) -> dict[str, Any]:
    """Names and shapes of the parameters in the order of theta, and their type, as plain JSON."""
    shapes = [[name, list(shape)] for name, shape in zip(objective.names, objective.shapes, strict=True)]
    return {"parameters": shapes, "dtype": str(objective.dtype).removeprefix("torch.")}


def save(path: Path | str, objective: Objective, theta: Tensor, record: Mapping[str, Any] | None = None) -> Path:
    """Write `theta`, (D,) or the points (P, D) of a path, to `path` (ending in .safetensors), the record beside it.

    Each file is written whole or not at all.
    The tensors come first, so a record is never without them. Raises UserError if the place cannot be written.
    """
    from safetensors.torch import save_file

    path = _checked_name(path)
    theta = theta.detach().to("cpu", objective.dtype)
    leading = list(theta.shape[:-1])
    shapes = dict(zip(objective.names, objective.shapes, strict=True))
    tensors = {n: theta[..., at].reshape(*leading, *shapes[n]).clone() for n, at in objective.blocks().items()}
    write_whole(path, lambda temporary: save_file(tensors, str(temporary)))
    content = {
        "sha256": _checksum(path),
        "architecture": architecture(objective),
        "points": leading,
        "record": to_jsonable(dict(record or {})),
    }
    text = json.dumps(content, indent=1, sort_keys=True)
    write_whole(path.with_suffix(".json"), lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def load(path: Path | str, objective: Objective) -> tuple[Tensor, dict[str, Any]]:
    """What was saved, (D,) or (P, D), on the objective's device, and the record.

    Raises UserError if a file is missing, unreadable, changed since it was saved, or of another architecture.
    """
    path = _checked_name(path)
    content = _sidecar(path)
    if not path.is_file():
        raise UserError(f"{path}: expected a checkpoint, found no such file")
    if content["sha256"] != (found := _checksum(path)):
        raise UserError(
            f"{path}: expected SHA-256 {content['sha256'][:12]}…, found {found[:12]}… (damaged or replaced: delete it, "
            "or --overwrite, to make it anew)"
        )
    expected = architecture(objective)
    if difference := _difference(expected, content["architecture"]):
        raise UserError(f"{path}: {difference}")
    tensors = _tensors(path)
    leading = content.get("points", [])
    shapes = [[name, list(tensors[name].shape[len(leading) :])] for name in objective.names if name in tensors]
    if difference := _difference(expected, {**expected, "parameters": shapes}):
        raise UserError(f"{path}: {difference}")
    theta = torch.cat([tensors[name].reshape(*leading, -1) for name in objective.names], dim=-1)
    return theta.to(objective.device, objective.dtype), content["record"]


def load_parameters(path: Path | str, objective: Objective) -> Tensor:
    """theta (D,) from anybody's safetensors file of a `state_dict`, on the objective's device and in its type.

    Buffers and parameters that are not trained may be in the file, and are not used. Raises UserError, naming the
    tensor, its expected and its found shape, if one is missing, misshapen, not finite, or none of the network's.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: expected a checkpoint, found no such file")
    tensors = _tensors(path)
    for name, shape in zip(objective.names, objective.shapes, strict=True):
        if name not in tensors:
            others = sorted(set(tensors) - set(objective.names))
            found = f"only others, such as {others[0]}" if others else "none"
            raise UserError(f"{path}: expected a tensor {name} of shape {list(shape)}, found {found}")
        if (present := list(tensors[name].shape)) != list(shape):
            raise UserError(f"{path}: expected {name} of shape {list(shape)}, found {present}")
        if not bool(torch.isfinite(tensors[name]).all()):
            raise UserError(f"{path}: expected finite numbers in {name}, found others")
    module = objective.module
    known = {name for name, _ in module.named_parameters()}
    for prefix, part in module.named_modules():
        known |= {
            f"{prefix}.{name}" if prefix else name for name in part._buffers
        }  # None in batch-statistics mode, too
    if unknown := sorted(set(tensors) - known):
        extra = f"{unknown[0]} of shape {list(tensors[unknown[0]].shape)}"
        raise UserError(f"{path}: expected tensors of the network, found also {extra}")
    theta = torch.cat([tensors[name].reshape(-1).to(objective.dtype) for name in objective.names])
    return theta.to(objective.device)


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except SafetensorError as error:
        raise UserError(f"{path}: expected a safetensors file, found {error}") from error


def _checked_name(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: expected a name ending in .safetensors, found {path.suffix or 'no ending'!r}")
    return path


def _sidecar(path: Path) -> dict[str, Any]:
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        raise UserError(f"{path}: expected its record {sidecar.name} beside it, found no such file")
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{sidecar}: expected JSON, found {error}") from error
    missing = [
        key for key in ("sha256", "architecture", "record") if not (isinstance(content, dict) and key in content)
    ]
    if missing:
        raise UserError(f"{sidecar}: expected sha256, architecture and record, found no {', '.join(missing)}")
    try:
        dict(content["architecture"]["parameters"]), content["architecture"]["dtype"]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{sidecar}: expected the names and shapes of the parameters, found none") from error
    return content


def _difference(expected: dict[str, Any], found: dict[str, Any]) -> str | None:
    if expected == found:
        return None
    wanted, present = dict(map(tuple, expected["parameters"])), dict(map(tuple, found["parameters"]))
    for name, shape in wanted.items():
        if name not in present:
            return f"expected a parameter {name} of shape {shape}, found none (another architecture)"
        if present[name] != shape:
            return f"expected {name} of shape {shape}, found {present[name]} (another architecture)"
    if extra := [name for name in present if name not in wanted]:
        return f"expected {len(wanted)} parameters, found also {extra[0]} (another architecture)"
    if expected["dtype"] != found["dtype"]:
        return f"expected parameters of type {expected['dtype']}, found {found['dtype']}"
    return "expected the parameters in the order of the network, found another order (another architecture)"


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
