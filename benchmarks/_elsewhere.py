"""Where a peer may be faster than we are: few walkers, long trajectories, everything recorded, half the precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import _rows
from benchmarks._rows import Row
from benchmarks.peers.problem import Problem, Variant
from benchmarks.peers.worker import Contestant, Missing, closing

OURS = "entropy_sim_public"


@dataclass(frozen=True)
class Entry:
    """A contestant of a scenario: module, name, options and steps of one timing."""

    peer: str
    name: str
    options: dict[str, Any]
    steps: int
    processes: str = "each"


def _jax(**options: Any) -> dict[str, Any]:
    return {"generator": "threefry2x32"} | options


def _few(walkers: int, scale: float) -> list[Entry]:
    return [
        Entry(OURS, "ours", {"measurement": "relaxation"}, int(scale * 400_000)),
        Entry("numpy_loop", "NumPy", {"chunk": walkers}, int(scale * 10_000)),
        Entry("jax_scan", "JAX", _jax(), int(scale * 40_000)),
        Entry("deeptime_double_well", "deeptime", {}, max(100, int(scale * 400_000 / walkers))),
    ]


def _recorded(every: int, steps: int, scale: float, chunk: int) -> list[Entry]:
    n = max(every, int(scale * steps) // every * every)
    return [
        Entry(OURS, "ours", {"measurement": "relaxation", "records": n // every}, n),
        Entry("numpy_loop", "NumPy", {"chunk": chunk, "record": every}, n),
        Entry("jax_scan", "JAX", _jax(record=every), n),
        Entry("deeptime_double_well", "deeptime", {"record": every}, n),
    ]


def _half(scale: float) -> list[Entry]:
    n = max(100, int(scale * 1000))
    return [
        Entry(OURS, "ours, float64", {}, 10 * n),
        Entry("jax_scan", "JAX float32", _jax(dtype="float32"), n),
        Entry("numpy_loop", "NumPy float32", {"chunk": 16384, "dtype": "float32"}, n),
    ]


def scenarios(walkers: int, scale: float) -> list[tuple[str, int, int, Callable[[], list[Entry]]]]:
    """(name, walkers, threads, contestants); scale: fraction of the full number of steps."""
    return [
        *((f"{n} walker{'s' * (n > 1)}, final state only", n, 1, lambda n=n: _few(n, scale)) for n in (1, 16, 64, 256)),
        ("1 walker, every step recorded", 1, 1, lambda: _recorded(1, 20_000, scale, 1)),
        (f"{walkers} walkers, every 10th step recorded", walkers, 1, lambda: _recorded(10, 400, scale, 16384)),
        (f"{walkers} walkers, peers in float32", walkers, 2, lambda: _half(scale)),
    ]


def rows(problem: Problem, walkers: int, threads: int, scale: float, repeats: int) -> list[Row]:
    """A row per scenario and peer: its time per step over ours; below 1 the peer is faster."""
    found: list[Row] = []
    for name, n, wanted, entries in scenarios(walkers, scale):
        found += _scenario(name, problem, n, min(wanted, threads), entries(), repeats)
    return found


def _scenario(name: str, problem: Problem, walkers: int, threads: int, entries: list[Entry], repeats: int) -> list[Row]:
    running: list[tuple[Entry, Contestant]] = []
    found: list[Row] = []
    with closing([]) as contestants:
        for entry in entries:
            variant = Variant(entry.options, "one" if entry.peer == OURS or threads == 1 else entry.processes)
            try:
                contestant = Contestant(entry.peer, problem, walkers, threads, variant)
                contestants.append(contestant)
                contestant.advance(entry.steps, keep=False)
                running.append((entry, contestant))
            except Missing as why:
                found.append(_rows.missing(f"{name}: {entry.name} / ours", "ratio", str(why)))
        for _ in range(repeats):
            for entry, contestant in list(running):
                contestant.turn(entry.steps)
    costs = {entry.name: [1e9 * t / entry.steps / walkers for t in c.seconds] for entry, c in running}
    (ours_name,) = [e.name for e in entries if e.peer == OURS]
    ours = costs.pop(ours_name)
    for peer, cost in costs.items():
        ratios = [p / o for p, o in zip(cost, ours, strict=True)]
        row = _rows.of(f"{name}: {peer} / ours", ratios, "ratio")
        spelled = f"{sorted(cost)[len(cost) // 2]:.3g} and {sorted(ours)[len(ours) // 2]:.3g} ns per walker-step"
        faster = f"{peer} IS FASTER: " if row.value is not None and row.value < 1 else ""
        threads_text = f", {threads} thread{'s' * (threads > 1)}"
        found.append(_rows.of(row.name, ratios, "ratio", note=f"{faster}{spelled}{threads_text}"))
    return found


def least_run(problem: Problem, repeats: int) -> Row:
    """What a public run costs before its first step: the dataset, its provenance, the compiled functions at hand."""
    with closing([Contestant(OURS, problem, 64, 1, Variant())]) as (ours,):
        ours.advance(1, keep=False)
        for _ in range(repeats):
            ours.advance(1)
        return _rows.of("a run of 64 walkers and one step", [1e3 * t for t in ours.seconds], "ms", note="Stationary")
