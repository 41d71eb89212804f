"""The moving frame of a path: points, unit tangents and curvature vectors at any s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from entropy_sim import path_geometry


class Frame(NamedTuple):
    """One path point γ(s), its unit tangent t and γ'' = dt/dy, each (D,), as arrays that processes can exchange."""

    point: npt.NDArray[np.floating]
    tangent: npt.NDArray[np.floating]
    second_derivative: npt.NDArray[np.floating]


def frames(points: Tensor, s: Sequence[float]) -> list[Frame]:
    """The frame at each s of a path (P, D); between path points, that of the points beside it, interpolated."""
    knots = path_geometry.normalised_arc_length(points)
    at = [
        path_geometry.interpolate_at(values, knots, np.asarray(s, dtype=np.float64))
        for values in (points, path_geometry.tangents(points), path_geometry.second_derivative(points))
    ]
    at[1] = at[1] / at[1].norm(dim=1, keepdim=True)
    return [Frame(*(array.cpu().numpy() for array in row)) for row in zip(*at, strict=True)]
