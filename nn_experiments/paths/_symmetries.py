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
from torch.overrides import TorchFunctionMode

from nn_experiments.objective import Objective
from nn_experiments.paths.permutations import Group, Integers, Permutations, Use

#: Labels of numbers that belong to no unit: of one fixed place, and of none at all (zero padding, means over units).
FIXED, NONE = 0, -1

_SAME = {
    *("relu", "relu_", "gelu", "silu", "tanh", "sigmoid", "elu", "leaky_relu", "softplus", "hardswish", "hardsigmoid"),
    *("relu6", "hardtanh", "softmax", "log_softmax", "dropout", "exp", "log", "sqrt", "rsqrt", "square", "abs", "neg"),
    *("__neg__", "contiguous", "clone", "detach", "to", "float", "double", "type_as", "identity", "pow", "__pow__"),
    *("clamp", "dropout2d", "alpha_dropout", "mish", "celu", "selu"),
}
_PAIR = {
    *("add", "__add__", "__radd__", "__iadd__", "add_", "sub", "__sub__", "__rsub__", "mul", "__mul__", "__rmul__"),
    *("div", "__truediv__", "__imul__", "mul_", "maximum", "minimum", "true_divide"),
}
_MOVE = {
    *("reshape", "view", "flatten", "unflatten", "permute", "transpose", "unsqueeze", "squeeze", "__getitem__"),
    *("chunk", "split", "unbind", "expand", "expand_as", "flip", "roll", "movedim", "swapaxes", "narrow", "select"),
    *("repeat", "cat", "concat", "stack", "pad", "__get__", "t", "view_as", "split_with_sizes", "tile"),
}
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
            tracer.label(inputs, np.full(tuple(inputs.shape), FIXED))
            outputs = objective.forward(inputs)
        tracer.units.unite(tracer.of(outputs), np.full(tuple(outputs.shape), FIXED))
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


class _Units:
    """Units and which of them are the same: a union-find, with for each the place it started at and further tags."""

    def __init__(self) -> None:
        self._parent = [FIXED]
        self.origin = [-1]
        self.tags: dict[int, list[tuple[int, int]]] = defaultdict(list)

    def fresh(self, count: int, origin: int) -> Integers:
        start = len(self._parent)
        self._parent += range(start, start + count)
        self.origin += [origin] * count
        return np.arange(start, start + count)

    def find(self, unit: int) -> int:
        while self._parent[unit] != unit:
            self._parent[unit] = self._parent[self._parent[unit]]
            unit = self._parent[unit]
        return unit

    def resolved(self, labels: Integers) -> Integers:
        """The labels with one for each class of units that are the same."""
        unique, inverse = np.unique(labels, return_inverse=True)
        return np.array([u if u < 0 else self.find(int(u)) for u in unique])[inverse].reshape(labels.shape)

    def unite(self, a: Integers, b: Integers) -> Integers:
        """Make a and b (one shape, after broadcasting) the same, element by element; labels of the result."""
        a, b = np.broadcast_arrays(a, b)
        pairs = np.unique(np.stack([a.ravel(), b.ravel()], axis=1), axis=0)
        for x, y in pairs[(pairs >= 0).all(axis=1)].tolist():
            first, second = self.find(x), self.find(y)
            if first != second:  # the smaller is the root, so that FIXED stays its own
                self._parent[max(first, second)] = min(first, second)
        return self.resolved(np.where(a < 0, b, a))

    def along(self, labels: Integers, axes: tuple[int, ...]) -> Integers:
        """Make labels the same along `axes`; what is left of them, those axes of length 1."""
        moved = np.moveaxis(labels, axes, range(len(axes)))
        rows = moved.reshape(-1, *moved.shape[len(axes) :])
        kept = rows.max(axis=0)
        self.unite(rows, np.where(rows < 0, NONE, kept))
        return np.expand_dims(self.resolved(kept), axes)


