from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from entropy_sim.errors import UserError
from nn_experiments import checkpoints
from nn_experiments.experiment import Experiment
from nn_experiments.networks.resnet import ResNet
from nn_experiments.objective import generator


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment(network=ResNet(width=2))


@pytest.fixture
def saved(tmp_path, experiment):
    theta = experiment.initial(7)
    path = checkpoints.save(tmp_path / "a" / "minimum.safetensors", experiment.objective(), theta, {"seed": 7})
    return path, theta


def test_round_trip(saved, experiment):
    path, theta = saved
    loaded, record = checkpoints.load(path, experiment.objective())
    assert torch.equal(loaded, theta)
    assert record == {"seed": 7}


def test_a_path_of_points(tmp_path, experiment):
    points = torch.stack([experiment.initial(s) for s in range(3)])
    path = checkpoints.save(tmp_path / "path.safetensors", experiment.objective(), points)
    assert torch.equal(checkpoints.load(path, experiment.objective())[0], points)


def test_others_can_read_the_tensors_by_name(saved, experiment):
    path, theta = saved
    module = experiment.network.build(1, 10)
    missing, unexpected = module.load_state_dict(load_file(path), strict=False)
    assert not unexpected
    assert all("running" in name or "num_batches" in name for name in missing)
    assert torch.equal(torch.cat([p.detach().reshape(-1) for p in module.parameters()]), theta)
    assert json.loads(path.with_suffix(".json").read_text())["architecture"]["dtype"] == "float32"


def test_a_changed_file_is_refused(saved, experiment):
    path, _ = saved
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"minimum.safetensors: expected SHA-256 .* \(damaged or replaced: delete it"):
        checkpoints.load(path, experiment.objective())


def test_another_architecture_is_refused(saved):
    path, _ = saved
    for network, message in [
        (ResNet(width=4), r"expected stem.weight of shape \[4, 1, 3, 3\], found \[2, 1, 3, 3\]"),
        (ResNet(14, 2), r"expected stages.1.conv1.weight of shape \[2, 2, 3, 3\], found \[4, 2, 3, 3\]"),
        (ResNet(8, 2, "none"), "expected a parameter stem.bias"),
    ]:
        with pytest.raises(UserError, match=message):
            checkpoints.load(path, Experiment(network=network).objective())
    with pytest.raises(UserError, match="expected parameters of type float64, found float32"):
        checkpoints.load(path, Experiment(network=ResNet(width=2)).objective(dtype=torch.float64))


def test_a_record_that_does_not_fit_its_tensors_is_refused(saved, experiment):
    path, _ = saved
    tensors = load_file(path)
    tensors["linear.bias"] = tensors["linear.bias"][:5].clone()
    save_file(tensors, path)
    sidecar = path.with_suffix(".json")
    content = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**content, "sha256": checkpoints._checksum(path)}))
    with pytest.raises(UserError, match=r"expected linear.bias of shape \[10\], found \[5\]"):
        checkpoints.load(path, experiment.objective())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        ("[]", "found no sha256"),
        ('{"sha256": "", "record": {}}', "found no architecture"),
        ('{"sha256": "", "architecture": 3, "record": {}}', "expected the names and shapes of the parameters"),
    ],
)
def test_a_broken_record_is_refused(saved, experiment, text, message):
    path, _ = saved
    path.with_suffix(".json").write_text(text)
    with pytest.raises(UserError, match=message):
        checkpoints.load(path, experiment.objective())


def test_missing_files(saved, tmp_path, experiment):
    path, _ = saved
    with pytest.raises(UserError, match=r"expected its record other.json beside it, found no such file"):
        checkpoints.load(tmp_path / "other.safetensors", experiment.objective())
    path.unlink()
    with pytest.raises(UserError, match="expected a checkpoint, found no such file"):
        checkpoints.load(path, experiment.objective())
    with pytest.raises(UserError, match=r"expected a name ending in .safetensors, found '.pt'"):
        checkpoints.save(tmp_path / "x.pt", experiment.objective(), experiment.initial(0))


def test_nothing_half_written(saved, experiment, monkeypatch):
    path, theta = saved
    before = path.read_bytes()
    monkeypatch.setattr("safetensors.torch.save_file", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UserError, match="No space left"):
        checkpoints.save(path, experiment.objective(), theta + 1)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["minimum.json", "minimum.safetensors"]
    assert torch.equal(checkpoints.load(path, experiment.objective())[0], theta)


# --- other people's files ---------------------------------------------------------------------------------------------


def foreign(tmp_path, experiment, change=lambda tensors: tensors):
    """A state_dict with running statistics, as a user saves it."""
    module = experiment.network.build(1, 10, generator(3))
    path = tmp_path / "theirs.safetensors"
    save_file(change({name: tensor.clone() for name, tensor in module.state_dict().items()}), path)
    return path, torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def test_a_state_dict_with_its_buffers_is_loaded(tmp_path, experiment):
    path, theta = foreign(tmp_path, experiment)
    assert any("running_mean" in name for name in load_file(path))
    for mode in ("batch", "evaluation"):
        assert torch.equal(checkpoints.load_parameters(path, experiment.objective(mode=mode)), theta)
    doubled = checkpoints.load_parameters(path, experiment.objective(dtype=torch.float64))
    assert doubled.dtype == torch.float64
    assert torch.equal(doubled.float(), theta)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != "linear.bias"},
            r"a tensor linear.bias of shape \[10\], found on",
        ),
        (lambda t: {f"module.{k}": v for k, v in t.items()}, "found only others, such as module.linear.bias"),
        (lambda t: t | {"linear.bias": torch.zeros(5)}, r"expected linear.bias of shape \[10\], found \[5\]"),
        (lambda t: t | {"linear.bias": torch.full((10,), torch.nan)}, "expected finite numbers in linear.bias"),
        (lambda t: t | {"head.bias": torch.zeros(7)}, r"found also head.bias of shape \[7\]"),
    ],
)
def test_a_state_dict_of_another_network_is_refused(tmp_path, experiment, change, message):
    path, _ = foreign(tmp_path, experiment, change)
    with pytest.raises(UserError, match=message):
        checkpoints.load_parameters(path, experiment.objective())


def test_what_is_no_checkpoint(tmp_path, experiment):
    path = tmp_path / "theirs.safetensors"
    with pytest.raises(UserError, match="expected a checkpoint, found no such file"):
        checkpoints.load_parameters(path, experiment.objective())
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="expected a safetensors file"):
        checkpoints.load_parameters(path, experiment.objective())
