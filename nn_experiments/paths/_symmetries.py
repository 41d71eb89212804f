"""Finding the permutation symmetries of any module: one forward pass in which every number carries the unit it is of.

Each row and column of a weight starts as a unit of its own. An operation makes units the same that must move together:
a linear map the columns of its weight and the features it is given, a sum its two terms, attention all that belongs to
one head. What an unknown operation touches is fixed. Units that, in the end, unite the same places of the same weights
may be exchanged. The network's outputs then decide: groups under whose permutation they change are left out.

Not permuted: what is fixed by the data and the outputs; within attention heads (whole heads are exchanged); between
the groups of a GroupNorm (channels within each are); weights of grouped, but not depthwise, convolutions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nn_experiments.objective import Objective
from nn_experiments.paths._labels import FIXED, NONE, LabelTracer
from nn_experiments.paths.permutations import Group, Integers, Permutations, Use

_POOL = ("max_pool2d", "_max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "boolean_dispatch")


def permutations(objective: Objective, theta: Tensor, samples: int = 16) -> Permutations:
    """The permutation symmetries of the objective's module, found and checked at `theta` (D,), deterministic.

    theta: any generic point, better in float64: equal numbers in it would hide that a permutation changes something.
    """
    count = objective.group_size or min(samples, objective.size)
    inputs = objective.inputs[:count]
    objective.load(theta)
    with torch.no_grad():
        tracer = _Tracer(objective)
        with tracer:
            tracer.label(inputs, np.broadcast_to(np.int64(FIXED), tuple(inputs.shape)))
            outputs = objective.forward(inputs)
        tracer.units.unite(tracer.of(outputs), np.broadcast_to(np.int64(FIXED), tuple(outputs.shape)))
        found = tracer.groups()
        return _checked(found, objective, theta, inputs)


def _checked(found: Permutations, objective: Objective, theta: Tensor, inputs: Tensor) -> Permutations:
    """Without the groups whose permutation changes the outputs by more than rounding."""
    tolerance = 1e-9 if theta.dtype == torch.float64 else 1e-4

    def outputs(parameters: Tensor) -> Tensor:
        objective.load(parameters)
        return objective.forward(inputs).double()

    expected = outputs(theta)
    scale = float(expected.abs().max())

    def unchanged(candidate: Permutations) -> bool:
        shuffled = candidate.apply(theta, candidate.random(np.random.default_rng(0)))
        return float((outputs(shuffled) - expected).abs().max()) <= tolerance * scale

    if unchanged(found):
        return found
    good = tuple(group for group in found.groups if unchanged(replace(found, groups=(group,))))
    return replace(found, groups=good, left_out=len(found.groups) - len(good))


class _Tracer(LabelTracer):
    """What the layers do to labels."""

    def __init__(self, objective: Objective) -> None:
        super().__init__(objective)
        self._rules: dict[str, Callable[..., Integers | None]] = {
            "linear": self._linear,
            **dict.fromkeys(("conv1d", "conv2d", "conv3d"), self._convolution),
            "batch_norm": self._batch_norm,
            **dict.fromkeys(("layer_norm", "rms_norm"), self._layer_norm),
            "group_norm": self._group_norm,
            **dict.fromkeys(("matmul", "__matmul__", "bmm"), self._matmul),
            "scaled_dot_product_attention": self._attention,
            **dict.fromkeys(("mean", "sum", "amax", "amin"), self._reduce),
            **dict.fromkeys(_POOL, self._pool),
        }

    def rule(self, name: str, outs: list[Tensor], args: Any, kwargs: Any) -> list[Integers] | None:
        """Labels of the outputs of a layer, None where it is not known."""
        if name == "multi_head_attention_forward":
            result = self._multi_head_attention(*args, **kwargs)
            return (
                None
                if result is None
                else [result, *(np.broadcast_to(np.int64(FIXED), tuple(o.shape)) for o in outs[1:])]
            )
        if name not in self._rules or len(outs) != 1:
            return None
        result = self._rules[name](outs[0], *args, **kwargs)
        return None if result is None else [result]

    # --- layers -----------------------------------------------------------------------------------------------------

    def _reduce(self, out: Tensor, x: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> Integers:
        axes = (
            tuple(range(x.ndim))
            if dim is None
            else tuple(d % x.ndim for d in (dim if isinstance(dim, (tuple, list)) else [dim]))
        )
        labels = self.of(x)
        low, high = labels.min(axis=axes, keepdims=keepdim), labels.max(axis=axes, keepdims=keepdim)
        return np.asarray(np.where(low == high, low, NONE))

    def _pool(self, out: Tensor, x: Tensor, *_: Any, **__: Any) -> Integers | None:
        if x.ndim != 4 or out.shape[:2] != x.shape[:2]:
            return None
        return np.broadcast_to(self.units.along(self.of(x), (2, 3)), tuple(out.shape))

    def _channels(self, x: Tensor, axis: int) -> Integers:
        """One label for each index along an axis, made the same along all others; (length,)."""
        return self.units.along(self.of(x), tuple(d for d in range(x.ndim) if d != axis % x.ndim)).reshape(-1)

    def _contract(self, features: Integers, weight: Tensor, axis: int) -> None:
        # What is of no unit may still be a number that depends on its place.
        self.units.unite(np.where(features < 0, FIXED, features), self.place(weight, axis))

    def _with_bias(self, units: Integers, bias: Tensor | None) -> bool:
        if bias is None:
            return True
        if id(bias) not in self.parameters:
            return False
        self.units.unite(units, self.place(bias, None))
        return True

    def _linear(self, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Integers | None:
        if id(weight) not in self.parameters or not self._with_bias(units := self.place(weight, 0), bias):
            return None
        self._contract(self._channels(x, -1), weight, 1)
        return self.units.resolved(units)

    def _convolution(
        self,
        out: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Integers | None:
        if id(weight) not in self.parameters or x.ndim != weight.ndim or (groups > 1 and groups != len(weight)):
            return None
        units = self.place(weight, 0)
        if not self._with_bias(units, bias):
            return None
        features = self._channels(x, 1)
        if groups == 1:
            self._contract(features, weight, 1)
        elif len(features) == len(units):
            self.units.unite(np.where(features < 0, FIXED, features), units)
        else:
            return None
        return self.units.resolved(units).reshape(-1, *([1] * (x.ndim - 2)))

    def _affine(self, x: Tensor, axis: int, *parameters: Tensor | None) -> Integers | None:
        """A norm whose scale and shift go with the features along `axis`."""
        features = self._channels(x, axis)
        for parameter in parameters:
            if parameter is None:
                continue
            if id(parameter) not in self.parameters:
                return None
            features = self.units.unite(features, self.place(parameter, None))
        return features.reshape(-1, *([1] * (x.ndim - 1 - axis % x.ndim)))

    def _batch_norm(
        self, out: Tensor, x: Tensor, mean: Any, var: Any, weight: Any = None, bias: Any = None, *_: Any, **__: Any
    ) -> Integers | None:
        # Running statistics, if any, are not permuted: they are estimated anew.
        return self._affine(x, 1, weight, bias)

    def _layer_norm(
        self, out: Tensor, x: Tensor, shape: Any, weight: Any = None, bias: Any = None, *_: Any, **__: Any
    ) -> Integers | None:
        return self._affine(x, -1, weight, bias) if len(shape) == 1 else None

    def _group_norm(
        self, out: Tensor, x: Tensor, groups: int, weight: Any = None, bias: Any = None, *_: Any, **__: Any
    ) -> Integers | None:
        labels = self._affine(x, 1, weight, bias)
        if labels is not None and groups > 1:
            norm = len(self._labels)
            for i, unit in enumerate(labels.ravel().tolist()):
                if unit > 0:
                    self.units.tags[unit].append((norm, i * groups // x.shape[1]))
        return labels

    def _matmul(self, out: Tensor, a: Tensor, b: Tensor) -> Integers | None:
        if a.ndim < 2 or b.ndim < 2 or id(a) in self.parameters:
            return None
        if id(b) in self.parameters:
            if b.ndim != 2:
                return None
            self._contract(self._channels(a, -1), b, 0)
            return self.units.resolved(self.place(b, 1))
        left, right = self.units.along(self.of(a), (a.ndim - 1,)), self.units.along(self.of(b), (b.ndim - 2,))
        return np.broadcast_to(self.units.unite(left, right), tuple(out.shape))

    def _attention(self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Integers:
        last = (q.ndim - 2, q.ndim - 1)
        heads = [self.units.along(self.of(x), last) for x in (q, k, v)]
        return np.broadcast_to(self.units.unite(self.units.unite(heads[0], heads[1]), heads[2]), tuple(out.shape))

    def _multi_head_attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        width: int,
        heads: int,
        weight: Tensor | None,
        bias: Tensor | None,
        bias_k: Any,
        bias_v: Any,
        add_zero: Any,
        dropout: Any,
        projection: Tensor,
        projection_bias: Tensor | None,
        *_: Any,
        **more: Any,
    ) -> Integers | None:
        separate = bias_k is not None or bias_v is not None or more.get("use_separate_proj_weight")
        if separate or weight is None or not {id(weight), id(projection)} <= set(self.parameters):
            return None
        for x in (query, key, value):
            self._contract(self._channels(x, -1), weight, 1)
        rows = self.place(weight, 0)
        units = self.place(projection, 0)
        if not (self._with_bias(rows, bias) and self._with_bias(units, projection_bias)):
            return None
        head = self.units.along(self.units.resolved(rows).reshape(3, heads, -1), (0, 2))
        self.units.unite(np.broadcast_to(head[0], (heads, width // heads)).reshape(-1), self.place(projection, 1))
        return self.units.resolved(units)

    # --- what was found ---------------------------------------------------------------------------------------------

    def groups(self) -> Permutations:
        """The groups of units that unite the same places, of two units or more."""
        units = self.units
        made: dict[int, list[int]] = defaultdict(list)
        tags: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for unit in range(1, len(units.origin)):
            made[units.find(unit)].append(units.origin[unit])
        for unit, given in units.tags.items():
            tags[units.find(unit)] += given
        alike: dict[Any, list[int]] = defaultdict(list)
        for root, origins in made.items():
            if root != FIXED:
                alike[tuple(sorted(origins)), tuple(sorted(tags[root]))].append(root)
        where: dict[int, list[tuple[str, int | None, Integers]]] = defaultdict(list)
        for (name, axis), place in self.places.items():
            resolved = units.resolved(place)
            order = np.argsort(resolved, kind="stable")
            roots, starts = np.unique(resolved[order], return_index=True)
            for root, positions in zip(roots.tolist(), np.split(order, starts[1:]), strict=True):
                where[root].append((name, axis, positions))
        groups = []
        for roots_alike in alike.values():
            if len(roots_alike) > 1:
                uses = tuple(
                    Use(name, axis, np.stack([where[root][i][2] for root in roots_alike]))
                    for i, (name, axis, _) in enumerate(where[roots_alike[0]])
                )
                groups.append(Group(len(roots_alike), uses))
        return Permutations(self.shapes, tuple(groups))
