"""The compiled code of all shapes along a path: one function, told by a record of numbers which one to evaluate."""

from __future__ import annotations

import numpy as np
from numba import int64, njit

from entropy_sim._compiled import FASTMATH
from entropy_sim._kernels import inline
from entropy_sim._random import fast_exp, fast_log

FLAT, QUARTIC, BUMP, EXPONENTIAL, POWER, WALL, LINEAR, TABLE = range(8)


#: Shapes that `shape_at` knows.
SIMPLE = frozenset({FLAT, QUARTIC, BUMP, EXPONENTIAL, POWER, WALL, LINEAR})


# Value and slope per s of the simple shapes (all but a table) at one s, from the four numbers of the record.
@inline
def _quartic(s, a, b, c, e):  # type: ignore[no-untyped-def]
    u = (s - 0.5) * c
    inside = 1.0 - u * u
    return a + b * inside * inside, -4.0 * b * c * u * inside


@inline
def _bump(s, a, b, c, e):  # type: ignore[no-untyped-def]
    u = (s - 0.5) * c
    inside = max(0.0, 1.0 - u * u)
    square = inside * inside
    return a + b * square * inside, -6.0 * b * c * (u * square)


@inline
def _exponential(s, a, b, c, e):  # type: ignore[no-untyped-def]
    value = a * fast_exp(b * s)
    return value, b * value


@inline
def _power(s, a, b, c, e):  # type: ignore[no-untyped-def]
    u = (s - c) * e
    square = 1.0 + u * u
    value = a * fast_exp(b * fast_log(square)) + (u - u)  # fast_log makes a number of NaN
    return value, value * 2.0 * b * e * u / square


@inline
def _wall(s, a, b, c, e):  # type: ignore[no-untyped-def]
    u = s - 0.5
    beyond = max(0.0, abs(u) - b)
    power = beyond if c == 2.0 else beyond * beyond * beyond
    return a * power * beyond, c * a * power * (1.0 if u > 0.0 else -1.0)


@inline
def _linear(s, a, b, c, e):  # type: ignore[no-untyped-def]
    return a + b * s, b


@njit(inline="always")
def shape_at(code, s, a, b, c, e):  # type: ignore[no-untyped-def]
    """Value and slope per s of a simple shape at one s. For a code that is known when the caller is compiled: numba
    inlines this before it looks at types, and then leaves out, uncompiled, what is not asked for."""
    if code == BUMP:
        return _bump(s, a, b, c, e)
    if code == QUARTIC:
        return _quartic(s, a, b, c, e)
    if code == EXPONENTIAL:
        return _exponential(s, a, b, c, e)
    if code == POWER:
        return _power(s, a, b, c, e)
    if code == WALL:
        return _wall(s, a, b, c, e)
    return _linear(s, a, b, c, e)


@njit(inline="always")
def scaled(code, a, b, factor):  # type: ignore[no-untyped-def]
    """The first two numbers of a simple shape that is `factor` times as large."""
    if code == EXPONENTIAL or code == POWER or code == WALL:  # noqa: SIM109 (numba prunes comparisons)
        return factor * a, b
    return factor * a, factor * b


@njit(nogil=True, error_model="numpy", fastmath=set(FASTMATH))
def shape_into(params, at, s, value, slope):  # type: ignore[no-untyped-def]
    """Value and slope per s, at s (walkers,), of the shape whose record begins at params[at]."""
    code, a, b, c, e = params[at], params[at + 1], params[at + 2], params[at + 3], params[at + 4]
    if code == BUMP:
        for w in range(s.size):
            value[w], slope[w] = _bump(s[w], a, b, c, e)
    elif code == QUARTIC:
        for w in range(s.size):
            value[w], slope[w] = _quartic(s[w], a, b, c, e)
    elif code == EXPONENTIAL:
        for w in range(s.size):
            value[w], slope[w] = _exponential(s[w], a, b, c, e)
    elif code == POWER:
        for w in range(s.size):
            value[w], slope[w] = _power(s[w], a, b, c, e)
    elif code == WALL:
        for w in range(s.size):
            value[w], slope[w] = _wall(s[w], a, b, c, e)
    elif code == TABLE:
        _table_into(params, at + 1, s, value, slope)
    else:  # FLAT, LINEAR
        for w in range(s.size):
            value[w], slope[w] = _linear(s[w], a, b, c, e)


# record of a table, after its code: levels (0 for equally spaced knots), number of pieces, first knot, 1 / spacing;
# then the knots, filled up with inf to 2^levels - 1; then per piece its origin and four coefficients from the cube on.
# Piece 0 lies below the first knot and the last one above the last knot.
@njit(nogil=True, error_model="numpy", fastmath=set(FASTMATH))
def _table_into(params, at, s, value, slope):  # type: ignore[no-untyped-def]
    levels, last = int64(params[at]), params[at + 1] - 2.0
    first_knot, inverse = params[at + 2], params[at + 3]
    knots = at + 4
    pieces = knots + (1 << levels) - 1
    piece = np.zeros(s.size, dtype=np.int64)  # number of knots at or below s; NaN stays in piece 0
    if levels == 0:
        for w in range(s.size):
            u = (s[w] - first_knot) * inverse
            u = u if u > -1.0 else -1.0
            u = u if u < last else last
            piece[w] = int64(np.floor(u)) + 1
    step = 1 << levels
    while step > 1:
        step = step >> 1
        for w in range(s.size):
            piece[w] += step if params[knots + piece[w] + step - 1] <= s[w] else 0
    for w in range(s.size):
        p = pieces + 5 * piece[w]
        x = s[w] - params[p]
        a, b, c, e = params[p + 1], params[p + 2], params[p + 3], params[p + 4]
        value[w] = ((a * x + b) * x + c) * x + e
        slope[w] = (3.0 * a * x + 2.0 * b) * x + c
