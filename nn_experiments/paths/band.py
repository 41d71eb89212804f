"""The experiment's objective on all points of a path at once, as a path finder takes it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from nn_experiments.experiment import AnyExperiment
from nn_experiments.objective import Objective, generator


class Band:
    """`value_and_gradient`, `evaluate` and `full` of an experiment on points (P, D), one torch thread per core.

    One fresh minibatch is drawn per call of `value_and_gradient` and shared by all points: a different one for each
    would turn the gradient noise of neighbours into kinks of the path. Each point is computed on one thread, so the
    numbers do not depend on how many there are. Use as a context manager.
    """

    def __init__(self, experiment: AnyExperiment, batch_size: int, seed: int, threads: int) -> None:
        self.batch_size = batch_size
        self._objectives = [experiment.objective() for _ in range(max(1, threads))]
        self.generator = generator(seed)
        self._pool = ThreadPoolExecutor(len(self._objectives), initializer=torch.set_num_threads, initargs=(1,))

    def __enter__(self) -> Band:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    @property
    def objective(self) -> Objective:
        """One of the objectives, for what it knows of data and parameters."""
        return self._objectives[0]

    def value_and_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (P,) and gradient (P, D) of one fresh minibatch, the same for all points."""
        batch = self.objective.draw(self.batch_size, self.generator)
        return self._each(points, lambda objective, point: objective.value_and_gradient(point, batch))

    def full(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (P,) and gradient (P, D) of the full batch."""
        return self._each(points, lambda objective, point: objective.full_value_and_gradient(point))

    def evaluate(self, points: Tensor) -> Tensor:
        """Loss (P,) of the full batch."""
        values = points.new_empty(len(points))

        def work(share: int) -> None:
            for i in range(share, len(points), len(self._objectives)):
                values[i] = self._objectives[share].evaluate(points[i]).loss

        self._spread(work)
        return values

    def _each(
        self, points: Tensor, function: Callable[[Objective, Tensor], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        values, gradients = points.new_empty(len(points)), torch.empty_like(points)

        def work(share: int) -> None:
            for i in range(share, len(points), len(self._objectives)):
                values[i], gradients[i] = function(self._objectives[share], points[i])

        self._spread(work)
        return values, gradients

    def _spread(self, work: Callable[[int], None]) -> None:
        for _ in self._pool.map(work, range(len(self._objectives))):
            pass
