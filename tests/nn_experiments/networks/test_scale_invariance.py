"""Scale-invariant parameters of modules that are not ours."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from nn_experiments.networks._scale_invariance import scale_invariant_parameters


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(3))


def test_what_stands_before_a_norm_and_nothing_else():
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),  # with a bias, which BatchNorm takes out: no effect, so not named
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),  # with a bias that GroupNorm of two groups does not take out
        nn.GroupNorm(2, 4),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, bias=False),
        nn.InstanceNorm2d(4),
        nn.Flatten(),
        nn.Linear(64, 5, bias=False),
        nn.LayerNorm(5),
        nn.Linear(5, 3),
    )
    assert scale_invariant_parameters(module, images()) == ["0.weight", "6.weight", "9.weight"]


def test_special_values_do_not_mislead():
    """At zero biases a convolution before ReLU and norm looks invariant together with anything; at a zero last map
    everything does."""
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.GroupNorm(1, 4), nn.Flatten(), nn.Linear(16, 3)
    )
    for p in module.parameters():
        p.data.zero_()
    assert scale_invariant_parameters(module, images()) == []
    module[2] = nn.Conv2d(4, 4, 3, bias=False)
    assert scale_invariant_parameters(module, images()) == ["2.weight"]
    module[0] = nn.Conv2d(2, 4, 3, bias=False)  # positively homogeneous up to the norm: now the first one is, too
    assert scale_invariant_parameters(module, images()) == ["0.weight", "2.weight"]


def test_weight_normalisation_is_found_and_frozen_or_unused_parameters_are_not_named():
    module = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(72, 3)))
    assert scale_invariant_parameters(module, images()) == ["1.parametrizations.weight.original1"]
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
    assert scale_invariant_parameters(module, images()) == ["0.weight"]
    module.unused = nn.Parameter(torch.ones(3))  # no effect at all is not scale invariance
    assert scale_invariant_parameters(module, images()) == ["0.weight"]
    module[0].weight.requires_grad_(False)
    assert scale_invariant_parameters(module, images()) == []


def test_dropout_is_off_and_the_module_and_the_global_generator_stay_as_they_are():
    module = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())
    before, state = copy.deepcopy(module.state_dict()), torch.random.get_rng_state()
    with torch.no_grad():  # the caller's mode does not matter
        assert scale_invariant_parameters(module, images()) == ["0.weight"]
    assert torch.equal(state, torch.random.get_rng_state())
    assert module.training
    assert module[1].eps == 1e-5
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_inputs_may_be_words():
    module = nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Flatten(), nn.Linear(12, 2))
    words = torch.randint(7, (8, 3), generator=torch.Generator().manual_seed(0))
    assert scale_invariant_parameters(module, words) == ["0.weight"]
