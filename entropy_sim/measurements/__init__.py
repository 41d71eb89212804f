"""The simulator's measurements, one per file.

Imported at once, not on first use: each function has the name of its module, and must be what the name means here.
"""

from entropy_sim.measurements.mean_force import MeanForce, mean_force
from entropy_sim.measurements.profile import Profile, profile
from entropy_sim.measurements.relaxation import Relaxation, relaxation
from entropy_sim.measurements.stationary import Stationary, stationary

__all__ = [
    "MeanForce",
    "Profile",
    "Relaxation",
    "Stationary",
    "mean_force",
    "profile",
    "relaxation",
    "stationary",
]
