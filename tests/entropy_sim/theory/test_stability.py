"""Stability limits and time scales against the spectra of the iterations."""

import numpy as np
import pytest
from scipy import linalg

from entropy_sim import theory


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_learning_rates_beyond_the_stability_limit_diverge(beta, heavy_ball):
    limit = theory.stability_limit(3.0, beta)
    radius = [np.max(np.abs(linalg.eigvals(heavy_ball(3.0, f * limit, beta)))) for f in (0.999, 1.001)]
    assert radius[0] < 1 < radius[1]
