"""The measurement of docs/own_measurement.md runs, and finds the width that theory says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_runs_and_agrees_with_theory(tmp_path):
    page = (ROOT / "docs" / "own_measurement.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    (tmp_path / "width.py").write_text(code[1], encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "width.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [[float(x) for x in line.split()] for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == [0.1, 0.5, 0.9]
    for _, mean, error, exact in rows:
        assert 0 < error < 0.02 * mean
        # From the exact width at h → 0 to 5 % above it: the bias of the step is 4 % at most.
        assert exact - 4 * error < mean < 1.05 * exact + 4 * error
