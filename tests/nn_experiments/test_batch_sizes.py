"""Batch sizes that do not fit the data are refused before the first stage, by the names the user gave them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from entropy_sim.errors import UserError
from nn_experiments.batch_sizes import check_noise
from nn_experiments.datasets import Digits
from nn_experiments.experiment import Experiment
from nn_experiments.measurements.ladder import Ladder
from nn_experiments.measurements.profile import Profile
from nn_experiments.measurements.relaxation import Relaxation
from nn_experiments.noise import Label, Minibatch
from nn_experiments.paths.autoneb import AutoNEB
from nn_experiments.paths.linear import StraightLine
from nn_experiments.run import NetworkRun
from nn_experiments.stages import Stage
from nn_experiments.train import Training

RUN = NetworkRun(experiment=Experiment(Digits(test_fraction=0.85)))  # 269 images to train on
LADDER = Ladder(noise=Minibatch(), strengths=(), floor=False, batch_sizes=(16, 40))


@pytest.mark.parametrize(
    ("stage", "config", "message"),
    [
        (
            "path",
            replace(RUN, path=AutoNEB(batch_size=100)),
            "path.batch_size: expected a multiple of the group size 16, found 100",
        ),
        (
            "profile",
            replace(RUN, path=AutoNEB(batch_size=512)),
            "path.batch_size: expected at most 269 samples, found 512",
        ),
        ("profile", replace(RUN, profile=Profile(noise=Minibatch(17))), "profile.noise.batch_size: .* found 17"),
        ("mean-force", replace(RUN, mean_force=LADDER), "mean_force.batch_sizes: expected a multiple .* found 40"),
        ("all", replace(RUN, relaxation=Relaxation(noise=Minibatch(288))), "relaxation.noise.batch_size: .* found 288"),
        ("escape", replace(RUN, escape=replace(RUN.escape, noise=Label())), "loss: expected squared"),
    ],
)
def test_refused_before_the_first_stage(
    stage: Stage, config: NetworkRun, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Training, "run", never)
    with pytest.raises(UserError, match=f"^{message}"):
        config.run(tmp_path, stage=stage, processes=1)
    assert not any(tmp_path.rglob("*.safetensors"))


def test_only_what_will_be_used_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the batches of a stage that was not asked for, nor those of a path that draws none."""

    class Begun(Exception):
        pass

    def begin(*_: object, **__: object) -> None:
        raise Begun

    monkeypatch.setattr(Training, "run", begin)
    unused = replace(RUN, path=StraightLine(batch_size=512), relaxation=Relaxation(noise=Minibatch(288)))
    with pytest.raises(Begun):
        unused.run(tmp_path, stage="path", processes=1)


def test_other_complaints_stay_as_they_are() -> None:
    with pytest.raises(UserError, match="^loss: expected squared"):
        check_noise(Label(batch_size=17), RUN.experiment.objective(), "mean_force.noise.batch_size")
