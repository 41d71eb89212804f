"""Paths as curves with a few free control points, trained for a low expected loss at uniform t in 0…1.

    θ(t) = Σ_k w_k(t) c_k,     c ← the minimum of ∫_0^1 L(θ(t)) dt,     dL(θ(t))/dc_k = w_k(t) ∇L(θ(t))

with c_0 and c_{K+1} the two ends. Each step draws several t, one in each of as many equal parts of 0…1, which leaves
the expectation as it is and lowers its variance. Such a curve is no minimum-energy path: its points are
not at rest across it, and it may leave the valley floor where that costs little, but it is cheap.

Reference: Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, NeurIPS 2018 (arXiv 1802.10026), eqs. 2-4.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
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
from nn_experiments.paths.resume import Content, Resume

#: Values of t at which the arc length of a curve is summed up.
_FINE = 2001
#: Decay rates and regulariser of Adam (Kingma, Ba, ICLR 2015).
_ADAM = (0.9, 0.999, 1e-8)


@dataclass(frozen=True)
class _Curve:
    """What Bézier curves and polygonal chains share. Raises UserError for options out of range."""

    control_points: int = 1
    """Free control points K between the two ends."""
    steps: int = 1000
    """Steps of training."""
    learning_rate: float = 0.03
    """At the beginning: constant for half of the steps, then falling linearly to a hundredth at nine tenths."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Heavy-ball SGD, or Adam."""
    momentum: float = 0.9
    """Heavy-ball momentum β of "sgd"."""
    weight_decay: float = 0.0
    """λ of the penalty (λ/2)|θ(t)|² that is lowered together with the loss: the one the ends were trained with."""
    samples_per_step: int = 4
    """Values of t in each step; all share one minibatch."""
    points: int = 11
    """Points that the curve is turned into at the end, ends included, equally spaced along its arc length."""
    samples_between: int = 3
    """Points on each segment, besides the path's own, at which the loss is sampled."""
    records: int = 5
    """Times, equally spaced in the training, at which the path so far is sampled densely."""
    tolerance: float = 0.1
    """Converged: between the last two records the path's highest loss changed by at most this fraction of its barrier,
    the highest loss minus that of the higher end."""
    batch_size: int = 128
    """Samples of the minibatch that all t share in a step; drawn by the maker of value_and_gradient."""
    seed: int = 0
    """Seed of those draws and of the t."""

    def __post_init__(self) -> None:
        require(self.control_points >= 1, "control_points", "at least 1", self.control_points)
        require(self.steps >= 1, "steps", "at least 1", self.steps)
        require(0 < self.learning_rate < math.inf, "learning_rate", "a number > 0", self.learning_rate)
        require(self.optimizer in ("sgd", "adam"), "optimizer", "'sgd' or 'adam'", self.optimizer)
        require(0 <= self.momentum < 1, "momentum", "0 <= momentum < 1", self.momentum)
        require(self.weight_decay >= 0, "weight_decay", "a number >= 0", self.weight_decay)
        require(self.samples_per_step >= 1, "samples_per_step", "at least 1", self.samples_per_step)
        require(self.points >= 3, "points", "at least 3", self.points)
        require(self.samples_between > 0, "samples_between", "at least 1", self.samples_between)
        require(self.records >= 1, "records", "at least 1", self.records)
        require(self.tolerance > 0, "tolerance", "a number > 0", self.tolerance)
        require(self.batch_size > 0, "batch_size", "a number of samples > 0", self.batch_size)
        require(self.seed >= 0, "seed", "a number >= 0", self.seed)

    def weights(self, t: npt.ArrayLike) -> Floats:
        """w_k(t) of all control points, ends included, (n, K + 2), for t (n,) in 0…1; each row sums to 1."""
        raise NotImplementedError

    def rate(self, step: int) -> float:
        """The learning rate of a step (from 0)."""
        done = step / self.steps
        return self.learning_rate * float(np.interp(done, [0.5, 0.9], [1.0, 0.01]))

    def run(
        self,
        value_and_gradient: ValueAndGradient,
        ends: Array,
        *,
        evaluate: Evaluate | None = None,
        full: ValueAndGradient | None = None,
        resume: Resume | None = None,
    ) -> PathResult:
        """Find the path between ends[0] and ends[-1], see `PathFinder.run`; memory O((K + points) D)."""
        chain = checked_chain(ends)
        values_of = evaluate or (lambda points: value_and_gradient(points)[0])
        end_losses = numbers(values_of(chain[[0, -1]]))

        def sampled(points: Array) -> Floats:
            return sample(points, end_losses, values_of, self.samples_between, resume)

        finite(end_losses, "ends: expected points of finite loss", "before any step")
        state = _State.start(self.fit(chain), self.optimizer)
        if resume is not None and (content := resume.begin(self, chain)) is not None:
            state = _State.of(content)
        history = state.history
        if not history.highest_loss:
            history.record(points := self.path(state.controls), sampled(points))
        name = type(self).__name__
        records = {round(self.steps * (i + 1) / self.records) for i in range(self.records)}
        with tqdm(total=self.steps, initial=state.step, desc=name, unit="step", disable=None) as progress:
            while state.step < self.steps:
                self._step(state, value_and_gradient, resume)
                if state.step in records:
                    points = self.path(state.controls)
                    history.record(points, sampled(points))
                    progress.set_postfix(loss=f"{history.highest_loss[-1]:.4g}")
                progress.update()
        if resume is not None:
            resume.finish(state.content(), f"{state.step} steps")
        points = self.path(state.controls)
        return measured(
            self,
            points,
            sampled(points),
            full or value_and_gradient,
            history,
            converged=history.settled(float(end_losses.max()), self.tolerance),
            weight_decay=self.weight_decay,
        )

    # --- the curve --------------------------------------------------------------------------------------------------

    def fit(self, chain: Array) -> Array:
        """Control points (K + 2, D) of the curve nearest, in the mean square over s, to a chain (n, D) with its ends;
        of a straight line, equally spaced ones."""
        s = np.linspace(0.0, 1.0, _FINE)
        index = np.arange(len(chain), dtype=np.float64)
        along = path_geometry.interpolate_at(np.eye(len(chain)), path_geometry.normalised_arc_length(chain), s)
        weights = self.weights(s)
        target = along - weights[:, :1] * (index == 0) - weights[:, -1:] * (index == len(chain) - 1)
        if len(chain) == 2:  # underdetermined in nothing but rounding: the exact solution
            fraction = np.linspace(0.0, 1.0, self.control_points + 2)[1:-1]
            inner = np.column_stack([1 - fraction, fraction])
        else:
            inner = np.linalg.lstsq(weights[:, 1:-1], target, rcond=None)[0]
        mixing = np.concatenate([(index == 0)[None, :], inner, (index == len(chain) - 1)[None, :]])
        return like(mixing, chain) @ chain

    def path(self, controls: Array) -> Array:
        """The curve as `points` points (P, D), equally spaced along its arc length, ends exact.

        Lengths come from the inner products of the control points, so the fine curve is never in memory."""
        differences = controls[1:] - controls[:1]
        gram = np.array(numbers(differences @ differences.T))
        t = np.linspace(0.0, 1.0, _FINE)
        steps = np.diff(self.weights(t)[:, 1:], axis=0)
        lengths = np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", steps, gram, steps), 0.0))
        y = np.concatenate([[0.0], np.cumsum(lengths)])
        at = np.interp(np.linspace(0.0, y[-1], self.points), y, t)
        out = like(self.weights(at), controls) @ controls
        out[0], out[-1] = controls[0], controls[-1]
        return out

    # --- training ---------------------------------------------------------------------------------------------------

    def _step(self, state: _State, value_and_gradient: ValueAndGradient, resume: Resume | None) -> None:
        if resume is not None:
            resume.before_step()
        n = self.samples_per_step
        # Keyed by the step: no state of this stream need be kept.
        t = (np.arange(n) + np.random.default_rng((self.seed, state.step)).random(n)) / n
        weights = like(self.weights(t), state.controls)
        points = weights @ state.controls
        values, gradients = value_and_gradient(points)
        losses = numbers(values)
        finite(
            losses,
            "path.learning_rate: expected one at which the path's loss stays finite",
            f"step {state.step + 1} (learning rate {self.rate(state.step):g})",
            resume,
        )
        if resume is not None:
            resume.after_values(state.content, f"step {state.step + 1}")
        if self.weight_decay:
            gradients = gradients + self.weight_decay * points
        gradient = (weights[:, 1:-1].T @ gradients) / n
        free = state.controls[1:-1]
        rate = self.rate(state.step)
        state.step += 1
        if self.optimizer == "sgd":
            state.velocity *= self.momentum
            state.velocity -= rate * gradient
            free += state.velocity
        else:
            first, second, epsilon = _ADAM
            state.velocity *= first
            state.velocity += (1 - first) * gradient
            state.square *= second
            state.square += (1 - second) * gradient * gradient
            root = (state.square / (1 - second**state.step)) ** 0.5
            free -= (rate / (1 - first**state.step)) * state.velocity / (root + epsilon)
        state.history.step(losses)


