"""Permutations of hidden units under which a network's outputs do not change, as they act on its flat parameters.

A *unit* is a channel, a hidden unit or an attention head; a *group* is a set of units that may be exchanged with each
other, wherever they occur: in the rows of one weight, the columns of the next, the scales and shifts of a norm between
them. The streams of a residual network are one group each. `_symmetries.py` finds the groups of a module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from entropy_sim.errors import require

Integers = npt.NDArray[np.int64]
#: For each group, which unit of the old network stands where: new unit i is old unit `permutation[g][i]`.
Permutation = Sequence[Integers]


@dataclass(frozen=True)
class Use:
    """Where the units of a group occur in one parameter. axis: a dimension of it, or None for its flat elements.

    positions: (units, occurrences), those along the axis that belong to each unit, matching ones in the same column."""

    parameter: str
    axis: int | None
    positions: Integers


@dataclass(frozen=True)
class Group:
    """Units that may be exchanged with each other, and everywhere they occur."""

    size: int
    uses: tuple[Use, ...]


@dataclass(frozen=True)
class Permutations:
    """All groups of a network. shapes: of its parameters by name, in the order of theta. left_out: groups that were
    found but failed the check of the outputs, and are not used."""

    shapes: Mapping[str, tuple[int, ...]]
    groups: tuple[Group, ...]
    left_out: int = 0

    def identity(self) -> list[Integers]:
        """The permutation that does nothing."""
        return [np.arange(group.size) for group in self.groups]

    def random(self, generator: np.random.Generator) -> list[Integers]:
        """A uniformly drawn permutation."""
        return [generator.permutation(group.size) for group in self.groups]

    def permutable(self) -> float:
        """Fraction of the parameters that some group acts on."""
        sizes = {name: int(np.prod(shape)) for name, shape in self.shapes.items()}
        touched: dict[str, Tensor] = {n: torch.zeros(s, dtype=torch.bool) for n, s in self.shapes.items()}
        for group in self.groups:
            for use in group.uses:
                moved = torch.from_numpy(use.positions.ravel())
                whole = touched[use.parameter]
                (whole.view(-1) if use.axis is None else whole.movedim(use.axis, 0))[moved] = True
        return sum(int(t.sum()) for t in touched.values()) / max(1, sum(sizes.values()))

    def apply(self, theta: Tensor, permutation: Permutation) -> Tensor:
        """`theta` (D,) with its units permuted, a new vector of the same function."""
        require(
            len(permutation) == len(self.groups),
            "permutation",
            f"one for each of {len(self.groups)} groups",
            len(permutation),
        )
        pieces = self.split(theta)
        for name, index in self._indices(permutation).items():
            for axis, order in index.items():
                pieces[name] = _select(pieces[name], axis, order)
        return torch.cat([p.reshape(-1) for p in pieces.values()])

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """The parameters in a flat vector (D,) by name, as views."""
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        parts = torch.split(theta, sizes)
        return {n: p.view(shape) for (n, shape), p in zip(self.shapes.items(), parts, strict=True)}

    def permuted(self, pieces: Mapping[str, Tensor], use: Use, permutation: Permutation) -> Tensor:
        """The parameter of `use` with every axis but that of `use` permuted."""
        tensor = pieces[use.parameter]
        for axis, order in self._indices(permutation, use.parameter).get(use.parameter, {}).items():
            if axis != use.axis:
                tensor = _select(tensor, axis, order)
        return tensor

    def _indices(self, permutation: Permutation, only: str | None = None) -> dict[str, dict[int | None, Integers]]:
        """For each parameter and axis, which old position each new one takes its values from."""
        found: dict[str, dict[int | None, Integers]] = {}
        for group, order in zip(self.groups, permutation, strict=True):
            for use in group.uses:
                if only is not None and use.parameter != only:
                    continue
                shape = self.shapes[use.parameter]
                length = int(np.prod(shape)) if use.axis is None else shape[use.axis]
                index = found.setdefault(use.parameter, {}).setdefault(use.axis, np.arange(length))
                index[use.positions] = use.positions[order]
        return found


def _select(tensor: Tensor, axis: int | None, order: Integers) -> Tensor:
    index = torch.from_numpy(order).to(tensor.device)
    if axis is None:
        return tensor.reshape(-1).index_select(0, index).view(tensor.shape)
    return tensor.index_select(axis, index)
