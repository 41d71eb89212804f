"""The experiment's objective on all points of a path at once, as a path finder takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor

from nn_experiments.batch_sizes import check_batch
from nn_experiments.curvature import full_precision
from nn_experiments.experiment import AnyExperiment
from nn_experiments.objective import Objective, generator
from nn_experiments.paths._vectorised import Vectorised
from nn_experiments.workers import out_of_memory

T = TypeVar("T")


class Band:
    """`value_and_gradient`, `evaluate` and `full` of an experiment on points (P, D): in threads, or vectorised.

    One fresh minibatch is drawn per call of `value_and_gradient` and shared by all points: a different one for each
    would turn the gradient noise of neighbours into kinks of the path. On the CPU one torch thread per core takes the
    next point as soon as it is done with one, each computed on one thread, so the numbers do not depend on how many
    there are; the minibatch of the last point is taken in halves, lest one thread wait for the other. On a GPU all
    points go through one pass together (`Vectorised`), in chunks that fit into its memory, or, if the network has what
    cannot be mapped over (a branch on its data, say), one by one. Use as a context manager.

    threads: of the loop over the points. device: where, None for the experiment's own. vectorised: None means on a GPU.
    report: told in a line if the points cannot go together. No TensorFloat-32: what counts of a path's gradients is the
    small rest of what nearly cancels.
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
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.batch_size, self.report = batch_size, report
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

    @full_precision()
    def value_and_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (P,) and gradient (P, D) of one fresh minibatch, the same for all points.

        Raises UserError if the data have no such minibatches."""
        check_batch(self.batch_size, self.objective)
        batch = self.objective.draw(self.batch_size, self.generator)
        if (found := self._together(lambda all_of: all_of.value_and_gradient(points, batch))) is not None:
            return found
        inputs = self._inputs(batch)
        group = self.objective.group_size or 1
        half = -(-len(batch) // (2 * group)) * group
        values, gradients = points.new_zeros(len(points)), torch.zeros_like(points)
        adding = Lock()

        def work(objective: Objective, unit: tuple[int, slice]) -> None:
            i, part = unit
            value, gradient = objective.value_and_gradient(points[i], batch[part], inputs=inputs[part])
            share = len(batch[part]) / len(batch)
            with adding:  # two halves: their sum does not depend on which comes first
                values[i] += share * value
                gradients[i].add_(gradient, alpha=share)

        units = [(i, slice(None)) for i in range(len(points) - 1)]
        halves = [slice(None, half), slice(half, None)] if half < len(batch) else [slice(None)]
        self._spread(work, units + [(len(points) - 1, part) for part in halves])
        return values, gradients

    @full_precision()
    def full(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (P,) and gradient (P, D) of the full batch."""
        if (found := self._together(lambda all_of: all_of.full(points))) is not None:
            return found
        values, gradients = points.new_empty(len(points)), torch.empty_like(points)

        def work(objective: Objective, i: int) -> None:
            values[i], gradients[i] = objective.full_value_and_gradient(points[i])

        self._spread(work, range(len(points)))
        return values, gradients

    @full_precision()
    def evaluate(self, points: Tensor) -> Tensor:
        """Loss (P,) of the full batch."""
        if (found := self._together(lambda all_of: all_of.evaluate(points))) is not None:
            return found
        values = points.new_empty(len(points))

        def work(objective: Objective, i: int) -> None:
            values[i] = objective.evaluate(points[i]).loss

        self._spread(work, range(len(points)))
        return values

    def _together(self, call: Callable[[Vectorised], T]) -> T | None:
        """What `call` gives of all points in one pass, None if they go one by one: asked for, or from now on."""
        if self._vectorised is None:
            return None
        try:
            return call(self._vectorised)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            self._vectorised = None  # if the fault is the network's own, the loop meets it again
            if self.report is not None:
                reason = str(error).split("\n", 1)[0]
                self.report(f"path: points go one by one, slower: torch.vmap cannot map over the network ({reason})")
            return None

    def _inputs(self, batch: Tensor) -> Tensor:
        """Of a batch; images on the CPU with the channels last in memory, which its convolutions prefer."""
        inputs = self.objective.inputs[batch]
        if inputs.ndim == 4 and inputs.device.type == "cpu":
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def _spread(self, work: Callable[[Objective, T], None], units: Sequence[T]) -> None:
        waiting = iter(units)

        def take(objective: Objective) -> None:
            for unit in waiting:  # one at a time: Python's lock is held while one is taken
                work(objective, unit)

        for _ in self._pool.map(take, self._objectives):
            pass
