"""The straight line between two parameter vectors: the contrast to a minimum-energy path, and where one starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from entropy_sim import path_geometry
from entropy_sim.errors import require
from entropy_sim.path_geometry import Array
from nn_experiments.paths.base import (
    Evaluate,
    History,
    PathResult,
    ValueAndGradient,
    checked_chain,
    finite,
    measured,
    numbers,
    sample,
)
from nn_experiments.paths.resume import Resume


def linear(ends: Array, count: int) -> Array:
    """`count` equally spaced points from ends[0] to ends[1], both exact: (count, D), of the kind of `ends` (2, D).

    Raises UserError if the ends coincide or count < 2."""
    require(len(ends) == 2, "ends", "two of them", len(ends))
    require(count >= 2, "count", "at least 2 points", count)
    detached = ends.detach() if hasattr(ends, "detach") else ends
    return path_geometry.interpolate(detached, np.linspace(0.0, 1.0, count))


@dataclass(frozen=True)
class StraightLine:
    """The straight line as a path: nothing is searched, so it is always converged, and judged as any other path."""

    points: int = 11
    """Points, both ends included, equally spaced."""
    samples_between: int = 3
    """Points on each segment, besides the path's own, at which the loss is sampled."""
    batch_size: int = 128
    """Samples of a minibatch, should nothing else be given to evaluate by."""
    seed: int = 0
    """Seed of those draws."""

    def __post_init__(self) -> None:
        require(self.points >= 3, "points", "at least 3", self.points)
        require(self.samples_between > 0, "samples_between", "at least 1", self.samples_between)
        require(self.batch_size > 0, "batch_size", "a number of samples > 0", self.batch_size)
        require(self.seed >= 0, "seed", "a number >= 0", self.seed)

    def run(
        self,
        value_and_gradient: ValueAndGradient,
        ends: Array,
        *,
        evaluate: Evaluate | None = None,
        full: ValueAndGradient | None = None,
        resume: Resume | None = None,
    ) -> PathResult:
        """The line from ends[0] to ends[-1], see `PathFinder.run`; `resume` has nothing to keep."""
        values_of = evaluate or (lambda points: value_and_gradient(points)[0])
        points = linear(checked_chain(ends)[[0, -1]], self.points)
        end_losses = numbers(values_of(points[[0, -1]]))
        finite(end_losses, "ends: expected points of finite loss", "before any step")
        sampled = sample(points, end_losses, values_of, self.samples_between)
        history = History()
        history.record(points, sampled)
        return measured(self, points, sampled, full or value_and_gradient, history, converged=True)
