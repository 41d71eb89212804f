"""Speed of the simulator beside other libraries: `python -m benchmarks.simulator [--json FILE] [--quick]`.

One run measures everything side by side: each contestant in processes of its own, held to its processors, taking turns
round by round; the value of a row is the median over the rounds (of ratios taken within a round), with its range. See
README.md beside this file for what is compared, and how.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _elsewhere, _environment, _own, _rows
from benchmarks._rows import Row
from benchmarks.peers.problem import Problem, Variant
from benchmarks.peers.worker import Contestant, Missing, closing, fastest, processors

OURS, FLOOR = "entropy_sim_public", "mkl_floor"
#: Peers, and how many times longer than ours each must take (per walker-step, equal threads).
PEERS: dict[str, float | None] = {
    "diffrax_euler": 20,
    "jax_scan": 15,
    "numpy_loop": 8,
    "deeptime_double_well": 8,
    "torchsde_euler": None,
    "torch_loop": None,
}
#: A peer whose averages are further than this from the exact ones, in standard errors, did not do the work.
Z_LIMIT = 4.0
#: What another stride costs is shown beside it.
OTHER_STRIDES = (1, 50)
#: Ours once more, as processes of one thread each: they share nothing, so no threads can gain more on these processors.
APART = "apart"


@dataclass(frozen=True)
class Settings:
    """Sizes of a run."""

    walkers: int = 16384
    """Walkers of the race."""
    rounds: int = 9
    """Rounds of the race."""
    steps: int = 1000
    """Steps of a peer's turn: 5 units of time, more than three of the longest autocorrelation time."""
    own_steps: int = 40_000
    """Steps of our turn and of the floor's, whose walker-steps are some twenty times shorter: half a second with two
    threads."""
    work: float = 2.4e9
    """Walkers x steps x coordinates of each point of the scaling table."""
    repeats: int = 3
    """Repeats of everything outside the race."""
    scale: float = 1.0
    """Length of the runs that look for faster peers."""
    walker_steps: int = 10_000_000
    """Walker-steps of the cold start."""


FULL = Settings()
QUICK = Settings(rounds=3, steps=500, own_steps=3000, repeats=1, scale=0.25)


@dataclass
class Race:
    """What a race leaves, by (peer or name, threads)."""

    threads: list[int]
    ran: dict[tuple[str, int], Contestant] = field(default_factory=dict)
    absent: dict[tuple[str, int], str] = field(default_factory=dict)
    costs: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    """Nanoseconds per walker-step, round by round."""
    checks: dict[tuple[str, int], dict[str, float]] = field(default_factory=dict)
    """z-scores of the averages of those that have any."""

    def valid(self, key: tuple[str, int]) -> bool:
        """Whether all averages are the exact ones; the floor and the other strides have none to show."""
        if key not in self.checks:
            return True
        z = self.checks[key].values()
        return bool(z) and all(abs(value) <= Z_LIMIT for value in z)


def race(settings: Settings, problem: Problem, peers: Sequence[str], say: Any = print) -> Race:
    """All contestants, round by round."""
    found = Race([n for n in (1, 2) if n <= len(processors())])
    last = found.threads[-1]

    def steps(peer: str) -> int:
        return settings.own_steps if peer in (OURS, FLOOR) else settings.steps

    with closing([]) as contestants:

        def enter(key: tuple[str, int], make: Callable[[], Contestant]) -> None:
            try:
                contestant = make()
                contestants.append(contestant)
                contestant.advance(steps(contestant.peer), keep=False)
                found.ran[key] = contestant
            except Missing as why:
                found.absent[key] = str(why)

        for peer in (OURS, FLOOR, *peers):
            for n in found.threads:
                enter((peer, n), lambda p=peer, n=n: fastest(p, problem, settings.walkers, n, steps(p)))  # type: ignore[misc]
                outcome = found.absent.get((peer, n)) or str(found.ran[peer, n].variant)
                say(f"  heat: {_name(peer)}, {_threads(n)}: {outcome}")
        for stride in OTHER_STRIDES:
            variant = Variant({"stride": stride})
            enter((f"stride {stride}", last), lambda v=variant: Contestant(OURS, problem, settings.walkers, last, v))  # type: ignore[misc]
        if last > 1:
            variant = Variant(processes="each")
            enter((APART, last), lambda: Contestant(OURS, problem, settings.walkers, last, variant))
        for i in range(settings.rounds):
            for key, contestant in list(found.ran.items()):
                try:
                    contestant.turn(steps(contestant.peer))
                    if i == settings.rounds - 1 and key[0] in (OURS, *peers):
                        found.checks[key] = contestant.check()
                except Missing as why:
                    found.absent[key] = str(why)
                    del found.ran[key]
    for key, contestant in found.ran.items():
        found.costs[key] = [1e9 * t / settings.walkers / steps(contestant.peer) for t in contestant.seconds]
    return found


