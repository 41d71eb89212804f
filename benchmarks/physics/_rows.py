"""One row of a claim: what was measured, what is expected, and how far apart they are."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """A measured number with its standard error beside the expected one.

    expected: what the statement being tested says. rejected: what a named wrong formula would say, if there is one.
    A row without `expected` is shown for its own sake. `bias`: known size of a systematic error (of a grid, of an
    adiabatic limit not reached), added to the standard error in `z`.
    """

    name: str
    measured: float
    stderr: float
    expected: float | None = None
    unit: str = "1"
    bias: float = 0.0
    rejected: float | None = None
    rejected_name: str = ""
    note: str = ""

    def _z(self, value: float | None) -> float:
        error = math.hypot(self.stderr, self.bias)
        return (self.measured - value) / error if value is not None and error > 0 else math.nan

    @property
    def z(self) -> float:
        """Distance from the expected value, in standard errors; NaN without one."""
        return self._z(self.expected)

    @property
    def z_rejected(self) -> float:
        """Distance from what the wrong formula says."""
        return self._z(self.rejected)

    def as_json(self) -> dict[str, object]:
        """All of it, for a file."""
        return {**asdict(self), "z": self.z, "z_rejected": self.z_rejected}

    def line(self) -> str:
        """The row as text."""
        text = f"  {self.name:52} {self.measured:11.5g} ± {self.stderr:8.2g}"
        if self.expected is not None:
            text += f"  expected {self.expected:11.5g}  z {self.z:6.2f}"
        if self.rejected is not None:
            text += f"  ({self.rejected_name}: {self.rejected:.5g}, z {self.z_rejected:.1f})"
        return text + (f"  [{self.note}]" if self.note else "")
