"""One row of the table: a number, its spread over the repeats, and the target it is held to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """value: the median of the repeats, low…high their range. target: "<= 2.5", ">= 15", "= 1", or "" for a row that
    is there to be known. met: None without a target; False also where a value is missing or invalid."""

    name: str
    value: float | None
    unit: str
    target: str = ""
    low: float | None = None
    high: float | None = None
    repeats: int = 1
    note: str = ""
    valid: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the value reaches the target."""
        if not self.target:
            return None
        if self.value is None or not self.valid or math.isnan(self.value):
            return False
        relation, limit = self.target.split()
        bound = float(limit)
        return {
            "<": self.value < bound,
            "<=": self.value <= bound,
            ">=": self.value >= bound,
            "=": self.value == bound,
        }[relation]

    def as_json(self) -> dict[str, object]:
        """All of it, for a file."""
        return {**asdict(self), "met": self.met}

    def line(self) -> str:
        """The row as text."""
        value = "-" if self.value is None else f"{self.value:.4g}"
        spread = "" if self.low is None or self.high is None else f"{self.low:.3g}…{self.high:.3g}"
        met = {None: "", True: "yes", False: "NO"}[self.met]
        note = self.note if self.valid else f"INVALID {self.note}"
        return f"{self.name:58} {value:>9} {self.unit:16} {spread:>15}  {self.target:8} {met:4} {note}".rstrip()


HEADER = f"{'name':58} {'value':>9} {'unit':16} {'low…high':>15}  {'target':8} {'met':4} note"


def of(name: str, values: Sequence[float], unit: str, target: str = "", note: str = "", valid: bool = True) -> Row:
    """A row of repeated measurements: their median and range."""
    median = statistics.median(values)
    return Row(name, median, unit, target, min(values), max(values), len(values), note, valid)


def missing(name: str, unit: str, why: str, target: str = "") -> Row:
    """A row of something that could not be measured, and why."""
    return Row(name, None, unit, target, repeats=0, note=why)
