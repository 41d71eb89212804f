"""What all path finders share: the seam they are run through, what they hand back, and how a path is judged.

A path finder is a frozen dataclass whose `run` takes `value_and_gradient(points) -> (values, gradients)` on arrays
(n, D), numpy or torch, and knows nothing of networks. However a path was found, the same three numbers say how good it
is: the highest loss between its points, the gradient off its tangent, its arc length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from entropy_sim import path_geometry
from entropy_sim.errors import UserError, require
from entropy_sim.path_geometry import Array
from nn_experiments.paths.resume import Resume

Floats = npt.NDArray[np.float64]
ValueAndGradient = Callable[[Array], tuple[Array, Array]]
Evaluate = Callable[[Array], Array]


@dataclass(frozen=True)
class History:
    """What happened: per step over the points computed in it (minibatch losses), and per record over the densely
    sampled path. The first record is the path that was started from, before any step."""

    mean_loss: list[float] = field(default_factory=list)
    highest_pivot_loss: list[float] = field(default_factory=list)
    highest_loss: list[float] = field(default_factory=list)
    arc_length: list[float] = field(default_factory=list)
    pivots: list[int] = field(default_factory=list)

    def step(self, losses: Floats) -> None:
        """Add a step's losses."""
        self.mean_loss.append(float(losses.mean()))
        self.highest_pivot_loss.append(float(losses.max()))

    def record(self, points: Array, sampled: Floats) -> None:
        """Add a path and its losses between its points (see `sample`)."""
        self.highest_loss.append(float(sampled.max()))
        self.arc_length.append(float(path_geometry.arc_length(points)[-1]))
        self.pivots.append(len(points))

    def settled(self, higher_end: float, tolerance: float) -> bool:
        """Whether the last record changed the highest loss by at most `tolerance` of its excess over `higher_end`."""
        if len(self.highest_loss) < 2:
            return False
        return abs(self.highest_loss[-1] - self.highest_loss[-2]) <= tolerance * (self.highest_loss[-1] - higher_end)


@dataclass(frozen=True)
class PathResult:
    """A path between two minima. points: (P, D), the first and last are the ends; the rest is float64 numpy, (P,).

    finder: the name of the class that found it. losses: at the points. loss_between: highest sampled loss from each
    point up to the next, both included (the last point's own at the last), `samples_between` samples on each segment.
    perpendicular_gradient_norm: |Q (grad L + weight_decay θ)| of the full batch, what a minimum-energy path has not.
    arc_length: in parameter units. converged: as the finder defines it."""

    finder: str
    points: Array
    losses: Floats
    loss_between: Floats
    perpendicular_gradient_norm: Floats
    arc_length: Floats
    samples_between: int
    history: History
    converged: bool

    @property
    def highest_loss(self) -> float:
        """The highest loss sampled anywhere on the path."""
        return float(self.loss_between.max())


class PathFinder(Protocol):
    """A configuration of path finding: `StraightLine`, `AutoNEB`, `BezierCurve`, `PolygonalChain`, or one's own."""

    @property
    def batch_size(self) -> int: ...

    @property
    def seed(self) -> int: ...

    @property
    def samples_between(self) -> int: ...

    def run(
        self,
        value_and_gradient: ValueAndGradient,
        ends: Array,
        *,
        evaluate: Evaluate | None = None,
        full: ValueAndGradient | None = None,
        resume: Resume | None = None,
    ) -> PathResult:
        """Find the path between ends[0] and ends[-1]; memory O(P D).

        value_and_gradient(points (n, D)) -> (values (n,), gradients (n, D)): loss without weight decay, called once per
        step with all points of the step, so one minibatch drawn inside serves them all. It may reuse its buffers but
        must neither change nor keep `points`.
        ends: (2, D), or a chain (n, D) from one end to the other to start from instead of the straight line.
        evaluate(points (n, D)) -> values (n,): deterministic, for the ends and the sampling between points; full: a
        deterministic value_and_gradient for the final gradients. Both default to value_and_gradient.
        resume: where an interrupted search is kept and gone on from, to the same numbers.

        Raises UserError if the ends coincide or the loss stops being finite."""
        ...


