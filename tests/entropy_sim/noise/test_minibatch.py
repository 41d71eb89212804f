"""Minibatches need samples; how they are drawn is tested with the landscape that has them."""

import pytest

from entropy_sim.dynamics import SGD, Overdamped
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Channel, GeneratedSamples, MullerBrown, TwoLayerLinear
from entropy_sim.noise import Minibatch


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Minibatch(0), r"noise\.batch_size: expected at least 1, found 0"),
        (lambda: Minibatch().check(Channel()), r"expected a landscape with samples .* for Minibatch, found Channel"),
        (lambda: SGD().check(MullerBrown(), Minibatch()), r"for Minibatch, found MullerBrown"),
        (
            lambda: Minibatch(9, False).check(TwoLayerLinear(GeneratedSamples(8))),
            r"noise\.batch_size: expected at most the 8 samples without replacement, found 9",
        ),
        (
            lambda: Overdamped().check(TwoLayerLinear(), Minibatch()),
            r"noise: expected one that supplies a diffusion for Overdamped, found Minibatch, which supplies a sampled",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_more_than_all_samples_can_be_drawn_with_replacement():
    Minibatch(9).check(TwoLayerLinear(GeneratedSamples(8)))
