"""Functions from a user's file: every form gives the same numbers, and every mistake is one clear line."""

import numpy as np
import pytest

from entropy_sim import user_code
from entropy_sim.errors import UserError

TEXT = """
import math
import numpy as np
from numba import njit

@njit
def helper(y):
    return math.exp(-y * y)

def k(y):
    return 1 + 3 * helper(y)

def as_tuple(x, p):
    return p[0] * k(x[0]), x[1] ** 2

def as_array(x, p):
    return np.array([p[0] * k(x[0]), x[1] ** 2])

def as_block(theta, out, p):
    for w in range(theta.shape[1]):
        out[0, w] = p[0] * k(theta[0, w])
        out[1, w] = theta[1, w] ** 2

def mixed(x):
    return 0, x[1]

def number(x, p):
    return p.size + 0 * x[0]

def shape(s):
    return 1 + s * s

def wrong_attribute(x):
    return np.nothing(x)

def wrong_name(x):
    y = undefined_name * 2
    return y

def wrong_type(x):
    return x + "a"

def one_too_many(x):
    return x[0], x[1], 0.0

def text(x):
    return "a"

def four(a, b, c, d):
    return a

def raises(s):
    return 1 / (s - s)
"""
THETA = np.random.default_rng(0).normal(size=(2, 70))


@pytest.fixture(scope="module")
def module():
    return user_code.load("landscape.file", "gone/my.py", TEXT)


@pytest.mark.parametrize("form", ["as_tuple", "as_array", "as_block"])
def test_every_form_gives_the_same_numbers_and_sees_only_its_own_parameters(module, form):
    out, params = np.zeros((2, 70)), np.array([2.0, 9.0, 9.0])
    module.block(form, 2, 1)(THETA, out, params)
    np.testing.assert_allclose(out, [2 * (1 + 3 * np.exp(-(THETA[0] ** 2))), THETA[1] ** 2], rtol=1e-13)


def test_numbers_and_tuples_of_mixed_types(module):
    out = np.full((2, 70), np.nan)
    module.block("mixed", 2, 0)(THETA, out, np.zeros(0))
    np.testing.assert_array_equal(out, [0.0 * THETA[0], THETA[1]])
    size = np.zeros((1, 70))
    module.block("number", 1, 1)(THETA, size, np.zeros(3))
    np.testing.assert_array_equal(size, 1.0)
    assert module.scalar("shape")(0.5, np.zeros(0)) == 1.25
    assert module.call("shape", 0.5, "not taken") == 1.25


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong_attribute", r"wrong_attribute of gone/my\.py to compile.*has no attribute 'nothing'"),
        ("wrong_name", r"wrong_name of gone/my\.py to compile.*name 'undefined_name' is not defined"),
        ("wrong_type", r"wrong_type of gone/my\.py to compile.*for add\(array\(float64, 1d, C\), .*\(line 41\)$"),
        ("one_too_many", r"expected 2 numbers from one_too_many of gone/my\.py, found 3$"),
        ("text", r"expected 2 numbers \(a tuple or an array\) from text of gone/my\.py, found"),
        ("four", r"expected four of gone/my\.py to take at most 2 arguments, found \(a, b, c, d\)$"),
        ("absent", r"expected a function absent in gone/my\.py, found helper, k, as_tuple"),
    ],
)
def test_a_function_that_does_not_fit_is_refused_on_one_line(module, name, message):
    with pytest.raises(UserError, match=message) as error:
        module.block(name, 2, 1)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("landscape.file: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef f(:\n", r"found a syntax error in line 2"),
        ("x = 1\ny = 1 / 0\n", r"to load, found ZeroDivisionError in line 2: division by zero"),
        ("import no_such_module_anywhere\n", r"to load, found ModuleNotFoundError in line 1"),
    ],
)
def test_a_file_that_does_not_load_is_refused_with_the_line(text, message):
    with pytest.raises(UserError, match=message):
        user_code.load("landscape.file", "my.py", text)


def test_plain_calls_report_the_line_that_failed(module):
    with pytest.raises(UserError, match=r"raises of gone/my\.py to work, found ZeroDivisionError in line 53"):
        module.call("raises", 0.5)
