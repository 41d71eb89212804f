"""Labels on every number of a forward pass: the unit it is of, carried through reshaping, sums and elementwise maps.

See `_symmetries.py`, which knows the layers.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nn_experiments.objective import Objective
from nn_experiments.paths.permutations import Integers

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


class Units:
    """Units and which of them are the same: a union-find, with for each the place it started at and further tags."""

    def __init__(self) -> None:
        self._parent = [FIXED]
        self.origin = [-1]
        self._roots: Integers | None = None
        self.tags: dict[int, list[tuple[int, int]]] = defaultdict(list)

    def fresh(self, count: int, origin: int) -> Integers:
        start = len(self._parent)
        self._parent += range(start, start + count)
        self.origin += [origin] * count
        self._roots = None
        return np.arange(start, start + count)

    def find(self, unit: int) -> int:
        while self._parent[unit] != unit:
            self._parent[unit] = self._parent[self._parent[unit]]
            unit = self._parent[unit]
        return unit

    def resolved(self, labels: Integers) -> Integers:
        """The labels with one for each class of units that are the same."""
        if self._roots is None:
            self._roots = np.array([*map(self.find, range(len(self._parent))), NONE])  # so that roots[-1] is NONE
        return np.broadcast_to(self._roots[_collapsed(labels)], labels.shape)

    def unite(self, a: Integers, b: Integers) -> Integers:
        """Make a and b (one shape, after broadcasting) the same, element by element; labels of the result."""
        shape = np.broadcast_shapes(a.shape, b.shape)
        a, b = np.broadcast_arrays(_collapsed(np.broadcast_to(a, shape)), _collapsed(np.broadcast_to(b, shape)))
        different = (a != b) & (a >= 0) & (b >= 0)
        for pair in np.unique(a[different] * len(self._parent) + b[different]).tolist():
            first, second = map(self.find, divmod(pair, len(self._parent)))
            if first != second:  # the smaller is the root, so that FIXED stays its own
                self._parent[max(first, second)] = min(first, second)
                self._roots = None
        return np.broadcast_to(self.resolved(np.where(a < 0, b, a)), shape)

    def along(self, labels: Integers, axes: tuple[int, ...]) -> Integers:
        """Make labels the same along `axes` (none negative); what is left of them, those axes of length 1."""
        small = _collapsed(labels)
        moved = np.moveaxis(small, axes, range(len(axes)))
        rows = moved.reshape(-1, *moved.shape[len(axes) :])
        kept = rows.max(axis=0)
        self.unite(rows, np.broadcast_to(kept, rows.shape))
        left = np.expand_dims(self.resolved(kept), axes)
        return np.broadcast_to(left, tuple(1 if d in axes else n for d, n in enumerate(labels.shape)))


def _collapsed(labels: Integers) -> Integers:
    """Labels with axes along which they are merely repeated (stride 0) cut to length 1."""
    return labels[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in labels.strides)]


class LabelTracer(TorchFunctionMode):
    """Gives every tensor of a forward pass its labels, an integer array of its shape."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.units = Units()
        self.parameters = {id(p): n for n, p in zip(objective.names, objective.parameters, strict=True)}
        self.shapes = {n: tuple(s) for n, s in zip(objective.names, objective.shapes, strict=True)}
        self.places: dict[tuple[str, int | None], Integers] = {}
        self.fixed: set[str] = set()
        self._labels: dict[int, tuple[Tensor, Integers]] = {}

    def rule(self, name: str, outs: list[Tensor], args: Any, kwargs: Any) -> list[Integers] | None:
        """Labels of the outputs of a layer, None where it is not known."""
        raise NotImplementedError

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
        else:
            labels = self.rule(name, outs, args, kwargs)
        if labels is None:
            for tensor in tensors:
                self._fix(tensor)
            labels = [np.broadcast_to(np.int64(FIXED), tuple(o.shape)) for o in outs]
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
            return self.place(tensor, None).reshape(tuple(tensor.shape))
        if id(tensor) not in self._labels:
            constant = tensor.numel() <= 1 or bool((tensor == tensor.reshape(-1)[0]).all())
            return np.broadcast_to(np.int64(NONE if constant else FIXED), tuple(tensor.shape))
        return self.units.resolved(self._labels[id(tensor)][1])

    def place(self, parameter: Tensor, axis: int | None) -> Integers:
        """The units along an axis of a parameter, or of its elements (axis None)."""
        name = self.parameters[id(parameter)]
        count = parameter.numel() if axis is None else parameter.shape[axis]
        if name in self.fixed:
            return np.broadcast_to(np.int64(FIXED), count)
        if (name, axis) not in self.places:
            self.places[name, axis] = self.units.fresh(count, len(self.places))
            if any(n == name and (a is None) != (axis is None) for n, a in self.places):
                self._fix(parameter)  # used in two ways that cannot be told apart
        return self.places[name, axis]

    def _fix(self, tensor: Tensor) -> None:
        if id(tensor) not in self.parameters:
            labels = self.of(tensor)
            self.units.unite(labels, np.zeros_like(labels))
            return
        name = self.parameters[id(tensor)]
        self.fixed.add(name)
        for place in [p for (n, _), p in self.places.items() if n == name]:
            self.units.unite(place, np.zeros_like(place))

    # --- operations -------------------------------------------------------------------------------------------------

    def _move(self, func: Any, name: str, args: Any, kwargs: Any) -> list[Integers]:
        """Reshaping, slicing, joining, padding with zeros: done to the labels as to the numbers."""

        def replaced(value: Any) -> Any:
            if isinstance(value, Tensor) and value.is_floating_point():
                return torch.from_numpy(np.array(self.of(value))).to(value.device)
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
                self.units.unite(result, np.broadcast_to(np.int64(FIXED), result.shape))
                result = labels
            elif self._varies(result, other.shape):
                self.units.unite(labels, np.broadcast_to(np.int64(FIXED), labels.shape))
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


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point():
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(value)
    return found
