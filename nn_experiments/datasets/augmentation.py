"""Augmentation of whole batches where they lie: each image its own shift and mirroring, without a loop over images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from entropy_sim.errors import UserError, require


@dataclass(frozen=True)
class Augmentation:
    """Random crop of the zero-padded image and random horizontal mirroring, independent for every image of a batch.

    Image b of (B, channels, H, W) becomes ``padded[b, :, dy + i, dx + j]``, dy and dx uniform on 0 … 2 · crop_padding,
    with j counted from the right where it is mirrored, with probability 1/2. Zeros are the mean colour of normalised
    images. As in He et al. (CVPR 2016), section 4.2. It is a part of training only: what is measured is the loss of the
    images as they are. Digits and house numbers are not to be mirrored.

    Example. `Augmentation(crop_padding=4)(images, torch.Generator().manual_seed(0))` has the shape, type, device and
    memory layout of `images`.
    """

    crop_padding: int = 4
    """Shift by up to this many pixels each way; 0: none."""
    flip: bool = True
    """Mirror half of the images, left to right."""

    def __post_init__(self) -> None:
        require(self.crop_padding >= 0, "augmentation.crop_padding", "a number >= 0", self.crop_padding)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A new batch of (B, channels, H, W), of any type (bytes too), layout and device.

        generator: on the CPU; a batch draws the same numbers wherever it lies, and whatever the options.
        Raises UserError unless `images` has four dimensions.
        """
        if images.dim() != 4:
            raise UserError(f"augmentation: expected images (B, channels, H, W), found shape {tuple(images.shape)}")
        batch, channels, height, width = images.shape
        p = self.crop_padding
        shift = torch.randint(0, 2 * p + 1, (2, batch), generator=generator)
        mirrored = torch.randint(0, 2, (1, batch), generator=generator) * int(self.flip)
        dy, dx, mirror = torch.cat([shift, mirrored]).to(images.device)[:, :, None]
        rows = dy + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device).expand(batch, width)
        columns = dx + torch.where(mirror.bool(), width - 1 - columns, columns)
        padded = F.pad(images, (p, p, p, p)) if p else images
        high, wide = height + 2 * p, width + 2 * p
        if images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous():
            # One index for a pixel: its channels lie together.
            first = torch.arange(batch, device=images.device)[:, None, None] * (high * wide)
            index = (first + rows[:, :, None] * wide + columns[:, None, :]).flatten()
            pixels = padded.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, index)
            return pixels.view(batch, height, width, channels).permute(0, 3, 1, 2)
        kept = padded.gather(2, rows[:, None, :, None].expand(batch, channels, height, wide))
        return kept.gather(3, columns[:, None, None, :].expand(batch, channels, height, width))
