"""What an interrupted run leaves, so that the same command goes on from there instead of from the start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from entropy_sim._random import GENERATOR
from entropy_sim.errors import UserError
from entropy_sim.run_files import config_hash, write_whole

#: Rises where what a state holds, or what is done with it, changes: an older one is not gone on from.
_FORM = 3


class Checkpoint:
    """Arrays of the unfinished parts of one run, in one file beside its output; `discard` it when the run is written.

    A file of another configuration, or with other random numbers, is refused (UserError), so that nobody's half-done
    work is lost by a typing error; with overwrite it is replaced. One of this configuration is always gone on from: the
    numbers are the same.
    """

    def __init__(self, path: Path | str, config: Any, *, overwrite: bool = False) -> None:
        self.path, self._hash = Path(path), f"{config_hash(config)} {GENERATOR} {_FORM}"
        self._parts: dict[str, dict[str, NDArray[Any]]] = {}
        if self.path.exists():
            try:
                self._read()
            except UserError:
                if not overwrite:
                    raise

    @classmethod
    def beside(cls, output: Path | str, config: Any, *, overwrite: bool = False) -> Checkpoint:
        """The checkpoint of a run that is written to `output`."""
        output = Path(output)
        return cls(output.with_name(f"{output.name}.unfinished.npz"), config, overwrite=overwrite)

    def _read(self) -> None:
        try:
            with np.load(self.path, allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
        except (OSError, ValueError, BadZipFile, EOFError, KeyError) as error:
            raise UserError(
                f"--out: expected an unfinished run of ours, found a damaged file {self.path} (--overwrite starts anew)"
            ) from error
        if str(arrays.pop("config_hash", "")) != self._hash:
            raise UserError(
                "--out: expected an unfinished run of this configuration, found one of another, or with other random "
                f"numbers (an older version's), in {self.path} (--overwrite starts anew)"
            )
        for name, values in arrays.items():
            part, _, key = name.rpartition("/")
            self._parts.setdefault(part, {})[key] = values

    def load(self, part: str) -> Mapping[str, NDArray[Any]] | None:
        """The arrays last saved for a part of the run, or None."""
        return self._parts.get(part)

    def save(self, part: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace the arrays of a part, and write all parts: the file is whole at any moment."""
        self._parts[part] = {key: np.array(value) for key, value in arrays.items()}
        flat = {f"{name}/{key}": value for name, values in self._parts.items() for key, value in values.items()}

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, config_hash=np.array(self._hash), **flat)  # type: ignore[arg-type]

        write_whole(self.path, write)

    def discard(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
