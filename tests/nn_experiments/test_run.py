"""The stages of a network run: done once, kept, and refused when another configuration made them."""

from __future__ import annotations

import importlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from entropy_sim import run_files, schema
from entropy_sim.errors import UserError
from nn_experiments import checkpoints, run_directory
from nn_experiments.datasets import Digits
from nn_experiments.experiment import Experiment
from nn_experiments.measurements import Barrier, Escape, MeanForce, Plane, Profile, Relaxation
from nn_experiments.measurements.ladder import Ladder
from nn_experiments.networks.resnet import ResNet
from nn_experiments.noise import Label, Minibatch, Thermal
from nn_experiments.paths.alignment import WeightMatching
from nn_experiments.paths.autoneb import AutoNEB
from nn_experiments.paths.ensemble import PathEnsemble
from nn_experiments.run import NetworkRun
from nn_experiments.stages import ALL
from nn_experiments.train import Training

TINY = NetworkRun(
    experiment=Experiment(Digits(test_fraction=0.85), ResNet(width=2)),  # 270 images to train on
    training=Training(epochs=1),
    path=AutoNEB(pivots=3, cycles=((0.02, 2),), samples_between=1, batch_size=32),
    profile=Profile(
        points=3, probes=2, parts=2, eigenvalues=1, lanczos_steps=2, eigenvalue_samples=32, noise_batches=2
    ),
    plane=Plane(cells=2, loss_samples=32),
    mean_force=MeanForce(
        positions=(0.3, 0.7), learning_rate=0.1, burn_in=0.2, duration=1.6, time_windows=2, control_step=0.2
    ),
    relaxation=Relaxation(
        starts=(0.3, 0.7),
        control_starts=(0.3,),
        replicas=1,
        learning_rate=0.1,
        duration=0.4,
        records=2,
        control_step=0.2,
        loss_samples=32,
    ),
    escape=Escape(start=0.3, replicas=2, learning_rate=0.1, duration=0.4, look_every=2),
)

SPECTRAL = replace(TINY.profile, spectrum_steps=2, spectrum_probes=2)


def run(out: Path, config: NetworkRun = TINY, **options: object) -> tuple[xr.DataTree | None, list[str]]:
    lines: list[str] = []
    tree = config.run(out, processes=1, report=lines.append, **options)  # type: ignore[arg-type]
    done = [re.split(r"[ :]", line)[0] for line in lines if not line.endswith("already done")]
    if done:  # what took how long is told last, of every stage that was done
        took = lines.pop()
        assert took.startswith("time: ")
        assert re.findall(r"([a-z-]+) \d+ s", took.split(";")[0]) == list(dict.fromkeys(d for d in done if d != "time"))
        assert took.endswith(" s on cpu")
    return tree, lines


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    run(out)
    return out


def test_all_stages_leave_one_valid_run(finished):
    tree = run_files.read_tree(finished / "network.nc")
    schema.validate(tree)
    assert set(tree.children) == {"path", "profile", "plane", "mean_force", "relaxation"}
    assert tree.attrs["source"] == "nn_experiments"
    assert tree.attrs["normalization_mode"] == "batch"
    assert run_files.config_from_file(NetworkRun, finished / "network.nc") == TINY
    assert list(tree["profile"]["path_kind"].values) == ["neb", "line"]
    assert {p.name for p in finished.iterdir()} == {"checkpoints", "network.nc"}  # no state is left of what is done
    assert np.isfinite(tree["mean_force"]["mean_force"].values).all()


def test_the_path_ends_in_the_two_minima_and_survives_the_disk(finished):
    objective = TINY.experiment.objective()
    points, _ = checkpoints.load(finished / "checkpoints" / "path.safetensors", objective)
    for i, end in ((0, 0), (1, -1)):
        minimum, record = checkpoints.load(finished / "checkpoints" / f"minimum_{i}.safetensors", objective)
        assert (points[end] == minimum).all()
        assert record["seed"] == TINY.seeds[i]
    path = run_files.read_tree(finished / "network.nc")["path"]
    assert np.isclose(path["arc_length"].values[-1], (points[1:] - points[:-1]).norm(dim=1).sum().item(), rtol=1e-5)


