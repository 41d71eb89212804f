"""Functions that are compiled to one signature when they are first used, and cached on disk."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from entropy_sim._target import prefer_wide_vectors

prefer_wide_vectors()

#: Fast arithmetic that keeps NaN and infinity meaningful (divergence is detected by them).
FASTMATH = frozenset({"contract", "nsz", "arcp", "afn", "reassoc"})

#: How a function of a block is compiled.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(FASTMATH)}

#: Helper functions called inside a walker loop; LLVM must inline them or the loop does not vectorise.
inline = njit(forceinline=True, error_model="numpy", fastmath=set(FASTMATH))


# Both are one instruction. `ndarray.view` of a scalar and a rotation by shifts are that too, after numba has compiled a
# function for each type that it meets.
def _bits_as(context, x, kind):  # type: ignore[no-untyped-def]
    """The bits of a number x, read as one of another kind (np.uint64, np.float32, …) of the same width."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return kind.instance_type(x, kind), generate


def _rotated(context, x, left):  # type: ignore[no-untyped-def]
    """x, a word of 32 bits, rotated to the left."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        word = ir.IntType(32)
        fshl = builder.module.declare_intrinsic("llvm.fshl", [word], ir.FunctionType(word, [word] * 3))
        return builder.call(fshl, [arguments[0], arguments[0], arguments[1]])

    return types.uint32(types.uint32, types.uint32), generate


bits_as: Any = intrinsic(_bits_as)
rotated: Any = intrinsic(_rotated)


@functools.cache
def sources() -> str:
    """A digest of all files with compiled code. Numba asks whether the file of a function has changed before it loads
    it from the cache, not whether the helpers and constants have that it takes from other files."""
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        text = file.read_bytes()
        if any(word in text for word in (b"numba", b"_compiled", b"_kernels")):
            digest.update(text)
    return digest.hexdigest()


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
        self._function.__qualname__ += "".join(f"_{number}" for number in numbers) + f"_{sources()}"
        return njit(self._signature, cache=True, **options)(self._function)

    def __call__(self, *arguments: Any) -> None:
        self.pointer(*arguments)


class Absent(types.WrapperAddressProtocol):
    """Stands where a compiled function of this signature could be, and is not called: nothing is compiled for it."""

    def __init__(self, signature: Any) -> None:
        self._signature = signature

    @property
    def pointer(self) -> Absent:
        """What `Compiled.pointer` is: something numba takes for a function."""
        return self

    def __wrapper_address__(self) -> int:
        return -1  # numba's own mark of an address that nobody needs

    def signature(self) -> Any:
        """For numba."""
        return self._signature
