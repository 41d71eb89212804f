"""AutoNEB: a minimum-energy path between two minima, by a nudged elastic band that adds pivots where it needs them.

The band is a polyline of pivots with fixed ends. Each step moves the inner pivots down the gradient projected off the
path's tangent; instead of spring forces, every few steps the pivots are put back to their places along the arc length
of the polyline (the limit of infinitely stiff springs). After each cycle of steps the loss is sampled between the
pivots, and where it bulges above the straight interpolation a pivot is added. Later cycles have smaller learning rates.

References: Draxler, Veschgini, Salmhofer, Hamprecht, ICML 2018 (arXiv 1803.00885); the tangent is that of Henkelman,
Jónsson, J. Chem. Phys. 113 (2000) 9978, eqs. 8-11; without springs, E, Ren, Vanden-Eijnden, J. Chem. Phys. 126 (2007)
164103.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from entropy_sim import path_geometry
from entropy_sim.errors import require
from entropy_sim.path_geometry import Array
from nn_experiments.paths.base import (
    Evaluate,
    Floats,
    History,
    PathResult,
    ValueAndGradient,
    checked_chain,
    finite,
    like,
    measured,
    numbers,
    sample,
)
from nn_experiments.paths.linear import linear
from nn_experiments.paths.resume import Content, Resume


@dataclass(frozen=True)
class AutoNEBState:
    """The band after `cycles_done` cycles and `step` steps of the next: what `run(start=…)` and a file go on from.

    points: (P, D). places: where along the path (0…1) each pivot is kept, (P,). loss_scale: highest minus lowest loss
    of the straight line. velocity: (P - 2, D) within a cycle, None between two: no velocity outlives a cycle."""

    points: Array
    places: Floats
    loss_scale: float
    cycles_done: int
    history: History
    step: int = 0
    velocity: Array | None = None

    @property
    def steps_done(self) -> int:
        """Steps so far: where a caller's stream of minibatches goes on."""
        return len(self.history.mean_loss)

    @property
    def where(self) -> str:
        """In words."""
        return f"cycle {self.cycles_done + 1}, step {self.step + 1}" if self.step else f"{self.cycles_done} cycles"

    def content(self) -> Content:
        """As arrays and plain JSON."""
        arrays = (
            {"points": self.points} if self.velocity is None else {"points": self.points, "velocity": self.velocity}
        )
        rest: dict[str, Any] = {"places": self.places.tolist(), "loss_scale": self.loss_scale, "step": self.step}
        return arrays, {**rest, "cycles_done": self.cycles_done, "history": asdict(self.history)}

    @staticmethod
    def of(content: Content) -> AutoNEBState:
        """From such."""
        arrays, rest = content
        given = {**rest, "places": np.array(rest["places"]), "history": History(**rest["history"])}
        return AutoNEBState(points=arrays["points"], velocity=arrays.get("velocity"), **given)


