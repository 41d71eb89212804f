"""Entropic forces on analytic landscapes: Langevin and SGD-noise ensembles, and the contracts all packages share.

Names load on first use, so that `import entropy_sim.schema` needs neither numba nor a compiler.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "landscapes": (
        "Barrier",
        "Bump",
        "Channel",
        "Confining",
        "Custom",
        "CurvedChannel",
        "DoubleWell",
        "Exponential",
        "Flat",
        "FromFile",
        "GeneratedSamples",
        "Interpolated",
        "MullerBrown",
        "Power",
        "Quadratic",
        "SampleFile",
        "Samples",
        "Tabulated",
        "Tilted",
        "TwoLayerLinear",
    ),
    "fokker_planck": ("FokkerPlanck",),
    "noise": (
        "CurvatureCovariance",
        "CurvaturePower",
        "CustomCovariance",
        "CustomDiffusion",
        "GradientCovariance",
        "Label",
        "Levy",
        "LevyGradient",
        "LowRankCovariance",
        "Minibatch",
        "StateDependent",
        "StateDependentCovariance",
        "TabulatedCovariance",
        "Thermal",
    ),
    "dynamics": ("SGD", "Adam", "Overdamped", "Preconditioned", "Underdamped"),
    "measurements": (
        "BarrierHeights",
        "Escape",
        "MeanForce",
        "Profile",
        "Relaxation",
        "Stationary",
        "barrier",
        "escape",
        "mean_force",
        "profile",
        "relaxation",
        "stationary",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"entropy_sim.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'entropy_sim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