def test_starting_again_does_nothing(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    _, lines = run(finished)
    assert lines == [f"{s}: already done" for s in ("train", "path", "profile", "plane", "mean-force", "relaxation")]
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}


def test_an_interrupted_run_goes_on_and_ends_with_the_same_numbers(finished, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MeanForce, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    lines: list[str] = []
    TINY.run(tmp_path, processes=1, report=lines.append)
    *lines, took = lines
    assert lines == [f"{s}: already done" for s in ("train", "path", "profile", "plane")] + [
        "mean-force: done",
        "relaxation: done",
    ]
    # The first piece's time is told, too; what is told is all there is.
    assert re.findall(r"([a-z-]+) \d+ s", took.split(";")[0]) == list(ALL)
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoints", "network.nc"}
    first, second = (run_files.read_tree(out / "network.nc") for out in (finished, tmp_path))
    for group in first.children:
        xr.testing.assert_identical(first[group].to_dataset(), second[group].to_dataset())


@pytest.mark.parametrize(
    ("stage", "module", "function"),
    [
        ("profile", "profile", "_measure_point"),
        ("plane", "plane", "_evaluate_unit"),
        ("mean-force", "mean_force", "_run_unit"),
        ("relaxation", "relaxation", "_run_unit"),
        ("escape", "escape", "_run_unit"),
    ],
)
def test_a_stage_that_was_cut_goes_on_from_its_last_unit(finished, tmp_path, monkeypatch, stage, module, function):
    """Every unit is done once, whatever was cut; numbers are those of a run that was not."""
    config = replace(TINY, profile=replace(SPECTRAL, noise=Minibatch(48)))
    where = f"nn_experiments.measurements.{module}"
    unit = getattr(importlib.import_module(where), function)
    done: dict[str, int] = {"whole": 0, "cut": 0}

    def counted(name, last=None):
        def one(what):
            if done[name] == last:
                raise KeyboardInterrupt
            done[name] += 1
            return unit(what)

        monkeypatch.setattr(f"{where}.{function}", one)

    for name in done:
        shutil.copytree(finished / "checkpoints", tmp_path / name / "checkpoints")
    counted("whole")
    whole, _ = run(tmp_path / "whole", config, stage=stage)
    assert (whole.attrs["noise"] == "minibatch, B = 48") == (stage == "profile")  # that of what was measured
    counted("cut", last=1)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", config, stage=stage)
    kept = tmp_path / "cut" / "unfinished"
    assert len(list(kept.rglob("*.safetensors"))) == 1
    counted("cut")
    lines: list[str] = []
    tree = config.run(tmp_path / "cut", processes=1, report=lines.append, stage=stage)
    assert done["cut"] == done["whole"] > 1
    for group in whole.children:
        xr.testing.assert_identical(tree[group].to_dataset(), whole[group].to_dataset())
    assert not kept.exists()


def test_another_configuration_is_refused_and_overwrites_only_what_depends_on_it(finished, tmp_path):
    other = replace(TINY, mean_force=replace(TINY.mean_force, seed=7))
    before = (finished / "network.nc").read_bytes()
    with pytest.raises(
        UserError, match=r"--out: expected .* found another configuration's mean-force in .*--overwrite"
    ):
        run(finished, other)
    assert (finished / "network.nc").read_bytes() == before

    shutil.copytree(finished, tmp_path / "copy")
    tree, lines = run(tmp_path / "copy", other, overwrite=True)
    assert tree is not None
    assert lines == [
        *(f"{s}: already done" for s in ("train", "path", "profile", "plane")),
        "mean-force: done",
        "relaxation: already done",
    ]
    old = run_files.read_tree(finished / "network.nc")
    xr.testing.assert_identical(old["profile"].to_dataset(), tree["profile"].to_dataset())
    assert not np.allclose(old["mean_force"]["mean_force"], tree["mean_force"]["mean_force"])


def test_a_new_path_drops_what_was_measured_on_the_old_one(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    other = replace(TINY, path=replace(TINY.path, seed=5))
    tree, _ = run(tmp_path / "copy", other, stage="path", overwrite=True)
    assert tree is not None
    assert set(tree.children) == {"path"}


def test_one_stage_brings_what_it_needs_and_no_more(finished, tmp_path):
    tree, lines = run(tmp_path, stage="relaxation")
    assert tree is not None
    assert set(tree.children) == {"path", "relaxation"}
    assert [line.split(":")[0] for line in lines] == ["train", "train", "path", "relaxation"]
    whole = run_files.read_tree(finished / "network.nc")
    xr.testing.assert_identical(whole["relaxation"].to_dataset(), tree["relaxation"].to_dataset())


@pytest.mark.slow
def test_the_numbers_do_not_depend_on_the_number_of_processes(finished, tmp_path):
    lines: list[str] = []
    tree = TINY.run(tmp_path, stage="mean-force", processes=2, report=lines.append)
    assert tree is not None
    alone = run_files.read_tree(finished / "network.nc")
    for group in ("path", "mean_force"):
        xr.testing.assert_identical(alone[group].to_dataset(), tree[group].to_dataset())


def test_foreign_files_in_the_directory_are_refused(tmp_path):
    (tmp_path / "network.nc").write_text("a letter")
    with pytest.raises(UserError, match=r"network\.nc: expected a netCDF4 file"):
        run(tmp_path)
    assert (tmp_path / "network.nc").read_text() == "a letter"


def test_damaged_checkpoints_are_refused(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    (tmp_path / "copy" / "network.nc").unlink()
    damaged = tmp_path / "copy" / "checkpoints" / "minimum_0.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-8] + b"damaged!")
    with pytest.raises(UserError, match=r"minimum_0\.safetensors: expected SHA-256"):
        run(tmp_path / "copy")


def test_a_checkpoint_without_its_record_is_made_again(finished, tmp_path):
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints", ignore=shutil.ignore_patterns("path*"))
    (tmp_path / "checkpoints" / "minimum_1.json").unlink()
    _, lines = run(tmp_path, stage="train")
    assert [line.split(",")[0] for line in lines] == ["train: seed 0", "train: seed 1"]


@pytest.mark.parametrize(
    ("stage", "where", "lower"),
    [
        ("train", (Training, "run"), "training.batch_size"),
        ("path", (AutoNEB, "run"), "path.batch_size, path.pivots"),
        ("mean-force", (MeanForce, "run"), "the batch size of its noise"),
    ],
)
def test_a_stage_without_memory_says_what_to_lower(stage, where, lower, finished, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte.")

    out = shutil.copytree(finished, tmp_path / "run")
    monkeypatch.setattr(*where, full)
    changed = {
        "train": replace(TINY, training=replace(TINY.training, momentum=0.5)),
        "path": replace(TINY, path=replace(TINY.path, momentum=0.5)),
        "mean-force": replace(TINY, mean_force=replace(TINY.mean_force, seed=5)),
    }[stage]
    before = {p.name: p.read_bytes() for p in (out / "checkpoints").iterdir()}
    with pytest.raises(UserError, match=f"^memory: expected enough of it, found Default.*; lower {lower}"):
        run(out, changed, stage=stage, overwrite=True)
    assert {p.name: p.read_bytes() for p in (out / "checkpoints").iterdir()} == before
    assert {"path", "profile", "mean_force"} <= set(run_files.read_tree(out / "network.nc").children)


def test_equal_seeds_are_refused():
    with pytest.raises(UserError, match="seeds: expected two different numbers"):
        NetworkRun(seeds=(3, 3))


def test_aligned_minima_and_an_ensemble_of_paths(finished, tmp_path):
    config = replace(TINY, alignment=WeightMatching(), ensemble=PathEnsemble(runs=2), profile=SPECTRAL)
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints", ignore=shutil.ignore_patterns("path*"))
    tree, lines = run(tmp_path, config, stage="profile")
    assert tree is not None
    assert lines[0] == "train: already done"
    schema.validate(tree)
    path = tree["path"].to_dataset()
    before, *_, after = path.attrs["alignment_distances"]
    assert after < before
    assert path["run_distance"].shape == (2, 2)
    assert path["run_highest_loss"].values[0] == pytest.approx(path["loss_between"].max().item())
    assert path["run_distance"].values[0, 1] > 0.05
    # Another minimum of the same loss: the second end is permuted, the first is not.
    objective = TINY.experiment.objective()
    points, _ = checkpoints.load(tmp_path / "checkpoints" / "path.safetensors", objective)
    ends = [checkpoints.load(tmp_path / "checkpoints" / f"minimum_{i}.safetensors", objective)[0] for i in (0, 1)]
    assert torch.equal(points[0], ends[0])
    assert (points[-1] - ends[1]).norm() > 0.1
    losses = [objective.evaluate(theta).loss for theta in (points[-1], ends[1])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    second, _ = checkpoints.load(tmp_path / "checkpoints" / "path_1.safetensors", objective)
    assert torch.equal(second[-1], points[-1])
    # The spectrum belongs to the profile, and stays with it.
    assert "spectrum" in tree.children
    again, _ = run(tmp_path, config, stage="escape")
    assert again is not None
    assert set(again.children) == {"path", "profile", "spectrum", "escape"}
    other = replace(config, profile=replace(SPECTRAL, seed=1, spectrum_steps=0))
    changed, _ = run(tmp_path, other, stage="profile", overwrite=True)
    assert changed is not None
    assert set(changed.children) == {"path", "profile", "escape"}


def test_barriers_need_no_stage_before_them(tmp_path):
    force = replace(TINY.mean_force, positions=(0.0, 0.5, 1.0), replicas=2, noise=Minibatch(48), seed=3)
    scan = Barrier(values=(2.0,), training=TINY.training, path=TINY.path, mean_force=force, line_points=3, probes=0)
    config = replace(TINY, barrier=scan)
    tree, lines = run(tmp_path, config, stage="barrier")
    assert tree is not None
    assert set(tree.children) == {"barrier"}
    assert lines[0].startswith("barrier: shared iterations 2: energetic ")
    assert "training_seeds" not in tree.attrs
    assert (tree.attrs["noise"], tree.attrs["seed"]) == ("minibatch, B = 48", 3)  # the scan's, not the default's
    longer = replace(config, barrier=replace(scan, values=(2.0, 3.0)))
    with pytest.raises(UserError, match=r"found another configuration's barrier in .*--overwrite"):
        run(tmp_path, longer, stage="barrier")
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "barrier").rglob("*") if p.is_file()}
    again, _ = run(tmp_path, longer, stage="barrier", overwrite=True)
    assert again is not None
    assert again["barrier"]["energy_barrier"].values[0] == tree["barrier"]["energy_barrier"].values[0]
    assert {p: p.stat().st_mtime_ns for p in kept} == kept  # what the shorter scan had done was not done again


@pytest.mark.parametrize(
    ("measurement", "words"),
    [
        (MeanForce(noise=Minibatch(32)), "minibatch, B = 32"),
        (MeanForce(noise=Label(0.5), learning_rate=0.1), "label, σ = 0.5"),
        (Ladder(), "label, σ = 0.1…0.8"),
        (Ladder(batch_sizes=(16, 32)), "label, σ = 0.1…0.8, B = 16…32"),
        (Ladder(noise=Thermal(restraint=1.0), strengths=(1e-4, 1e-3)), "thermal, T = 0.0001…0.001"),
    ],
)
def test_the_noise_in_words(measurement, words):
    assert run_directory._in_words(measurement) == words
