"""The rows of the network benchmark, on problems too small to time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import _curvature, networks
from benchmarks._rows import Row


def test_contestants_multiply_with_the_same_hessian(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios are valid only where the traces agree; peers that are not there leave rows that say so."""
    problem = _curvature.Problem(depth=8, width=2, batch=32, size=8)
    rows = {row.name: row for row in _curvature.rows(True, problem)}
    probe = torch.ones(sum(p.numel() for p in problem.module().parameters()))
    direct = _curvature.ours(problem, 32)(probe)
    for peer in ("PyHessian", "curvlinops"):
        ratio = rows[f"Hessian trace per probe: ours / {peer}"]
        assert "not installed" in ratio.note if ratio.value is None else ratio.repeats == 3
    if rows["Hessian trace per probe: ours / PyHessian"].value is not None:
        assert rows["Hessian trace per probe: ours / PyHessian"].valid
        theirs = _curvature.pyhessian(problem)(probe)
        torch.testing.assert_close(theirs, direct, rtol=1e-3, atol=1e-3 * float(direct.abs().max()))
    assert rows["Hessian trace per probe: ours / gradient"].target == "<= 1.4"

    wrong = _curvature.ours
    monkeypatch.setattr(_curvature, "pyhessian", lambda p: lambda v: 1.01 * wrong(p, 32)(v) + 0.1)
    monkeypatch.setattr(_curvature, "find_spec", lambda name: None if name == "curvlinops" else object())
    rows = {row.name: row for row in _curvature.rows(True, problem)}
    assert rows["Hessian trace per probe: ours / PyHessian"].met is False
    assert not rows["Hessian trace per probe: ours / PyHessian"].valid
    assert rows["Hessian trace per probe: ours / curvlinops"].met is False
    assert "curvlinops is not installed" in rows["Hessian trace per probe: ours / curvlinops"].note


def test_the_table_is_printed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [Row("one", 2.0, "ratio", "<= 1"), Row("two", None, "ratio", ">= 5", note="not measured: no CUDA device")]
    monkeypatch.setitem(networks.PARTS, "training", ("Training", lambda quick: made))
    out = tmp_path / "rows.json"
    assert networks.main(["--quick", "--parts", "training", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "0 of 2 targets met" in text
    assert "not measured: no CUDA device" in text
    found = json.loads(out.read_text())
    assert [(r["name"], r["met"]) for r in found["rows"]] == [("one", False), ("two", False)]
    assert "torch" in found["environment"]["versions"]
    with pytest.raises(SystemExit):
        networks.main(["--json", str(tmp_path / "absent" / "rows.json")])
