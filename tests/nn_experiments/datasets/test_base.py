"""Subsets and normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from entropy_sim.errors import UserError
from nn_experiments.datasets.base import check_counts, normalised, stratified_subset

TARGETS = np.repeat([0, 1, 2], [60, 30, 10])


@pytest.mark.parametrize(("count", "classes"), [(10, [6, 3, 1]), (20, [12, 6, 2]), (33, [20, 10, 3]), (3, [2, 1, 0])])
def test_a_subset_has_each_class_in_proportion(count, classes):
    found = stratified_subset(TARGETS, count, (0, 0), "data.samples")
    assert np.bincount(TARGETS[found], minlength=3).tolist() == classes
    assert len(set(found.tolist())) == count


def test_a_subset_is_fixed_by_its_key_and_shuffled():
    first, again, other = (stratified_subset(TARGETS, 50, key, "x").tolist() for key in ((1, 0), (1, 0), (1, 1)))
    assert first == again
    assert first != other
    assert sorted(first) != first
    assert len(set(TARGETS[first[:10]])) > 1
    assert sorted(stratified_subset(TARGETS, None, (1, 0), "x")) == list(range(100))


def test_every_image_is_as_likely_as_another():
    """χ² of 10 images of one class, each kept in 3 of 10: counts over 2000 seeds, variance n·0.3·0.7·(10/9)."""
    targets = np.repeat([0, 1], 10)
    counts = np.zeros(20)
    for seed in range(2000):
        counts[stratified_subset(targets, 6, (seed,), "x")] += 1
    z = ((((counts - 600) ** 2) / (2000 * 0.21 * 10 / 9)).sum() - 18) / np.sqrt(36)
    assert abs(z) < 4


@pytest.mark.parametrize("count", [2, 101])
def test_impossible_subsets_are_refused(count):
    with pytest.raises(UserError, match=rf"data.samples: expected a number in 3…100, found {count}"):
        stratified_subset(TARGETS, count, (0, 0), "data.samples")


def test_impossible_counts_are_refused():
    for arguments, name in (((0, None, 0), "samples"), ((None, 0, 0), "test_samples"), ((None, None, -1), "seed")):
        with pytest.raises(UserError, match=f"data.{name}: expected a number >="):
            check_counts(*arguments)


def test_channels_are_normalised_by_the_training_images():
    generator = np.random.default_rng(0)
    scale = np.array([40, 200, 255]).reshape(1, 3, 1, 1)
    train, test = ((generator.random((n, 3, 5, 4)) * scale).astype(np.uint8) for n in (50, 20))
    found = normalised((train, np.arange(50) % 2), (test, np.arange(20) % 2), 2, "cpu", torch.float64)
    mean, deviation = train.mean((0, 2, 3), keepdims=True), train.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(found.train_inputs, (train - mean) / deviation, rtol=1e-12)
    np.testing.assert_allclose(found.test_inputs, (test - mean) / deviation, rtol=1e-12)
    assert (found.channels, found.classes, found.train_targets.dtype) == (3, 2, torch.int64)


def test_a_channel_of_one_value_is_zero():
    train, test = np.full((4, 1, 2, 2), 7, np.uint8), np.full((1, 1, 2, 2), 9, np.uint8)
    found = normalised((train, [0, 1, 0, 1]), (test, [0]), 2, "cpu", torch.float32)
    assert found.train_inputs.unique().tolist() == [0.0]
    assert found.test_inputs.unique().tolist() == [2.0]
