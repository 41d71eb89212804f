"""Noises, one family per file (loaded on first use)."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Constant": "state_dependent",
    "CurvatureCovariance": "curvature_power",
    "CurvaturePower": "curvature_power",
    "CustomCovariance": "state_dependent",
    "CustomDiffusion": "state_dependent",
    "GradientCovariance": "covariance",
    "Label": "label",
    "Levy": "levy",
    "LevyGradient": "levy",
    "LowRankCovariance": "covariance",
    "Minibatch": "minibatch",
    "Noise": "base",
    "StateDependent": "state_dependent",
    "StateDependentCovariance": "state_dependent",
    "TabulatedCovariance": "covariance",
    "Thermal": "thermal",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
