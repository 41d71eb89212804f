"""The same measurements on neural networks (needs the extra `nn`: torch, torchvision, scikit-learn, safetensors)."""

from __future__ import annotations

import importlib
from typing import Any

#: Where the names live; modules are loaded when a name is first asked for.
_HOMES = {
    "Experiment": "experiment",
    "FileExperiment": "own",
    "ModuleExperiment": "own",
    "NetworkRun": "run",
    "Training": "train",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
