"""Plane: the loss on the plane through both minima and the path, with the path projected on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from entropy_sim import path_geometry, schema
from entropy_sim.errors import require
from nn_experiments.cache import Cache
from nn_experiments.curvature import full_precision, subset
from nn_experiments.experiment import AnyExperiment, evaluate
from nn_experiments.objective import generator
from nn_experiments.workers import Workers

Direction = Literal["farthest", "principal"]
Floats = npt.NDArray[np.float64]
_WORDS = {
    "farthest": "the minima and the path point farthest from the line between them",
    "principal": "the minima and the direction of the largest mean square distance of the path from their line",
    "random": "the minima and a random direction: the path is the line between them",
}
#: A path nearer than this to the line between its ends, in units of its length, is that line but for rounding.
_STRAIGHT = 1e-5


@dataclass(frozen=True)
class Plane:
    """Training loss on a grid of the plane that both minima and the path span, and where the path lies beside it.

    Coordinates are distances in parameter space: x along the straight line from the first minimum (0, 0) to the second,
    y off it, positive where the path is farthest from the line. Both minima, and with `farthest` the path's farthest
    point, lie in the plane; the rest of the path does not, so its distance from the plane, its loss, and the loss at
    its projection are stored too. The grid has square cells, a row on the line, and a column through each minimum.
    """

    direction: Direction = "farthest"
    """What spans the plane with the minima: the path point farthest from the line between them, or the principal
    direction of the path's deviation from that line (a random direction where there is none)."""
    cells: int = 16
    """Cells of the grid from minimum to minimum; as many as are needed of the same size beside the line."""
    margin: float = 0.25
    """Width of the margin around the path, as a fraction of the minima's distance (rounded up to whole cells)."""
    loss_samples: int | None = 2048
    """Size of the fixed subset of the training data (whole groups) whose loss it is; None: all."""
    test: bool = False
    """Also loss and error on the test set, by standard inference (several times the work)."""
    seed: int = 0
    """Seed of the random direction."""

    def __post_init__(self) -> None:
        require(self.direction in ("farthest", "principal"), "plane.direction", "farthest or principal", self.direction)
        require(self.cells >= 1, "plane.cells", "a number >= 1", self.cells)
        require(0 <= self.margin < math.inf, "plane.margin", "a number >= 0", self.margin)
        require(
            self.loss_samples is None or self.loss_samples >= 1,
            "plane.loss_samples",
            "a number >= 1",
            self.loss_samples,
        )
        require(self.seed >= 0, "plane.seed", "a number >= 0", self.seed)

    def run(
        self,
        experiment: AnyExperiment,
        points: Tensor,
        workers: Workers | None = None,
        device: str = "cpu",
        cache: Path | None = None,
    ) -> xr.Dataset:
        """The group `plane` of the path `points` (P, D). Nothing here is random, but for a straight path's direction.

        Raises UserError if the path is none, or its ends coincide."""
        objective = experiment.objective()
        samples = len(subset(objective, self.loss_samples))
        frame = span(points, self.direction, self.seed)
        cell, steps = frame.length / self.cells, math.ceil(self.margin * self.cells)
        x = cell * np.arange(-steps, self.cells + steps + 1, dtype=np.float64)
        low, high = frame.y.min() / cell, frame.y.max() / cell  # both ends of the path have y = 0
        y = cell * np.arange(math.floor(low) - steps, math.ceil(high) + steps + 1)

        path = points.cpu()
        base = torch.stack([path[0], path[-1], frame.direction.to(path)]).numpy()
        rows = [frame.weights(x, np.full(len(x), at, dtype=np.float64)) for at in y]
        units = [(self, experiment, base, weights, device) for weights in [*rows, frame.weights(frame.x, frame.y)]]
        units.append((self, experiment, path.numpy(), np.eye(len(path)), device))
        where = Cache.of(cache, {"path": points}, plane=self, experiment=experiment)
        *grid, projected, own = where.map(workers or Workers(1), _evaluate_unit, units, "plane")

        across, along = ("plane_y", "plane_x"), ("s",)
        variables: dict[str, Any] = {
            "plane_x": (("plane_x",), x),
            "plane_y": (("plane_y",), y),
            "s": (along, path_geometry.normalised_arc_length(points)),
            **{name: (across, np.stack([row[name] for row in grid])) for name in grid[0]},
            "path_x": (along, frame.x),
            "path_y": (along, frame.y),
            "path_distance": (along, frame.distance),
            "path_loss": (along, own["loss"]),
            "path_loss_projected": (along, projected["loss"]),
        }
        attrs = {
            "spanned_by": _WORDS[frame.spanned_by],
            "direction": frame.spanned_by,
            "minima_distance": frame.length,
            "arc_length": float(path_geometry.arc_length(points)[-1]),
            "share_in_plane": frame.share,
            "share_in_plane_of": "the path's mean square distance from the line between the minima, over its points",
            "loss_samples": samples,
            "normalization_mode": objective.mode,
            "group_size": objective.group_size or 0,
        }
        return schema.make("plane", variables, attrs)


