"""What every peer solves, its exact stationary averages, and the check that a peer really solved it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
State = tuple[Floats, Floats]
Advance = Callable[..., State | None]


@dataclass(frozen=True)
class Problem:
    """Euler–Maruyama at temperature T on ``L = 1/2 k(y) x²``, y periodic with period 1, for walkers (y, x):

    ``k = soft + (stiff - soft) q³``, ``q = 1 - 4 (y - floor(y) - 1/2)²``,
    ``y <- y - h k'(y) x²/2 + √(2Th) R``, ``x <- x - h k(y) x + √(2Th) R'``.
    This is `Channel(Bump(soft, stiff, 0.5), transverse_directions=1, boundary="periodic")`. Walkers start at rest on
    the path, spread evenly over y.
    """

    soft: float = 1.0
    """Smallest stiffness."""
    stiff: float = 4.0
    """Largest stiffness; the fastest relaxation time is 1/stiff."""
    temperature: float = 0.1
    """Temperature T: y crosses the channel in 1/(4 pi² T) = 0.25, x forgets in 1/k = 0.25…1."""
    step: float = 0.005
    """Time step h."""
    stride: int = 5
    """Steps between our counts: a tenth of the fastest relaxation time, which is 50 steps."""

    def stiffness(self, y: Floats) -> Floats:
        """k(y)."""
        q = 1.0 - 4.0 * (y - np.floor(y) - 0.5) ** 2
        return self.soft + (self.stiff - self.soft) * q**3

    def averages(self, y: Floats, x: Floats) -> dict[str, tuple[float, float, int]]:
        """Sum, sum of squares and number of k(y) x²/T and of cos(2 pi y) over walkers."""
        terms = {"k x²/T": self.stiffness(y) * x**2 / self.temperature, "cos 2πy": np.cos(2 * np.pi * y)}
        return {name: (float(v.sum()), float((v**2).sum()), v.size) for name, v in terms.items()}

    def _weight(self) -> tuple[Floats, Floats, Floats]:
        """Stationary probability of Euler–Maruyama on a grid over one period of y and all of x, (ny, nx); y; x.

        To first order in h its density is ``exp(-(L - h |grad L|²/4 + h T lap L/2)/T)`` (weak expansion; Mattingly,
        Stuart, Tretyakov, SIAM J. Numer. Anal. 48 (2010) 552); on a harmonic well that is the exact
        ``T/(k (1 - hk/2))``. What it leaves out is of order (hk)² = 4e-4.
        """
        t, h = self.temperature, self.step
        y = (np.arange(800) + 0.5)[:, None] / 800
        x = np.linspace(-8, 8, 801)[None, :] * np.sqrt(t / self.soft)
        u = y - 0.5
        q = 1.0 - 4.0 * u**2
        k, bump = self.stiffness(y), self.stiff - self.soft
        slope = -24.0 * bump * u * q**2
        second = -24.0 * bump * (q**2 - 16.0 * u**2 * q)
        force = (k * x) ** 2 + (0.5 * slope * x**2) ** 2
        exponent = 0.5 * k * x**2 - 0.25 * h * force + 0.5 * h * t * (k + 0.5 * second * x**2)
        weight = np.exp(-exponent / t)
        return weight / weight.sum(), y, x

    def exact(self) -> dict[str, float]:
        """The same two averages in the stationary state of Euler–Maruyama, by quadrature."""
        weight, y, x = self._weight()
        terms = {"k x²/T": self.stiffness(y) * x**2 / self.temperature, "cos 2πy": np.cos(2 * np.pi * y)}
        return {name: float((weight * term).sum()) for name, term in terms.items()}

    def density(self, bins: int) -> Floats:
        """Stationary density of y in each of `bins` bins of one period; bins must divide 800."""
        return bins * self._weight()[0].sum(axis=1).reshape(bins, -1).sum(axis=1)


@dataclass(frozen=True)
class Variant:
    """A way for a peer to do the work. processes: "one", with the threads it is given; "each", one process of one
    thread per thread, sharing out the walkers. environment: set before the peer is imported."""

    options: dict[str, Any] = field(default_factory=dict)
    processes: str = "one"
    environment: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [f"{n}={v}" for n, v in (self.options | self.environment).items()]
        return ", ".join([*words, *(["one process per thread"] if self.processes == "each" else [])]) or "plain"

    def with_options(self, **options: Any) -> Variant:
        return dataclasses.replace(self, options=self.options | options)


def z_scores(samples: list[dict[str, tuple[float, float, int]]], exact: dict[str, float]) -> dict[str, float]:
    """(mean - exact)/stderr of every average, over calls and processes together; calls are decorrelated."""
    found = {}
    for name, value in exact.items():
        total, squares, count = (sum(s[name][i] for s in samples) for i in range(3))
        mean = total / count
        found[name] = float((mean - value) / np.sqrt(max(squares / count - mean**2, 1e-300) / count))
    return found
