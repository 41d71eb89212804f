"""Normals: streams of xoshiro128++ begun by Philox-4x32-7, turned into normals by a branch-free Box-Muller.

A number depends only on the seed, the walker and its place in the walker's stream, never on threads, blocks or on
where a run was interrupted. Philox, a function of (seed; walker, epoch), gives the 128 bits with which a walker begins
each epoch of a few dozen pairs; from there xoshiro128++ goes on at less than half of Philox's cost, and to begin
within an epoch is to go through it from its beginning.
Philox: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11; there seven rounds are the
fewest that pass all of BigCrush, and the other three of Philox-4x32-10 a margin of safety. xoshiro128++: Blackman,
Vigna, "Scrambled linear pseudorandom number generators", ACM Trans. Math. Softw. 47 (2021) 36; that any two of 10^15
epochs overlap on its period of 2^128 - 1 has a probability below 10^-6.
The uniforms have 32 and 30 bits, so a normal never exceeds sqrt(2 ln 2^33) = 6.76 in size.

Box-Muller is computed in single precision (everything else in double): twice as many numbers to a vector. A normal is
then within 3.1e-7 of the exact transform of the same bits (6.6e-8 root mean square, over 10^8 draws), near zero as in
the tails; normals are symmetric to the last bit and their variance is 1 - 5e-8. To see that in a statistic takes 10^15
independent draws; the 32 bits of the uniforms show no later.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numba import float32, int64, njit, uint32, uint64, void

from entropy_sim._compiled import Compiled, bits_as, rotated

if TYPE_CHECKING:
    from numpy.typing import NDArray

# One uint64 per 32-bit word: LLVM turns the masked products into vpmuludq.
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_ROUNDS = 7
#: What the numbers of a seed are; another name, other numbers.
GENERATOR = f"xoshiro128++ from philox-4x32-{_ROUNDS}"
#: Pairs of normals after which a walker's stream begins anew; a batch that holds more of them is an epoch of its own.
EPOCH = 32
_32 = np.uint64(32)

# A double whose exponent is that of 2^52 holds a 32-bit integer in its last mantissa bits.
_TWO52_BITS = np.uint64(0x4330000000000000)
_TWO52 = 2.0**52
_SQRT_HALF_BITS = np.uint64(np.float64(math.sqrt(0.5)).view(np.uint64))
_ONE_MINUS_SQRT_HALF_BITS = np.uint64(np.float64(1.0).view(np.uint64)) - _SQRT_HALF_BITS
_MANTISSA = np.uint64(0x000FFFFFFFFFFFFF)
_52 = np.uint64(52)
_LN2 = math.log(2.0)

# The transform to normals, in single precision: 16 numbers to a vector of 512 bits instead of 8.
_BIT30, _BIT31 = np.uint32(1 << 30), np.uint32(1 << 31)
_7, _9, _11 = map(np.uint32, (7, 9, 11))
_THIRTY_ONE = np.int32(31)
_ZERO, _TWO, _23, _126 = np.uint32(0), np.uint32(2), np.uint32(23), np.uint32(126)
_MANTISSA_SINGLE, _HALF_BITS_SINGLE = np.uint32(0x007FFFFF), np.uint32(np.float32(0.5).view(np.uint32))
_TO_UNIT, _TO_UNIT_HALF = np.float32(2.0**-32), np.float32(2.0**-33)
_MINUS_2LN2, _ONE, _NONE = np.float32(-2.0 * _LN2), np.float32(1.0), np.float32(0.0)

# Minimax polynomials (Remez), by relative error: -2 ln(1 - g) / g on (0, 1/2], 2e-8; sin(pi t / 2) / t and
# cos(pi t / 2) as polynomials in t² for |t| <= 1/2, 3e-9 and 3e-8. A single has 6e-8.
# fmt: off
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = map(np.float32, (
    2.000000045458369, 0.9999857053140087, 0.667401220586944, 0.4856103000087224, 0.5392243830087904,
    -0.40707309522419477, 2.5153281920289614, -3.3916099181150914, 2.8822088269897557,
))
_S0, _S1, _S2, _S3 = map(np.float32, (
    1.5707963217083443, -0.6459634602332046, 0.07968003276853668, -0.004601657887211795,
))
_C0, _C1, _C2, _C3 = map(np.float32, (
    0.9999999673863776, -1.2336966623626509, 0.25359494675782385, -0.020398581942075417,
))
# fmt: on

#: Signatures of `begin_streams` and `next_pair`.
BEGIN, PAIR = void(uint32[:, ::1], uint64, int64, int64), void(float32[:, ::1], int64, uint32[:, ::1])
# The helpers here rely on the order of operations (2^52 + x - 2^52), so only fused multiply-adds are allowed.
_helper = njit(forceinline=True, error_model="numpy", fastmath={"contract"})
# Inlined by numba, before it compiles: for those with one caller, where a library of their own takes time for nothing.
_part = njit(inline="always")


@_helper
def philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Philox-4x32-7: four 32-bit words (as uint64) from a counter (c0..c3) and a key (k0, k1)."""
    for _ in range(_ROUNDS):
        p0 = _M0 * (c0 & _LOW)
        p1 = _M1 * (c2 & _LOW)
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1, (p0 >> _32) ^ c3 ^ k1, p0
        # Upper halves carry rubbish from round to round: vpmuludq does not look at them.
        k0 += _W0
        k1 += _W1
    return c0 & _LOW, c1 & _LOW, c2 & _LOW, c3 & _LOW