@dataclass(frozen=True)
class AutoNEB:
    """Configuration of a minimum-energy path.

    The loss scale of `insertion_threshold` is that of the straight line, its highest sampled loss minus its lowest;
    the barrier of `tolerance` is that of the path found, which may be a hundred times lower. Raises UserError for
    options out of range.
    """

    pivots: int = 7
    """Points at the start, both ends included, equally spaced on the straight line."""
    cycles: tuple[tuple[float, int], ...] = ((0.02, 60), (0.02, 60), (0.02, 40), (0.01, 30))
    """Learning rate and number of steps of each cycle."""
    momentum: float = 0.9
    """Heavy-ball momentum β, the update being projected after it; velocities start from zero in each cycle."""
    weight_decay: float = 0.0
    """λ of the penalty (λ/2)|θ|² that is descended together with the loss: the one the ends were trained with."""
    tangent: Literal["upwind", "central"] = "upwind"
    """Upwind (Henkelman and Jónsson: towards the higher neighbour) or central (parabola through the neighbours)."""
    redistribute_every: int = 10
    """Steps between redistributions along the arc length (one always ends a cycle)."""
    samples_between: int = 3
    """Points on each segment, besides the pivots, at which the loss is sampled after each cycle."""
    insertion_threshold: float = 0.01
    """Excess of the loss between two pivots over their interpolation, in loss scales, that calls for one more."""
    insertions: int = 2
    """Most pivots added after a cycle, where the excess is largest."""
    tolerance: float = 0.1
    """Converged: the last cycle changed the path's highest loss by at most this fraction of its barrier, the highest
    loss minus that of the higher end, and nowhere is the insertion threshold exceeded."""
    batch_size: int = 128
    """Samples of the minibatch that all pivots share in a step; drawn by the maker of value_and_gradient."""
    seed: int = 0
    """Seed of those draws."""

    def __post_init__(self) -> None:
        require(self.pivots >= 3, "pivots", "at least 3", self.pivots)
        require(len(self.cycles) > 0, "cycles", "at least one (learning rate, steps)", self.cycles)
        for rate, steps in self.cycles:
            require(rate > 0 and steps > 0, "cycles", "a positive learning rate and number of steps", (rate, steps))
        require(0 <= self.momentum < 1, "momentum", "0 <= momentum < 1", self.momentum)
        require(self.weight_decay >= 0, "weight_decay", "a number >= 0", self.weight_decay)
        require(self.tangent in ("upwind", "central"), "tangent", "'upwind' or 'central'", self.tangent)
        require(self.redistribute_every > 0, "redistribute_every", "a number of steps > 0", self.redistribute_every)
        require(self.samples_between > 0, "samples_between", "at least 1", self.samples_between)
        require(self.insertion_threshold > 0, "insertion_threshold", "a number > 0", self.insertion_threshold)
        require(self.insertions >= 0, "insertions", "a number >= 0", self.insertions)
        require(self.tolerance > 0, "tolerance", "a number > 0", self.tolerance)
        require(self.batch_size > 0, "batch_size", "a number of samples > 0", self.batch_size)

    @property
    def steps(self) -> int:
        """Steps of all cycles together."""
        return sum(steps for _, steps in self.cycles)

    def run(
        self,
        value_and_gradient: ValueAndGradient,
        ends: Array,
        *,
        evaluate: Evaluate | None = None,
        full: ValueAndGradient | None = None,
        resume: Resume | None = None,
        start: AutoNEBState | None = None,
        callback: Callable[[AutoNEBState], None] | None = None,
    ) -> PathResult:
        """Find the path between ends[0] and ends[-1], see `PathFinder.run`; memory O(P D).

        callback(state) is called after each cycle; `start` goes on from such a state (the last cycle's state contains
        the finished band), with the same result as an uninterrupted run if the minibatches go on too. `resume` does
        both by way of a file, also within a cycle."""
        chain = checked_chain(ends)
        values_of = evaluate or (lambda points: value_and_gradient(points)[0])
        end_losses = numbers(values_of(chain[[0, -1]]))
        finite(end_losses, "ends: expected points of finite loss", "before any step")
        if resume is not None and (content := resume.begin(self, chain)) is not None:
            start = AutoNEBState.of(content)
        sampled: Floats | None = None
        if start is None:
            points, places = path_geometry.redistribute(chain, self.pivots), np.linspace(0.0, 1.0, self.pivots)
            sampled = sample(points, end_losses, values_of, self.samples_between)
            straight = sampled
            if len(chain) > 2:
                line = linear(chain[[0, -1]], self.pivots)
                straight = sample(line, end_losses, values_of, self.samples_between)
            start = AutoNEBState(points, places, float(straight.max() - straight.min()), 0, History())
            start.history.record(points, sampled)
        state = start
        with tqdm(total=self.steps, initial=state.steps_done, desc="AutoNEB", unit="step", disable=None) as progress:
            while state.cycles_done < len(self.cycles):
                state = self._cycle(state, value_and_gradient, end_losses, resume, progress)
                sampled = sample(state.points, end_losses, values_of, self.samples_between, resume)
                state.history.record(state.points, sampled)
                if state.cycles_done < len(self.cycles):
                    state = self._insert(state, sampled)
                if callback is not None:
                    callback(state)
                if resume is not None:
                    resume.finish(state.content(), state.where)
        if sampled is None:
            sampled = sample(state.points, end_losses, values_of, self.samples_between)
        resolved = float(self._excess(sampled).max()) <= self.insertion_threshold * state.loss_scale
        return measured(
            self,
            state.points,
            sampled,
            full or value_and_gradient,
            state.history,
            converged=state.history.settled(float(end_losses.max()), self.tolerance) and resolved,
            weight_decay=self.weight_decay,
            inner_tangents=self._tangents,
        )

    # --- one cycle --------------------------------------------------------------------------------------------------

    def _cycle(
        self,
        state: AutoNEBState,
        value_and_gradient: ValueAndGradient,
        end_losses: Floats,
        resume: Resume | None,
        progress: tqdm,
    ) -> AutoNEBState:
        learning_rate, steps = self.cycles[state.cycles_done]
        points = state.points * 1.0  # our own: a caller may have kept the state
        history = copy.deepcopy(state.history)
        inner = points[1:-1]
        velocity = inner * 0.0 if state.velocity is None else state.velocity * 1.0
        for step in range(state.step, steps):
            if resume is not None:
                resume.before_step()
            values, gradients = value_and_gradient(inner)
            losses = np.concatenate([end_losses[:1], numbers(values), end_losses[1:]])
            here = replace(state, points=points, history=history, step=step, velocity=velocity if step else None)
            where = f"cycle {state.cycles_done + 1} (learning rate {learning_rate:g}), step {step + 1}"
            finite(losses, "path.cycles: expected learning rates at which the path's loss stays finite", where, resume)
            if resume is not None:
                resume.after_values(here.content, here.where)
            tangents = self._tangents(points, losses)
            velocity *= self.momentum
            velocity -= learning_rate * gradients
            if self.weight_decay:
                velocity -= (learning_rate * self.weight_decay) * inner
            # The final update is projected, after momentum: old velocity must not slide along a turned tangent.
            velocity -= (velocity * tangents).sum(-1)[:, None] * tangents
            inner += velocity
            if (step + 1) % self.redistribute_every == 0 or step + 1 == steps:
                points[:] = path_geometry.interpolate(points, state.places)
            history.step(losses[1:-1])
            progress.update()
        progress.set_postfix(pivots=len(points), loss=f"{history.highest_pivot_loss[-1]:.4g}")
        done = state.cycles_done + 1
        return replace(state, points=points, cycles_done=done, history=history, step=0, velocity=None)

    def _tangents(self, points: Array, losses: Floats) -> Array:
        """Unit tangents at the inner pivots, (P - 2, D)."""
        if self.tangent == "central":
            return path_geometry.tangents(points)[1:-1]
        energies = losses
        if self.weight_decay:
            energies = losses + 0.5 * self.weight_decay * numbers((points * points).sum(-1))
        return upwind_tangents(points, energies)

    # --- insertion --------------------------------------------------------------------------------------------------

    def _excess(self, sampled: Floats) -> Floats:
        fractions = np.linspace(0.0, 1.0, sampled.shape[1])
        return sampled - (sampled[:, :1] + (sampled[:, -1:] - sampled[:, :1]) * fractions)

    def _insert(self, state: AutoNEBState, sampled: Floats) -> AutoNEBState:
        excess = self._excess(sampled)
        largest = excess.max(axis=1)
        order = np.argsort(-largest, kind="stable")[: self.insertions]
        chosen = np.sort(order[largest[order] > self.insertion_threshold * state.loss_scale])
        if chosen.size == 0:
            return state
        fractions = excess[chosen].argmax(axis=1) / (sampled.shape[1] - 1.0)
        index = np.arange(len(state.points), dtype=np.float64)
        with_new = np.sort(np.concatenate([index, chosen + fractions]))
        points = path_geometry.interpolate_at(state.points, index, with_new)
        return replace(state, points=points, places=np.interp(with_new, index, state.places))


