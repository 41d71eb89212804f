"""Functions from a user's own Python file, compiled for the loop; the configuration keeps the file's text.

A file may define plain functions in the subset of Python and NumPy that numba compiles; they may call each other, and
what they call is compiled too. Of every function the loop needs, two forms are understood:

    def energy(x, p): ...               one point: x (d,) and the parameters p give a number, a tuple or an array
    def gradient(theta, out, p): ...    a block of points: theta (d, points), out (rows, points) is filled

and `p` may be left out of the first. Which form it is, is seen by the number of arguments.

What is compiled from text has no file of its own that numba's cache could watch (and a user's file may import others),
so it is compiled in every process, which takes about a second; nothing stale is ever run.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import float64, njit
from numba import types as numba_types
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError

from entropy_sim._compiled import OPTIONS, Compiled
from entropy_sim._kernels import _BLOCK, _VECTOR
from entropy_sim.errors import UserError
from entropy_sim.user_file import execute, line_of, one_line


@functools.lru_cache(maxsize=64)
def load(option: str, file: str, text: str) -> UserModule:
    """Execute the text of `file` (which need not exist any more). Raises UserError if that fails."""
    return UserModule(option, file, text)


class Ready(Compiled):
    """A block function that is compiled already."""

    def __init__(self, dispatcher: Any) -> None:
        super().__init__(dispatcher.py_func, None)
        self.__dict__["pointer"] = dispatcher


class UserModule:
    """What a user's file defines. Errors are UserErrors of one line that name the option and the file."""

    def __init__(self, option: str, file: str, text: str) -> None:
        self.option, self.file = option, file
        # Once as it stands, once to be compiled.
        plain, self.globals = execute(option, file, text), execute(option, file, text)
        self._python: dict[str, Callable[..., Any]] = {}
        self._blocks: dict[tuple[str, int, int, int], Compiled] = {}
        for key, value in list(self.globals.items()):
            function = value.py_func if isinstance(value, Dispatcher) else value
            if isinstance(function, types.FunctionType) and function.__globals__ is self.globals:
                self._python[key] = plain[key]
                # Compiled functions can only call compiled ones; nothing is compiled before it is called.
                self.globals[key] = njit(**OPTIONS)(function)

    def _error(self, message: str) -> UserError:
        return one_line(self.option, message)

    def has(self, name: str) -> bool:
        """Whether the file defines a function of this name."""
        return name in self._python

    def python(self, name: str) -> Callable[..., Any]:
        """The function of this name, as it stands in the file."""
        if name not in self._python:
            found = ", ".join(self._python) or "no function"
            raise self._error(f"expected a function {name} in {self.file}, found {found}")
        return self._python[name]

    def call(self, name: str, *arguments: Any) -> Any:
        """Call the function as plain Python, with as many of the arguments as it takes."""
        function = self.python(name)
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused by name
                return function(*arguments[: self.arguments(name)])
        except NumbaError as error:
            raise self._does_not_compile(name, error) from None
        except Exception as error:
            where = line_of(error, self.file)
            message = f"expected {name} of {self.file} to work, found {type(error).__name__}{where}: {error}"
            raise self._error(message) from error

    def arguments(self, name: str) -> int:
        """Number of arguments the function takes."""
        return len(inspect.signature(self.python(name)).parameters)

    def compiled(self, name: str, *types_: Any) -> tuple[Any, Any]:
        """The function compiled for arguments of these numba types (as many as it takes), and its return type."""
        function = self.python(name)
        dispatcher = self.globals[name]
        signature = tuple(types_[: self.arguments(name)])
        if len(signature) != self.arguments(name):
            raise self._error(
                f"expected {name} of {self.file} to take at most {len(types_)} arguments, "
                f"found {inspect.signature(function)}"
            )
        try:
            dispatcher.compile(signature)
        except NumbaError as error:
            raise self._does_not_compile(name, error) from None
        except Exception as error:  # numba lets a few of Python's own through
            message = f"expected {name} of {self.file} to compile, found {type(error).__name__}: {error}"
            raise self._error(message) from error
        return dispatcher, dispatcher.overloads[signature].signature.return_type

    def _does_not_compile(self, name: str, error: Exception) -> UserError:
        text = str(error)
        lines = re.findall(rf"{re.escape(str(Path(self.file)))}\W+(?:line )?(\d+)", text)
        skip = r"Failed in nopython|During:|File |<source|There are|>>>|Overload|This error|$|- |\*|def "
        useful = [t for t in (line.strip() for line in text.splitlines()) if not re.match(skip, t)]
        reason = re.sub(r"\x1b\[[0-9;]*m", "", useful[0] if useful else type(error).__name__)
        if reason.endswith("signature:") and (called := re.search(r">>> (.+)", text)):
            reason = f"{reason.removesuffix(' found for signature:')} for {called[1]}"
        where = f" (line {lines[-1]})" if lines else ""
        return self._error(f"expected {name} of {self.file} to compile with numba, found: {reason}{where}")

    def point(self, name: str, rows: int, numbers: int, columns: int = 0) -> Any:
        """The function of one point, `f(x, params, out)`, to be compiled, from `name(x)` or `name(x, params)`.

        Only the first `numbers` of the parameters are the user's. With columns, it gives a matrix (rows, columns), as
        tuple of tuples or array, and out holds its rows one after the other."""
        function, kind = self.compiled(name, _VECTOR, _VECTOR)
        given = "x" if self.arguments(name) == 1 else f"x, params[:{numbers}]"
        if columns:
            index = "value[{i}][{j}]" if isinstance(kind, numba_types.BaseTuple) else "value[{i}, {j}]"
            nested = isinstance(kind, numba_types.Array) and kind.ndim == 2
            if not nested and not (isinstance(kind, numba_types.BaseTuple) and len(kind) == rows):
                raise self._error(f"expected {rows} rows of {columns} numbers from {name} of {self.file}, found {kind}")
            places = [(i, j) for i in range(rows) for j in range(columns)]
            body = "\n".join(f"    out[{i * columns + j}] = {index.format(i=i, j=j)}" for i, j in places)
        elif isinstance(kind, numba_types.BaseTuple):
            if len(kind) != rows:
                raise self._error(f"expected {rows} numbers from {name} of {self.file}, found {len(kind)}")
            body = "\n".join(f"    out[{i}] = value[{i}]" for i in range(rows))
        elif isinstance(kind, numba_types.Array):
            if kind.ndim != 1:
                raise self._error(f"expected an array of {rows} from {name} of {self.file}, found {kind.ndim} axes")
            # Checked here, since the compiled loop does not look at bounds; callers see NaN.
            body = f"    for i in range({rows}):\n        out[i] = value[i] if value.size == {rows} else np.nan"
        elif isinstance(kind, (numba_types.Integer, numba_types.Float, numba_types.Boolean)) and rows == 1:
            body = "    out[0] = value"
        else:
            wanted = "a number" if rows == 1 else f"{rows} numbers (a tuple or an array)"
            raise self._error(f"expected {wanted} from {name} of {self.file}, found {kind}")
        return self._generate(f"def f(x, params, out):\n    value = function({given})\n{body}\n", function, None)

    def block(self, name: str, rows: int, numbers: int, columns: int = 0) -> Compiled:
        """The function as a block function: theta (d, points), out (rows, points), params.

        Only the first `numbers` of params are handed to the user's function."""
        key = (name, rows, numbers, columns)
        if key not in self._blocks:
            self._blocks[key] = self._block(*key)
        return self._blocks[key]

    def _block(self, name: str, rows: int, numbers: int, columns: int) -> Compiled:
        if self.arguments(name) == 3 and not columns:
            function = self.compiled(name, *_BLOCK.args)[0]
            text = f"def f(theta, out, params):\n    function(theta, out, params[:{numbers}])\n"
        else:
            function = self.point(name, rows, numbers, columns)
            text = (
                "def f(theta, out, params):\n"
                "    x, value = np.empty(theta.shape[0]), np.empty(out.shape[0])\n"
                "    for w in range(theta.shape[1]):\n"
                "        for i in range(theta.shape[0]):\n"
                "            x[i] = theta[i, w]\n"
                "        function(x, params, value)\n"
                "        for i in range(out.shape[0]):\n"
                "            out[i, w] = value[i]\n"
            )
        return Ready(self._generate(text, function, _BLOCK, name))

    def scalar(self, name: str) -> Any:
        """The function of one number (and parameters), `f(s)` or `f(s, params)`, as compiled `f(s, params)`."""
        function, kind = self.compiled(name, float64, _VECTOR)
        if not isinstance(kind, (numba_types.Integer, numba_types.Float)):
            raise self._error(f"expected a number from {name} of {self.file}, found {kind}")
        given = "x" if self.arguments(name) == 1 else "x, params"
        return self._generate(
            f"def f(x, params):\n    return float(function({given}))\n", function, float64(float64, _VECTOR), name
        )

    def _generate(self, text: str, function: Any, signature: Any, name: str = "") -> Any:
        namespace = {"np": np, "function": function}
        exec(text, namespace)
        jit = njit(**OPTIONS) if signature is None else functools.partial(njit, **OPTIONS)(signature)
        try:
            return jit(namespace["f"])
        except NumbaError as error:
            raise self._does_not_compile(name, error) from None