@dataclass
class _State:
    """Control points (K + 2, D); velocity (or first moment) and second moment (K, D), the latter empty under SGD."""

    controls: Array
    velocity: Array
    square: Array
    step: int
    history: History

    @staticmethod
    def start(controls: Array, optimizer: str) -> _State:
        velocity = controls[1:-1] * 0.0
        return _State(controls, velocity, velocity * 1.0 if optimizer == "adam" else velocity[:0], 0, History())

    @staticmethod
    def of(content: Content) -> _State:
        arrays, rest = content
        return _State(**arrays, step=rest["step"], history=History(**rest["history"]))

    def content(self) -> Content:
        arrays = {"controls": self.controls, "velocity": self.velocity, "square": self.square}
        return arrays, {"step": self.step, "history": asdict(self.history)}


@dataclass(frozen=True)
class BezierCurve(_Curve):
    """Bézier curve of degree K + 1: w_k(t) = C(K+1, k) t^k (1 − t)^{K+1−k}, smooth from end to end."""

    def weights(self, t: npt.ArrayLike) -> Floats:
        """Bernstein polynomials, (n, K + 2)."""
        column = np.asarray(t, dtype=np.float64)[:, None]
        degree = self.control_points + 1
        k = np.arange(degree + 1)
        binomials = np.array([math.comb(degree, int(i)) for i in k], dtype=np.float64)
        return binomials * column**k * (1.0 - column) ** (degree - k)


@dataclass(frozen=True)
class PolygonalChain(_Curve):
    """Polygonal chain: K free corners at t = 1/(K+1), 2/(K+1), …, joined by straight lines.

    The points it is turned into cut a corner that falls between two of them; the losses are those of that path."""

    def weights(self, t: npt.ArrayLike) -> Floats:
        """Hat functions, (n, K + 2)."""
        at = np.asarray(t, dtype=np.float64)[:, None] * (self.control_points + 1)
        return np.maximum(1.0 - np.abs(at - np.arange(self.control_points + 2)), 0.0)
