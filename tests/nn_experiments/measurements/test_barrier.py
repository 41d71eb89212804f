"""Barriers between children of one training: heights of known potentials, and runs of a tiny network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn

from entropy_sim import schema
from entropy_sim.errors import UserError
from entropy_sim.run_files import from_jsonable, read_tree, to_jsonable
from nn_experiments.datasets import Digits
from nn_experiments.experiment import Experiment
from nn_experiments.measurements import Barrier, MeanForce
from nn_experiments.measurements._heights import above_ends, entropic_barrier
from nn_experiments.measurements.mean_force import _run_unit
from nn_experiments.networks.mlp import MLP
from nn_experiments.noise import Minibatch, Thermal
from nn_experiments.objective import Objective, generator
from nn_experiments.paths.autoneb import AutoNEB
from nn_experiments.paths.linear import linear
from nn_experiments.train import Training, _Session

S = np.linspace(0, 1, 9)
LENGTH = 2.5


def forces(slope: np.ndarray, noise: np.ndarray | float = 0.0, control: np.ndarray | None = None) -> xr.Dataset:
    """A group `mean_force` of forces −slope + noise (replicas, s) and a control, (s,) or (replicas, s)."""
    f = -slope + np.broadcast_to(noise, (np.shape(noise)[0] if np.ndim(noise) else 2, S.size))
    quiet = np.zeros((1, S.size)) if control is None else np.atleast_2d(control)
    f = f + (quiet if len(quiet) == len(f) else quiet[:1])
    variables: dict[str, Any] = {
        "s": (("s",), S),
        "time_window": (("time_window",), np.array([1.0, 2.0])),
        "mean_force": (("s", "replica", "time_window"), np.stack([f.T - 0.1, f.T + 0.1], -1)),
        "mean_force_control": (("s", "control_replica", "time_window"), np.stack([quiet.T] * 2, -1)),
    }
    return schema.make("mean_force", variables)


def slope_of(height: float) -> np.ndarray:
    """dV/dy of V = 4 h s (1 − s): linear, so that the trapezoidal rule is exact."""
    return height * 4 * (1 - 2 * S) / LENGTH


def test_height_of_a_known_potential() -> None:
    """Both ends equal; and tilted by c, where the height above their mean is h + c²/16h at s = ½ + c/8h.

    Rejected: the height above the first end (+ c/2), a force of the other sign, a control that is not subtracted.
    """
    found = entropic_barrier(forces(slope_of(0.3)), LENGTH)
    assert (found.value, found.stderr, found.top) == (pytest.approx(0.3), pytest.approx(0.0, abs=1e-12), 0.5)
    tilted = entropic_barrier(forces(slope_of(0.3) + 0.3 / LENGTH, control=np.sin(9 * S)), LENGTH)
    assert tilted.top == 0.625
    assert tilted.value == pytest.approx(0.3 + 0.3**2 / (16 * 0.3))
    assert entropic_barrier(forces(-slope_of(0.3)), LENGTH).value == pytest.approx(0.0)


def test_without_a_barrier_the_height_is_zero_and_its_error_is_right() -> None:
    """800 measurements of three replicas: mean 0; the scatter is known to 2.5 %, the standard error is to cover it.

    Rejected at 5 σ: the top chosen by the replicas whose height it is; replicas' heights taken as independent (0.78).
    """
    rng = np.random.default_rng(1)
    noises = 0.1 * rng.standard_normal((800, 3, S.size))
    found = [entropic_barrier(forces(slope_of(0.0), noise), LENGTH) for noise in noises]
    values = np.array([f.value for f in found])
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean()) < 4 * error
    naive = []
    for noise in noises:
        potential = np.concatenate([[0], np.cumsum(-(noise.mean(0)[1:] + noise.mean(0)[:-1]) / 2 * LENGTH / 8)])
        naive.append(above_ends(potential))
    assert np.mean(naive) > 5 * np.std(naive) / np.sqrt(800)
    ratio = np.sqrt(np.mean([f.stderr**2 for f in found])) / values.std()
    assert 0.95 < ratio < 1.2  # a little too large: the resampled potential is as rough as the measured one


def test_error_of_a_clear_barrier() -> None:
    """300 measurements with one undisputed top: mean h within its error, and the scatter, known to 4 %."""
    rng = np.random.default_rng(2)
    found = [
        entropic_barrier(forces(slope_of(2.0), 0.1 * rng.standard_normal((3, S.size))), LENGTH) for _ in range(300)
    ]
    values = np.array([f.value for f in found])
    assert all(f.top == 0.5 for f in found)
    assert abs(values.mean() - 2.0) < 4 * values.std() / np.sqrt(300)
    assert np.sqrt(np.mean([f.stderr**2 for f in found])) == pytest.approx(values.std(), rel=0.15)


def test_a_replicas_own_control_takes_its_noise_away() -> None:
    shared = np.random.default_rng(3).standard_normal((3, S.size))
    own = entropic_barrier(forces(slope_of(0.3), np.zeros((3, S.size)), shared), LENGTH)
    assert (own.value, own.stderr) == (pytest.approx(0.3), pytest.approx(0.0, abs=1e-12))


def test_diverged_replicas_are_left_out() -> None:
    noise = np.zeros((3, S.size))
    noise[1, 4] = np.nan
    assert entropic_barrier(forces(slope_of(0.3), noise), LENGTH).value == pytest.approx(0.3)
    noise[2, 0] = np.nan
    with pytest.raises(UserError, match="expected one at which two replicas .* found 1 replicas that do"):
        entropic_barrier(forces(slope_of(0.3), noise), LENGTH)


# --- a tiny network ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tiny:
    """Two layers on 64 Gaussian samples in three classes."""

    group_size: int | None = None
    system: str = "tiny"

    def objective(self, split: str = "train", **_: Any) -> Objective:
        g = generator(5)
        inputs, targets = torch.randn(64, 4, generator=g), torch.randint(0, 3, (64,), generator=g)
        return Objective(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), F.cross_entropy, inputs, targets)

    def initial(self, seed: int) -> Tensor:
        return 0.5 * torch.randn(67, generator=generator(seed))

    def scale_invariant(self) -> list[str]:
        return []


SMALL = Barrier(
    values=(0.0, 30.0),
    training=Training(epochs=10, batch_size=16, learning_rate=0.5),
    path=AutoNEB(pivots=4, cycles=((0.05, 10),), batch_size=32),
    mean_force=MeanForce(
        positions=(0.0, 0.25, 0.5, 0.75, 1.0),
        replicas=2,
        learning_rate=0.05,
        noise=Minibatch(8),
        burn_in=0.2,
        duration=0.8,
        time_windows=1,
        control_step=None,
    ),
    line_points=5,
    probes=4,
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, Path]:
    out = tmp_path_factory.mktemp("run")
    return SMALL.run(Tiny(), out), out


def children(k: int, seeds: tuple[int, int] = (1, 2)) -> Tensor:
    shared = SMALL.training.until(Tiny(), 0, k)
    return torch.stack([SMALL.training.run(Tiny(), s, progress=False, shared=shared).theta for s in seeds])


def test_the_line_is_between_the_children_of_the_parent(ran: tuple[xr.Dataset, Path]) -> None:
    found, _ = ran
    assert found["shared_iterations"].values.tolist() == [0, 30]
    objective = Tiny().objective()
    for i, k in enumerate((0, 30)):
        ends = children(k)
        losses = [objective.evaluate(theta).loss for theta in linear(ends, 5)]
        assert float(found["energy_barrier"][i]) == pytest.approx(max(losses) - (losses[0] + losses[-1]) / 2, rel=1e-4)
        assert float(found["end_distance"][i]) == pytest.approx(float((ends[1] - ends[0]).norm()), rel=1e-5)
    assert found["end_distance"][1] < found["end_distance"][0]
    assert (found["energy_barrier_path"] <= found["energy_barrier"] * 1.001).all()
    assert np.isfinite(found["hessian_trace_rise"]).all()
    assert (found["entropic_barrier_stderr"] > 0).all()


def test_both_heights_are_of_the_same_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    found, run = [], MeanForce.run
    find = AutoNEB.run

    def spy(self: MeanForce, experiment: Any, points: Tensor, *a: Any, **k: Any) -> xr.Dataset:
        seen.append(points)
        return run(self, experiment, points, *a, **k)

    monkeypatch.setattr(MeanForce, "run", spy)
    monkeypatch.setattr(AutoNEB, "run", lambda *a, **k: found.append(find(*a, **k)) or found[-1])
    tree = replace(SMALL, values=(30.0,)).run(Tiny(), tmp_path)
    assert torch.equal(seen[0], found[0].points)
    assert torch.equal(seen[0][[0, -1]], children(30))
    assert float(tree["energy_barrier_path"][0]) == pytest.approx(
        found[0].highest_loss - found[0].losses[[0, -1]].mean()
    )
    expected = entropic_barrier(run(SMALL.mean_force, Tiny(), seen[0]), float(found[0].arc_length[-1]))
    assert float(tree["entropic_barrier"][0]) == expected.value


def test_what_is_done_is_not_done_again(ran: tuple[xr.Dataset, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Started again, and with one value more: only that one is trained, its parent from iteration 30 on."""
    found, out = ran
    steps: list[int] = []
    step = _Session._step
    monkeypatch.setattr(_Session, "_step", lambda self: (steps.append(self.iteration), step(self))[1])
    xr.testing.assert_identical(SMALL.run(Tiny(), out), found)
    assert steps == []
    longer = replace(SMALL, values=(0.0, 30.0, 35.0)).run(Tiny(), out)
    assert steps == [*range(30, 35), *range(35, 40), *range(35, 40)]
    np.testing.assert_array_equal(longer["energy_barrier"][:2], found["energy_barrier"])


