"""`python -m benchmarks.physics [CLAIM ...] [--quick] [--json FILE] [--markdown FILE]`."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import pkgutil
import sys
import time
from pathlib import Path
from typing import Any

import benchmarks.physics
from benchmarks.physics._rows import Row
from entropy_sim.run_files import git_commit


def claims() -> list[str]:
    """Names of all claims, one per file."""
    found = pkgutil.iter_modules(benchmarks.physics.__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def markdown(kept: dict[str, dict[str, Any]], quick: bool) -> str:
    """The claims as a page of tables."""
    sample = " --quick" if quick else ""
    lines = [
        "# The simulator against theory",
        "",
        f"Written by `python -m benchmarks.physics{sample} --markdown FILE` at commit {git_commit()[:12]}. z is the",
        "distance from the expected value in standard errors (a stated bias is added to them); a rejected formula",
        "stands with its own z. A row without an expected value is there for its own sake.",
    ]
    for name, claim in kept.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"{claim['title'][:1].upper()}{claim['title'][1:]} ({claim['seconds']:.0f} s).",
            "",
        ]
        lines += ["| | measured | expected | z | rejected | note |", "| --- | --- | --- | --- | --- | --- |"]
        for row in claim["rows"]:
            expected = "" if row["expected"] is None else f"{row['expected']:.5g}"
            z = "" if row["expected"] is None or math.isnan(row["z"]) else f"{row['z']:.1f}"
            rejected = ""
            if row["rejected"] is not None:
                rejected = f"{row['rejected_name']}: {row['rejected']:.5g} (z {row['z_rejected']:.0f})"
            cells = [row["name"], f"{row['measured']:.5g} ± {row['stderr']:.2g}", expected, z, rejected, row["note"]]
            lines.append("| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Print the rows of the claims; the exit status counts rows more than four standard errors off."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.physics", description=benchmarks.physics.__doc__)
    parser.add_argument("claim", nargs="*", help=f"any of {', '.join(claims())} (default: all)")
    parser.add_argument("--quick", action="store_true", help="smaller samples")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--markdown", type=Path, help="also write them as tables to this file")
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.claim) - set(claims())):
        parser.error(f"claim: expected any of {', '.join(claims())}, found {', '.join(unknown)}")
    kept: dict[str, dict[str, Any]] = {}
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
    if chosen.markdown:
        chosen.markdown.write_text(markdown(kept, chosen.quick), encoding="utf-8")
    if chosen.json:
        chosen.json.write_text(json.dumps({"quick": chosen.quick, "claims": kept}, indent=1) + "\n", encoding="utf-8")
    if off:
        print(f"{off} rows are more than four standard errors from what is expected")
    return min(off, 100)


if __name__ == "__main__":
    sys.exit(main())
