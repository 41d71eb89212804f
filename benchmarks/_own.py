"""What only concerns ourselves: scaling, memory, the same numbers however they are made, and a cold start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _rows
from benchmarks._environment import ROOT
from benchmarks._rows import Row
from benchmarks.peers.problem import Problem, Variant
from benchmarks.peers.worker import Contestant, closing

OURS = "entropy_sim_public"


def scaling(problem: Problem, threads: int, work: float, repeats: int) -> tuple[list[Row], list[dict[str, Any]]]:
    """Cost per walker, step and coordinate over walkers (d = 2) and over d, at equal total work, interleaved.

    work: walkers x steps x coordinates of every point. Two rows (largest/smallest cost) and the table behind them.
    """
    walkers = [(n, 2) for n in (1_000, 10_000, 100_000, 1_000_000)]
    dimensions = [(max(2048, 32768 // d), d) for d in (2, 4, 8, 16, 32, 100, 316, 1000)]
    points = [p for p in walkers + dimensions if p[0] * p[1] * problem.stride <= work]
    costs: dict[tuple[int, int], list[float]] = {p: [] for p in points}
    with closing([Contestant(OURS, problem, 1024, threads, Variant())]) as (ours,):
        ours.advance(100, keep=False, walkers=1024, dimension=2)
        for _ in range(repeats):
            for n, d in points:
                steps = max(problem.stride, int(work / (n * d)))
                costs[n, d].append(1e9 * ours.advance(steps, keep=False, walkers=n, dimension=d) / (n * d * steps))
    table = [
        {"walkers": n, "dimension": d, "ns": float(np.median(c)), "low": min(c), "high": max(c)}
        for (n, d), c in costs.items()
    ]
    rows = []
    for name, wanted in (("from 10³ to 10⁶ walkers (d = 2)", walkers), ("from d = 2 to 1000", dimensions)):
        measured = [p for p in wanted if p in costs]
        ratios = [max(costs[p][i] for p in measured) / min(costs[p][i] for p in measured) for i in range(repeats)]
        medians = [float(np.median(costs[p])) for p in measured]
        complete = len(measured) == len(wanted)
        row = Row(
            f"cost per walker, step, coordinate: largest/smallest, {name}",
            max(medians) / min(medians),
            "ratio",
            "<= 1.3",
            min(ratios),
            max(ratios),
            repeats,
            f"{threads} threads, {work:.1g} coordinate-steps a point, start-up and dataset included"
            + ("" if complete else "; the largest points are left out at this size"),
            complete,
        )
        rows.append(row)
    return rows, table


_PEAK = """
import re, sys
from benchmarks.peers import entropy_sim_public
from benchmarks.peers.problem import Problem
walkers, steps = int(sys.argv[1]), int(sys.argv[2])
entropy_sim_public.prepare(Problem(), walkers, 2, 1)(steps)
with open("/proc/self/status") as status:  # not ru_maxrss, which remembers the parent's
    print(re.search(r"VmHWM:\\s*(\\d+)", status.read())[1])
