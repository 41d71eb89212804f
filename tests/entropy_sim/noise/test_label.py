"""Label noise: C = (sigma² / B) H where there are no samples, drawn where there are (tested with TwoLayerLinear)."""

import numpy as np
import pytest

from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Channel, GeneratedSamples, MullerBrown, Quadratic, Tabulated, TwoLayerLinear
from entropy_sim.noise import CurvatureCovariance, Label


@pytest.mark.parametrize("landscape", [Channel(amplitudes=(1.0, 2.0, 3.0, 4.0)), Tabulated()])
def test_without_samples_it_is_noise_proportional_to_the_hessian(landscape):
    s = np.array([0.1, 0.5])
    np.testing.assert_allclose(Label(0.5, 4).transverse(landscape, s), 0.0625 * landscape.curvature(s), rtol=1e-13)
    np.testing.assert_array_equal(Label(0.5, 4).along(landscape, s), 0.0)
    start = np.repeat(landscape.path(0.4), 64, axis=0)
    ends = []
    for noise in (Label(0.5, 4), CurvatureCovariance(0.0625, 1.0, 0.0)):
        ensemble = Ensemble(landscape, noise, SGD(0.01), start, seed=4)
        ensemble.advance(50)
        ends.append(ensemble.theta)
    np.testing.assert_array_equal(*ends)
    assert ends[0][:, 1].std() > 0.01


def test_without_strength_it_is_the_batch_alone():
    landscape = TwoLayerLinear(GeneratedSamples(8))
    ensemble = Ensemble(landscape, Label(0.0, None), SGD(0.05), landscape.path([0.1, 0.9]))
    ensemble.advance(20)
    np.testing.assert_allclose(ensemble.theta, landscape.path([0.1, 0.9]), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Label(-1.0), r"noise\.strength: expected a number >= 0, found -1\.0"),
        (lambda: Label(float("nan")), r"noise\.strength: expected a number >= 0, found nan"),
        (lambda: Label(batch_size=0), r"noise\.batch_size: expected at least 1, found 0"),
        (
            lambda: Label(batch_size=None).check(Channel()),
            r"noise\.batch_size: expected a number of samples on Channel, which has none of its own, found None",
        ),
        (
            lambda: Label().check(Quadratic()),
            r"expected a landscape with samples .* or with a transverse stiffness .* found Quadratic",
        ),
        (lambda: Label().check(MullerBrown()), r"for Label, found MullerBrown"),
        (
            lambda: Label(1.0, 9, False).check(TwoLayerLinear(GeneratedSamples(8))),
            r"noise\.batch_size: expected at most the 8 samples without replacement, found 9",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()
