"""A tree of image files as a data set: one folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from entropy_sim.errors import UserError, require
from nn_experiments.datasets.base import (
    Bytes,
    Indices,
    Tensors,
    check_counts,
    normalised,
    stratified_split,
    stratified_subset,
)
from nn_experiments.workers import cores

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
#: The folders of a test split, in order of preference.
TEST_FOLDERS = ("test", "val", "valid")
#: Images a thread decodes before it says so.
_BLOCK = 256


@dataclass(frozen=True)
class ImageFolder:
    """Images in root/train/CLASS/ and root/test/CLASS/ (or val/, valid/), or, undivided, in root/train/CLASS/ or
    root/CLASS/: then a stratified random split.

    Classes are numbered in the order of their names. Images are shuffled once by `seed`; each channel is normalised by
    mean and standard deviation of the training images that are used.
    """

    root: str
    """The folder."""
    size: int | None = None
    """Make all images squares of so many pixels (bilinear, antialiased); None: as they are, all of one size."""
    channels: Literal[1, 3] = 3
    """1: grey; 3: colour; images are converted."""
    title: str | None = None
    """What to call it in reports and figures (default: the folder's name)."""
    test_fraction: float = 0.2
    """Share of the images that are held out for testing, where they are not divided already."""
    samples: int | None = None
    """Training images, a fixed random subset with each class in proportion; None: all."""
    test_samples: int | None = None
    """Test images, likewise."""
    seed: int = 0
    """Seed of split, subsets and fixed order."""

    def __post_init__(self) -> None:
        require(bool(self.root), "data.root", "a folder of images", self.root)
        require(self.size is None or self.size >= 1, "data.size", "a number of pixels >= 1", self.size)
        require(self.channels in (1, 3), "data.channels", "1 (grey) or 3 (colour)", self.channels)
        require(0 < self.test_fraction < 1, "data.test_fraction", "a number in 0…1", self.test_fraction)
        check_counts(self.samples, self.test_samples, self.seed)

    @property
    def name(self) -> str:
        """One phrase for reports and figures."""
        title = self.title or f"images of {Path(self.root).resolve().name}"
        return title if self.samples is None else f"{title} ({self.samples} training images)"

    def load(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensors:
        """Reads the files that are used, in threads.

        Raises UserError, naming the folder or file, for folders that are missing, empty or differ between the splits,
        for files that cannot be read and for images of different sizes; and for fewer images than wanted.
        """
        (files, targets), test, classes = self._splits()
        if test is None:
            parts = stratified_split(targets, self.test_fraction, self.seed)
            require(all(map(len, parts)), "data.test_fraction", "images in both splits", self.test_fraction)
            (files, targets), test = (([files[i] for i in part], targets[part]) for part in parts)
        chosen = []
        for i, ((names, labels), wanted, option) in enumerate(
            [((files, targets), self.samples, "data.samples"), (test, self.test_samples, "data.test_samples")]
        ):
            kept = stratified_subset(labels, wanted, (self.seed, i), option)
            chosen.append(([names[k] for k in kept], labels[kept]))
        images = self._decode([*chosen[0][0], *chosen[1][0]])
        count = len(chosen[0][0])
        return normalised((images[:count], chosen[0][1]), (images[count:], chosen[1][1]), len(classes), device, dtype)

    def _splits(self) -> tuple[_Listed, _Listed | None, list[str]]:
        """Files and class numbers of the training and, where there is one, the test split; the names of the classes."""
        root = Path(self.root)
        if not root.is_dir():
            raise UserError(f"data.root: expected a folder of images, found no folder at {root}")
        train = root / "train" if (root / "train").is_dir() else root
        test = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
        if train == root:
            if test is not None:
                raise UserError(f"data.root: expected a folder train beside {test.name}, found none in {root}")
            listed, classes = _list(root)
            return listed, None, classes
        listed, classes = _list(train)
        if test is None:
            return listed, None, classes
        held_out, others = _list(test)
        for missing, here, there in (
            (set(classes) - set(others), train.name, test.name),
            (set(others) - set(classes), test.name, train.name),
        ):
            if missing:
                raise UserError(
                    f"data.root: expected the same classes in {here} and {there} of {root}, found "
                    f"{', '.join(sorted(missing)[:3])} only in {here}"
                )
        return listed, held_out, classes

    def _decode(self, files: Sequence[Path]) -> Bytes:
        """The images as bytes (N, channels, H, W)."""
        first = self._image(files[0])
        images = np.empty((len(files), *first.shape), dtype=np.uint8)

        def block(start: int) -> int:
            for i in range(start, min(start + _BLOCK, len(files))):
                image = self._image(files[i])
                if image.shape != first.shape:
                    found, expected = (" x ".join(map(str, s.shape[:0:-1])) for s in (image, first))
                    raise UserError(
                        f"data.size: expected images of one size, found {found} pixels in {files[i]} and {expected} "
                        f"in {files[0]} (give a size to make them one)"
                    )
                images[i] = image
            return min(_BLOCK, len(files) - start)

        pool = ThreadPoolExecutor(cores())
        progress = tqdm(total=len(files), desc="reading images", disable=None, leave=False, delay=1)
        try:
            with progress:
                for done in pool.map(block, range(0, len(files), _BLOCK)):
                    progress.update(done)
        finally:
            pool.shutdown(cancel_futures=True)
        return images

    def _image(self, file: Path) -> Bytes:
        """One image as bytes (channels, H, W)."""
        from PIL import Image

        try:
            with Image.open(file) as opened:
                if opened.mode.startswith(("I", "F")):
                    raise UserError(f"data.root: expected 8 bits a channel, found mode {opened.mode} in {file}")
                image: Any = opened.convert("L" if self.channels == 1 else "RGB")
        except UserError:
            raise
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            reason = str(error).replace(str(file), "it").replace("\n", " ")
            raise UserError(f"data.root: expected an image, found {file} that cannot be read ({reason})") from error
        if self.size is not None and image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, dtype=np.uint8)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)


_Listed = tuple[list[Path], Indices]


def _list(folder: Path) -> tuple[_Listed, list[str]]:
    """The images below each class folder, in the order of their names, their class numbers, and the classes."""
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    files: list[Path] = []
    targets: list[int] = []
    for number, name in enumerate(classes):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise UserError(f"data.root: expected images ({', '.join(SUFFIXES)}), found none in {folder / name}")
        files += found
        targets += [number] * len(found)
    if len(classes) < 2:
        what = f"the one folder {classes[0]}" if classes else "none"
        raise UserError(f"data.root: expected a folder for each of 2 or more classes in {folder}, found {what}")
    return (files, np.array(targets, dtype=np.int64)), classes