def checked_chain(ends: Array) -> Array:
    """`ends` (n, D) without its graph. Raises UserError unless it is a chain of finite, successively distinct points
    between two ends that differ."""
    chain = ends.detach() if hasattr(ends, "detach") else ends
    require(len(chain.shape) == 2 and len(chain) >= 2, "ends", "two points (2, D) or a chain (n, D)", tuple(ends.shape))
    separation = float(((chain[-1] - chain[0]) ** 2).sum()) ** 0.5
    require(0 < separation < np.inf, "ends", "two different, finite points", f"a distance of {separation:g}")
    path_geometry.arc_length(chain)
    return chain


def finite(losses: Floats, expected: str, where: str, resume: Resume | None = None) -> None:
    """Raises UserError, naming the first bad point and what is kept, unless all `losses` (n,) of the points of a step
    are finite. expected: the option and what it should be."""
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        kept = "" if resume is None else resume.kept()
        raise UserError(f"{expected}, found {losses[bad[0]]:g} at point {bad[0] + 1} of {len(losses)}, {where}{kept}")


def sample(
    points: Array, end_losses: Floats, evaluate: Evaluate, samples_between: int, resume: Resume | None = None
) -> Floats:
    """Losses on each segment, (P - 1, samples_between + 2), points at both ends of a row; one segment in memory.

    Raises UserError if one is not finite."""
    fractions = np.linspace(0.0, 1.0, samples_between + 2)
    middle = numbers(evaluate(points[1:-1])) if len(points) > 2 else np.empty(0)
    pivots = np.concatenate([end_losses[:1], middle, end_losses[1:]])
    inner = [
        numbers(evaluate(path_geometry.interpolate(points[i : i + 2], fractions[1:-1]))) for i in range(len(points) - 1)
    ]
    sampled = np.column_stack([pivots[:-1], np.stack(inner), pivots[1:]])
    finite(sampled.max(axis=1), "path: expected a finite loss between its points", "counting segments", resume)
    return sampled


def measured(
    finder: PathFinder,
    points: Array,
    sampled: Floats,
    full: ValueAndGradient,
    history: History,
    *,
    converged: bool,
    weight_decay: float = 0.0,
    inner_tangents: Callable[[Array, Floats], Array] | None = None,
) -> PathResult:
    """The result of `finder`, judged as every path is: `sampled` from `sample`, gradients from `full`.

    inner_tangents(points, losses) -> (P - 2, D): the finder's own; otherwise those of `path_geometry.tangents`."""
    losses = np.append(sampled[:, 0], sampled[-1, -1])
    _, gradients = full(points)
    off_tangent = gradients + weight_decay * points
    tangents = path_geometry.tangents(points)
    if inner_tangents is not None:
        tangents[1:-1] = inner_tangents(points, losses)
    off_tangent -= (off_tangent * tangents).sum(-1)[:, None] * tangents
    return PathResult(
        finder=type(finder).__name__,
        points=points,
        losses=losses,
        loss_between=np.append(sampled.max(axis=1), losses[-1]),
        perpendicular_gradient_norm=np.sqrt(numbers((off_tangent * off_tangent).sum(-1))),
        arc_length=path_geometry.arc_length(points),
        samples_between=sampled.shape[1] - 2,
        history=history,
        converged=converged,
    )


# --- what numpy and torch do not share ------------------------------------------------------------------------------


def numbers(values: Array) -> Floats:
    """Float64 numpy of a small array of either kind."""
    return np.asarray(values.tolist(), dtype=np.float64)


def like(values: npt.ArrayLike, kind: Array) -> Array:
    """Float64 numbers as an array of the kind, type and device of `kind`."""
    array = np.asarray(values, dtype=np.float64)
    return kind.new_tensor(array) if hasattr(kind, "new_tensor") else array.astype(kind.dtype)
