"""`entropic network` on networks of ours by name, and on a user's own from the how-to."""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analysis.cli import main
from entropy_sim.run_files import read_tree

HOW_TO = Path(__file__).parents[2] / "docs" / "own_network.md"
SMALL = [
    "--path.pivots 3 --path.cycles 0.02 3 --path.samples-between 1 --path.batch-size 32",
    "--profile.points 3 --profile.probes 2 --profile.parts 2 --profile.eigenvalues 1 --profile.lanczos-steps 3",
    "--profile.eigenvalue-samples 32 --profile.noise-batches 4",
    "--plane.cells 2 --plane.loss-samples 32",
    "--mean-force.positions 0.3 0.7 --mean-force.learning-rate 0.1 --mean-force.burn-in 0.2 --mean-force.duration 1.6",
    "--mean-force.control-step 0.2 --relaxation.starts 0.3 0.7 --relaxation.control-starts 0.3",
    "--relaxation.replicas 2 --relaxation.learning-rate 0.1 --relaxation.duration 0.4 --relaxation.records 2",
    "--relaxation.control-step 0.2 --relaxation.loss-samples 32",
]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The how-to's file and two checkpoints of its network, in the current directory."""
    block = re.search(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    (tmp_path / "arcs.py").write_text(block[1])
    monkeypatch.chdir(tmp_path)
    found = runpy.run_path("arcs.py")
    for seed in (1, 2):
        torch.manual_seed(seed)
        save_file(found["Net"]().state_dict(), f"{seed}.safetensors")
    return found


def network(*arguments: str) -> int:
    return main(["network", *" ".join(arguments).split(), "--processes", "1"])


def test_the_command_of_the_how_to(own, capsys):
    command = next(line for line in HOW_TO.read_text(encoding="utf-8").splitlines() if "entropic network" in line)
    assert main([*command.split()[1:], *" ".join(SMALL).split(), "--processes", "1"]) == 0
    tree = read_tree("runs/arcs/network.nc")
    assert tree.attrs["system"] == "Net of arcs.py"
    assert set(tree.children) == {"path", "profile", "plane", "mean_force", "relaxation"}
    # The first point of the path is the first checkpoint: its loss, from the user's own module and data.
    torch.manual_seed(1)
    module, loss, train, test = own["problem"]()
    minimum = module()
    profile = tree["profile"].sel(path_kind="neb").isel(s=0)
    for name, (inputs, targets) in (("loss", train), ("test_loss", test)):
        expected = float(loss(minimum(inputs), targets).detach())
        assert float(profile[name]) == pytest.approx(expected, rel=1e-5)
    wrong = float((minimum(test[0]).argmax(1) != test[1]).float().mean())
    assert float(profile["test_error"]) == pytest.approx(wrong, abs=1e-6)
    # The trace, against the explicit Hessian of the module: 2 probes, so a wide error bar.
    assert np.isfinite(profile["hessian_trace"])
    # Again: everything is there; the file gone, the configuration has it.
    capsys.readouterr()
    os.rename("arcs.py", "elsewhere.py")
    assert network("all --config runs/arcs/network.nc --out runs/arcs") == 0
    assert capsys.readouterr().out.count("already done") == 6


def test_without_checkpoints_two_minima_are_trained(own, capsys):
    assert network("train --module=arcs.py:problem --training.epochs 1 --out out") == 0
    assert "seed 1" in capsys.readouterr().out
    assert Path("out/checkpoints/minimum_1.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--module arcs.py", "--module: expected FILE.py:FUNCTION, found 'arcs.py'"),
        ("--module arcs.py:none", "--module: expected a function none in arcs.py, found Net, arcs, problem"),
        ("--module gone.py:problem", "--module: expected a Python file, found no file gone.py"),
        ("--module arcs.py:problem --checkpoints 1.safetensors", "--checkpoints: expected two files or none, found"),
        ("--checkpoints 1.safetensors 3.safetensors", "--checkpoints: expected a safetensors file, found no file 3"),
        ("--device cuda:99", "--device: expected cuda:99 to be there, found"),
        ("--device tpu", "--device: expected cpu, cuda, cuda:N or auto, found 'tpu'"),
        ("network:wideresnet --network.depth 11", "--network.depth: expected 6 n + 4"),
        ("network:transformer", "network: expected one of res-net, wide-res-net,"),
        ("data:cifar10 --data.root nowhere", "nowhere"),
    ],
)
def test_mistakes_are_one_line_naming_the_option(own, capsys, arguments, message):
    assert network("train", arguments, "--out out") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("out").exists()