"""


def memory(problem: Problem, walkers: int, steps: int) -> Row:
    """Growth of the peak memory of a process when it takes ten times the steps."""
    name, unit = f"peak memory, {10 * steps} steps less {steps}", "MiB"
    if not Path("/proc/self/status").exists():
        return _rows.missing(name, unit, "needs Linux's /proc", "<= 2")
    peaks = {}
    for n in (steps, 10 * steps):
        command = [sys.executable, "-c", _PEAK, str(walkers), str(n)]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        if done.returncode:
            return _rows.missing(name, unit, done.stderr.strip().splitlines()[-1], "<= 2")
        peaks[n] = int(done.stdout) / 1024
    stored = 9 * steps // problem.stride * walkers * 8 / 2**20
    note = (
        f"{walkers} walkers, peak {peaks[steps]:.0f} MiB; storing the s that were counted would take {stored:.0f} more"
    )
    return Row(name, peaks[10 * steps] - peaks[steps], unit, "<= 2", note=note)


def same_numbers(problem: Problem, walkers: int, steps: int) -> list[Row]:
    """Bit for bit: one thread and two, other blocks and pieces, and a run that is interrupted and gone on with."""
    from benchmarks.peers.entropy_sim_public import system
    from entropy_sim import Stationary
    from entropy_sim._ensemble import Ensemble

    landscape, noise, dynamics = system(problem)

    def measurement(steps: int) -> Stationary:
        return Stationary(
            landscape,
            noise,
            dynamics,
            walkers=walkers,
            burn_in=0.0,
            duration=steps * problem.step,
            stride=problem.stride,
        )

    def equal(a: Any, b: Any) -> float:
        return float(all(np.array_equal(a[v].values, b[v].values, equal_nan=True) for v in a.data_vars))

    one = measurement(steps).run(threads=1)["stationary"]
    two = measurement(steps).run(threads=2)["stationary"]
    rows = [Row("same numbers bit for bit, 1 and 2 threads", equal(one, two), "1 = same", "= 1")]

    start = landscape.path((np.arange(1000) + 0.5) / 1000)
    whole = Ensemble(landscape, noise, dynamics, start, seed=5, threads=1)
    whole.advance(steps)
    pieces = Ensemble(landscape, noise, dynamics, start, seed=5, threads=2, block=64)
    for piece in (1, 2, steps // 3, steps - 3 - steps // 3):
        pieces.advance(piece)
    same = float(np.array_equal(whole.theta, pieces.theta))
    rows.append(Row("same numbers bit for bit, other chunks of walkers and steps", same, "1 = same", "= 1"))
    return [*rows, _interrupted(measurement, steps, equal)]


def _interrupted(measurement: Any, steps: int, equal: Any) -> Row:
    """A run with a checkpoint, stopped as by Ctrl-C on its way, then started again."""
    import _thread
    import signal
    import threading

    from entropy_sim.checkpoint import Checkpoint

    name, after = "same numbers bit for bit, interrupted and resumed", 0.3
    # Processes that a shell starts in the background ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for _ in range(9):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "unfinished.npz"
                timer = threading.Timer(after, _thread.interrupt_main)
                try:
                    timer.start()
                    measurement(steps).run(checkpoint=Checkpoint(path, measurement(steps)))
                    timer.cancel()
                except KeyboardInterrupt:
                    if path.exists():
                        resumed = measurement(steps).run(checkpoint=Checkpoint(path, measurement(steps)))["stationary"]
                        same = equal(measurement(steps).run()["stationary"], resumed)
                        return Row(name, same, "1 = same", "= 1", note=f"{steps} steps, stopped after {after} s")
            steps *= 4  # it ended, or was not yet under way
    finally:
        signal.signal(signal.SIGINT, before)
    return Row(name, None, "1 = same", "= 1", note="it could not be interrupted in time", valid=False)


def cold_start(repeats: int, walker_steps: int = 10_000_000) -> list[Row]:
    """`entropic simulate stationary --plot` from a new process to the file and its figures, compilation included."""
    walkers, burn_in = 1000, 0.2
    duration = walker_steps / walkers * 0.005
    script = shutil.which("entropic", path=str(Path(sys.executable).parent))
    command = [script] if script else [sys.executable, "-m", "analysis.cli"]
    command += ["simulate", "stationary", "--landscape.transverse-directions", "1", "--walkers", str(walkers)]
    command += ["--burn-in", str(burn_in * duration), "--duration", str((1 - burn_in) * duration), "--stride", "5"]
    seconds: dict[str, list[float]] = {"empty": [], "filled": []}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(repeats):
            cache = Path(folder) / f"cache{i}"
            for state in seconds:
                out = Path(folder) / f"{state}{i}" / "stationary.nc"
                out.parent.mkdir()
                begin = time.perf_counter()
                done = subprocess.run(
                    [*command, "--out", str(out), "--plot"],
                    env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                )
                seconds[state].append(time.perf_counter() - begin)
                if done.returncode or not out.exists() or not list(out.parent.rglob("*.png")):
                    why = (done.stderr.strip().splitlines() or ["no file or figure"])[-1]
                    return [_rows.missing("cold process to file and figure", "s", why, "< 8")]
    note = f"entropic simulate stationary --plot, {walker_steps:.0e} walker-steps, stride 5"
    return [
        _rows.of(f"process to file and figure, compilation cache {state}", found, "s", "< 8", note)
        for state, found in seconds.items()
    ]


def as_table(table: list[dict[str, Any]]) -> str:
    """The scaling table as text."""
    lines = [f"  {'walkers':>9} {'d':>5} {'ns per walker, step, coordinate':>32}"]
    lines += [
        f"  {t['walkers']:>9} {t['dimension']:>5} {t['ns']:>12.3f}   ({t['low']:.3f}…{t['high']:.3f})" for t in table
    ]
    return "\n".join(lines)
