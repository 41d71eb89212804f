"""The straight line between two parameter vectors: the contrast to a minimum-energy path, and where one starts."""

from __future__ import annotations

import numpy as np

from entropy_sim import path_geometry
from entropy_sim.errors import require
from entropy_sim.path_geometry import Array


def linear(ends: Array, count: int) -> Array:
    """`count` equally spaced points from ends[0] to ends[1], both exact: (count, D), of the kind of `ends` (2, D).

    Raises UserError if the ends coincide or count < 2."""
    require(len(ends) == 2, "ends", "two of them", len(ends))
    require(count >= 2, "count", "at least 2 points", count)
    detached = ends.detach() if hasattr(ends, "detach") else ends
    return path_geometry.interpolate(detached, np.linspace(0.0, 1.0, count))
