"""Each contestant runs in processes of its own, held to its processors, and waits there between its turns."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.peers.problem import Problem, Variant, z_scores

Sample = dict[str, tuple[float, float, int]]


def processors() -> list[int]:
    """Processors that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _serve(
    connection: Connection,
    peer: str,
    problem: Problem,
    walkers: int,
    threads: int,
    seed: int,
    variant: Variant,
    cpus: Any,
) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.update({"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"} | variant.environment)
    warnings.simplefilter("ignore")  # of the peers
    module = importlib.import_module(f"benchmarks.peers.{peer}")
    try:
        advance = module.prepare(problem, walkers, threads, seed, **variant.options)
        connection.send(module.exact(problem) if hasattr(module, "exact") else problem.exact())
        averages = getattr(module, "averages", lambda p, y, x: p.averages(y, x))
        while (message := connection.recv()) is not None:
            if message == "check":
                connection.send(module.check(problem, walkers, threads, seed) if hasattr(module, "check") else None)
                continue
            steps, overrides = message
            begin = time.perf_counter()
            state = advance(steps, **overrides)
            end = time.perf_counter()
            connection.send((begin, end, None if state is None else averages(problem, *state)))
    except ImportError as error:
        connection.send(f"not installed: {error}".splitlines()[0])
    except (EOFError, KeyboardInterrupt):  # the other end is gone
        pass
    except Exception as error:  # another version of the peer, perhaps: its row says so and the others go on
        connection.send(f"failed: {type(error).__name__}: {error}".splitlines()[0])


class Missing(Exception):
    """The peer cannot run here; says why."""


@dataclass
class Contestant:
    """A peer in one variant on a number of threads, with everything measured so far."""

    peer: str
    problem: Problem
    walkers: int
    threads: int
    variant: Variant
    seed: int = 1
    seconds: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    heat: dict[str, float] = field(default_factory=dict)
    """Nanoseconds per walker-step of every variant in the qualifying heat."""

    def __post_init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        count = self.threads if self.variant.processes == "each" else 1
        available = processors()[-self.threads :]
        self._workers = []
        for i in range(count):
            cpus = available if count == 1 else [available[i % len(available)]]
            here, there = spawn.Pipe()
            share = self.walkers // count + (i < self.walkers % count)
            arguments = (
                there,
                self.peer,
                self.problem,
                share,
                self.threads // count,
                self.seed + i,
                self.variant,
                cpus,
            )
            process = spawn.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            there.close()
            self._workers.append((process, here))
        self.exact: dict[str, float] = self._receive()[0]

    def _receive(self) -> list[Any]:
        """The answers of all processes; raises Missing, after ending them, if one has none."""
        answers: list[Any] = []
        for _, connection in self._workers:
            try:
                answers.append(connection.recv())
            except EOFError:
                answers.append("failed: its process ended")
        for answer in answers:
            if isinstance(answer, str):
                self.close()
                raise Missing(answer)
        return answers

    def advance(self, steps: int, *, keep: bool = True, **overrides: Any) -> float:
        """Take the steps with all processes at once; the seconds from the first start to the last end."""
        for _, connection in self._workers:
            connection.send((steps, overrides))
        answers = self._receive()
        seconds = max(end for _, end, _ in answers) - min(begin for begin, _, _ in answers)
        if keep:
            self.seconds.append(seconds)
            self.samples += [sample for _, _, sample in answers if sample is not None]
        return float(seconds)

    def turn(self, steps: int) -> None:
        """The same steps twice, of which the second time counts: on a virtual machine all memory is slow to touch
        again after a pause (tens of milliseconds), for which nobody is to pay."""
        self.advance(steps, keep=False)
        self.advance(steps)

    def check(self) -> dict[str, float]:
        """z-scores of the averages found in all calls so far (or in a run of their own), against the exact ones."""
        for _, connection in self._workers:
            connection.send("check")
        own = self._receive()[0]
        if own is not None:
            return z_scores([own[0]], self.exact) | own[1]
        names = self.samples[0] if self.samples else ()
        return z_scores(self.samples, {n: v for n, v in self.exact.items() if n in names})

    def close(self) -> None:
        """End the processes."""
        for process, connection in self._workers:
            if process.is_alive():
                with contextlib.suppress(OSError):
                    connection.send(None)
            process.join(5)
            if process.is_alive():
                process.terminate()


@contextlib.contextmanager
def closing(contestants: list[Contestant]) -> Iterator[list[Contestant]]:
    """Ends the processes of all contestants that are in the list by then."""
    try:
        yield contestants
    finally:
        for contestant in contestants:
            contestant.close()


def fastest(peer: str, problem: Problem, walkers: int, threads: int, steps: int, **options: Any) -> Contestant:
    """The qualifying heat: every variant warms up (which compiles) and runs; the fastest stays. May be Missing."""
    best: tuple[float, Contestant] | None = None
    heat: dict[str, float] = {}
    why = Missing("no variant")
    variants = importlib.import_module(f"benchmarks.peers.{peer}").VARIANTS
    if threads == 1:
        variants = [replace(v, processes="one") for v in variants]
    distinct = {str(v): v.with_options(**options) for v in variants}
    for name, variant in distinct.items():
        try:
            contestant = Contestant(peer, problem, walkers, threads, variant)
            contestant.advance(steps, keep=False)
            seconds = min(contestant.advance(steps, keep=False) for _ in range(2)) if len(distinct) > 1 else 0.0
        except Missing as error:
            why = error
            continue
        if len(distinct) > 1:
            heat[name] = 1e9 * seconds / (steps * walkers)
        if best is None or seconds < best[0]:
            if best:
                best[1].close()
            best = seconds, contestant
        else:
            contestant.close()
    if best is None:
        raise why
    best[1].heat = heat
    return best[1]


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions; "not installed" where missing."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