def upwind_tangents(points: Array, energies: Floats) -> Array:
    """Unit tangents at the inner points of a band, (P - 2, D), towards the neighbour of higher energy.

    With the unit vectors u₋, u₊ of the segments before and after: u₊ where the energy rises through the point, u₋ where
    it falls, and at an extremum u₊ ΔE₊ + u₋ ΔE₋ with ΔE the larger of the two energy differences on the side of the
    higher neighbour and the smaller on the other; this keeps a band from kinking on a steep slope. Where all three
    energies are equal, the bisector.
    Reference: Henkelman, Jónsson, J. Chem. Phys. 113 (2000) 9978, eqs. 8-11."""
    before, here, after = energies[:-2], energies[1:-1], energies[2:]
    up, down = np.abs(after - here), np.abs(before - here)
    large, small = np.maximum(up, down), np.minimum(up, down)
    rising, falling = (after > here) & (here > before), (after < here) & (here < before)
    forward_higher = after > before
    forward = np.where(rising, 1.0, np.where(falling, 0.0, np.where(forward_higher, large, small)))
    backward = np.where(rising, 0.0, np.where(falling, 1.0, np.where(forward_higher, small, large)))
    flat = forward + backward == 0.0
    forward[flat] = backward[flat] = 1.0
    segments = points[1:] - points[:-1]
    lengths = np.sqrt(numbers((segments * segments).sum(-1)))
    out = segments[1:] * like((forward / (forward + backward) / lengths[1:])[:, None], points)
    out += segments[:-1] * like((backward / (forward + backward) / lengths[:-1])[:, None], points)
    norms = np.sqrt(numbers((out * out).sum(-1)))
    out *= like((1.0 / np.maximum(norms, np.finfo(np.float64).tiny))[:, None], points)
    return out
