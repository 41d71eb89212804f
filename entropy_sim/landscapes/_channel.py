"""The compiled functions of the straight channel."""

from __future__ import annotations

import functools

import numpy as np
from numba import int64, njit

from entropy_sim._kernels import Compiled, block_function, euler_maruyama_function, inline
from entropy_sim.landscapes._shapes import FLAT, scaled, shape_at, shape_into

# params: length; period of the fold in s, its inverse (0 on an open line), s above which it mirrors; number of
# different shapes; where the record of U begins; per shape where its record begins and how many directions have it;
# then, shape by shape, row and amplitude of each direction; then the records (see _shapes.py).
HEAD = 6
#: The rounding of y = length must not look like a reflection.
_MIRROR = 1.0 + 1e-12
#: By boundary: period in s, its inverse, and s above which it mirrors.
FOLD = {"reflecting": (2.0, 0.5, _MIRROR), "periodic": (1.0, 1.0, np.inf), "open": (0.0, 0.0, np.inf)}


@inline
def _fold(y, length, period, inverse, mirror):  # type: ignore[no-untyped-def]
    """Position s in 0…1 (open: on the line) and the sign of ds/dy, for a coordinate y on the whole line."""
    r = y / length
    r = r - period * np.floor(r * inverse)
    mirrored = r > mirror
    return (2.0 - r if mirrored else r), (-1.0 if mirrored else 1.0)


OPEN, PERIODIC, REFLECTING = range(3)


@njit(inline="always")
def _place(ends, y, one_over):  # type: ignore[no-untyped-def]
    """`_fold`, with ds/dy for its sign, at ends that are known when the caller is compiled."""
    r = y * one_over
    if ends == PERIODIC:
        return r - np.floor(r), one_over
    if ends == REFLECTING:
        s = r - 2.0 * np.floor(0.5 * r)
        return (2.0 - s, -one_over) if s > _MIRROR else (s, one_over)
    return r, one_over


@functools.cache
def simple_gradient(stiffness: int, along: int, ends: int, single: bool) -> Compiled:
    """The gradient where all directions share one simple shape (its code) and U has another.

    ends: OPEN, PERIODIC or REFLECTING. single: of one direction, in one loop. What is not asked for is left out before
    it is compiled.
    """

    def gradient(theta, out, params):  # type: ignore[no-untyped-def]
        one_over = 1.0 / params[0]
        at = int64(params[HEAD])
        a, b, c, e = params[at + 1], params[at + 2], params[at + 3], params[at + 4]
        at = int64(params[5])
        f, g, h, j = params[at + 1], params[at + 2], params[at + 3], params[at + 4]
        d, walkers = theta.shape
        if single:
            a, b = scaled(stiffness, a, b, params[HEAD + 3])
            for w in range(walkers):
                s, scale = _place(ends, theta[0, w], one_over)
                value, slope = shape_at(stiffness, s, a, b, c, e)
                x = theta[1, w]
                out[1, w] = value * x
                out[0, w] = scale * (shape_at(along, s, f, g, h, j)[1] + 0.5 * slope * (x * x))
            return
        work = np.empty((3, walkers))
        value, slope, square = work[0], work[1], work[2]
        for w in range(walkers):
            s, scale = _place(ends, theta[0, w], one_over)
            value[w], slope_s = shape_at(stiffness, s, a, b, c, e)
            slope[w] = 0.5 * scale * slope_s
            out[0, w] = scale * shape_at(along, s, f, g, h, j)[1]
            square[w] = 0.0
        for n in range(d - 1):
            i, amplitude = int64(params[HEAD + 2 + 2 * n]), params[HEAD + 3 + 2 * n]
            for w in range(walkers):
                pull = amplitude * theta[i, w]
                out[i, w] = pull * value[w]
                square[w] += pull * theta[i, w]
        for w in range(walkers):
            out[0, w] += slope[w] * square[w]

    return block_function(gradient)


