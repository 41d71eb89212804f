"""Speed of the network side beside other libraries: `python -m benchmarks.networks [--json FILE] [--quick]`.

One run measures everything side by side, contestants taking turns; the value of a row is the median over the rounds (of
ratios taken within a round), with its range. See README.md beside this file for what is compared, and how.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import _curvature, _environment, _neb_band, _rows, _training_rows
from benchmarks._rows import Row
from benchmarks.peers.worker import processors, versions

PACKAGES = ("torch", "torchvision", "curvlinops-for-pytorch", "pyhessian", "numpy")
#: Floats per point and parameter that the geometry of a path may take at its peak, however many points it has.
PATH_MEMORY = 30

_PATH = """
import sys, torch
from nn_experiments.measurements._frames import frames
points, dimension = int(sys.argv[1]), int(sys.argv[2])
frames(torch.randn(2, 10), [0.0, 0.5, 1.0])
path = torch.randn(points, dimension).cumsum(0)
frames(path, torch.linspace(0, 1, points).tolist())
# Not getrusage: a process inherits the peak of the one that started it.
print(1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]))
"""


def memory(quick: bool) -> list[Row]:
    """Peak memory of the frames of a path with P and with 2P points, in processes of their own."""
    points, dimension = 32, 200_000 if quick else 270_000
    # glibc keeps what is freed in blocks of up to 32 MB, so that P points would take more each than 2P of them.
    settings = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}

    def peak(count: int) -> float:
        command = [sys.executable, "-c", _PATH, str(count), str(dimension)]
        done = subprocess.run(command, cwd=_environment.ROOT, env=settings, capture_output=True, text=True, check=True)
        return float(done.stdout)

    low, middle, high = (peak(k * points) for k in (1, 2, 4))
    one = points * dimension * 4
    note = f"tangents and curvature of {points}…{4 * points} points of {dimension} parameters"
    return [
        Row(
            "memory of a path / (points x parameters x 4 bytes)",
            (high - middle) / (2 * one),
            "1",
            f"<= {PATH_MEMORY}",
            note=note,
        ),
        Row(
            "memory of a path: growth per point, 4P over 2P",
            (high - middle) / 2 / (middle - low),
            "ratio",
            "<= 1.2",
            note=note,
        ),
    ]


PARTS: dict[str, tuple[str, Callable[[bool], list[Row]]]] = {
    "curvature": ("Products with the Hessian", _curvature.rows),
    "path": ("A step of the path search", _neb_band.rows),
    "training": ("Training", _training_rows.rows),
    "memory": ("Memory", memory),
}


def environment() -> dict[str, Any]:
    """Processor, threads, devices and versions."""
    cuda = torch.cuda.is_available()
    return {
        "processor": _environment.processor(),
        "processors": len(processors()),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "none",
        "load_before": _environment.load(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions(PACKAGES),
    }


def measure(quick: bool, parts: Sequence[str] = tuple(PARTS), say: Any = print) -> dict[str, Any]:
    """All rows of the chosen parts and the environment, as plain data; printed on the way."""
    begin, found = time.perf_counter(), environment()
    say(
        f"{found['processor']}; {found['processors']} processors, {found['threads']} threads; "
        f"CUDA device: {found['device']}; load before {found['load_before']}\n"
        f"Python {found['python']}, " + ", ".join(f"{n} {v}" for n, v in found["versions"].items())
    )
    rows: list[Row] = []
    for name in parts:
        title, make = PARTS[name]
        new = make(quick)
        say(f"\n{title} ({time.perf_counter() - begin:.0f} s)\n{_rows.HEADER}")
        for row in new:
            say(row.line())
        rows += new
    unmet = [row.name for row in rows if row.met is False]
    held, seconds = sum(row.met is not None for row in rows), time.perf_counter() - begin
    missed = f"; not: {'; '.join(unmet)}" if unmet else ""
    say(f"\n{held - len(unmet)} of {held} targets met, in {seconds:.0f} s{missed}")
    return {"rows": [row.as_json() for row in rows], "environment": found | {"seconds": seconds, "quick": quick}}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 0 even where targets are missed: the table says which."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the rows and the environment to this file")
    parser.add_argument("--quick", action="store_true", help="fewer repeats: noisier figures")
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS), help="only these parts")
    parser.add_argument("--threads", type=int, help="torch threads of every contestant (default: torch's own)")
    given = parser.parse_args(arguments)
    if given.threads is not None and given.threads < 1:
        parser.error(f"--threads: expected a positive number, found {given.threads}")
    if given.json is not None and not given.json.parent.is_dir():
        parser.error(f"--json: expected a file in a directory that exists, found {given.json}")
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    found = measure(given.quick, given.parts)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {given.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
