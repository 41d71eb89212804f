"""Noises, one family per file (loaded on first use)."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "CurvatureCovariance": "curvature_power",
    "CurvaturePower": "curvature_power",
    "GradientCovariance": "covariance",
    "Label": "label",
    "Levy": "levy",
    "LevyGradient": "levy",
    "Minibatch": "minibatch",
    "Noise": "base",
    "TabulatedCovariance": "covariance",
    "Thermal": "thermal",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
