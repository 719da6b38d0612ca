"""A discriminator that segments: every pixel is one of the layout's classes, or fake (OASIS, Schönfeld et al. 2021,
arXiv 2012.04781). It judges whether a render obeys its layout, and counts rare classes as much as common ones.

B batch, N classes, H W image size. Logits have N + 1 channels: 0 is fake, c + 1 is class c.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm as with_spectral_norm

from generators.encoding import check_sides

SLOPE = 0.2


class SegmenterDiscriminator(ModelMixin, ConfigMixin):
    """A U-Net from images to N + 1 logits per pixel; it does not see the layout.

    Args:
        num_classes: N.
        in_channels: channels of the image.
        widths: channels at 1, 1/2, 1/4, … of the image's size.
        spectral_norm: bounds each layer's gain, as published.
    """

    @register_to_config
    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 16, 32, 32),
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.first = _double_conv(in_channels, widths[0])
        self.down = nn.ModuleList(_double_conv(fine, coarse) for fine, coarse in pairs)
        self.up = nn.ModuleList(_double_conv(coarse + fine, fine) for fine, coarse in reversed(pairs))
        self.head = nn.Conv2d(widths[0], num_classes + 1, 1)
        if spectral_norm:
            for part in list(self.modules()):
                if isinstance(part, nn.Conv2d):
                    with_spectral_norm(part)

    def forward(self, image: Tensor) -> Tensor:
        """(B, N + 1, H, W) logits. image: (B, in_channels, H, W) in [-1, 1], sides multiples of 2^(widths - 1).

        Raises ValueError for other sides.
        """
        check_sides(image, multiple=2 ** len(self.down))
        maps = [self.first(image)]
        for block in self.down:
            maps.append(block(F.avg_pool2d(maps[-1], 2)))
        x = maps.pop()
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), maps.pop()], dim=1))
        return self.head(x)


class Mixed(NamedTuple):
    """image: (B, C, H, W). mask: (B, 1, H, W), 1 where it is real."""

    image: Tensor
    mask: Tensor


def class_balance(classes: Tensor) -> Tensor:
    """(N,): pixels / (classes present × pixels of the class), so all classes present weigh the same; 0 if absent.

    classes: (B, N, H, W) one-hot planes.
    """
    counts = classes.sum(dim=(0, 2, 3))
    present = counts > 0
    return present * counts.sum() / (present.sum() * counts).clamp(min=1)


def segmentation_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of each pixel's class, weighted by `class_balance`, a mean over pixels with a class.

    It is what the generator loses on its renders, and the discriminator on real images.

    logits: (B, N + 1, H, W). classes: (B, N, H, W) one-hot planes, all 0 where the class is unknown.
    """
    weighted = classes * class_balance(classes)[:, None, None]
    return -(weighted * F.log_softmax(logits, dim=1)[:, 1:]).sum() / classes.sum().clamp(min=1)


def segmenter_loss(real: Tensor, fake: Tensor, classes: Tensor, *, hole: Tensor | None = None) -> Tensor:
    """What the discriminator loses: real pixels are their class, rendered pixels are fake. Logits (B, N + 1, H, W).

    hole: (B, 1, H, W), 1 where `fake` was rendered and 0 where it is the real picture; None: rendered everywhere.
    """
    rendered = torch.ones_like(fake[:, :1]) if hole is None else hole
    is_fake = F.log_softmax(fake, dim=1)[:, :1]
    return segmentation_loss(real, classes) - (is_fake * rendered).sum() / rendered.sum().clamp(min=1)


def label_mix(real: Tensor, fake: Tensor, classes: Tensor, *, generator: torch.Generator) -> Mixed:
    """Real and rendered image mixed along class borders: each class of each sample is real or fake by a coin.

    real, fake: (B, C, H, W) of the same layouts. classes: (B, N, H, W) one-hot planes.
    """
    coins = torch.randint(2, classes.shape[:2], generator=generator).to(classes)
    mask = (classes * coins[..., None, None]).sum(dim=1, keepdim=True)
    return Mixed(mask * real + (1 - mask) * fake, mask)


def label_mix_loss(mixed: Tensor, real: Tensor, fake: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference between the logits of the mixed image and the mix of the logits; a scalar."""
    return F.mse_loss(mixed, mask * real + (1 - mask) * fake)


def _double_conv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(after, after, 3, padding=1),
        nn.LeakyReLU(SLOPE),
    )
