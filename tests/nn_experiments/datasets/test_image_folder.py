"""Trees of small images, written here; lossless, so that what is read is known."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from entropy_sim.errors import UserError
from nn_experiments.datasets import ImageFolder, image_folder

CLASSES = ("ant", "bee", "cat")


def write(folder: Path, count: int, seed: int, shape: tuple[int, ...] = (6, 5, 3)) -> np.ndarray:
    """`count` images of each class; every image's first pixel holds its class and its number."""
    images = np.random.default_rng(seed).integers(0, 256, (len(CLASSES), count, *shape), dtype=np.uint8)
    for c, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            images[c, i, 0, 0] = (c, i, seed) if len(shape) == 3 else c
            Image.fromarray(images[c, i]).save(folder / name / f"{i:03}.png")
    return images


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write(tmp_path / "train", 8, 0)
    write(tmp_path / "test", 4, 1)
    return tmp_path


def bytes_of(inputs: torch.Tensor, train: np.ndarray) -> np.ndarray:
    """The pixels (N, H, W, C) that were normalised."""
    pixels = train.reshape(-1, *train.shape[2:])
    mean, deviation = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    return np.rint(inputs.double().numpy().transpose(0, 2, 3, 1) * deviation + mean).astype(np.uint8)


def test_images_and_labels_are_those_of_the_files(tree: Path) -> None:
    shutil.rmtree(tree)
    train, test = write(tree / "train", 8, 0), write(tree / "test", 4, 1)
    data = ImageFolder(str(tree)).load()
    assert (data.channels, data.classes) == (3, 3)
    for inputs, targets, images in (
        (data.train_inputs, data.train_targets, train),
        (data.test_inputs, data.test_targets, test),
    ):
        found = bytes_of(inputs, train)
        label, number = found[:, 0, 0, 0], found[:, 0, 0, 1]
        np.testing.assert_array_equal(label, targets)
        np.testing.assert_array_equal(found, images[label, number])
        assert len({*zip(label.tolist(), number.tolist(), strict=True)}) == images.shape[0] * images.shape[1]
        assert (np.diff(targets.numpy()) < 0).any()  # not sorted by class


@pytest.mark.parametrize("name", ["val", "valid"])
def test_other_names_of_the_test_folder(tree: Path, name: str) -> None:
    (tree / "test").rename(tree / name)
    assert len(ImageFolder(str(tree)).load().test_inputs) == 12


@pytest.mark.parametrize("below", ["", "train"])
def test_an_undivided_tree_is_split_within_each_class(tmp_path: Path, below: str) -> None:
    write(tmp_path / below, 10, 0)
    data, again, other = (ImageFolder(str(tmp_path), test_fraction=0.3, seed=s).load() for s in (1, 1, 2))
    assert torch.bincount(data.test_targets).tolist() == [3, 3, 3]
    assert torch.bincount(data.train_targets).tolist() == [7, 7, 7]
    assert torch.equal(data.train_inputs, again.train_inputs)
    assert not torch.equal(data.train_inputs, other.train_inputs)


def test_subsets_read_only_what_they_need(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda file, *a, **k: (read.append(file), real(file, *a, **k))[1])
    data = ImageFolder(str(tree), samples=6, test_samples=3).load()
    assert torch.bincount(data.train_targets).tolist() == [2, 2, 2]
    assert len(data.test_inputs) == 3
    assert len(set(read)) == 9


def test_grey_and_resized(tmp_path: Path) -> None:
    """Grey values survive exactly; an image of one colour survives any resizing."""
    images = write(tmp_path, 6, 0, shape=(6, 5))
    data = ImageFolder(str(tmp_path), channels=1).load(dtype=torch.float64)
    assert data.train_inputs.shape[1:] == (1, 6, 5)
    seen = {tuple(x) for x in data.train_inputs.flatten(1).round(decimals=9).tolist()}
    assert len(seen) == len(data.train_inputs)
    spread = data.train_inputs.max() - data.train_inputs.min()
    assert float(spread) == pytest.approx((images.max() - images.min()) / images.std(), rel=0.1)
    assert ImageFolder(str(tmp_path), size=4).load().train_inputs.shape[1:] == (3, 4, 4)
    for name, value in (("ant", 10), ("bee", 250)):
        for i in range(6):
            Image.fromarray(np.full((9, 7 + i), value, np.uint8)).save(tmp_path / name / f"{i:03}.png")
    shutil.rmtree(tmp_path / "cat")
    data = ImageFolder(str(tmp_path), size=4, channels=1).load()
    assert torch.equal(data.train_inputs.flatten(1).amin(1), data.train_inputs.flatten(1).amax(1))
    np.testing.assert_array_equal(data.train_inputs[:, 0, 0, 0] > 0, data.train_targets == 1)


