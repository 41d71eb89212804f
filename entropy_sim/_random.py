"""Stateless normals: Philox-4x32-10 keyed by (seed; walker, step), turned into normals by a branch-free Box-Muller.

A number depends only on the seed, the walker and its place in the walker's stream, never on threads, blocks or on
where a run was interrupted. Philox: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11.
The uniforms have 32 and 30 bits, so a normal never exceeds sqrt(2 ln 2^33) = 6.76 in size.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, uint64

# One uint64 per 32-bit word: LLVM turns the masked products into vpmuludq.
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)

# A double whose exponent is that of 2^52 holds a 32-bit integer in its last mantissa bits.
_TWO52_BITS = np.uint64(0x4330000000000000)
_TWO52 = 2.0**52
_SQRT_HALF_BITS = np.uint64(np.float64(math.sqrt(0.5)).view(np.uint64))
_ONE_MINUS_SQRT_HALF_BITS = np.uint64(np.float64(1.0).view(np.uint64)) - _SQRT_HALF_BITS
_MANTISSA = np.uint64(0x000FFFFFFFFFFFFF)
_52 = np.uint64(52)
_LN2 = math.log(2.0)
_QUARTER = np.uint64(0x3FFFFFFF)
_BIT30, _BIT31 = np.uint64(1 << 30), np.uint64(1 << 31)
_SWAP_SHIFT, _SIGN_SHIFT = np.uint64(33), np.uint64(32)
_SIGN_MASK = np.uint64(1 << 63)

#: Fast arithmetic that keeps NaN and infinity meaningful (divergence is detected by them).
FASTMATH = frozenset({"contract", "nsz", "arcp", "afn", "reassoc"})
# The helpers here rely on the order of operations (2^52 + x - 2^52), so only fused multiply-adds are allowed.
_helper = njit(forceinline=True, error_model="numpy", fastmath={"contract"})


@_helper
def philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Philox-4x32-10: four 32-bit words (as uint64) from a counter (c0..c3) and a key (k0, k1)."""
    for _ in range(10):
        p0 = _M0 * c0
        p1 = _M1 * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
        k0 = (k0 + _W0) & _LOW
        k1 = (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@_helper
def _as_float(word):  # type: ignore[no-untyped-def]
    return np.uint64(word | _TWO52_BITS).view(np.float64) - _TWO52


@_helper
def fast_log(x):  # type: ignore[no-untyped-def]
    """Natural logarithm of a positive normal double, relative error of x below 1e-13, without branches."""
    shifted = np.uint64(np.float64(x).view(np.uint64)) + _ONE_MINUS_SQRT_HALF_BITS
    exponent = np.uint64((shifted >> _52) | _TWO52_BITS).view(np.float64) - (_TWO52 + 1023.0)
    m = np.uint64((shifted & _MANTISSA) + _SQRT_HALF_BITS).view(np.float64)  # in [sqrt(1/2), sqrt(2))
    z = (m - 1.0) / (m + 1.0)
    q = z * z
    series = 1.0 / 13.0 + q * (1.0 / 15.0 + q * (1.0 / 17.0))
    series = 1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q * series)))
    return exponent * _LN2 + 2.0 * z * (1.0 + q * (1.0 / 3.0 + q * series))


@_helper
def fast_exp(x):  # type: ignore[no-untyped-def]
    """exp(x), relative error below 1e-12, without branches; the argument is clamped to +-700, NaN stays NaN."""
    t = min(max(x, -700.0), 700.0)
    n = np.floor(t * (1.0 / _LN2) + 0.5)
    r = t - n * _LN2  # |r| <= ln(2)/2
    p = 1.0 + r * (1.0 / 9.0 + r * (1.0 / 90.0 + r * (1.0 / 990.0)))
    p = 1.0 / 120 + r * (1.0 / 720 + r * (1.0 / 5040 + r * (1.0 / 40320 * p)))
    p = 1.0 + r * (1.0 + r * (1.0 / 2 + r * (1.0 / 6 + r * (1.0 / 24 + r * p))))
    scale = np.uint64((np.float64(n + (_TWO52 + 1023.0)).view(np.uint64)) << _52).view(np.float64)
    return p * scale + (x - x)


@_helper
def _normal_pair(word_radius, word_angle):  # type: ignore[no-untyped-def]
    """Two independent normals from two 32-bit words (Box-Muller)."""
    u = (_as_float(word_radius) + 0.5) * 2.0**-32
    radius = np.sqrt(-2.0 * fast_log(u))
    # 30 bits choose an angle in (-pi/4, pi/4), two more bits a quadrant: polynomials are short and nothing branches.
    a = (_as_float(word_angle & _QUARTER) + (0.5 - 2.0**29)) * (math.pi / 2 * 2.0**-30)
    q = a * a
    sine = a * (1.0 + q * (-1.0 / 6 + q * (1.0 / 120 + q * (-1.0 / 5040 + q * (1.0 / 362880)))))
    cosine = 1.0 + q * (-0.5 + q * (1.0 / 24 + q * (-1.0 / 720 + q * (1.0 / 40320 + q * (-1.0 / 3628800)))))
    sign = (word_angle << _SIGN_SHIFT) & _SIGN_MASK
    cosine = np.uint64(np.float64(cosine).view(np.uint64) ^ sign).view(np.float64)
    swap = (word_angle & _BIT30) != np.uint64(0)
    first = sine if swap else cosine
    second = cosine if swap else sine
    return radius * first, radius * second


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def fill_normals(out, seed, first_walker, batch):  # type: ignore[no-untyped-def]
    """Standard normals of one batch: out (4 q, walkers), row r from the Philox counter (walker, r // 4, batch).

    first_walker: number of the walker in column 0. batch: number of the batch in each walker's stream.
    """
    k0, k1 = seed & _LOW, seed >> _32
    b0, b1 = uint64(batch) & _LOW, uint64(batch) >> _32
    for quad in range(out.shape[0] // 4):
        r = 4 * quad
        c1 = uint64(quad)
        for w in range(out.shape[1]):
            c0 = uint64(first_walker + w)
            w0, w1, w2, w3 = philox(c0, c1, b0, b1, k0, k1)
            out[r, w], out[r + 1, w] = _normal_pair(w0, w1)
            out[r + 2, w], out[r + 3, w] = _normal_pair(w2, w3)
