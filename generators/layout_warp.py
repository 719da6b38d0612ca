"""Layout-warp augmentation (arXiv 2011.12636): the generator sees bent shapes.

Only its input is warped, never the image it is compared with, so it learns to draw clean shapes inside rough ones.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from generators.batches import Batch


class Warp(NamedTuple):
    amplitude: float
    """Standard deviation of the shift in pixels; 0 changes nothing."""
    wavelength: float
    """Distance in pixels over which the shift changes."""


NO_WARP = Warp(0.0, 1.0)


def warp_layout(labels: Tensor, instances: Tensor, warp: Warp, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Both maps moved by one smooth random field per sample; every pixel keeps an id that was there, with its class.

    labels, instances: (B, H, W) integers of any range. Raises ValueError when the maps differ in shape.
    """
    if labels.shape != instances.shape:
        raise ValueError(f"labels are {tuple(labels.shape)}, instances {tuple(instances.shape)}; pass equal shapes")
    batch, height, width = labels.shape
    coarse = (2 + round(height / warp.wavelength), 2 + round(width / warp.wavelength))
    field = warp.amplitude * torch.randn((batch, 2, *coarse), generator=generator)
    shift = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True).to(labels.device)
    y = torch.arange(height, device=labels.device)[:, None] + shift[:, 0]
    x = torch.arange(width, device=labels.device) + shift[:, 1]
    y, x = y.round().long().clamp(0, height - 1), x.round().long().clamp(0, width - 1)
    sample = torch.arange(batch, device=labels.device)[:, None, None]
    return labels[sample, y, x], instances[sample, y, x]


def bend(batch: Batch, warp: Warp, *, generator: torch.Generator) -> Batch:
    """The batch with warped layouts; unchanged where there is a hole, whose border must be met."""
    if warp.amplitude == 0 or batch.hole is not None:
        return batch
    labels, instances = warp_layout(batch.labels, batch.instances, warp, generator=generator)
    return batch._replace(labels=labels, instances=instances)
