from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch

from entropy_sim.errors import UserError
from nn_experiments.datasets import Digits, digits, stratified_split


def test_digits():
    data = Digits().load()
    assert data.train_inputs.shape[1:] == (1, 8, 8)
    assert len(data.train_inputs) + len(data.test_inputs) == 1797
    assert len(data.test_inputs) == pytest.approx(0.2 * 1797, abs=5)
    assert (data.channels, data.classes) == (1, 10)
    assert data.train_inputs.dtype == torch.float32
    assert data.train_inputs.double().mean() == pytest.approx(0, abs=1e-6)
    assert data.train_inputs.double().std(correction=0) == pytest.approx(1, abs=1e-5)
    fractions = torch.bincount(data.test_targets) / (
        torch.bincount(data.test_targets) + torch.bincount(data.train_targets)
    )
    assert (fractions - 0.2).abs().max() < 0.005


def test_digits_are_the_real_ones_with_their_labels():
    from sklearn.datasets import load_digits

    raw = load_digits()
    data = Digits(seed=4).load(dtype=torch.float64)
    pixels = torch.cat([data.train_inputs, data.test_inputs]).flatten(1)
    pixels = pixels - pixels.min()
    mine = {
        (tuple(np.round(p * 16 / float(pixels.max())).astype(int)), int(t))
        for p, t in zip(pixels.numpy(), torch.cat([data.train_targets, data.test_targets]), strict=True)
    }
    assert mine == {(tuple(p.astype(int)), int(t)) for p, t in zip(raw.data, raw.target, strict=True)}


def test_order_is_shuffled_not_sorted_by_class():
    data = Digits().load()
    for targets in (data.train_targets, data.test_targets):
        same = (targets[1:] == targets[:-1]).double().mean()
        assert abs(same - 0.1) < 4 * np.sqrt(0.09 / len(targets))


def test_split_is_fixed_by_its_seed_and_disjoint():
    targets = np.repeat(np.arange(5), 20)
    train, test = stratified_split(targets, 0.25, seed=1)
    assert sorted([*train, *test]) == list(range(100))
    assert np.bincount(targets[test]).tolist() == [5] * 5
    again = stratified_split(targets, 0.25, seed=1)
    assert again[0].tolist() == train.tolist()
    assert stratified_split(targets, 0.25, seed=2)[0].tolist() != train.tolist()


def test_missing_scikit_learn(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    digits._digits.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r'pip install -e "\.\[nn\]"'):
        Digits().load()
    monkeypatch.undo()
    digits._digits.cache_clear()


def test_bad_options():
    with pytest.raises(UserError, match=r"data.test_fraction: expected a number in 0…1"):
        Digits(test_fraction=1.0)
    with pytest.raises(UserError, match="data.seed: expected a number >= 0"):
        Digits(seed=-1)
