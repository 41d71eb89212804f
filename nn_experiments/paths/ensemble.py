"""Several paths between the same two minima: a path is not unique, so what is measured on one must hold on others.

The searches differ in the chain they start from and in their minibatches. The first is the search as it would be made
alone. Others start from chains through given points (a third minimum, say), the rest from the straight line bent by a
smooth random perturbation,

    γ₀(s) = (1 − s) θ₀ + s θ₁ + b |θ₁ − θ₀| √2 Σ_m ξ_m sin(mπs) / √(modes),

ξ_m independent random directions of length 1 orthogonal to the line, so that the root mean square over s of its
distance from the line is b |θ₁ − θ₀|.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from entropy_sim import path_geometry
from entropy_sim.errors import require
from entropy_sim.path_geometry import Array
from nn_experiments.paths.base import (
    Evaluate,
    Floats,
    PathFinder,
    PathResult,
    ValueAndGradient,
    checked_chain,
    like,
    numbers,
)
from nn_experiments.paths.linear import linear
from nn_experiments.paths.resume import Resume

F = TypeVar("F", bound=PathFinder)

#: Points of a bent chain.
_CHAIN = 25


@dataclass(frozen=True)
class PathEnsemble:
    """How many searches there are and how they differ. Raises UserError for options out of range."""

    runs: int = 3
    """Searches; the first is the path finder's own, unbent and with its own seed."""
    bend: float = 0.3
    """Root-mean-square distance of a bent chain from the straight line, in units of the distance of the ends."""
    modes: int = 2
    """Half waves of the bending: 1 is an arc."""
    seed: int = 0
    """Seed of the bendings, and with the path finder's of the minibatches of all searches but the first."""

    def __post_init__(self) -> None:
        require(self.runs >= 1, "ensemble.runs", "at least 1", self.runs)
        require(0 <= self.bend < np.inf, "ensemble.bend", "a number >= 0", self.bend)
        require(1 <= self.modes < _CHAIN - 1, "ensemble.modes", f"1…{_CHAIN - 2}", self.modes)
        require(self.seed >= 0, "ensemble.seed", "a number >= 0", self.seed)

    def finder(self, finder: F, run: int) -> F:
        """The path finder of one search: the same but for its seed; of the first, itself."""
        if run == 0:
            return finder
        seed = int(np.random.SeedSequence((finder.seed, self.seed, run)).generate_state(1)[0])
        return replace(finder, seed=seed)  # type: ignore[type-var]

    def chain(self, ends: Array, run: int, through: Sequence[Array] = ()) -> Array:
        """The chain (n, D) that search `run` starts from; `through`: points (D,) for searches 1, 2, …"""
        ends = checked_chain(ends)[[0, -1]]
        if run == 0:
            return ends
        if run <= len(through):
            middle = through[run - 1]
            return path_geometry.interpolate_at(_joined(ends, middle), np.arange(3.0), np.linspace(0.0, 2.0, _CHAIN))
        chain = linear(ends, _CHAIN)
        if self.bend == 0:
            return chain
        axis = ends[1] - ends[0]
        length = float((axis * axis).sum()) ** 0.5
        random = np.random.default_rng((self.seed, run))
        s = np.linspace(0.0, 1.0, _CHAIN)[1:-1]
        for mode in range(1, self.modes + 1):
            direction = like(random.standard_normal(ends.shape[1]), ends)
            direction -= ((direction * axis).sum() / length**2) * axis
            direction /= float((direction * direction).sum()) ** 0.5
            amplitudes = self.bend * length * np.sqrt(2.0 / self.modes) * np.sin(mode * np.pi * s)
            chain[1:-1] += like(amplitudes[:, None], ends) * direction
        return chain

    def run(
        self,
        finder: PathFinder,
        value_and_gradient: ValueAndGradient,
        ends: Array,
        *,
        evaluate: Evaluate | None = None,
        full: ValueAndGradient | None = None,
        reseed: Callable[[int], None] | None = None,
        through: Sequence[Array] = (),
        resume: Callable[[int], Resume] | None = None,
    ) -> list[PathResult]:
        """All searches one after the other, see `PathFinder.run`; memory O(runs P D).

        reseed(seed): begins the stream of minibatches anew (`Band.reseed`), before each search but the first, which
        finds it as it is. resume(run): where search `run` keeps its state; finished ones are done again from their
        last state, in no time.

        Raises UserError if a search does, and for more points to go through than searches to do it."""
        require(
            len(through) < self.runs, "ensemble.runs", f"more than the {len(through)} points to go through", self.runs
        )
        results = []
        for run in range(self.runs):
            one = self.finder(finder, run)
            if run and reseed is not None:
                reseed(one.seed)
            results.append(
                one.run(
                    value_and_gradient,
                    self.chain(ends, run, through),
                    evaluate=evaluate,
                    full=full,
                    resume=None if resume is None else resume(run),
                )
            )
        return results


def path_distances(results: Sequence[PathResult], samples: int = 101) -> npt.NDArray[np.float64]:
    """How far apart paths are, (runs, runs), symmetric, in units of the arc length.

    Root mean square over `samples` points of one path of the distance to the nearest point of the other, averaged over
    both directions, divided by the mean arc length of the two; 0 for two halves of the same curve differently sampled.
    """
    s = np.linspace(0.0, 1.0, samples)
    out = np.zeros((len(results), len(results)))
    for i, a in enumerate(results):
        for j, b in enumerate(results[:i]):
            one, other = _embedded(a.points, b.points)
            squares = [_mean_square(one, other, s), _mean_square(other, one, s)]
            mean_length = 0.5 * (a.arc_length[-1] + b.arc_length[-1])
            out[i, j] = out[j, i] = np.sqrt(squares).mean() / mean_length
    return out


def ensemble_variables(results: Sequence[PathResult]) -> dict[str, tuple[Any, ...]]:
    """What is stored of an ensemble in the group `path`, as `schema.make` takes it."""
    runs = ("run",)
    number = np.arange(len(results))
    return {
        "run": (runs, number),
        "other_run": (("other_run",), number),
        "run_highest_loss": (runs, np.array([r.highest_loss for r in results])),
        "run_arc_length": (runs, np.array([r.arc_length[-1] for r in results])),
        "run_perpendicular_gradient_norm": (
            runs,
            np.array([r.perpendicular_gradient_norm[1:-1].max() for r in results]),
        ),
        "run_converged": (runs, np.array([int(r.converged) for r in results])),
        "run_distance": (("run", "other_run"), path_distances(results)),
    }


def _mean_square(path: Floats, other: Floats, s: Floats) -> float:
    return float(np.mean(path_geometry.project(other, path_geometry.interpolate(path, s))[1] ** 2))


def _embedded(a: Array, b: Array) -> tuple[Floats, Floats]:
    """Two paths (P, D) isometrically in as many dimensions as they have points: all that distances need."""
    offsets = [_double(points) - _double(a[:1]) for points in (a, b)]
    blocks = [[numbers(x @ y.T) for y in offsets] for x in offsets]
    values, vectors = np.linalg.eigh(np.block(blocks))
    coordinates = vectors * np.sqrt(np.maximum(values, 0.0))
    return coordinates[: len(a)], coordinates[len(a) :]


def _double(points: Array) -> Array:
    return points.double() if hasattr(points, "double") else points.astype(np.float64)


def _joined(ends: Array, middle: Array) -> Array:
    chain = ends[[0, 0, 1]]
    chain[1] = middle
    return chain
