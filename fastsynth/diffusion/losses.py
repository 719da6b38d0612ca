"""Losses of FAST (Xu et al. 2025, arXiv 2509.20295, eq. 18 and the authors' code), with the normalisation mended.

The published FARM loss is a mean over the whole latent with the target 0 outside the mask, so a small defect hardly
counts; here inside and outside weigh the same whatever the mask's size. All tensors (B, C, h, w), masks (B, 1, h, w)
with 1 inside the defect and 0 outside.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class FASTLoss(NamedTuple):
    """total = denoise_weight · denoise + farm_weight · farm; all scalars."""

    total: Tensor
    denoise: Tensor
    farm: Tensor


def fast_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    reconstruction: Tensor,
    latents: Tensor,
    mask: Tensor,
    denoise_weight: float = 2.0,
    farm_weight: float = 5.0,
    foreground_weight: float = 0.0,
) -> FASTLoss:
    """Joint loss of the denoiser and FARM.

    Args:
        prediction: what the denoiser returned for the FARM-corrected input.
        target: what it should have returned: ε, v or x_0, as its prediction type says.
        reconstruction: FARM's output.
        latents: clean latents x_0 of the defect image.
        mask: the defect on the latent grid.
        denoise_weight, farm_weight: λ_1 and λ_2 of the authors' code.
        foreground_weight: see `denoising_loss`.
    """
    denoise = denoising_loss(prediction, target, mask=mask, foreground_weight=foreground_weight)
    farm = farm_loss(reconstruction, latents, mask=mask)
    return FASTLoss(denoise_weight * denoise + farm_weight * farm, denoise, farm)


def denoising_loss(prediction: Tensor, target: Tensor, *, mask: Tensor, foreground_weight: float = 0.0) -> Tensor:
    """Squared error over the full latent, weighted 1 outside and 1 + foreground_weight inside the mask; a scalar.

    0 is the published plain mean. The weights are normalised, so the loss keeps its scale.
    """
    weight = 1 + foreground_weight * mask.expand_as(target)
    return (weight * (prediction - target).square()).sum() / weight.sum()


def farm_loss(reconstruction: Tensor, latents: Tensor, *, mask: Tensor) -> Tensor:
    """FARM's distance from mask ⊙ x_0: the mean error inside and the mean error outside, half each; a scalar."""
    inside = foreground_loss(reconstruction, latents, mask=mask)
    outside = foreground_loss(reconstruction, torch.zeros_like(latents), mask=1 - mask)
    return (inside + outside).mean() / 2


def foreground_loss(prediction: Tensor, target: Tensor, *, mask: Tensor) -> Tensor:
    """Mean squared error inside the mask of each sample, (B,); 0 where the mask is empty.

    Per sample, so that a small defect counts as much as a large one; on held-out defects it is the validation score.
    """
    entries = mask.sum(dim=(1, 2, 3)) * target.shape[1]
    return (mask * (prediction - target).square()).sum(dim=(1, 2, 3)) / entries.clamp(min=1)