def race_rows(settings: Settings, problem: Problem, peers: Sequence[str], found: Race) -> list[Row]:
    """The rows of a race: costs, ratios against their targets, and the checks."""
    rows: list[Row] = []
    unit = "ns/walker-step"
    threads, absent, costs = found.threads, found.absent, found.costs

    def cost(name: str, key: tuple[str, int], note: str) -> None:
        if key in absent:
            rows.append(_rows.missing(name, unit, absent[key]))
        else:
            rows.append(_rows.of(name, costs[key], unit, note=note or _heat(found.ran[key]), valid=found.valid(key)))

    for n in threads:
        for peer in (OURS, FLOOR, *peers):
            every = (
                f"Stationary.run, {settings.own_steps} steps, histogram every {problem.stride}" if peer == OURS else ""
            )
            cost(f"{_name(peer)}, {_threads(n)}", (peer, n), every)
    last = threads[-1]
    for stride in OTHER_STRIDES:
        cost(
            f"{_name(OURS)}, {_threads(last)}, stride {stride}", (f"stride {stride}", last), f"histogram every {stride}"
        )

    def ratio(name: str, above: tuple[str, int], below: tuple[str, int], target: str, note: str = "") -> None:
        for key in (above, below):
            if key in absent:
                rows.append(_rows.missing(name, "ratio", absent[key], target))
                return
        values = [a / b for a, b in zip(costs[above], costs[below], strict=True)]
        rows.append(_rows.of(name, values, "ratio", target, note, found.valid(above) and found.valid(below)))

    for n in threads:
        ratio(f"{_name(OURS)} / floor, {_threads(n)}", (OURS, n), (FLOOR, n), "<= 2.5", "aim 1.5")
    for peer in peers:
        for n in threads:
            wanted = PEERS.get(peer)
            # Per thread is what was asked of deeptime, whose threads share nothing.
            held = wanted is not None and (peer != "deeptime_double_well" or n == 1)
            target = f">= {wanted:g}" if held else ""
            note = "its own double well: compare the cost only" if peer == "deeptime_double_well" else ""
            ratio(f"{_name(peer)} / ours, {_threads(n)} each", (peer, n), (OURS, n), target, note)
    if last == 2:
        ratio("ours: speed of 2 threads / 1 thread", (OURS, 1), (OURS, 2), ">= 1.8")
        note = "they share nothing: what these processors gain"
        ratio("ours: speed of 2 processes / 1 thread", (OURS, 1), (APART, 2), "", note)
    else:
        rows.append(_rows.missing("ours: speed of 2 threads / 1 thread", "ratio", "one processor only", ">= 1.8"))
    for (peer, n), z in found.checks.items():
        name = f"check of {_name(peer)}, {_threads(n)}: largest |z|"
        largest = float(np.max(np.abs(list(z.values())))) if z else None
        note = ", ".join(f"{average} {value:+.1f}" for average, value in z.items())
        rows.append(Row(name, largest, "stderr", f"<= {Z_LIMIT:g}", note=note))
    return rows


