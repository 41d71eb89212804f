"""Philox and xoshiro128++ against their published answers, normals against Python and the normal distribution."""

import math

import numpy as np
import pytest
from numba import njit
from scipy import stats

from entropy_sim._random import EPOCH, _next_word, _radius, _turned, fast_exp, fast_log, fill_normals, philox

MASK = 0xFFFFFFFF
#: Largest relative error of a normal, as `_random` states it: five times the rounding of a single.
RELATIVE = 3.1e-7


@njit
def _philox(c0, c1, c2, c3, k0, k1):
    return philox(np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3), np.uint64(k0), np.uint64(k1))


@njit
def _word_and_state(a, b, c, d):
    return _next_word(a, b, c, d)


@njit
def _log_exp(x, log, exp):
    for i in range(x.size):
        log[i] = fast_log(abs(x[i]))
        exp[i] = fast_exp(x[i])


@njit
def _pairs(radius_words, angle_words, out):
    for i in range(radius_words.size):
        out[i, 0], out[i, 1] = _turned(_radius(radius_words[i]), angle_words[i])


def pairs(radius_words, angle_words):
    out = np.empty((len(radius_words), 2), dtype=np.float32)
    _pairs(np.asarray(radius_words, dtype=np.uint32), np.asarray(angle_words, dtype=np.uint32), out)
    return out


def philox_python(counter, key):
    c, k = list(counter), list(key)
    for _ in range(7):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def xoshiro_python(state):
    """Words of xoshiro128++ without end, with unbounded integers (Blackman and Vigna's reference, 2019)."""
    rotated = lambda x, k: (x << k | x >> (32 - k)) & MASK  # noqa: E731
    s = list(state)
    while True:
        yield (rotated((s[0] + s[3]) & MASK, 7) + s[0]) & MASK
        t = s[1] << 9 & MASK
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rotated(s[3], 11)


def normals_python(seed, walker, pairs, batch):
    """The normals that a walker has of a batch of so many pairs, with the library's own log, sine and cosine."""
    per_epoch = max(1, EPOCH // pairs)
    epoch, within = divmod(batch, per_epoch)
    begin = philox_python((walker, 0, epoch & MASK, epoch >> 32), (seed & MASK, seed >> 32))
    words = xoshiro_python(begin)
    drawn = [pair_python(next(words), next(words)) for _ in range((within + 1) * pairs)]
    return [normal for pair in drawn[within * pairs :] for normal in pair]


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
        ((0, 0, 0, 0), (0, 0), (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
        ((MASK, MASK, MASK, MASK), (MASK, MASK), (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    assert _philox(*counter, *key) == expected


def test_xoshiro_gives_the_known_answers_of_its_reference():
    known = [641, 1573767, 3222811527, 3517856514, 836907274, 4247214768, 3867114732, 1355841295, 495546011, 621204420]
    state, words = tuple(np.uint32(s) for s in (1, 2, 3, 4)), []
    for _ in known:
        word, *state = _word_and_state(*state)
        words.append(word)
    assert words == known
    words = xoshiro_python((1, 2, 3, 4))
    assert [next(words) for _ in known] == known


@pytest.mark.parametrize("pairs", [1, 3, EPOCH, EPOCH + 1])
@pytest.mark.parametrize(
    ("seed", "walker", "batch"), [(0, 0, 0), (7, 1000, 5), (2**63 + 12345, 2**20, 2**37 + 33), (1, 2**31, 2**31)]
)
def test_normals_are_those_of_seed_walker_and_batch(seed, walker, batch, pairs):
    out = np.empty((2 * pairs, 64), dtype=np.float32)
    fill_normals(out, seed, walker, batch)
    for w in (0, 1, 63):
        np.testing.assert_allclose(out[:, w], normals_python(seed, walker + w, pairs, batch), rtol=RELATIVE)


def test_pairs_are_right_at_every_scale():
    powers = 2 ** np.arange(33)
    edges = np.unique(np.concatenate([powers - 1, powers, powers + 1, MASK - powers]).clip(0, MASK))
    some = np.random.default_rng(1).integers(0, 2**32, 2000)
    radius_words = np.concatenate([np.repeat(edges, edges.size), some])
    angle_words = np.concatenate([np.tile(edges, edges.size), some[::-1]])
    expected = [pair_python(int(r), int(a)) for r, a in zip(radius_words, angle_words, strict=True)]
    np.testing.assert_allclose(pairs(radius_words, angle_words), expected, rtol=RELATIVE)


def test_the_largest_normal_is_that_of_the_least_word():
    largest = pairs([0], [1 << 29])  # t = 2^-31: all of the radius along the cosine
    np.testing.assert_allclose(largest[0, 0], math.sqrt(2 * math.log(2**33)), rtol=RELATIVE)
    assert np.abs(pairs([0, 1, 2], [1 << 29] * 3)).max() == largest[0, 0]


def test_single_precision_leaves_no_bias_that_a_statistic_could_see():
    """Against the exact transform of the same words, which leaves rounding alone; one that cuts digits off is seen."""
    rng = np.random.default_rng(3)
    radius_words, angle_words = rng.integers(0, 2**32, (2, 400_000))
    radius = np.sqrt(-2.0 * np.log1p((radius_words + 0.5 - 2.0**32) * 2.0**-32))
    angle = ((angle_words & 0x3FFFFFFF) + 0.5 - 2.0**29) * 2.0**-30 * math.pi / 2
    pair = np.stack([np.cos(angle) * np.where(angle_words >> 31, -1, 1), np.sin(angle)])
    exact = radius * np.where(angle_words >> 30 & 1, pair[::-1], pair)

    def errors(normals):
        """Largest and root mean square relative error; mean error, and what is wrong with the variance."""
        relative = normals / exact - 1.0
        wrong = normals.astype(np.float64) - exact
        return np.abs(relative).max(), np.sqrt((relative**2).mean()), abs(wrong.mean()), abs(2 * (wrong * exact).mean())

    normals = pairs(radius_words, angle_words).T
    bounds = np.array([RELATIVE, 7e-8, 1e-9, 7e-8])
    assert np.all(np.array(errors(normals)) < bounds), errors(normals)
    cut = np.uint32(normals.view(np.uint32) & np.uint32(0xFFFFFFFE)).view(np.float32)  # the last bit, towards zero
    assert errors(cut)[3] > 1e-7 > bounds[3]


def test_normals_are_symmetric_to_the_last_bit():
    radius_words, angle_words = np.random.default_rng(2).integers(0, 2**32, (2, 100_000))
    first, second = pairs(radius_words, angle_words).T
    # The other sign of the cosine; and t -> -t, which mirrors the sine, wherever the two are.
    swapped = angle_words >> 30 & 1 == 1
    for flipped, mirrored in ((1 << 31, ~swapped), (0x3FFFFFFF, swapped)):
        a, b = pairs(radius_words, angle_words ^ flipped).T
        np.testing.assert_array_equal(a, np.where(mirrored, -first, first))
        np.testing.assert_array_equal(b, np.where(mirrored, second, -second))


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
    out = np.empty((2, 8, 125_000), dtype=np.float32)
    for batch in range(2):
        fill_normals(out[batch], 20, 0, batch)
    return out.reshape(16, -1).astype(np.float64)


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
    out = np.empty((4, 4, 100_000), dtype=np.float32)
    for row, seed in enumerate((0, 1, 2**32, 2**32 + 1)):
        fill_normals(out[row], seed, 0, 0)
    correlation = np.corrcoef(out.reshape(4, -1))[np.triu_indices(4, 1)] * math.sqrt(400_000)
    assert abs(correlation).max() < 4
