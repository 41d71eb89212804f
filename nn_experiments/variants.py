"""Optimizers and networks in a word: `muon`, `adam:beta2=0.99,learning_rate=0.003`, `wideresnet:depth=10`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from entropy_sim.errors import UserError, require
from entropy_sim.run_files import from_jsonable, to_jsonable
from nn_experiments.device import OnDevice
from nn_experiments.experiment import AnyExperiment, AnyNetwork, Experiment
from nn_experiments.optimizers import Adam, AnyOptimizer
from nn_experiments.train import Training

#: What a word may begin with: the names of the command line's choices, and AdamW.
OPTIMIZERS: Mapping[str, Any] = {kind.__name__.lower(): kind for kind in get_args(AnyOptimizer)} | {"adamw": Adam}
NETWORKS: Mapping[str, Any] = {kind.__name__.lower(): kind for kind in get_args(AnyNetwork)}
_RATE = "learning_rate"


def with_optimizer(training: Training, word: str, where: str) -> Training:
    """`training` by another optimizer, at the learning rate that is usual for it unless the word says another.

    A word that names the training's own optimizer takes that as it is, with its learning rate. `where`: the option, for
    messages. Raises UserError for what is not an optimizer, or not an option of it.
    """
    name, options = _read(word, OPTIMIZERS, where)
    kind, rate = OPTIMIZERS[name], options.pop(_RATE, None)
    own = isinstance(training.optimizer, kind)
    if kind is Adam and (decoupled := name == "adamw") != getattr(training.optimizer, "decoupled", None):
        own, options = False, {"decoupled": decoupled, **options}
    optimizer = _made(kind, training.optimizer if own else None, options, where)
    usual = training.learning_rate if own else kind.usual_learning_rate
    return replace(training, optimizer=optimizer, learning_rate=usual if rate is None else _number(rate, where))


def with_network(experiment: AnyExperiment, training: Training, word: str, where: str) -> tuple[Any, Training]:
    """(`experiment` with another network, `training` at the learning rate that the word says, or else its own).

    A word that names the experiment's own kind of network takes that as it is, but for the options in the word. Raises
    UserError for what is not a network of ours, or not an option of it, or an experiment that brings its own.
    """
    name, options = _read(word, NETWORKS, where)
    if (rate := options.pop(_RATE, None)) is not None:
        training = replace(training, learning_rate=_number(rate, where))
    inner = experiment.experiment if isinstance(experiment, OnDevice) else experiment
    if not isinstance(inner, Experiment):
        raise UserError(f"{where}: expected a network of ours to replace, found one of your own ({experiment.system})")
    own = inner.network if type(inner.network) is NETWORKS[name] else None
    found = replace(inner, network=_made(NETWORKS[name], own, options, where))
    return (replace(experiment, experiment=found) if isinstance(experiment, OnDevice) else found), training


def _read(word: str, known: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """(the name without hyphens, the options) of NAME or NAME:OPTION=VALUE,OPTION=VALUE."""
    name, colon, rest = str(word).partition(":")
    name = re.sub(r"[-_ ]", "", name).lower()
    require(name in known, where, f"names such as {', '.join(known)}", word)
    options = {}
    for part in re.split(r",(?=[a-z_\-]+\d?=)", rest) if colon else []:
        key, equals, value = part.partition("=")
        require(bool(key and equals and value), where, f"{name}:option=value,…", word)
        try:
            options[key.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            options[key.replace("-", "_")] = {"True": True, "False": False}.get(value, value)
    return name, options


def _made(kind: Any, own: Any, options: Mapping[str, Any], where: str) -> Any:
    start = {"type": kind.__name__} if own is None else to_jsonable(own)
    return from_jsonable(kind, {**start, **options}, where)


def _number(value: Any, where: str) -> float:
    return float(from_jsonable(float, value, f"{where}.{_RATE}"))
