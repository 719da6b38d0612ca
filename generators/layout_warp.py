"""Layout-warp augmentation (arXiv 2011.12636): the generator sees bent shapes.

Only its input is warped, never the image it is compared with, so it learns to draw shapes of its own inside rough ones.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def warp_layout(
    labels: Tensor, instances: Tensor, *, amplitude: float, wavelength: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Both maps moved by one smooth random field per sample; every pixel keeps an id that was there, with its class.

    Args:
        labels, instances: (B, H, W) integers of any range.
        amplitude: standard deviation of the shift in pixels; 0 changes nothing.
        wavelength: distance in pixels over which the shift changes.

    Raises ValueError when the maps differ in shape.
    """
    if labels.shape != instances.shape:
        raise ValueError(f"labels are {tuple(labels.shape)}, instances {tuple(instances.shape)}; pass equal shapes")
    batch, height, width = labels.shape
    coarse = (2 + round(height / wavelength), 2 + round(width / wavelength))
    field = amplitude * torch.randn((batch, 2, *coarse), generator=generator)
    shift = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True).to(labels.device)
    y = torch.arange(height, device=labels.device)[:, None] + shift[:, 0]
    x = torch.arange(width, device=labels.device) + shift[:, 1]
    y, x = y.round().long().clamp(0, height - 1), x.round().long().clamp(0, width - 1)
    sample = torch.arange(batch, device=labels.device)[:, None, None]
    return labels[sample, y, x], instances[sample, y, x]
