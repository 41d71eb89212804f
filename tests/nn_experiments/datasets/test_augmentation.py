"""Augmentation against a slow loop over the images, and the distribution of what it draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from entropy_sim.errors import UserError
from nn_experiments.datasets import Augmentation

IMAGES = torch.randint(0, 256, (7, 3, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def slow(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Each image by itself: pad, cut out, mirror."""
    shift = torch.randint(0, 2 * padding + 1, (2, len(images)), generator=generator).tolist()
    coins = torch.randint(0, 2, (1, len(images)), generator=generator)[0].tolist()
    out = []
    for image, dy, dx, coin in zip(images.numpy(), *shift, coins, strict=True):
        padded = np.pad(image, [(0, 0), (padding, padding), (padding, padding)])
        cut = padded[:, dy : dy + image.shape[1], dx : dx + image.shape[2]]
        out.append(cut[:, :, ::-1] if flip and coin else cut)
    return torch.from_numpy(np.stack(out))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("padding", "flip"), [(2, True), (2, False), (0, True), (9, True)])
def test_is_that_of_a_loop_over_the_images(dtype, layout, padding, flip):
    images = IMAGES.to(dtype).contiguous(memory_format=layout)
    found = Augmentation(padding, flip)(images, torch.Generator().manual_seed(3))
    expected = slow(images, padding, flip, torch.Generator().manual_seed(3))
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=layout)
    assert torch.equal(found, expected)


def test_grey_images_and_single_ones():
    for images in (IMAGES[:, :1], IMAGES[:1]):
        found = Augmentation()(images, torch.Generator().manual_seed(3))
        assert torch.equal(found, slow(images, 4, True, torch.Generator().manual_seed(3)))


def test_nothing_asked_for_changes_nothing():
    assert torch.equal(Augmentation(0, flip=False)(IMAGES, torch.Generator()), IMAGES)


def test_leaves_the_batch_alone_and_draws_afresh():
    before, draws = IMAGES.clone(), torch.Generator().manual_seed(1)
    first, second = Augmentation()(IMAGES, draws), Augmentation()(IMAGES, draws)
    assert torch.equal(IMAGES, before)
    assert not torch.equal(first, second)


def test_the_draws_do_not_depend_on_the_options():
    """So that an ablation compares the same runs."""
    states = []
    for options in (Augmentation(), Augmentation(4, flip=False)):
        draws = torch.Generator().manual_seed(1)
        options(IMAGES, draws)
        states.append(draws.get_state())
    assert torch.equal(*states)


def test_shifts_are_uniform_and_independent_of_the_mirroring():
    """A single bright pixel tells the shift and the side: χ² of the 5 × 5 × 2 cells, z = (χ² − 49)/√98."""
    images = torch.zeros(20_000, 1, 9, 10)
    images[:, 0, 4, 4] = 1.0
    found = Augmentation(2)(images, torch.Generator().manual_seed(5)).flatten(1).argmax(1)
    row, column = found // 10, found % 10
    # The bright pixel, in column 4 of 0 … 9, is in 2 … 6 as it is and in 3 … 7 mirrored: together 4 rows of cells.
    cells = torch.bincount((row - 2) * 6 + column - 2, minlength=30).double().view(5, 6)
    weight = torch.tensor([1.0, 2.0, 2.0, 2.0, 2.0, 1.0], dtype=torch.float64) / 50
    expected = len(images) * weight.expand(5, 6)
    z = (float(((cells - expected) ** 2 / expected).sum()) - 29) / np.sqrt(58)
    assert abs(z) < 4


def test_bad_input():
    with pytest.raises(UserError, match="augmentation.crop_padding: expected a number >= 0, found -1"):
        Augmentation(-1)
    with pytest.raises(UserError, match=r"augmentation: expected images \(B, channels, H, W\), found shape \(7, 3\)"):
        Augmentation()(torch.zeros(7, 3), torch.Generator())
