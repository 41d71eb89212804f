"""What the closed forms refuse, and that they broadcast."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

from entropy_sim import theory
from entropy_sim.errors import UserError


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.variance_sgd([1.0, 50.0], 1.0, 0.1, 0.5),
            r"learning_rate: expected less than 0\.06, the stab.* 50",
        ),
        (lambda: theory.variance_euler_maruyama(4.0, 1.0, 0.5), r"step: expected less than 0\.5, the stability limit"),
        (lambda: theory.variance_leimkuhler_matthews(4.0, 1.0, 0.6), r"step: expected less than 0\.5"),
        (lambda: theory.covariance_sgd([1.0, 50.0], np.eye(2), 0.1), r"learning_rate: expected less than 0\.04"),
        (
            lambda: theory.effective_potential_constant_noise([30.0], [1.0], 0.1),
            r"learning_rate: expected less than 0\.0666667, the stability limit at curvature 30, found 0\.1",
        ),
        (lambda: theory.effective_potential_curvature_proportional([30.0], 1.0, 0.1), "learning_rate: expected less"),
        (lambda: theory.variance_sgd(0.0, 1.0, 0.1), r"curvature: expected a curvature k > 0, found 0"),
        (lambda: theory.mean_force_thermal([1.0, -2.0], [1.0, 1.0], 0.1), r"curvature: expected .* k > 0, found -2"),
        (lambda: theory.effective_potential_thermal([np.nan], 0.1), r"curvature: expected .*, found nan"),
        (lambda: theory.variance_euler_maruyama(1.0, -0.1, 0.1), r"temperature: expected a number >= 0, found -0\.1"),
        (lambda: theory.variance_sgd(1.0, -1.0, 0.1), r"noise: expected a number >= 0, found -1"),
        (lambda: theory.variance_sgd(1.0, 1.0, 0.1, 1.0), r"momentum: expected 0 <= beta < 1, found 1"),
        (lambda: theory.variance_sgd(1.0, 1.0, 0.0), r"learning_rate: expected a number > 0, found 0"),
        (lambda: theory.variance_sgd_transient(1.0, 1.0, 0.1, -1), r"steps: expected a number of steps >= 0, found -1"),
        (lambda: theory.stationary_density([0, 2, 1], [0, 0, 0], 1), r"position: expected increasing values"),
        (lambda: theory.stationary_density([0, 1], [0, 0, 0], 1), r"force: expected the shape \(2,\), found \(3,\)"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_shapes_broadcast():
    k = np.ones((4, 3))
    assert theory.variance_sgd(k, 1.0, 0.1).shape == (4, 3)
    assert theory.mean_force_covariance(k, k, k, np.full(4, 0.1)).shape == (4,)
    assert theory.effective_potential_curvature_power(k, 1.0, 0.0).shape == (4,)
    assert theory.covariance_sgd(k, np.ones((4, 3, 3)), np.full(4, 0.1), 0.5).shape == (4, 3, 3)
    assert np.ndim(theory.variance_sgd(1.0, 1.0, 0.1)) == 0


def test_every_formula_says_where_it_comes_from():
    functions = [getattr(theory, name) for name in theory.__all__ if inspect.isfunction(getattr(theory, name))]
    assert len(functions) > 50
    said = {f.__name__: f.__doc__ or "" for f in functions}
    silent = [name for name, text in said.items() if "Reference" not in text and "Derivation" not in text]
    assert silent == []


def test_the_package_loads_without_numba_and_scipy():
    code = "import entropy_sim.theory, sys; print(*{'numba', 'torch', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
