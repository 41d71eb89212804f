"""The simulator's measurements, one per file.

Imported at once, not on first use: each function has the name of its module, and must be what the name means here.
"""

from entropy_sim.measurements.barrier import BarrierHeights, barrier
from entropy_sim.measurements.escape import Escape, escape
from entropy_sim.measurements.mean_force import MeanForce, mean_force
from entropy_sim.measurements.profile import Profile, profile
from entropy_sim.measurements.relaxation import Relaxation, relaxation
from entropy_sim.measurements.stationary import Stationary, stationary

__all__ = [
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
]
