"""What is measured on a path through weight space; the names are those of the simulator's measurements."""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "Barrier": "barrier",
    "Escape": "escape",
    "Ladder": "ladder",
    "MeanForce": "mean_force",
    "Plane": "plane",
    "Profile": "profile",
    "Relaxation": "relaxation",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
