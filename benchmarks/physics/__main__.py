"""`python -m benchmarks.physics [CLAIM ...] [--quick] [--json FILE]`."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import time
from pathlib import Path

import benchmarks.physics
from benchmarks.physics._rows import Row


def claims() -> list[str]:
    """Names of all claims, one per file."""
    found = pkgutil.iter_modules(benchmarks.physics.__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def main(arguments: list[str] | None = None) -> int:
    """Print the rows of the claims; the exit status counts rows more than four standard errors off."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.physics", description=benchmarks.physics.__doc__)
    parser.add_argument("claim", nargs="*", help=f"any of {', '.join(claims())} (default: all)")
    parser.add_argument("--quick", action="store_true", help="smaller samples")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.claim) - set(claims())):
        parser.error(f"claim: expected any of {', '.join(claims())}, found {', '.join(unknown)}")
    kept: dict[str, dict[str, object]] = {}
    off = 0
    for name in chosen.claim or claims():
        module = importlib.import_module(f"benchmarks.physics.{name}")
        start = time.perf_counter()
        rows: list[Row] = module.rows(quick=chosen.quick)
        seconds = time.perf_counter() - start
        print(f"{name}: {module.TITLE} ({seconds:.0f} s)")
        for row in rows:
            print(row.line())
        off += sum(abs(row.z) > 4.0 for row in rows)
        kept[name] = {"title": module.TITLE, "seconds": seconds, "rows": [row.as_json() for row in rows]}
        sys.stdout.flush()
    if chosen.json:
        chosen.json.write_text(json.dumps({"quick": chosen.quick, "claims": kept}, indent=1) + "\n", encoding="utf-8")
    if off:
        print(f"{off} rows are more than four standard errors from what is expected")
    return min(off, 100)


if __name__ == "__main__":
    sys.exit(main())
