"""torchvision's own readers on small data sets written in the published layouts, with MD5 sums that are theirs."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets as readers

from entropy_sim.errors import UserError
from entropy_sim.run_files import config_json, from_jsonable, to_jsonable
from nn_experiments.datasets import CIFAR10, CIFAR100, SVHN, FashionMNIST
from nn_experiments.datasets.published import FOLDER_VARIABLE, Published
from nn_experiments.experiment import Experiment

TRAIN, TEST = 40, 20


def pictures(seed: int, count: int, classes: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted by class, so that an order kept from the files shows; the first byte is the number of the image."""
    images = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    images.reshape(count, -1)[:, 0] = np.arange(count)
    return images, np.sort(np.arange(count) % classes)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    reader = readers.CIFAR10 if classes == 10 else readers.CIFAR100
    folder = root / reader.base_folder
    folder.mkdir(parents=True)
    key = "labels" if classes == 10 else "fine_labels"
    lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    for name, count, seed in (("train_list", TRAIN, 0), ("test_list", TEST, 1)):
        images, labels = pictures(seed, count, classes, 3, 32, 32)
        names = [n for n, _ in getattr(reader, name)]
        parts = zip(np.array_split(images, len(names)), np.array_split(labels, len(names)), strict=True)
        for file, (image, label) in zip(names, parts, strict=True):
            (folder / file).write_bytes(pickle.dumps({"data": image.reshape(len(image), -1), key: label.tolist()}))
            lists[name].append([file, md5(folder / file)])
    meta = folder / reader.meta["filename"]
    meta.write_bytes(pickle.dumps({reader.meta["key"]: [str(c) for c in range(classes)]}))
    for name, value in {**lists, "meta": {**reader.meta, "md5": md5(meta)}}.items():
        monkeypatch.setattr(reader, name, value)


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.mkdir(parents=True)
    sums = dict(readers.SVHN.split_list)
    for name, count, seed in (("train", TRAIN, 0), ("test", TEST, 1)):
        images, labels = pictures(seed, count, 10, 3, 32, 32)
        file = root / f"{name}_32x32.mat"
        named = np.where(labels == 0, 10, labels)[:, None]  # the files call the digit 0 "10"
        scipy.io.savemat(file, {"X": images.transpose(2, 3, 1, 0), "y": named})
        sums[name] = [sums[name][0], file.name, md5(file)]
    monkeypatch.setattr(readers.SVHN, "split_list", sums)


def write_fashion(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, count, seed in (("train", TRAIN, 0), ("t10k", TEST, 1)):
        images, labels = pictures(seed, count, 10, 28, 28)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + images.tobytes())
        head = struct.pack(">2i", 2049, count)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(head + labels.astype(np.uint8).tobytes())


SETS = {
    CIFAR10: (lambda root, patch: write_cifar(root, patch, 10), 10, (3, 32, 32)),
    CIFAR100: (lambda root, patch: write_cifar(root, patch, 100), 100, (3, 32, 32)),
    SVHN: (write_svhn, 10, (3, 32, 32)),
    FashionMNIST: (write_fashion, 10, (28, 28)),
}


@pytest.mark.parametrize("kind", SETS)
def test_images_and_labels_are_those_of_the_files(kind: type[Published], tmp_path, monkeypatch):
    write, classes, shape = SETS[kind]
    write(tmp_path / "data", monkeypatch)
    found = kind(root=str(tmp_path / "data"), seed=3).load(dtype=torch.float64)
    raw, labels = pictures(0, TRAIN, classes, *shape)
    channels_first = raw if raw.ndim == 4 else raw[:, None]
    mean, deviation = (f((0, 2, 3), keepdims=True) for f in (channels_first.mean, channels_first.std))
    pixels = np.rint(found.train_inputs.numpy() * deviation + mean).astype(np.uint8)
    order = pixels.reshape(TRAIN, -1)[:, 0]  # the number of each image
    np.testing.assert_array_equal(pixels, channels_first[order])
    np.testing.assert_array_equal(found.train_targets, labels[order])
    assert sorted(order) == list(range(TRAIN))
    assert (found.channels, found.classes) == (channels_first.shape[1], classes)
    assert len(found.test_inputs) == len(found.test_targets) == TEST
    if classes == 10:
        assert (np.diff(found.train_targets.numpy()) < 0).sum() > 5  # not sorted by class


def test_subsets_and_names(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, 10)
    data = CIFAR10(str(tmp_path), samples=20, test_samples=10)
    found = data.load()
    assert torch.bincount(found.train_targets).tolist() == [2] * 10
    assert torch.bincount(found.test_targets).tolist() == [1] * 10
    assert found.train_inputs.mean((0, 2, 3)).abs().max() < 1e-6
    assert (data.name, CIFAR10().name) == ("CIFAR-10 (20 training images)", "CIFAR-10")
    with pytest.raises(UserError, match="data.samples: expected a number in 10…40, found 41"):
        CIFAR10(str(tmp_path), samples=41).load()


def test_the_folder_is_that_of_the_option_the_variable_or_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "there"))
    assert CIFAR10("here").folder == Path("here")
    assert CIFAR10().folder == tmp_path / "there"
    monkeypatch.delenv(FOLDER_VARIABLE)
    assert CIFAR10().folder == Path("data/downloads")


@pytest.mark.parametrize("kind", SETS)
def test_what_is_not_there_is_told_in_one_line(kind: type[Published], tmp_path):
    with pytest.raises(UserError, match=f"data.root: expected {kind.title} .* in {tmp_path}, .*data.download, .*DATA"):
        kind(root=str(tmp_path)).load()


def test_a_changed_file_is_never_unpickled(tmp_path, monkeypatch):
    """The MD5 sum of the published file stands before its pickle."""
    write_cifar(tmp_path, monkeypatch, 10)
    opened = []
    monkeypatch.setattr(pickle, "load", lambda *_, **__: opened.append(1))
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(UserError, match="found none or a damaged one"):
        CIFAR10(str(tmp_path)).load()
    assert not opened


def test_damaged_files_without_a_sum_are_told_in_one_line(tmp_path, monkeypatch):
    write_fashion(tmp_path, monkeypatch)
    file = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="data.root: expected Fashion-MNIST .* found none or a damaged one"):
        FashionMNIST(str(tmp_path)).load()


def test_a_download_that_fails_is_told_in_one_line(tmp_path, monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", unreachable)
    with pytest.raises(UserError, match="data.download: expected CIFAR-10 in .* cannot be fetched .no route to host"):
        CIFAR10(str(tmp_path), download=True).load()


def test_where_the_files_lie_is_no_part_of_the_configuration():
    assert config_json(CIFAR10("a", download=True)) == config_json(CIFAR10("b"))
    assert config_json(CIFAR10(samples=100)) != config_json(CIFAR10())
    assert from_jsonable(Experiment, to_jsonable(Experiment(CIFAR10("a", samples=64)))).data == CIFAR10(samples=64)


def test_an_experiment_takes_it(tmp_path, monkeypatch):
    write_fashion(tmp_path, monkeypatch)
    objective = Experiment(data=FashionMNIST(str(tmp_path), samples=32), group_size=16).objective()
    assert objective.inputs.shape == (32, 1, 28, 28)
    loss, gradient = objective.full_value_and_gradient(objective.theta())
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