@pytest.mark.parametrize("killed", ["training", "path", "mean force"])
def test_an_interrupted_value_goes_on_to_the_same_numbers(
    killed: str, ran: tuple[xr.Dataset, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    step = _Session._step
    with monkeypatch.context() as patch:
        if killed == "training":
            patch.setattr(_Session, "_step", lambda self: stop() if self.iteration == 36 else step(self))
        else:
            patch.setattr(AutoNEB if killed == "path" else MeanForce, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            replace(SMALL, values=(30.0,)).run(Tiny(), tmp_path)
    again = replace(SMALL, values=(30.0,)).run(Tiny(), tmp_path)
    for name in ("energy_barrier", "entropic_barrier", "hessian_trace_rise"):
        np.testing.assert_array_equal(again[name], ran[0][name][1:])


@pytest.mark.parametrize(("parameter", "values"), [("learning_rate", (0.02, 0.05)), ("batch_size", (8.0, 16.0))])
def test_dynamics_are_varied_on_one_path(
    parameter: Any, values: tuple[float, ...], ran: tuple[xr.Dataset, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(_Session, "_step", never)
    monkeypatch.setattr(AutoNEB, "run", never)
    found = replace(SMALL, parameter=parameter, values=values, shared_iterations=30).run(Tiny(), ran[1])
    assert found["energy_barrier"].dims == (parameter,)
    assert len(np.unique(found["energy_barrier"])) == 1
    assert len(np.unique(found["entropic_barrier"])) == 2
    same = {"learning_rate": 1, "batch_size": 0}[parameter]
    assert float(found["entropic_barrier"][same]) == float(ran[0]["entropic_barrier"][1])


def test_the_training_is_varied(tmp_path: Path) -> None:
    config = replace(SMALL, parameter="training_learning_rate", values=(0.1, 0.5), shared_iterations=30)
    found = config.run(Tiny(), tmp_path)
    assert found.attrs["varied"] == "training_learning_rate"
    assert found["energy_barrier"].dims == ("learning_rate",)
    assert found["end_distance"][0] < found["end_distance"][1]


def test_optimizers_are_compared_by_name(ran: tuple[xr.Dataset, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The training's own is the one that the other scans have trained; the others have their usual learning rates."""
    seen: list[tuple[str, float]] = []
    until = Training.until

    def spy(self: Training, *a: Any, **k: Any) -> Any:
        seen.append((type(self.optimizer).__name__, self.learning_rate))
        return until(self, *a, **k)

    monkeypatch.setattr(Training, "until", spy)
    names = ("sgd", "adam:learning_rate=0.01", "muon")
    config = replace(SMALL, parameter="optimizer", values=names, shared_iterations=30, probes=4)
    found = config.run(Tiny(), ran[1])
    assert found["optimizer"].values.tolist() == list(names)
    assert seen == [("Adam", 0.01), ("Muon", 0.02)]
    assert len(np.unique(found["end_distance"])) == 3
    for name in ("energy_barrier", "entropic_barrier", "end_distance"):
        assert float(found[name][0]) == float(ran[0][name][1])
    assert from_jsonable(Barrier, to_jsonable(config)) == config
    tree = xr.DataTree.from_dict({"/barrier": found})
    path = ran[1] / "named.nc"
    tree.to_netcdf(path)
    read = read_tree(path, check=False)["barrier"].to_dataset()
    assert read["optimizer"].values.tolist() == list(names)
    assert schema.group_faults("barrier", read) == []


def test_architectures_are_compared_by_name(tmp_path: Path) -> None:
    """Each network is trained, joined and measured by itself; normalisation is stated where it is the same for all."""
    small = replace(
        SMALL,
        parameter="architecture",
        values=("mlp:widths=[4]", "resnet:width=4"),
        training=Training(epochs=1, batch_size=256, learning_rate=0.1),
        path=AutoNEB(pivots=3, cycles=((0.05, 1),), samples_between=1, batch_size=64),
        mean_force=replace(SMALL.mean_force, positions=(0.0, 0.5, 1.0), burn_in=0.0, duration=0.4, noise=Minibatch(16)),
        line_points=3,
        probes=0,
    )
    experiment = Experiment(Digits(), MLP(widths=(4,)))
    found = small.run(experiment, tmp_path)
    assert found["architecture"].values.tolist() == ["mlp:widths=[4]", "resnet:width=4"]
    assert "normalization_mode" not in found.attrs
    first = replace(small, values=("mlp",)).run(experiment, tmp_path)
    assert first.attrs["group_size"] == 0
    assert float(first["end_distance"][0]) == float(found["end_distance"][0])
    line = small.training.until(experiment, 0, 0)
    a, b = (small.training.run(experiment, seed, progress=False, shared=line).theta for seed in (1, 2))
    assert float(found["end_distance"][0]) == pytest.approx(float((a - b).norm()), rel=1e-5)
    with pytest.raises(UserError, match="barrier.values: expected a network of ours to replace, found one of your own"):
        small.run(Tiny(), tmp_path)


def test_means_over_pairs_have_the_error_of_their_scatter_or_their_own_where_that_is_larger(tmp_path: Path) -> None:
    """Of three values one each way; pairs that agree by chance do not make the mean exact."""
    pairs = ((1, 2), (2, 3), (4, 5))
    scan = replace(SMALL, values=(0.0, 2.0, 5.0, 10.0), probes=0)
    found = replace(scan, pairs=pairs).run(Tiny(), tmp_path)
    singles = [replace(scan, pairs=(pair,)).run(Tiny(), tmp_path) for pair in pairs]
    each = found["entropic_barrier_each"].values
    np.testing.assert_array_equal(each, np.stack([s["entropic_barrier"].values for s in singles], axis=1))
    assert len(np.unique(each)) == 12
    scatter = each.std(1, ddof=1) / 3**0.5
    own = np.linalg.norm([s["entropic_barrier_stderr"].values for s in singles], axis=0) / 3
    np.testing.assert_allclose(found["entropic_barrier"], each.mean(1))
    np.testing.assert_allclose(found["entropic_barrier_stderr"], np.maximum(scatter, own))
    lines = found["energy_barrier_each"].values.std(1, ddof=1) / 3**0.5
    np.testing.assert_allclose(found["energy_barrier_stderr"], lines)
    assert "hessian_trace_rise" not in found
    assert (own > scatter).any()
    rows = [[{"energy_barrier": 1.0, "entropic_barrier": h, "entropic_barrier_stderr": 0.1} for h in (1.0, 3.0)]]
    apart = replace(SMALL, values=(5.0,), pairs=pairs[:2])._group(rows, [Tiny().objective()])
    assert float(apart["entropic_barrier_stderr"][0]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameter": "depth"}, "barrier.parameter: expected one of shared_iterations, learning_rate"),
        ({"values": ()}, "barrier.values: expected whole numbers in rising order"),
        ({"values": (3.0, 2.0)}, "barrier.values"),
        ({"values": (0.5,)}, "barrier.values: expected whole numbers"),
        ({"values": ("sgd",)}, "barrier.values: expected whole numbers"),
        ({"parameter": "optimizer"}, "barrier.values: expected different names such as sgd adam muon soap kfac"),
        ({"parameter": "optimizer", "values": ("sgd", "sgd")}, "barrier.values: expected different names"),
        ({"parameter": "optimizer", "values": ("sgd", "lion")}, "barrier.values: expected names such as sgd, adam"),
        ({"parameter": "architecture", "values": ("resnet:depth=9",)}, "network.depth: expected 6 n"),
        ({"parameter": "learning_rate", "values": (0.0, 0.1)}, "barrier.values: expected positive numbers"),
        ({"parameter": "training_batch_size", "values": (-8.0,)}, "barrier.values"),
        ({"parameter": "learning_rate", "values": (100.0,)}, "mean_force.duration: expected at least 8 steps"),
        ({"pairs": ((1, 1),)}, "barrier.pairs: expected one or more pairs of different seeds"),
        ({"pairs": ()}, "barrier.pairs"),
        ({"parent": -1}, "barrier.pairs: expected seeds >= 0"),
        ({"mean_force": replace(SMALL.mean_force, control=False)}, "barrier.mean_force.control"),
        ({"mean_force": replace(SMALL.mean_force, positions=(0.0, 1.0))}, "at least 3"),
        ({"line_points": 2}, "barrier.line_points"),
        ({"probes": 1}, "barrier.probes: expected 0, or at least 2, found 1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(SMALL, **options)


def test_a_batch_size_is_of_minibatches() -> None:
    thermal = replace(SMALL.mean_force, noise=Thermal(1e-3, restraint=1.0))
    with pytest.raises(UserError, match="barrier.mean_force.noise: expected one of minibatches.* found 'Thermal'"):
        replace(SMALL, parameter="batch_size", values=(8.0,), mean_force=thermal)


def test_no_more_iterations_are_shared_than_there_are(tmp_path: Path) -> None:
    message = "barrier.values: expected fewer shared iterations than the 40 of the training, found 40"
    with pytest.raises(UserError, match=message):
        replace(SMALL, values=(40.0,)).run(Tiny(), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"training": replace(SMALL.training, batch_size=65)},
            "barrier.training.batch_size: expected at most 64 samples",
        ),
        ({"parameter": "training_batch_size", "values": (16.0, 65.0)}, "barrier.values: expected at most 64 samples"),
        (
            {"path": replace(SMALL.path, batch_size=65)},
            "barrier.path.batch_size: expected at most 64 samples, found 65",
        ),
        (
            {"mean_force": replace(SMALL.mean_force, noise=Minibatch(65))},
            "barrier.mean_force.noise.batch_size: expected at most 64 samples, found 65",
        ),
        ({"parameter": "batch_size", "values": (8.0, 65.0)}, "barrier.values: expected at most 64 samples, found 65"),
        ({"values": (0.0, 40.0)}, "barrier.values: expected fewer shared iterations than the 40"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_any_training(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(_Session, "_step", never)
    with pytest.raises(UserError, match=f"^{message}"):
        replace(SMALL, **options).run(Tiny(), tmp_path)
    assert not any(tmp_path.iterdir())


def test_everything_is_done_on_the_device_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, made = set(), Tiny.objective

    def objective(self: Tiny, split: str = "train", **options: Any) -> Objective:
        asked.add(str(options.get("device")))
        return made(self, split, **options)

    monkeypatch.setattr(Tiny, "objective", objective)
    replace(SMALL, values=(30.0,)).run(Tiny(), tmp_path, device="cpu:0")
    assert asked == {"cpu:0"}


def test_an_interrupted_mean_force_keeps_its_replicas(
    ran: tuple[xr.Dataset, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[int, int]] = []

    def counted(what: Any) -> dict[str, Any]:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(what[3:5])
        return _run_unit(what)

    monkeypatch.setattr("nn_experiments.measurements.mean_force._run_unit", counted)
    with pytest.raises(KeyboardInterrupt):
        replace(SMALL, values=(30.0,)).run(Tiny(), tmp_path)
    done.append((-1, -1))
    again = replace(SMALL, values=(30.0,)).run(Tiny(), tmp_path)
    assert len(done) == len(set(done)) == 1 + 5 * 3  # positions; replicas and the control
    np.testing.assert_array_equal(again["entropic_barrier"], ran[0]["entropic_barrier"][1:])
    assert all(p.is_file() for p in (tmp_path / "barrier").iterdir())


class Plain:
    """A user's own class, which no JSON tells of."""

    system, group_size = "plain", None
    objective, initial, scale_invariant = Tiny.objective, Tiny.initial, Tiny.scale_invariant


def test_a_class_that_no_json_tells_of_keeps_no_replicas(ran: tuple[xr.Dataset, Path], tmp_path: Path) -> None:
    found = replace(SMALL, values=(30.0,)).run(Plain(), tmp_path)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found["entropic_barrier"], ran[0]["entropic_barrier"][1:])
