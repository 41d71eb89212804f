"""Samples (x, y) for landscapes that are losses on actual data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from entropy_sim._random import fill_normals
from entropy_sim.errors import UserError, require
from entropy_sim.landscapes.base import Floats


@dataclass(frozen=True)
class GeneratedSamples:
    """Normal inputs x of mean square exactly 1, targets y = slope x + r, r normal residuals orthogonal to x, of mean
    square exactly residual²: the minimum is at u w = slope. Drawn by the package itself, not by NumPy.
    """

    size: int = 64
    """Number of samples N."""
    slope: float = 1.0
    """Slope of the best fit, a (not 0)."""
    residual: float = 0.5
    """Root mean square of the irreducible residuals (>= 0); 0 makes the data realisable."""
    seed: int = 0
    """Seed of the samples."""

    def __post_init__(self) -> None:
        least = 3 if self.residual else 1
        require(self.size >= least, "landscape.data.size", f"at least {least}", self.size)
        require(bool(np.isfinite(self.slope)), "landscape.data.slope", "a finite number", self.slope)
        good = bool(np.isfinite(self.residual) and self.residual >= 0)
        require(good, "landscape.data.residual", "a number >= 0", self.residual)
        require(0 <= self.seed < 2**64, "landscape.data.seed", "0…2^64 - 1", self.seed)

    def numbers(self) -> tuple[Floats, Floats]:
        """Inputs and targets, (N,) each."""
        normals = np.empty((4, self.size), dtype=np.float32)
        fill_normals(normals, self.seed, 0, 0)
        x, r = normals[:2].astype(np.float64)
        x = x / np.sqrt((x**2).mean())
        r = r - x * (x * r).mean()
        size = np.sqrt((r**2).mean())
        return x, self.slope * x + (self.residual * r / size if self.residual else 0.0)


@dataclass(frozen=True)
class Samples:
    """Given samples."""

    inputs: tuple[float, ...]
    """Inputs x, one per sample."""
    targets: tuple[float, ...]
    """Targets y, one per sample."""

    def __post_init__(self) -> None:
        n = len(self.inputs)
        require(n > 0, "landscape.data.inputs", "at least one", self.inputs)
        require(n == len(self.targets), "landscape.data.targets", f"one for each of {n} inputs", len(self.targets))
        for name in ("inputs", "targets"):
            finite = bool(np.isfinite(getattr(self, name)).all())
            require(finite, f"landscape.data.{name}", "finite numbers", getattr(self, name))

    def numbers(self) -> tuple[Floats, Floats]:
        """Inputs and targets, (N,) each."""
        return np.array(self.inputs, dtype=np.float64), np.array(self.targets, dtype=np.float64)


@dataclass(frozen=True)
class SampleFile:
    """Samples in a text file, which is read once: the configuration keeps the numbers."""

    file: str
    """Text file with one sample per line, input and target, separated by spaces, tabs or a comma."""
    inputs: tuple[float, ...] = ()
    """Inputs as they were read; empty to read the file."""
    targets: tuple[float, ...] = ()
    """Targets as they were read."""

    def __post_init__(self) -> None:
        if not self.inputs and not self.targets:
            for name, values in zip(("inputs", "targets"), _read(self.file), strict=True):
                object.__setattr__(self, name, values)
        _ = Samples(self.inputs, self.targets)  # it checks them

    def numbers(self) -> tuple[Floats, Floats]:
        """Inputs and targets, (N,) each."""
        return Samples(self.inputs, self.targets).numbers()


def _read(file: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        text = Path(file).read_text(encoding="utf-8").replace(",", " ")
        table = np.loadtxt(text.splitlines(), ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"landscape.data.file: expected a readable file of numbers, found {file} ({error})") from error
    shape = f"{table.shape[1]} columns in {file}"
    require(table.size > 0 and table.shape[1] == 2, "landscape.data.file", "two columns, input and target", shape)
    return tuple(table[:, 0].tolist()), tuple(table[:, 1].tolist())
