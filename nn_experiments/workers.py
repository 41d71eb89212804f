"""Independent units of work, one process per core and one torch thread in each.

Small networks do not use two threads well: two processes do twice the work. Every unit brings its own seeds and runs on
one thread, wherever it runs, so the numbers do not depend on how many processes there are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from entropy_sim.errors import UserError, require

U = TypeVar("U")
R = TypeVar("R")


def cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """A pool that is started once (importing torch costs seconds) and used for every stage of a run.

        with Workers(2) as workers:
            results = workers.map(function, units, "mean force")

    processes: None means one per core; with 1 the work is done in this process. `function` and the units must be
    picklable, and so must a main program be importable (a script needs `if __name__ == "__main__":`).
    """

    def __init__(self, processes: int | None = None) -> None:
        require(processes is None or processes >= 1, "processes", "a number >= 1", processes)
        self.processes = cores() if processes is None else processes
        self._executor: ProcessPoolExecutor | None = None
        self._others: set[Any] = set()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(at_once=kind is not None)

    def start(self) -> None:
        """Start the processes now, so that they load while this process does something else."""
        if self.processes > 1:
            for future in [self._pool().submit(_nothing) for _ in range(self.processes)]:
                future.add_done_callback(_ignore)

    def close(self, *, at_once: bool = False) -> None:
        """End the processes, after the work in hand or at once."""
        executor, self._executor = self._executor, None
        if executor is not None:
            if at_once:
                # Asked for only now: a process that was started while another died is in nobody's list.
                for child in set(multiprocessing.active_children()) - self._others:
                    child.terminate()
            executor.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[U], R], units: Iterable[U], label: str = "") -> list[R]:
        """[function(u) for u in units], in this order, with a progress bar.

        The first exception a unit raises is raised here, a UserError as it is; Ctrl-C ends all processes at once.
        Raises UserError if a process died (killed, or out of memory).
        """
        units = list(units)
        progress = tqdm(total=len(units), desc=label, disable=None, leave=False)
        with progress:
            if self.processes == 1 or len(units) == 1:
                return self._here(function, units, progress)
            return self._spread(function, units, progress)

    def _here(self, function: Callable[[U], R], units: Sequence[U], progress: tqdm) -> list[R]:
        results = []
        with one_thread():
            for unit in units:
                results.append(function(unit))
                progress.update()
        return results

    def _spread(self, function: Callable[[U], R], units: Sequence[U], progress: tqdm) -> list[R]:
        pool = self._pool()
        try:
            futures: list[Future[R]] = [pool.submit(function, unit) for unit in units]
            for future in as_completed(futures):
                future.result()
                progress.update()
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            self.close(at_once=True)
            raise UserError(
                "processes: expected workers that live, found one that died (out of memory: lower it; or see above)"
            ) from error
        except BaseException:
            self.close(at_once=True)
            raise

    def _pool(self) -> ProcessPoolExecutor:
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            self._others = set(multiprocessing.active_children())
            self._executor = ProcessPoolExecutor(self.processes, mp_context=context, initializer=_begin)
        return self._executor


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside, as in a worker: sums over threads would depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


#: What CPU allocator, CUDA and its libraries say in plain runtime errors where they find no memory.
_NO_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` tells of too little memory, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


@contextmanager
def memory_errors(lower: str) -> Iterator[None]:
    """Turn "out of memory", on any device, into a UserError that says what to `lower`; nothing else is changed."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        text = str(error).split("\n", 1)[0]
        raise UserError(f"memory: expected enough of it, found {text or 'none left'}; lower {lower}") from error


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; only the parent acts on it
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore between processes, which a killed one leaves behind
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: Any) -> None:
    parent.join()
    os._exit(1)  # the parent was killed: nobody will take the results


def _nothing() -> None:
    """Work for a process that is only to be started."""


def _ignore(_: Future[None]) -> None:
    """Errors of a started process show up when it is given real work."""
