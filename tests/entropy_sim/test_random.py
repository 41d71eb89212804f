"""Philox against its published answers, normals against pure Python and against the normal distribution."""

import math

import numpy as np
import pytest
from numba import njit
from scipy import stats

from entropy_sim._random import _normal_pair, fast_exp, fast_log, fill_normals, philox

MASK = 0xFFFFFFFF


@njit
def _philox(c0, c1, c2, c3, k0, k1):
    return philox(np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3), np.uint64(k0), np.uint64(k1))


@njit
def _log_exp(x, log, exp):
    for i in range(x.size):
        log[i] = fast_log(abs(x[i]))
        exp[i] = fast_exp(x[i])


@njit
def _pairs(radius_words, angle_words, out):
    for i in range(radius_words.size):
        out[i, 0], out[i, 1] = _normal_pair(radius_words[i], angle_words[i])


def philox_python(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def normals_python(seed, walker, quad, batch):
    """The four normals of one counter, with the library's own log, sine and cosine."""
    counter = (walker, quad, batch & MASK, batch >> 32)
    words = philox_python(counter, (seed & MASK, seed >> 32))
    return [*pair_python(*words[:2]), *pair_python(*words[2:])]


def pair_python(radius_word, angle_word):
    # log1p keeps the digits of u near 1.
    radius = math.sqrt(-2.0 * math.log1p((radius_word + 0.5 - 2**32) * 2.0**-32))
    angle = ((angle_word & 0x3FFFFFFF) + 0.5 - 2**29) * 2.0**-30 * math.pi / 2
    cosine = math.cos(angle) * (-1 if angle_word >> 31 else 1)
    pair = (cosine, math.sin(angle))
    return [radius * v for v in (pair[::-1] if angle_word >> 30 & 1 else pair)]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((MASK, MASK, MASK, MASK), (MASK, MASK), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    assert _philox(*counter, *key) == expected


@pytest.mark.parametrize(
    ("seed", "walker", "batch"), [(0, 0, 0), (7, 1000, 5), (2**63 + 12345, 2**20, 2**33 + 1), (1, 2**31, 2**31)]
)
def test_normals_are_those_of_seed_walker_and_batch(seed, walker, batch):
    out = np.empty((8, 64))
    fill_normals(out, np.uint64(seed), walker, batch)
    for w in (0, 1, 63):
        expected = normals_python(seed, walker + w, 0, batch) + normals_python(seed, walker + w, 1, batch)
        np.testing.assert_allclose(out[:, w], expected, rtol=2e-10, atol=1e-16)


def test_pairs_are_right_at_every_scale_and_whatever_the_upper_halves_hold():
    powers = 2 ** np.arange(33)
    edges = np.unique(np.concatenate([powers - 1, powers, powers + 1, MASK - powers]).clip(0, MASK)).astype(np.uint64)
    some = np.random.default_rng(1).integers(0, 2**32, 2000, dtype=np.uint64)
    radius_words = np.concatenate([np.repeat(edges, edges.size), some])
    angle_words = np.concatenate([np.tile(edges, edges.size), some[::-1]])
    clean, rubbish = np.empty((2, radius_words.size, 2))
    _pairs(radius_words, angle_words, clean)
    _pairs(radius_words | np.uint64(0xABCD1234 << 32), angle_words | np.uint64(MASK << 32), rubbish)
    expected = [pair_python(int(r), int(a)) for r, a in zip(radius_words, angle_words, strict=True)]
    np.testing.assert_allclose(clean, expected, rtol=2e-10, atol=1e-16)
    np.testing.assert_array_equal(rubbish, clean)


def test_log_and_exp_to_thirteen_digits():
    x = np.concatenate([np.linspace(-30, 30, 20001), 2.0 ** np.arange(-40, 9), [-5e-324 + 1.0, 699.0, -699.0]])
    log, exp = np.empty_like(x), np.empty_like(x)
    _log_exp(np.where(x == 0, 1.0, x), log, exp)
    np.testing.assert_allclose(log, np.log(np.abs(np.where(x == 0, 1.0, x))), atol=2e-14, rtol=1e-13)
    np.testing.assert_allclose(exp, np.exp(np.where(x == 0, 1.0, x)), rtol=2e-13)


def test_exp_of_nan_is_nan_and_of_infinities_stays_finite():
    x = np.array([np.nan, 1e300, -1e300])
    log, exp = np.empty_like(x), np.empty_like(x)
    _log_exp(x, log, exp)
    assert np.isnan(exp[0])
    np.testing.assert_allclose(exp[1:], np.exp([700.0, -700.0]), rtol=1e-12)


@pytest.fixture(scope="module")
def sample():
    """Two batches of eight rows of 125 000 walkers: two million normals."""
    out = np.empty((2, 8, 125_000))
    for batch in range(2):
        fill_normals(out[batch], np.uint64(20), 0, batch)
    return out.reshape(16, -1)


def test_moments_are_those_of_a_normal(sample):
    n = sample.size
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10395 - 225)):
        z = ((sample**power).mean() - mean) / math.sqrt(variance / n)
        assert abs(z) < 4, (power, z)


def test_distribution_is_normal_and_one_with_a_wrong_radius_is_not(sample):
    z = sample.ravel()[:500_000]
    assert stats.kstest(z, "norm").pvalue > 1e-3
    # The mutant draws the radius from -ln u instead of -2 ln u.
    assert stats.kstest(z / math.sqrt(2), "norm").pvalue < 1e-7


def test_rows_walkers_and_batches_are_uncorrelated(sample):
    n = sample.shape[1]
    for values in (sample, sample**2, sample**3):
        rows = np.corrcoef(values)[np.triu_indices(16, 1)] * math.sqrt(n)
        assert abs(rows).max() < 4.5  # 120 pairs
        lagged = [np.corrcoef(values[:, :-lag].ravel(), values[:, lag:].ravel())[0, 1] for lag in (1, 2, 16, 64, 512)]
        assert abs(np.array(lagged)).max() * math.sqrt(sample.size) < 4.5


def test_neighbouring_seeds_are_uncorrelated():
    out = np.empty((4, 4, 100_000))
    for row, seed in enumerate((0, 1, 2**32, 2**32 + 1)):
        fill_normals(out[row], np.uint64(seed), 0, 0)
    correlation = np.corrcoef(out.reshape(4, -1))[np.triu_indices(4, 1)] * math.sqrt(400_000)
    assert abs(correlation).max() < 4
