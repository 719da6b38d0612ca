"""What a renderer of defects need not draw: how bright the surface is, and its grain. B H W: batch, size.

It sees every surface at one brightness and draws at it, so that a pit learnt on bright plates is dark on dark ones too.
A regression towards photos ends in their mean, and no mean has a grain; a few hundred steps of an adversary find no
grain either. So the picture in a hole is what was drawn times the detail of a sound surface: in training of another
picture, which the renderer never sees and so cannot undo, and later of the background under the defect.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

FLOOR = 0.05
"""Added to intensities in [0, 1] before they are divided, so that black stays black."""
LIMITS = 0.4, 2.5
"""Of the detail: an edge of the object under a hole is no grain."""
LEVEL, GAINS = 0.4, (0.25, 4.0)
"""Intensity of every surface that a renderer sees, in [0, 1], and what it may be multiplied by to get there."""
SMOOTHINGS = 4
"""Passes at each size of `smooth_fill`."""


def smooth_fill(image: Tensor, hole: Tensor) -> Tensor:
    """The picture with the hole filled by a smooth continuation of what lies around it, coarse to fine.

    image: (B, 3, H, W). hole: (B, 1, H, W) of 0 and 1. Outside the hole it is the image itself; a hole that covers
    everything gets the image's mean. Returns (B, 3, H, W).
    """
    known = 1 - hole
    sums, weights = [image * known], [known]
    while max(sums[-1].shape[-2:]) > 1:
        sums.append(F.avg_pool2d(sums[-1], 2, ceil_mode=True))
        weights.append(F.avg_pool2d(weights[-1], 2, ceil_mode=True))
    filled = torch.where(weights[-1] > 0, sums[-1] / weights[-1].clamp_min(1e-6), image.mean((2, 3), keepdim=True))
    for total, weight in zip(reversed(sums[:-1]), reversed(weights[:-1]), strict=True):
        coarse = F.interpolate(filled, size=total.shape[-2:], mode="bilinear", align_corners=False)
        sure = weight > 0
        start = torch.where(sure, total / weight.clamp_min(1e-6), coarse)
        filled = start
        for _ in range(SMOOTHINGS):
            filled = torch.where(sure, start, F.avg_pool2d(F.pad(filled, (1, 1, 1, 1), mode="replicate"), 3, stride=1))
    return filled


def surface_detail(image: Tensor, hole: Tensor) -> Tensor:
    """How much brighter every pixel of a sound surface is than `smooth_fill` expects: 1 outside the hole.

    image: (B, 3, H, W) in [-1, 1]. hole: (B, 1, H, W). Returns (B, 3, H, W), within `LIMITS`.
    """
    return (_intensity(image) / _intensity(smooth_fill(image, hole))).clamp(*LIMITS)


def surface_gain(image: Tensor, hole: Tensor) -> Tensor:
    """What brings the surface around the hole to `LEVEL`: (B, 1, 1, 1), within `GAINS`.

    image: (B, 3, H, W) in [-1, 1]. hole: (B, 1, H, W), with at least one pixel.
    """
    expected = (_intensity(smooth_fill(image, hole)).mean(1, keepdim=True) * hole).sum((2, 3), keepdim=True)
    return ((LEVEL + FLOOR) * hole.sum((2, 3), keepdim=True) / expected).clamp(*GAINS)


def times(picture: Tensor, factor: Tensor) -> Tensor:
    """The picture in [-1, 1] with its intensities multiplied, in [-1, 1]. Shapes broadcast."""
    return ((_intensity(picture) * factor - FLOOR) * 2 - 1).clamp(-1, 1)


def _intensity(image: Tensor) -> Tensor:
    """[-1, 1] to [FLOOR, 1 + FLOOR]."""
    return (image + 1) / 2 + FLOOR
