"""Functions that are compiled to one signature when they are first used, and cached on disk."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numba import njit

from entropy_sim._target import prefer_wide_vectors

prefer_wide_vectors()

#: Fast arithmetic that keeps NaN and infinity meaningful (divergence is detected by them).
FASTMATH = frozenset({"contract", "nsz", "arcp", "afn", "reassoc"})

#: How a function of a block is compiled.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(FASTMATH)}

#: Helper functions called inside a walker loop; LLVM must inline them or the loop does not vectorise.
inline = njit(forceinline=True, error_model="numpy", fastmath=set(FASTMATH))


class Compiled:
    """A function that is compiled to one signature at its first use, or loaded from the cache on disk."""

    def __init__(self, function: Callable[..., object], signature: Any, fastmath: frozenset[str] = FASTMATH) -> None:
        functools.update_wrapper(self, function)
        self._function, self._signature, self._fastmath = function, signature, fastmath

    @functools.cached_property
    def pointer(self) -> Any:
        """The compiled function."""
        options = OPTIONS | {"fastmath": set(self._fastmath)}
        # Loaded from the cache, variants of one function whose only difference are the numbers of its closure may have
        # one symbol in common (numba numbers them anew in every process), and a pointer then leads to either.
        numbers = [int(cell.cell_contents) for cell in self._function.__closure__ or ()]
        self._function.__qualname__ += "".join(f"_{number}" for number in numbers)
        return njit(self._signature, cache=True, **options)(self._function)

    def __call__(self, *arguments: Any) -> None:
        self.pointer(*arguments)
