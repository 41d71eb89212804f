"""Optimizers and networks named in a word, and what a wrong word says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from entropy_sim.errors import UserError
from nn_experiments.datasets import Digits
from nn_experiments.device import OnDevice
from nn_experiments.experiment import Experiment
from nn_experiments.networks.mlp import MLP
from nn_experiments.networks.resnet import ResNet
from nn_experiments.optimizers import KFAC, SGD, SOAP, Adam, Muon
from nn_experiments.train import Training
from nn_experiments.variants import OPTIMIZERS, with_network, with_optimizer

TRAINING = Training(learning_rate=0.3)


@pytest.mark.parametrize(
    ("word", "optimizer", "rate"),
    [
        ("sgd", SGD(), 0.3),  # the training's own, at its own rate
        ("sgd:nesterov=true", SGD(nesterov=True), 0.3),
        ("adam", Adam(), 1e-3),
        ("adamw", Adam(decoupled=True), 1e-3),
        ("adam:beta2=0.99,learning_rate=0.003", Adam(beta2=0.99), 0.003),
        ("Muon", Muon(), 0.02),
        ("soap:precondition-every=5", SOAP(precondition_every=5), 3e-3),
        ("kfac", KFAC(), 0.03),
    ],
)
def test_an_optimizer_in_a_word(word: str, optimizer: Any, rate: float) -> None:
    found = with_optimizer(TRAINING, word, "values")
    assert (found.optimizer, found.learning_rate) == (optimizer, rate)
    assert replace(found, optimizer=SGD(), learning_rate=0.3) == TRAINING


def test_the_trainings_own_optimizer_is_taken_as_it_is() -> None:
    own = Training(optimizer=Adam(beta1=0.8, decoupled=True), learning_rate=0.005)
    assert with_optimizer(own, "adamw", "values") == own
    assert with_optimizer(own, "adamw:beta2=0.9", "values").optimizer == Adam(0.8, 0.9, decoupled=True)
    # Adam is another optimizer than AdamW, and SGD's usual rate is not Adam's.
    assert with_optimizer(own, "adam", "values") == Training(optimizer=Adam(), learning_rate=1e-3)
    assert with_optimizer(own, "sgd", "values") == Training(optimizer=SGD(), learning_rate=0.1)


def test_every_optimizer_of_the_command_line_has_a_name_and_a_usual_rate() -> None:
    for name in OPTIMIZERS:
        assert with_optimizer(TRAINING, name, "values").learning_rate > 0


def test_a_network_in_a_word() -> None:
    own = Experiment(Digits(), ResNet(depth=14, width=4))
    assert with_network(own, TRAINING, "resnet", "values") == (own, TRAINING)
    assert with_network(own, TRAINING, "res-net:depth=8", "values")[0].network == ResNet(depth=8, width=4)
    found, training = with_network(own, TRAINING, "mlp:widths=[8,4],activation=tanh,learning_rate=0.1", "values")
    assert found == replace(own, network=MLP((8, 4), "tanh"))
    assert training == replace(TRAINING, learning_rate=0.1)
    there, _ = with_network(OnDevice(own, "cpu"), TRAINING, "mlp", "values")
    assert there == OnDevice(replace(own, network=MLP()), "cpu")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lion", "^values: expected names such as sgd, adam, muon, soap, kfac, adamw, found 'lion'"),
        ("adam:beta3=1", "^values: unknown option beta3; Adam takes beta1"),
        ("adam:", "^values: expected adam:option=value,…, found 'adam:'"),
        ("adam:beta1", "^values: expected adam:option=value"),
        ("adam:beta1=x", "^values.beta1: expected float, found 'x'"),
        ("adam:learning_rate=x", "^values.learning_rate: expected float, found 'x'"),
        ("adam:learning_rate=-1", "training.learning_rate: expected a positive number"),
    ],
)
def test_a_wrong_word_is_refused(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_optimizer(TRAINING, word, "values")


def test_networks_that_are_none_of_ours_are_refused() -> None:
    with pytest.raises(UserError, match="^values: expected names such as resnet, wideresnet, .* found 'densenet'"):
        with_network(Experiment(), TRAINING, "densenet", "values")

    class Own:
        system = "a user's"

    own: Any = Own()
    with pytest.raises(UserError, match="^values: expected a network of ours to replace, found one of your own"):
        with_network(own, TRAINING, "resnet", "values")
