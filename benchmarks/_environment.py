"""What a timing depends on: processor, threads, versions, and the vector instructions our compiled code really uses."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers.worker import processors, versions
from entropy_sim.run_files import git_commit

ROOT = Path(__file__).parents[1]
#: Ours; the peers are float64 throughout, as is their idiom.
FLOAT = "float64 (ours: state and forces; its normals come from uniforms of 32 bits by a transform in float32)"

# Run in a process of its own with an empty cache: code loaded from numba's cache has no assembly to show.
_SHOW_ASSEMBLY = """
import gc, sys
from benchmarks.peers import entropy_sim_public
from benchmarks.peers.problem import Problem
entropy_sim_public.prepare(Problem(), 1024, 1, 1)(100)
from numba.core.dispatcher import Dispatcher
for function in [o for o in gc.get_objects() if isinstance(o, Dispatcher)]:
    if function.__module__.startswith("entropy_sim"):
        for assembly in function.inspect_asm().values():
            print("#", function.__name__)
            print(assembly)
"""
_PACKED = re.compile(
    r"^\s+v(?:(?:add|sub|mul|div|sqrt|min|max|rndscale)p[ds]|fn?m(?:add|sub)\w*p[ds]|pmuludq|prold)\b.*$", re.MULTILINE
)
_WIDTHS = {"zmm": 512, "ymm": 256, "xmm": 128}


def simd(assembly: str) -> dict[str, int]:
    """Packed arithmetic of floats and random words in x86 assembly, counted by width of their registers."""
    found = dict.fromkeys(_WIDTHS, 0)
    for line in _PACKED.findall(assembly):
        for name in _WIDTHS:
            if f"%{name}" in line:
                found[name] += 1
                break
    return found


def simd_bits(counts: dict[str, int]) -> int:
    """Width of the registers that most of the packed instructions use; 0 if there are none."""
    name = max(counts, key=lambda n: counts[n])
    return _WIDTHS[name] if counts[name] else 0


def compiled_simd() -> dict[str, Any]:
    """SIMD width of what our functions compile to on this machine, and the counts behind it."""
    with tempfile.TemporaryDirectory() as empty:
        environment = os.environ | {"NUMBA_CACHE_DIR": empty, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", _SHOW_ASSEMBLY], env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"bits": None, "why": done.stderr.strip().splitlines()[-1:]}
    counts = simd(done.stdout)
    return {"bits": simd_bits(counts), "instructions": counts}


def processor() -> str:
    """The processor's name, with family and model where Linux tells them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.*)$", text, re.M))
    return f"{fields.get('model name', '?')}, family {fields.get('cpu family')}, model {fields.get('model')}"


def load() -> float | None:
    """Processes that were waiting for a processor in the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def environment(packages: tuple[str, ...]) -> dict[str, Any]:
    """All of it."""
    from llvmlite import binding
    from numba import config

    flags = binding.get_host_cpu_features()
    return {
        "processor": processor(),
        "processors": len(processors()),
        "float": FLOAT,
        "simd": compiled_simd(),
        "host_simd": 512 if flags.get("avx512f") else 256 if flags.get("avx2") else 128,
        "numba_cpu_name": getattr(config, "CPU_NAME", None) or binding.get_host_cpu_name(),
        "load_before": load(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "git_commit": git_commit(),
        "versions": versions(packages),
    }


def as_text(found: dict[str, Any]) -> str:
    """A few lines for the terminal."""
    versions_text = ", ".join(f"{n} {v}" for n, v in found["versions"].items())
    width = found["simd"]
    return "\n".join(
        [
            f"{found['processor']}; {found['processors']} processors; load before {found['load_before']}",
            f"{FLOAT}; SIMD of our compiled code {width['bits']} bits {json.dumps(width.get('instructions', width))}, "
            f"of the processor {found['host_simd']} ({found['numba_cpu_name']})",
            f"Python {found['python']}, {versions_text}",
        ]
    )