class Frame(NamedTuple):
    """The plane and the path (P, D) in it. length: of the line between the minima. direction (D,): unit vector normal
    to it, float64. x, y, distance (P,): coordinates of the projected path and its distance from the plane. share: of
    the path's mean square distance from the line that lies in the plane, 1 for the line itself."""

    length: float
    direction: Tensor
    x: Floats
    y: Floats
    distance: Floats
    share: float
    spanned_by: Direction | Literal["random"]

    def weights(self, x: Floats, y: Floats) -> Floats:
        """(n, 3): what first minimum, second minimum and direction count for at each (x, y); the minima exactly."""
        return np.column_stack([1 - x / self.length, x / self.length, y])


def span(points: Tensor, direction: Direction = "farthest", seed: int = 0) -> Frame:
    """The plane of a path (P, D), computed in float64. Raises UserError if the path is none or its ends coincide."""
    total = float(path_geometry.arc_length(points)[-1])
    path = points.detach().cpu().double()
    path = path - path[0]
    length = float(path[-1].norm())
    require(length > 0, "path", "two ends a distance > 0 apart", length)
    along = path[-1] / length
    x = path @ along
    off = path - x[:, None] * along
    square = off.square().sum(1)
    found: Direction | Literal["random"] = direction
    if float(square.max().sqrt()) <= _STRAIGHT * total:
        found = "random"
        axis = torch.randn(len(along), generator=generator(seed), dtype=torch.float64)
    elif direction == "farthest":
        axis = off[square.argmax()]
    else:
        # Eigenvectors of the small matrix of inner products: nothing of size D x D.
        axis = off.T @ torch.linalg.eigh(off @ off.T).eigenvectors[:, -1]
    axis = axis - (axis @ along) * along
    axis = axis / axis.norm()
    y = off @ axis
    if float(y[y.abs().argmax()]) < 0:
        axis, y = -axis, -y
    distance = (off - y[:, None] * axis).norm(dim=1)
    x[[0, -1]], y[[0, -1]], distance[[0, -1]] = torch.tensor([0.0, length], dtype=x.dtype), 0.0, 0.0
    share = 1.0 if found == "random" else float(y.square().sum() / square.sum())
    return Frame(length, axis, x.numpy(), y.numpy(), distance.numpy(), share, found)


@full_precision()
def _evaluate_unit(
    unit: tuple[Plane, AnyExperiment, npt.NDArray[np.floating], Floats, str],
) -> dict[str, list[float]]:
    """The losses at weights @ base."""
    config, experiment, base, weights, device = unit
    objective = experiment.objective(device=device)
    vectors = torch.as_tensor(base).to(objective.device, objective.dtype)
    indices = subset(objective, config.loss_samples)
    found: dict[str, list[float]] = {"loss": [], "train_error": []}
    if config.test:
        found |= {"test_loss": [], "test_error": []}
    for row in torch.as_tensor(weights).to(vectors):
        theta = row @ vectors
        scores = [*objective.evaluate(theta, indices)]
        if config.test:
            scores += evaluate(experiment, theta, "test", "evaluation", device)
        for values, score in zip(found.values(), scores, strict=True):
            values.append(score)
    return found