@_helper
def fast_log(x):  # type: ignore[no-untyped-def]
    """Natural logarithm of a positive normal double, relative error of x below 1e-13, without branches."""
    shifted = bits_as(np.float64(x), np.uint64) + _ONE_MINUS_SQRT_HALF_BITS
    exponent = bits_as((shifted >> _52) | _TWO52_BITS, np.float64) - (_TWO52 + 1023.0)
    m = bits_as((shifted & _MANTISSA) + _SQRT_HALF_BITS, np.float64)  # in [sqrt(1/2), sqrt(2))
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
    scale = bits_as(bits_as(n + (_TWO52 + 1023.0), np.uint64) << _52, np.float64)
    return p * scale + (x - x)


@_part
def _radius(word):  # type: ignore[no-untyped-def]
    """sqrt(-2 ln u), u = (word + 1/2) / 2^32, a single of relative error below 2e-7.

    The polynomials are minimax, of the accuracy of a single. Where u > 1/2 the logarithm is one of 1 - u, which a
    single holds to its last digit: the smallest radius is as accurate as the largest.
    """
    below = np.int32(word) >= np.int32(0)  # u < 1/2
    smaller = np.int32(np.int32(word) >> _THIRTY_ONE) ^ np.int32(word)  # of word and its complement
    x = np.float32(smaller) * _TO_UNIT + _TO_UNIT_HALF  # of u and 1 - u
    bits = bits_as(x, np.uint32)
    # u = (1 - g) 2^exponent with g in (0, 1/2], exponent <= 0: both parts of -2 ln u are positive, nothing cancels.
    g = _ONE - bits_as(np.uint32((bits & _MANTISSA_SINGLE) | _HALF_BITS_SINGLE), np.float32) if below else x
    from_exponent = np.float32(np.int32((bits >> _23) - _126)) * _MINUS_2LN2 if below else _NONE
    q = g * g
    even = _L0 + q * (_L2 + q * (_L4 + q * (_L6 + q * _L8)))
    odd = _L1 + q * (_L3 + q * (_L5 + q * _L7))
    return np.sqrt(from_exponent + g * (even + g * odd))


@_part
def _turned(radius, word):  # type: ignore[no-untyped-def]
    """radius times cosine and sine (singles) of the angle that a word chooses.

    30 bits choose an angle of t in (-1/2, 1/2) quarter turns, two more bits a quadrant: polynomials are short and
    nothing branches. t is an odd integer / 2^31, rounded once: the normals are symmetric to the last bit.
    """
    t = np.float32(np.int32(((word << _TWO) ^ _BIT31) | _TWO)) * _TO_UNIT
    q = t * t
    sine = t * (_S0 + q * (_S1 + q * (_S2 + q * _S3)))
    cosine = _C0 + q * (_C1 + q * (_C2 + q * _C3))
    cosine = bits_as(np.uint32(bits_as(cosine, np.uint32) ^ (word & _BIT31)), np.float32)
    swap = (word & _BIT30) != _ZERO
    return radius * (sine if swap else cosine), radius * (cosine if swap else sine)


@_part
def _next_word(a, b, c, d):  # type: ignore[no-untyped-def]
    """Output and next state of xoshiro128++, all uint32."""
    word = np.uint32(rotated(np.uint32(a + d), _7) + a)
    shifted = np.uint32(b << _9)
    c, d = np.uint32(c ^ a), np.uint32(d ^ b)
    b, a = np.uint32(b ^ c), np.uint32(a ^ d)
    return word, a, b, np.uint32(c ^ shifted), rotated(d, _11)


def _begin_streams(streams, seed, first_walker, epoch):  # type: ignore[no-untyped-def]
    """The walkers' streams, (4, walkers), at the beginning of an epoch: Philox at (walker, 0, epoch)."""
    k0, k1 = seed & _LOW, seed >> _32
    e0, e1 = uint64(epoch) & _LOW, uint64(epoch) >> _32
    for w in range(streams.shape[1]):
        w0, w1, w2, w3 = philox(uint64(first_walker + w), uint64(0), e0, e1, k0, k1)
        streams[0, w], streams[1, w], streams[2, w], streams[3, w] = uint32(w0), uint32(w1), uint32(w2), uint32(w3)


def _next_pair(out, row, streams):  # type: ignore[no-untyped-def]
    """The next two normals of each walker, in a row of out and the one after it: from two words of its stream."""
    for w in range(out.shape[1]):
        a, b, c, d = streams[0, w], streams[1, w], streams[2, w], streams[3, w]
        radius_word, a, b, c, d = _next_word(a, b, c, d)
        angle_word, a, b, c, d = _next_word(a, b, c, d)
        streams[0, w], streams[1, w], streams[2, w], streams[3, w] = a, b, c, d
        out[row, w], out[row + 1, w] = _turned(_radius(radius_word), angle_word)


# One pair at a time, each called through its pointer: in a loop over pairs LLVM takes rows for overlapping.
begin_streams = Compiled(_begin_streams, BEGIN, frozenset({"contract"}))
next_pair = Compiled(_next_pair, PAIR, frozenset({"contract"}))


def fill_normals(out: NDArray[np.float32], seed: int, first_walker: int, batch: int) -> None:
    """Standard normals of one batch of each walker's stream: out (2 p, walkers), from that of first_walker on.

    For batches after one another `_kernels` keeps the streams instead."""
    pairs = len(out) // 2
    epoch, within = divmod(batch, max(1, EPOCH // pairs))
    streams = np.empty((4, out.shape[1]), dtype=np.uint32)
    begin_streams(streams, np.uint64(seed), first_walker, epoch)
    for _ in range(within + 1):
        for pair in range(pairs):
            next_pair(out, 2 * pair, streams)