class _Tracer(TorchFunctionMode):
    """Gives every tensor of a forward pass its labels, an integer array of its shape."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.units = _Units()
        self.parameters = {id(p): n for n, p in zip(objective.names, objective.parameters, strict=True)}
        self.shapes = {n: tuple(s) for n, s in zip(objective.names, objective.shapes, strict=True)}
        self.places: dict[tuple[str, int | None], Integers] = {}
        self._labels: dict[int, tuple[Tensor, Integers]] = {}
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

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        outs = [o for o in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(o, Tensor)]
        tensors = _tensors([*args, *kwargs.values()])
        if not outs or not tensors:
            return out
        name = getattr(func, "__name__", "")
        labels: list[Integers] | None = None
        if name in _MOVE:
            labels = self._move(func, name, args, kwargs)
        elif name in _SAME and len(outs) == 1 and outs[0].shape == tensors[0].shape:
            labels = [self.of(tensors[0])]
        elif name in _PAIR:
            labels = [self._pair(tensors, outs[0])]
        elif name in self._rules and len(outs) == 1:
            result = self._rules[name](outs[0], *args, **kwargs)
            labels = None if result is None else [result]
        if labels is None:
            for tensor in tensors:
                self._fix(tensor)
            labels = [np.full(tuple(o.shape), FIXED) for o in outs]
        for o, label in zip(outs, labels, strict=True):
            self.label(o, label)
        return out

    # --- labels -----------------------------------------------------------------------------------------------------

    def label(self, tensor: Tensor, labels: Integers) -> None:
        """Set the labels of a tensor, which is kept: its id must not be given to another."""
        self._labels[id(tensor)] = (tensor, np.broadcast_to(labels, tuple(tensor.shape)))

    def of(self, tensor: Tensor) -> Integers:
        """The labels of a tensor; of a parameter its elements; of a constant that nothing is known of, fixed."""
        if id(tensor) in self.parameters:
            return self._place(tensor, None).reshape(tuple(tensor.shape))
        if id(tensor) not in self._labels:
            constant = tensor.numel() <= 1 or bool((tensor == tensor.reshape(-1)[0]).all())
            return np.full(tuple(tensor.shape), NONE if constant else FIXED)
        return self.units.resolved(self._labels[id(tensor)][1])

    def _place(self, parameter: Tensor, axis: int | None) -> Integers:
        """The units along an axis of a parameter, or of its elements (axis None)."""
        name = self.parameters[id(parameter)]
        if (name, axis) not in self.places:
            count = parameter.numel() if axis is None else parameter.shape[axis]
            self.places[name, axis] = self.units.fresh(count, len(self.places))
            if any(n == name and (a is None) != (axis is None) for n, a in self.places):
                self._fix(parameter)  # used in two ways that cannot be told apart
        return self.places[name, axis]

    def _fix(self, tensor: Tensor) -> None:
        if id(tensor) in self.parameters:
            name = self.parameters[id(tensor)]
            for place in [p for (n, _), p in self.places.items() if n == name]:
                self.units.unite(place, np.zeros_like(place))
            if not any(n == name for n, _ in self.places):
                self._fix_elements(tensor)
        else:
            labels = self.of(tensor)
            self.units.unite(labels, np.zeros_like(labels))

    def _fix_elements(self, tensor: Tensor) -> None:
        place = self._place(tensor, None)
        self.units.unite(place, np.zeros_like(place))

    # --- operations -------------------------------------------------------------------------------------------------

    def _move(self, func: Any, name: str, args: Any, kwargs: Any) -> list[Integers]:
        """Reshaping, slicing, joining, padding with zeros: done to the labels as to the numbers."""

        def replaced(value: Any) -> Any:
            if isinstance(value, Tensor) and value.is_floating_point():
                return torch.from_numpy(np.ascontiguousarray(self.of(value))).to(value.device)
            return type(value)(map(replaced, value)) if type(value) in (tuple, list) else value

        if name == "pad" and (args[2] if len(args) > 2 else kwargs.get("mode", "constant")) == "constant":
            args, kwargs = args[:2], {**({"pad": kwargs["pad"]} if "pad" in kwargs else {}), "value": NONE}
        out = func(*map(replaced, args), **{k: replaced(v) for k, v in kwargs.items()})
        return [o.cpu().numpy() for o in (out if isinstance(out, (tuple, list)) else [out])]

    def _pair(self, tensors: list[Tensor], out: Tensor) -> Integers:
        """Elementwise: both are of the same unit, but for one that is spread over several units of the other."""
        shape = tuple(out.shape)
        result = np.broadcast_to(self.of(tensors[0]), shape)
        size = tensors[0].shape
        for other in tensors[1:]:
            labels = np.broadcast_to(self.of(other), shape)
            if self._varies(labels, size):
                self.units.unite(result, np.full_like(result, FIXED))
                result = labels
            elif self._varies(result, other.shape):
                self.units.unite(labels, np.full_like(labels, FIXED))
            else:
                result = self.units.unite(result, labels)
            size = out.shape
        return self.units.resolved(result)

    @staticmethod
    def _varies(labels: Integers, size: torch.Size) -> bool:
        """Whether labels differ along an axis over which a tensor of shape `size` was spread."""
        padded = (1,) * (labels.ndim - len(size)) + tuple(size)
        spread = [d for d, n in enumerate(padded) if n == 1 and labels.shape[d] > 1]
        return any(bool((labels != labels.take([0], axis=d)).any()) for d in spread)

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
        self.units.unite(np.where(features < 0, FIXED, features), self._place(weight, axis))

    def _with_bias(self, units: Integers, bias: Tensor | None) -> bool:
        if bias is None:
            return True
        if id(bias) not in self.parameters:
            return False
        self.units.unite(units, self._place(bias, None))
        return True

    def _linear(self, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Integers | None:
        if id(weight) not in self.parameters or not self._with_bias(units := self._place(weight, 0), bias):
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
        units = self._place(weight, 0)
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
            features = self.units.unite(features, self._place(parameter, None))
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
            return self.units.resolved(self._place(b, 1))
        left, right = self.units.along(self.of(a), (a.ndim - 1,)), self.units.along(self.of(b), (b.ndim - 2,))
        return np.broadcast_to(self.units.unite(left, right), tuple(out.shape))

    def _attention(self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Integers:
        last = (q.ndim - 2, q.ndim - 1)
        heads = [self.units.along(self.of(x), last) for x in (q, k, v)]
        return np.broadcast_to(self.units.unite(self.units.unite(heads[0], heads[1]), heads[2]), tuple(out.shape))

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


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point():
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(value)
    return found
