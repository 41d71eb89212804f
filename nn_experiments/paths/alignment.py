"""Aligning one minimum with another by a permutation of its hidden units, before any path is searched between them.

Two networks trained apart have their hidden units in different orders: as functions nothing changes when the units of
the second are permuted, but its distance from the first does, and with it the loss on the line between them. Weight
matching looks for the permutation that makes the distance least,

    min_P |θ₀ − P θ₁|²   ⇔   max_P ⟨θ₀, P θ₁⟩,

group by group: with all other groups held, one group's best permutation is a linear assignment, solved exactly.

Reference: Ainsworth, Hayase, Srinivasa, ICLR 2023 (arXiv 2209.04836), section 3.2, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from entropy_sim.errors import require
from nn_experiments.experiment import AnyExperiment
from nn_experiments.objective import generator
from nn_experiments.paths._symmetries import permutations
from nn_experiments.paths.permutations import Group, Integers, Permutations


@dataclass(frozen=True)
class Alignment:
    """The ends of a path after matching. ends: (2, D), the first as it was, the second permuted.

    distances: |θ₀ − P θ₁| before, and after each sweep over the groups, in parameter units, never rising.
    permutation: for each group, which old unit of the second end stands where. permutations: the groups themselves."""

    ends: Tensor
    distances: npt.NDArray[np.float64]
    permutation: list[Integers]
    permutations: Permutations


@dataclass(frozen=True)
class WeightMatching:
    """Permute the units of the second minimum to lie nearest to the first.

    Under batch-statistics BatchNorm there is nothing else to permute: no running statistics exist. For evaluation mode
    they are estimated anew at every point (`Objective.copy_statistics`), never permuted or averaged.
    """

    sweeps: int = 100
    """Most sweeps over all groups; it stops at the first that changes nothing."""
    seed: int = 0
    """Seed of the order in which the groups are visited."""

    def __post_init__(self) -> None:
        require(self.sweeps >= 1, "alignment.sweeps", "a number >= 1", self.sweeps)
        require(self.seed >= 0, "alignment.seed", "a number >= 0", self.seed)

    def run(self, experiment: AnyExperiment, ends: Tensor) -> Alignment:
        """Match ends[1] to ends[0], (2, D). The symmetries of the experiment's module are found and checked first."""
        require(ends.ndim == 2 and len(ends) == 2, "ends", "two points (2, D)", tuple(ends.shape))
        return self.match(symmetries(experiment), ends)

    def match(self, symmetry: Permutations, ends: Tensor) -> Alignment:
        """Match ends[1] to ends[0], (2, D), with given symmetries."""
        fixed, moving = ends.detach().cpu().double()
        first, second = symmetry.split(fixed), symmetry.split(moving)
        found = symmetry.identity()
        distances = [float((fixed - moving).norm())]
        order = np.random.default_rng(self.seed)
        for _ in range(self.sweeps):
            changed = False
            for g in order.permutation(len(symmetry.groups)):
                changed |= _improve(symmetry, int(g), first, second, found)
            distances.append(float((fixed - symmetry.apply(moving, found)).norm()))
            if not changed:
                break
        aligned = torch.stack([ends[0].detach(), symmetry.apply(ends[1].detach(), found)])
        return Alignment(aligned, np.array(distances), found, symmetry)


def symmetries(experiment: AnyExperiment) -> Permutations:
    """The permutation symmetries of an experiment's module, found and checked in float64 at a generic point."""
    objective = experiment.objective(dtype=torch.float64)
    theta = experiment.initial(0).double()
    size = float(theta.square().mean().sqrt())
    theta = theta + 0.3 * size * torch.randn(theta.shape, generator=generator(0, 17), dtype=torch.float64)
    return permutations(objective, theta.to(objective.device))


def _improve(
    symmetry: Permutations, g: int, first: dict[str, Tensor], second: dict[str, Tensor], found: list[Integers]
) -> bool:
    """Give group g its best permutation with the others held; whether that gained anything."""
    group = symmetry.groups[g]
    overlaps = np.zeros((group.size, group.size))
    for use in group.uses:
        mine = _rows(first[use.parameter], use.axis, use.positions)
        others = _rows(symmetry.permuted(second, use, found), use.axis, use.positions)
        overlaps += (mine @ others.T).numpy()
    rows, best = linear_sum_assignment(overlaps, maximize=True)
    gain = overlaps[rows, best].sum() - overlaps[rows, found[g]].sum()
    if gain <= 1e-12 * np.abs(overlaps).max():
        return False
    if _on_two_axes(group):
        # The overlap is then quadratic in the permutation, and its linear part may promise too much.
        old, before = found[g], _overlap(symmetry, group, first, second, found)
        found[g] = best
        if _overlap(symmetry, group, first, second, found) <= before:
            found[g] = old
            return False
    found[g] = best
    return True


def _rows(tensor: Tensor, axis: int | None, positions: Integers) -> Tensor:
    """One row for each unit: all numbers that belong to it, (units, n)."""
    moved = tensor.reshape(-1) if axis is None else tensor.movedim(axis, 0)
    return moved[torch.from_numpy(positions)].reshape(len(positions), -1)


def _on_two_axes(group: Group) -> bool:
    names = [use.parameter for use in group.uses]
    return len(set(names)) < len(names)


def _overlap(
    symmetry: Permutations, group: Group, first: dict[str, Tensor], second: dict[str, Tensor], found: list[Integers]
) -> float:
    """⟨θ₀, P θ₁⟩ over the parameters that the group occurs in."""
    names = {use.parameter for use in group.uses}
    whole = symmetry.split(symmetry.apply(torch.cat([t.reshape(-1) for t in second.values()]), found))
    return sum(float((first[n] * whole[n]).sum()) for n in sorted(names))
