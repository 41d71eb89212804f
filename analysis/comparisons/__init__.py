"""One module per measurement: `against_theory`, where theory predicts it, and `between` two runs of either side.

`between` gives the dataset described in `_pair.pair`; an `Alignment` says how the second's units become the first's.
`all_between` compares everything that two runs have in common.
"""

from __future__ import annotations

from analysis.comparisons import (
    barrier,
    effective_potential,
    escape,
    mean_force,
    profile,
    relaxation,
    spectrum,
    stationary,
)
from analysis.comparisons._pair import Alignment
from analysis.comparisons.pairs import MEASUREMENTS, all_between

__all__ = [
    "MEASUREMENTS",
    "Alignment",
    "all_between",
    "barrier",
    "effective_potential",
    "escape",
    "mean_force",
    "profile",
    "relaxation",
    "spectrum",
    "stationary",
]
