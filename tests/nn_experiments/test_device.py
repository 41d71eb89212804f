from __future__ import annotations

import pickle

import pytest
import torch

from entropy_sim.errors import UserError
from entropy_sim.run_files import config_json
from nn_experiments.device import OnDevice, describe, resolve
from nn_experiments.experiment import Experiment, evaluate


def test_the_cpu_is_always_there():
    assert resolve("cpu") == torch.device("cpu")
    assert describe(torch.device("cpu")) == "cpu"
    assert resolve("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quantum", "device: expected cpu, cuda, cuda:N or auto, found 'quantum'"),
        ("cuda:99", "device: expected cuda:99 to be there, found .* CUDA device"),
    ],
)
def test_devices_that_are_not_there(name, message):
    with pytest.raises(UserError, match=message):
        resolve(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_asked_for_and_absent():
    with pytest.raises(UserError, match=r"found no CUDA device \(--device cpu runs without\)"):
        resolve("cuda")


def test_an_experiment_on_a_device_is_the_experiment():
    experiment = Experiment()
    there = pickle.loads(pickle.dumps(OnDevice(experiment, "cpu")))
    theta = experiment.initial(1)
    assert torch.equal(there.initial(1), theta)
    assert (there.system, there.group_size) == (experiment.system, experiment.group_size)
    assert there.scale_invariant() == experiment.scale_invariant()
    assert there.network == experiment.network
    assert evaluate(there, theta, "test", "evaluation") == evaluate(experiment, theta, "test", "evaluation")
    assert config_json(there) == config_json(experiment)
    with pytest.raises(AttributeError):
        _ = there.no_such_thing


def test_objectives_live_on_the_device_unless_asked_for_elsewhere():
    # The meta device computes nothing, but it is a device other than the CPU that every machine has.
    there = OnDevice(Experiment(), "meta")
    assert there.objective("test").device == torch.device("meta")
    assert there.objective("test", device="cpu").device == torch.device("cpu")
