"""Stateless normals: Philox-4x32-10 keyed by (seed; walker, step), turned into normals by a branch-free Box-Muller.

A number depends only on the seed, the walker and its place in the walker's stream, never on threads, blocks or on
where a run was interrupted. Philox: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11.
The uniforms have 32 and 30 bits, so a normal never exceeds sqrt(2 ln 2^33) = 6.76 in size.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, uint64

from entropy_sim._target import prefer_wide_vectors

prefer_wide_vectors()

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
_BIT30, _BIT31, _ZERO = np.uint64(1 << 30), np.uint64(1 << 31), np.uint64(0)
# In a double of size 2^20 the last mantissa bit is 2^-32, of size 2^22 it is 2^-30: an integer becomes a fraction.
_TWO20, _TWO22 = 2.0**20, 2.0**22
_TWO20_BITS = np.uint64(np.float64(_TWO20).view(np.uint64))
_TWO22_BITS = np.uint64(np.float64(_TWO22).view(np.uint64))
_HALF_BITS = np.uint64(np.float64(0.5).view(np.uint64))

# Minimax polynomials (Remez), by relative error: -2 ln(1 - g) / g on (0, 1/2], 9e-11; sin(pi t / 2) / t and
# cos(pi t / 2) as polynomials in t² for |t| <= 1/2, 5e-12 and 6e-11.
# fmt: off
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8, _L9, _L10, _L11 = (
    1.9999999998243507, 1.0000000988826976, 0.6666574902616492, 0.5003318523827153, 0.3938393800756481,
    0.40024569440258106, -0.16970794185504434, 2.2568624089803415, -5.528711141346424, 10.628270918777107,
    -10.847615664842552, 5.553539817864425,
)
_S0, _S1, _S2, _S3, _S4 = (
    1.5707963267877507, -0.6459640961024008, 0.07969258184262486, -0.004681260626992988, 0.00015819507472078986,
)
_C0, _C1, _C2, _C3, _C4 = (
    0.999999999943938, -1.233700539564758, 0.25366918259590815, -0.02085993602646019, 0.0009033629722073543,
)
# fmt: on

#: Fast arithmetic that keeps NaN and infinity meaningful (divergence is detected by them).
FASTMATH = frozenset({"contract", "nsz", "arcp", "afn", "reassoc"})
# The helpers here rely on the order of operations (2^52 + x - 2^52), so only fused multiply-adds are allowed.
_helper = njit(forceinline=True, error_model="numpy", fastmath={"contract"})


@_helper
def _philox_words(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    # Upper halves carry rubbish from round to round: vpmuludq does not look at them, so nothing need be masked off.
    for _ in range(10):
        p0 = _M0 * (c0 & _LOW)
        p1 = _M1 * (c2 & _LOW)
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1, (p0 >> _32) ^ c3 ^ k1, p0
        k0 += _W0
        k1 += _W1
    return c0, c1, c2, c3


@_helper
def philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Philox-4x32-10: four 32-bit words (as uint64) from a counter (c0..c3) and a key (k0, k1)."""
    w0, w1, w2, w3 = _philox_words(c0, c1, c2, c3, k0, k1)
    return w0 & _LOW, w1 & _LOW, w2 & _LOW, w3 & _LOW


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
    """Two independent normals from the low halves of two words (Box-Muller), relative error below 2e-10.

    The polynomials are minimax, of about the accuracy of a 32-bit uniform. No shift to the left: LLVM would merge it
    with Philox's last product into a slow 64-bit multiplication.
    """
    u = np.uint64((word_radius & _LOW) | _TWO20_BITS).view(np.float64) - (_TWO20 - 2.0**-33)  # exact, in (0, 1)
    bits = np.uint64(np.float64(u).view(np.uint64))
    # u = (1 - g) 2^exponent with g in (0, 1/2], exponent <= 0: both parts of -2 ln u are positive, nothing cancels.
    exponent = np.uint64((bits >> _52) | _TWO52_BITS).view(np.float64) - (_TWO52 + 1022.0)
    g = 1.0 - np.uint64((bits & _MANTISSA) | _HALF_BITS).view(np.float64)
    q = g * g
    even = _L0 + q * (_L2 + q * (_L4 + q * (_L6 + q * (_L8 + q * _L10))))
    odd = _L1 + q * (_L3 + q * (_L5 + q * (_L7 + q * (_L9 + q * _L11))))
    radius = np.sqrt(exponent * (-2.0 * _LN2) + g * (even + g * odd))
    # 30 bits choose an angle of t in (-1/2, 1/2) quarter turns, two more bits a quadrant: polynomials are short and
    # nothing branches.
    t = np.uint64((word_angle & _QUARTER) | _TWO22_BITS).view(np.float64) - (_TWO22 + 0.5) + 2.0**-31
    q = t * t
    sine = t * (_S0 + q * (_S1 + q * (_S2 + q * (_S3 + q * _S4))))
    cosine = _C0 + q * (_C1 + q * (_C2 + q * (_C3 + q * _C4)))
    cosine = cosine if (word_angle & _BIT31) == _ZERO else -cosine
    swap = (word_angle & _BIT30) != _ZERO
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
    walkers = out.shape[1]
    for quad in range(out.shape[0] // 4):
        r = 4 * quad
        # Short loops, words first: the processor then overlaps several turns of each, and constants stay in registers.
        for w in range(walkers):
            c0 = uint64(first_walker + w)
            w0, w1, w2, w3 = _philox_words(c0, uint64(quad), b0, b1, k0, k1)
            out[r, w], out[r + 1, w] = np.uint64(w0).view(np.float64), np.uint64(w1).view(np.float64)
            out[r + 2, w], out[r + 3, w] = np.uint64(w2).view(np.float64), np.uint64(w3).view(np.float64)
        for i in range(r, r + 4, 2):
            for w in range(walkers):
                w0, w1 = np.float64(out[i, w]).view(np.uint64), np.float64(out[i + 1, w]).view(np.uint64)
                out[i, w], out[i + 1, w] = _normal_pair(w0, w1)
