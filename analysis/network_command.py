"""`entropic network STAGE`: the measurements on a network of ours, or on a user's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from analysis import options
from entropy_sim.errors import UserError
from nn_experiments.experiment import Experiment
from nn_experiments.own import FileExperiment
from nn_experiments.run import NetworkRun, Stage

_MODULE = "--module"


def run(stage: Stage, arguments: list[str], text: str) -> None:
    """Parse what follows `entropic network STAGE` and do that stage. Raises UserError, naming the option."""
    config, rest = options.split_config(arguments)
    default = options.default_for(NetworkRun, config)
    own = isinstance(default.experiment, FileExperiment) or any(a.split("=")[0] == _MODULE for a in rest)
    inner = _of_run(default, own)
    command = dataclasses.make_dataclass(
        "Network",
        [
            ("out", _arg(Path, "the run's directory; its network.nc grows"), Path("runs/network")),
            ("overwrite", _arg(bool, options.OVERWRITE_HELP), False),
            ("processes", _arg(int | None, "processes (default: all cores); the numbers do not depend on it"), None),
            ("device", _arg(str, "where the network runs: cpu, cuda, cuda:N or auto"), "cpu"),
            ("config", _arg(Path | None, options.CONFIG_HELP), None),
            ("module", _arg(str | None, "your own network: FILE.py:FUNCTION, see docs/own_network.md"), None),
            ("run", _flat(type(inner)), dataclasses.field(default=inner)),
        ],
        frozen=True,
    )
    description = f"{text[0].upper()}{text[1:]}."
    parsed: Any = options.parse(
        command, rest, prog=f"entropic network {stage}", default=command(), description=description
    )
    experiment = parsed.run.experiment
    try:
        if own:
            experiment = default.experiment if parsed.module is None else FileExperiment(parsed.module)
        fields = {f.name: getattr(parsed.run, f.name) for f in dataclasses.fields(NetworkRun)}
        wanted = NetworkRun(**{**fields, "experiment": experiment})
        wanted.run(
            parsed.out, stage=stage, overwrite=parsed.overwrite, processes=parsed.processes, device=parsed.device
        )
    except UserError as error:
        raise UserError(options.in_options(str(error), options.option_names(command, parsed, {}))) from None
    print(f"{parsed.out / 'network.nc' if stage != 'train' else parsed.out}: {stage} done")


def _of_run(default: NetworkRun, own: bool) -> Any:
    """`default` with the options of our experiments under their own names, without a prefix; with none for others'."""
    kind: Any = None if own else _flat(Experiment)
    field = ("experiment", kind, dataclasses.field(default=None if own else default.experiment))
    options_of = dataclasses.make_dataclass("Run", [field], bases=(NetworkRun,), frozen=True)
    fields = {f.name: getattr(default, f.name) for f in dataclasses.fields(NetworkRun)}
    return options_of(**(fields | {"experiment": None} if own else fields))


def _arg(kind: Any, text: str) -> Any:
    return Annotated[kind, tyro.conf.arg(help=text)]


def _flat(kind: Any) -> Any:
    return Annotated[kind, tyro.conf.arg(name="")]