@functools.cache
def simple_euler_maruyama(stiffness: int, along: int, ends: int, single: bool) -> Compiled:
    """A whole step of Euler-Maruyama with the forces of `simple_gradient`."""

    def step(theta, xi, params, steps, bound):  # type: ignore[no-untyped-def]
        one_over = 1.0 / params[0]
        at = int64(params[HEAD])
        a, b, c, e = params[at + 1], params[at + 2], params[at + 3], params[at + 4]
        at = int64(params[5])
        f, g, h, j = params[at + 1], params[at + 2], params[at + 3], params[at + 4]
        dt, size = steps[0], steps[1]
        d, walkers = theta.shape
        total = 0.0  # of all sizes: above the bound wherever one is, and NaN where one is
        if single:
            amplitude = params[HEAD + 3]
            a, b = scaled(stiffness, a, b, dt * amplitude)
            for w in range(walkers):
                y, x = theta[0, w], theta[1, w]
                s, scale = _place(ends, y, one_over)
                value, slope = shape_at(stiffness, s, a, b, c, e)
                y = y + size * xi[0, w] - (0.5 * scale * slope) * (x * x)
                if along != FLAT:
                    y = y - scale * (dt * shape_at(along, s, f, g, h, j)[1])
                x = x + size * xi[1, w] - value * x
                theta[0, w], theta[1, w] = y, x
                total += abs(x) + abs(y)
            return not total <= bound
        work = np.empty((3, walkers))
        value, slope, square = work[0], work[1], work[2]
        i, amplitude = int64(params[HEAD + 2]), params[HEAD + 3]
        for w in range(walkers):
            y, x = theta[0, w], theta[i, w]
            s, scale = _place(ends, y, one_over)
            value_s, slope_s = shape_at(stiffness, s, a, b, c, e)
            value_s = dt * value_s
            value[w], slope[w] = value_s, 0.5 * dt * scale * slope_s
            theta[0, w] = y + size * xi[0, w] - dt * scale * shape_at(along, s, f, g, h, j)[1]
            pull = amplitude * x
            square[w] = pull * x
            x += size * xi[i, w] - pull * value_s
            theta[i, w] = x
            total += abs(x)
        for n in range(1, d - 1):
            i, amplitude = int64(params[HEAD + 2 + 2 * n]), params[HEAD + 3 + 2 * n]
            for w in range(walkers):
                x = theta[i, w]
                pull = amplitude * x
                square[w] += pull * x
                x += size * xi[i, w] - pull * value[w]
                theta[i, w] = x
                total += abs(x)
        for w in range(walkers):
            y = theta[0, w] - slope[w] * square[w]
            theta[0, w] = y
            total += abs(y)
        return not total <= bound

    return euler_maruyama_function(step)


@block_function
def any_gradient(theta, out, params):  # type: ignore[no-untyped-def]
    length, period, inverse, mirror = params[0], params[1], params[2], params[3]
    groups, energy = int64(params[4]), int64(params[5])
    walkers = theta.shape[1]
    work = np.empty((5, walkers))  # one allocation: five are felt in two dimensions
    s, scale, square, value, slope = work[0], work[1], work[2], work[3], work[4]
    for w in range(walkers):
        s[w], sign = _fold(theta[0, w], length, period, inverse, mirror)
        scale[w] = sign / length
    begun = params[energy] != FLAT
    if begun:
        shape_into(params, energy, s, value, slope)
        for w in range(walkers):
            out[0, w] = scale[w] * slope[w]
    at = HEAD + 2 * groups
    for g in range(groups):
        shape_into(params, int64(params[HEAD + 2 * g]), s, value, slope)
        for j in range(int64(params[HEAD + 2 * g + 1])):
            i, amplitude = int64(params[at]), params[at + 1]
            at += 2
            if j == 0:
                for w in range(walkers):
                    pull = amplitude * theta[i, w]
                    out[i, w] = pull * value[w]
                    square[w] = pull * theta[i, w]
            else:
                for w in range(walkers):
                    pull = amplitude * theta[i, w]
                    out[i, w] = pull * value[w]
                    square[w] += pull * theta[i, w]
        if begun:
            for w in range(walkers):
                out[0, w] += 0.5 * scale[w] * slope[w] * square[w]
        else:
            for w in range(walkers):
                out[0, w] = 0.5 * scale[w] * slope[w] * square[w]
        begun = True


@block_function
def locate(theta, out, params):  # type: ignore[no-untyped-def]
    length, period, inverse, mirror = params[0], params[1], params[2], params[3]
    d, walkers = theta.shape
    for w in range(walkers):
        out[0, w] = _fold(theta[0, w], length, period, inverse, mirror)[0]
        out[1, w] = theta[1, w] * theta[1, w]
    for i in range(2, d):
        for w in range(walkers):
            out[1, w] += theta[i, w] * theta[i, w]


@block_function
def folded(theta, out, params):  # type: ignore[no-untyped-def]
    length, period, inverse, mirror = params[0], params[1], params[2], params[3]
    d, walkers = theta.shape
    for w in range(walkers):
        s, sign = _fold(theta[0, w], length, period, inverse, mirror)
        out[0, w] = sign * length * s
    for i in range(1, d):
        for w in range(walkers):
            out[i, w] = theta[i, w]


@block_function
def stiffness(theta, out, params):  # type: ignore[no-untyped-def]
    length, period, inverse, mirror = params[0], params[1], params[2], params[3]
    groups = int64(params[4])
    walkers = theta.shape[1]
    s, value, slope = np.empty(walkers), np.empty(walkers), np.empty(walkers)
    for w in range(walkers):
        s[w] = _fold(theta[0, w], length, period, inverse, mirror)[0]
    at = HEAD + 2 * groups
    for g in range(groups):
        shape_into(params, int64(params[HEAD + 2 * g]), s, value, slope)
        for _ in range(int64(params[HEAD + 2 * g + 1])):
            i, amplitude = int64(params[at]), params[at + 1]
            at += 2
            for w in range(walkers):
                out[i, w] = amplitude * value[w]