def test_threads_do_not_change_what_is_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = ImageFolder(str(tree)).load()
    monkeypatch.setattr(image_folder, "_BLOCK", 2)
    monkeypatch.setattr(image_folder, "cores", lambda: 5)
    many = ImageFolder(str(tree)).load()
    assert torch.equal(one.train_inputs, many.train_inputs)
    assert torch.equal(one.test_inputs, many.test_inputs)


def refused(tree: Path, message: str, **options: object) -> None:
    with pytest.raises(UserError, match=message) as error:
        ImageFolder(str(tree), **options).load()
    assert "\n" not in str(error.value)


def test_a_damaged_image_is_named(tree: Path) -> None:
    for name, content in (("cut", (tree / "test/bee/001.png").read_bytes()[:60]), ("text", b"no image")):
        file = tree / "test/bee/001.png"
        file.write_bytes(content)
        refused(tree, r"data.root: expected an image, found .*test/bee/001.png that cannot be read \(.+\)")
        assert name


def test_an_image_of_another_size_is_named(tree: Path) -> None:
    file = tree / "train/cat/002.png"
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(file)
    message = "data.size: expected images of one size, found .*(4 x 3 pixels in .*002.png|and 4 x 3 in .*002.png)"
    refused(tree, message)
    assert ImageFolder(str(tree), size=5).load().train_inputs.shape[1:] == (3, 5, 5)


def test_sixteen_bits_are_refused(tree: Path) -> None:
    Image.fromarray(np.full((6, 5), 40_000, np.uint16)).save(tree / "train/cat/002.png")
    refused(tree, "data.root: expected 8 bits a channel, found mode I;16 in .*train/cat/002.png")


def test_no_images_no_folder_no_classes(tree: Path) -> None:
    refused(tree / "nowhere", "data.root: expected a folder of images, found no folder at .*nowhere")
    refused(tree / "train" / "ant", "data.root: expected a folder for each of 2 or more classes in .*ant, found none")
    for file in (tree / "train/bee").iterdir():
        file.rename(file.with_suffix(".txt"))
    refused(tree, r"data.root: expected images \(.jpg, .*\), found none in .*train/bee")
    shutil.rmtree(tree / "train")
    refused(tree, "data.root: expected a folder train beside test, found none")


@pytest.mark.parametrize(("here", "there"), [("train", "test"), ("test", "train")])
def test_other_classes_in_the_other_split_are_named(tree: Path, here: str, there: str) -> None:
    (tree / there / "cat").rename(tree / there / "dog")
    refused(tree, "data.root: expected the same classes in train and test of .*, found (cat|dog) only in train")
    shutil.rmtree(tree / there / "dog")
    refused(tree, f"data.root: expected the same classes in {here} and {there} of .*, found cat only in {here}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "data.size: expected a number of pixels >= 1"),
        ({"channels": 2}, "data.channels: expected 1 .grey. or 3"),
        ({"test_fraction": 1.0}, "data.test_fraction: expected a number in 0…1"),
        ({"samples": 0}, "data.samples: expected a number >= 1"),
        ({"samples": 25}, "data.samples: expected a number in 3…24, found 25"),
        ({"test_samples": 2}, "data.test_samples: expected a number in 3…12, found 2"),
    ],
)
def test_impossible_options_are_refused(tree: Path, options: dict[str, object], message: str) -> None:
    refused(tree, message, **options)


def test_a_split_without_test_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 2, 0)
    refused(tmp_path, "data.test_fraction: expected images in both splits, found 0.2")


def test_names(tree: Path) -> None:
    assert ImageFolder(str(tree)).name == f"images of {tree.name}"
    assert ImageFolder(".", title="CIFAR-10 (JPEG copy)", samples=8).name == "CIFAR-10 (JPEG copy) (8 training images)"
