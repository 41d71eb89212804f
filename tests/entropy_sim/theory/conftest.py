"""Functions that the tests of the closed forms share, given as fixtures."""

import numpy as np
import pytest


def _heavy_ball(curvature, learning_rate, momentum):
    """One step of all modes as a matrix on (x, v)."""
    k = np.diag(np.atleast_1d(curvature))
    one = np.eye(len(k))
    a = learning_rate * k
    return np.block([[one - a, momentum * one], [-a, momentum * one]])


def _nesterov(curvature, learning_rate, momentum):
    """One step of one mode as a matrix on (x, v), and its kick: v <- beta v + g, x <- x - eta (g + beta v)."""
    k, eta, beta = curvature, learning_rate, momentum
    step = np.array([[1 - eta * (1 + beta) * k, -eta * beta**2], [k, beta]])
    return step, np.array([-eta * (1 + beta), 1.0])


def _kick_covariance(noise, learning_rate):
    return learning_rate**2 * np.kron(np.ones((2, 2)), np.atleast_2d(noise))


def _slope(function, y, h=1e-4):
    """Fourth-order central difference."""
    return (8 * (function(y + h) - function(y - h)) - (function(y + 2 * h) - function(y - 2 * h))) / (12 * h)


def _stiffness(y):
    """Three modes that vary along y; shape (…, 3)."""
    rate = np.array([0.3, -0.7, 1.1])
    return np.array([1.0, 4.0, 0.2]) * np.exp(rate * np.sin(np.asarray(y)[..., None]))


def _stiffness_slope(y):
    return _stiffness(y) * np.array([0.3, -0.7, 1.1]) * np.cos(np.asarray(y)[..., None])


@pytest.fixture(scope="session")
def heavy_ball():
    return _heavy_ball


@pytest.fixture(scope="session")
def nesterov():
    return _nesterov


@pytest.fixture(scope="session")
def kick_covariance():
    return _kick_covariance


@pytest.fixture(scope="session")
def slope():
    return _slope


@pytest.fixture(scope="session")
def stiffness():
    return _stiffness


@pytest.fixture(scope="session")
def stiffness_slope():
    return _stiffness_slope