def _heat(contestant: Contestant) -> str:
    """The variant that raced, and what the others took in the heat."""
    others = {name: ns for name, ns in contestant.heat.items() if name != str(contestant.variant)}
    slower = "; ".join(f"{name} {ns:.3g}" for name, ns in sorted(others.items(), key=lambda item: item[1]))
    return f"{contestant.variant}" + (f" (in the heat: {slower})" if slower else "")


def _name(peer: str) -> str:
    return str(importlib.import_module(f"benchmarks.peers.{peer}").NAME)


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"


def measure(settings: Settings, peers: Sequence[str] = tuple(PEERS), say: Any = print) -> dict[str, Any]:
    """Everything: rows, the scaling table, the heats and the environment, as plain data; printed on the way."""
    problem, begin = Problem(), time.perf_counter()
    modules = [importlib.import_module(f"benchmarks.peers.{p}") for p in (OURS, FLOOR, *peers)]
    environment = _environment.environment(tuple(dict.fromkeys(p for m in modules for p in m.PACKAGES)))
    threads = min(2, len(processors()))
    say(_environment.as_text(environment))
    busy = environment["load_before"] is not None and environment["load_before"] > 0.5
    if busy:
        say("  NOTE: other processes were running on this machine in the last minute; timings are unreliable")
    say(
        f"channel k = {problem.soft:g}…{problem.stiff:g}, T = {problem.temperature:g}, h = {problem.step:g}, "
        f"{settings.walkers} walkers, histogram every {problem.stride} steps = a tenth of the fastest relaxation time"
    )
    rows: list[Row] = []

    def add(title: str, new: list[Row]) -> None:
        say(f"\n{title} ({time.perf_counter() - begin:.0f} s)\n{_rows.HEADER}")
        for row in new:
            say(row.line())
        rows.extend(new)

    raced = race(settings, problem, peers, say)
    heats = {f"{_name(p)}, {_threads(n)}": c.heat for (p, n), c in raced.ran.items() if c.heat}
    add("The race", race_rows(settings, problem, peers, raced))
    scaled, table = _own.scaling(problem, threads, settings.work, settings.repeats)
    add("Scaling", scaled)
    say(_own.as_table(table))
    add("Memory", [_own.memory(problem, settings.walkers, settings.steps)])
    add("The same numbers", _own.same_numbers(problem, min(4096, settings.walkers), settings.steps))
    add("A cold start", _own.cold_start(settings.repeats, settings.walker_steps))
    least = _elsewhere.least_run(problem, settings.repeats + 2)
    add(
        "Where a peer may be faster",
        [least, *_elsewhere.rows(problem, settings.walkers, threads, settings.scale, settings.repeats)],
    )
    unmet = [row.name for row in rows if row.met is False]
    held = sum(row.met is not None for row in rows)
    seconds = time.perf_counter() - begin
    say(
        f"\n{held - len(unmet)} of {held} targets met, in {seconds:.0f} s"
        + (f"; not: {'; '.join(unmet)}" if unmet else "")
    )
    return {
        "rows": [row.as_json() for row in rows],
        "scaling": table,
        "heats": heats,
        "environment": environment | {"threads": threads, "stride": problem.stride, "seconds": seconds, "busy": busy},
        "problem": asdict(problem),
        "settings": asdict(settings),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 0 even where targets are missed: the table says which."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulator", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the rows and the environment to this file")
    parser.add_argument("--quick", action="store_true", help="shorter runs: noisier figures")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS), help="only these peers")
    parser.add_argument("--rounds", type=int, help="rounds of the race")
    given = parser.parse_args(arguments)
    settings = QUICK if given.quick else FULL
    if given.rounds is not None:
        if given.rounds < 1:
            parser.error(f"--rounds: expected a positive number, found {given.rounds}")
        settings = replace(settings, rounds=given.rounds)
    if given.json is not None and not given.json.parent.is_dir():
        parser.error(f"--json: expected a file in a directory that exists, found {given.json}")
    found = measure(settings, given.peers)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {given.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
