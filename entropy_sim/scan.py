"""One measurement at several values of one parameter: the engine of `escape` and `barrier` scans and of sweeps."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from entropy_sim import schema
from entropy_sim.checkpoint import Checkpoint
from entropy_sim.errors import UserError, require

T = TypeVar("T")
Parameter = Literal["none", "temperature", "along_path", "learning_rate", "step", "dimension", "stiffness_ratio"]
#: The field of a measurement that a parameter stands for.
_FIELDS = {
    "temperature": "noise.temperature",
    "along_path": "noise.along_path",
    "learning_rate": "dynamics.learning_rate",
    "step": "dynamics.step",
    "dimension": "landscape.transverse_directions",
    "stiffness_ratio": "landscape.stiffness.middle",
}
#: Names a stiffness profile may have for its softest value.
_SOFT = ("end", "well")


@dataclass(frozen=True)
class Scan:
    """A parameter and the values it takes, one after the other; everything else stays as it is."""

    parameter: Parameter = "none"
    """What is varied: the noise's temperature or its diffusion along_path, the dynamics' learning_rate or step, the
    dimension (number of transverse directions), or the stiffness_ratio (middle over end)."""
    values: tuple[float, ...] = ()
    """Its values, in rising order."""

    def __post_init__(self) -> None:
        known = get_args(Parameter)
        require(self.parameter in known, "scan.parameter", f"one of {', '.join(known)}", self.parameter)
        if self.parameter == "none":
            require(not self.values, "scan.values", "none without a scan.parameter", self.values)
            return
        values = np.asarray(self.values, dtype=np.float64)
        require(values.size > 0, "scan.values", f"one or more values of {self.parameter}", self.values)
        good = bool(np.all(np.isfinite(values) & (values > 0)) and np.all(np.diff(values) > 0))
        require(good, "scan.values", "positive numbers in rising order", self.values)
        if self.parameter == "dimension":
            require(bool(np.all(values == np.round(values))), "scan.values", "whole numbers of dimensions", self.values)

    def of(self, config: T) -> list[T]:
        """The configuration (a measurement) at each value: without its own scan, and with random numbers of its own.

        Only the values need to be possible, not what they replace. Raises UserError if the configuration does not have
        the parameter, or refuses a value."""
        path = _FIELDS[self.parameter]
        noun, _, field = path.partition(".")
        values: Sequence[Any] = self.values
        if self.parameter == "dimension":
            values = [int(v) for v in self.values]
        try:
            if self.parameter == "stiffness_ratio":
                stiffness = _get(config, "landscape.stiffness")
                soft = next(getattr(stiffness, name) for name in _SOFT if hasattr(stiffness, name))
                values = [ratio * soft for ratio in self.values]
            if not isinstance(_get(config, path), Real):
                raise AttributeError  # a shape along the path, not a number
            if self.parameter == "along_path" and _get(config, "noise.supplies") != "diffusion":
                raise AttributeError  # a variance of gradients there, not a diffusion
        except (AttributeError, StopIteration):
            raise UserError(
                f"scan.parameter: expected one that the {noun} has, found {self.parameter!r}, "
                f"which {type(getattr(config, noun)).__name__} has not"
            ) from None
        if self.parameter == "stiffness_ratio" and getattr(_get(config, noun), "profiles", None):
            raise UserError(
                "scan.parameter: expected one that the landscape depends on, found 'stiffness_ratio', though "
                "landscape.profiles take the place of landscape.stiffness"
            )
        found = []
        for value, name in zip(values, self.values, strict=True):
            seed = derived_seed(getattr(config, "seed", 0), self.parameter, float(name))
            also = {n: v for n, v in (("scan", Scan()), ("seed", seed)) if hasattr(config, n)}
            also[noun] = replaced(getattr(config, noun), field, value)
            found.append(dataclasses.replace(config, **also))  # type: ignore[type-var]
        return found


def replaced(config: T, path: str, value: Any) -> T:
    """A frozen configuration with the field at a dotted path replaced; every dataclass on the way is checked anew."""
    name, _, rest = path.partition(".")
    inner = replaced(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: inner})  # type: ignore[type-var]


def derived_seed(seed: int, *path: Any) -> int:
    """A seed of its own for one part of a run, unrelated to that of any other part or seed."""
    text = json.dumps([seed, *path])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def _get(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def run_each(
    scan: Scan, runs: Sequence[Callable[[Checkpoint | None], Mapping[str, xr.Dataset]]], checkpoint: Checkpoint | None
) -> dict[str, xr.Dataset]:
    """Run one after the other and join their groups along the dimension `scan.parameter`.

    Each run gets a checkpoint of its own; finished ones are kept there and not repeated. Coordinates that differ
    between values are those of the first. Attributes that differ are listed in the order of the values.
    """
    found: list[Mapping[str, xr.Dataset]] = []
    for i, run in enumerate(runs):
        part = None if checkpoint is None else _Part(checkpoint, f"scan{i}")
        groups: Mapping[str, xr.Dataset] | None = None if part is None else part.finished()
        if groups is None:
            groups = run(part)
            if part is not None:
                part.finish(groups)
        found.append(groups)
    return {name: _joined(scan, name, [groups[name] for groups in found]) for name in found[0]}


def _joined(scan: Scan, group: str, datasets: Sequence[xr.Dataset]) -> xr.Dataset:
    meaning = schema.GROUPS[group].coordinates[scan.parameter]
    attrs = {"units": meaning.units, "long_name": meaning.long_name}
    values = np.array(scan.values, dtype=np.float64)
    joined = xr.concat(
        [d.drop_attrs(deep=False) for d in datasets],
        xr.DataArray(values, dims=scan.parameter, name=scan.parameter, attrs=attrs),
        data_vars="all",
        coords="minimal",
        compat="override",
        join="override",
    )
    for name in {key for d in datasets for key in d.attrs}:
        each = [d.attrs.get(name, np.nan) for d in datasets]
        joined.attrs[name] = each[0] if all(_same(v, each[0]) for v in each) else each
    joined.attrs = dict(sorted(joined.attrs.items()))
    return joined


def _same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(np.asarray(a), np.asarray(b))) or (a != a and b != b)


class _Part(Checkpoint):
    """The parts of a checkpoint under one name, as a checkpoint; and the groups of a finished run, kept as one."""

    def __init__(self, whole: Checkpoint, name: str) -> None:
        self._whole, self._name = whole, name

    def load(self, part: str) -> Mapping[str, NDArray[Any]] | None:
        return self._whole.load(f"{self._name}/{part}")

    def save(self, part: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._whole.save(f"{self._name}/{part}", arrays)

    def finish(self, groups: Mapping[str, xr.Dataset]) -> None:
        """Keep the groups: values as arrays, the rest as text."""
        layout: dict[str, Any] = {}
        arrays: dict[str, NDArray[Any]] = {}
        for group, dataset in groups.items():
            layout[group] = {"attrs": dataset.attrs, "variables": {}, "coords": list(map(str, dataset.coords))}
            for name, variable in dataset.variables.items():
                layout[group]["variables"][str(name)] = [list(variable.dims), variable.attrs]
                arrays[f"{group}:{name}"] = variable.values
        text = json.dumps(layout, default=lambda value: value.item())
        self.save("groups", {**arrays, "layout": np.array(text)})

    def finished(self) -> dict[str, xr.Dataset] | None:
        """The groups that were kept, or None."""
        arrays = self.load("groups")
        if arrays is None:
            return None
        groups: dict[str, xr.Dataset] = {}
        for group, layout in json.loads(str(arrays["layout"])).items():
            variables = {n: (dims, arrays[f"{group}:{n}"], attrs) for n, (dims, attrs) in layout["variables"].items()}
            groups[group] = xr.Dataset(variables, attrs=layout["attrs"]).set_coords(layout["coords"])
        return groups
