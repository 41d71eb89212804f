"""Where networks run: the CPU, or an accelerator that is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from entropy_sim.errors import UserError
from entropy_sim.run_files import to_jsonable
from nn_experiments.experiment import AnyExperiment, Split
from nn_experiments.objective import NormalizationMode, Objective


def resolve(name: str) -> torch.device:
    """The device of this name: cpu, cuda, cuda:1, mps, …; "auto" is CUDA where there is one, or else the CPU.

    Raises UserError for a name torch does not know or a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: expected cpu, cuda, cuda:N or auto, found {name!r}") from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            found = f"{count} CUDA device{'s' if count != 1 else ''}" if count else "no CUDA device"
            raise UserError(f"device: expected {name} to be there, found {found} (--device cpu runs without)")
    elif device.type != "cpu":
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"device: expected {name} to be there, found that it is not ({reason})") from None
    return device


def describe(device: torch.device) -> str:
    """The `device` attribute of datasets: "cpu", or the accelerator by name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@dataclass(frozen=True)
class OnDevice:
    """An experiment whose objectives live on a device unless they are asked for elsewhere."""

    experiment: AnyExperiment
    device: str

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "experiment":  # while it is unpickled, there is none yet
            raise AttributeError(name)
        return getattr(self.experiment, name)

    def jsonable(self) -> Any:
        """That of the experiment: the device is no part of a configuration."""
        return to_jsonable(self.experiment)

    @property
    def system(self) -> str:
        """That of the experiment."""
        return self.experiment.system

    @property
    def group_size(self) -> int | None:
        """That of the experiment."""
        return self.experiment.group_size

    def objective(
        self,
        split: Split = "train",
        *,
        dtype: torch.dtype = torch.float32,
        mode: NormalizationMode = "batch",
        device: torch.device | str | None = None,
    ) -> Objective:
        """That of the experiment, on `device` or else on this one."""
        return self.experiment.objective(split, dtype=dtype, mode=mode, device=device or self.device)

    def initial(self, seed: int) -> Tensor:
        """That of the experiment, on the CPU: the same numbers wherever they are used."""
        return self.experiment.initial(seed)

    def scale_invariant(self) -> list[str]:
        """That of the experiment."""
        return self.experiment.scale_invariant()
