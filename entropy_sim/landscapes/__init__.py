"""Analytic loss landscapes, one family per file (loaded on first use)."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Barrier": "shapes",
    "Bump": "shapes",
    "Channel": "channel",
    "Confining": "shapes",
    "CurvedChannel": "curved_channel",
    "Custom": "custom",
    "DoubleWell": "shapes",
    "Exponential": "shapes",
    "Flat": "shapes",
    "FromFile": "interpolated",
    "GeneratedSamples": "samples",
    "Interpolated": "interpolated",
    "Landscape": "base",
    "MullerBrown": "muller_brown",
    "Power": "shapes",
    "Quadratic": "quadratic",
    "SampleFile": "samples",
    "Samples": "samples",
    "Tabulated": "tabulated",
    "Tilted": "shapes",
    "TwoLayerLinear": "two_layer_linear",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
