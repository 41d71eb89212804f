"""The experiment's objective on all points of a path at once, as a path finder takes it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from nn_experiments.experiment import AnyExperiment
from nn_experiments.objective import Objective, generator
from nn_experiments.paths._vectorised import Vectorised


class Band:
    """`value_and_gradient`, `evaluate` and `full` of an experiment on points (P, D): in threads, or vectorised.

    One fresh minibatch is drawn per call of `value_and_gradient` and shared by all points: a different one for each
    would turn the gradient noise of neighbours into kinks of the path. On the CPU one torch thread per core takes the
    points in turn, each computed on one thread, so the numbers do not depend on how many there are. On a GPU all points
    go through one pass together (`Vectorised`), in chunks that fit into its memory. Use as a context manager.

    threads: of the loop over the points. device: where, None for the experiment's own. vectorised: None means on a GPU.
    Memory: the points and their gradients, O(P D), besides the activations of one point per thread, or of a chunk.
    """

    def __init__(
        self,
        experiment: AnyExperiment,
        batch_size: int,
        seed: int,
        threads: int = 1,
        device: torch.device | str | None = None,
        vectorised: bool | None = None,
    ) -> None:
        self.batch_size = batch_size
        made = experiment.objective() if device is None else experiment.objective(device=device)
        on_gpu = made.device.type != "cpu"
        together = on_gpu if vectorised is None else vectorised
        more = 0 if together or on_gpu else max(1, threads) - 1  # threads would only queue up on a GPU
        self._objectives = [made, *(experiment.objective() for _ in range(more))]
        self._vectorised = Vectorised(made) if together else None
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

    def reseed(self, seed: int) -> None:
        """Begin the stream of minibatches anew, from another seed."""
        self.generator.set_state(generator(seed).get_state())

    def value_and_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (P,) and gradient (P, D) of one fresh minibatch, the same for all points."""
        batch = self.objective.draw(self.batch_size, self.generator)
        if self._vectorised is not None:
            return self._vectorised.value_and_gradient(points, batch)
        return self._each(points, lambda objective, point: objective.value_and_gradient(point, batch))

    def full(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (P,) and gradient (P, D) of the full batch."""
        if self._vectorised is not None:
            return self._vectorised.full(points)
        return self._each(points, lambda objective, point: objective.full_value_and_gradient(point))

    def evaluate(self, points: Tensor) -> Tensor:
        """Loss (P,) of the full batch."""
        if self._vectorised is not None:
            return self._vectorised.evaluate(points)
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
