"""Perceptual distance on the offline trunk (EfficientNet-Lite0, ImageNet): how different two pictures look.

The construction is that of LPIPS (Zhang et al. 2018) without its learned weights: features of several layers, each
position normalised to unit length, squared difference, averaged. It is named after its trunk and is not LPIPS.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastsynth.offline import offline_trunk


class PerceptualDistance(nn.Module):
    """Frozen. out_indices: which scales of the trunk are compared; i gives maps at 1/2^(i+1) of the picture."""

    def __init__(self, *, out_indices: Sequence[int] = (0, 1, 2)) -> None:
        super().__init__()
        self.trunk = offline_trunk(out_indices=out_indices)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """image, target: (B, 3, H, W) in [-1, 1]. Returns (B,), 0 for equal pictures; gradients flow to `image`."""
        with torch.no_grad():
            wanted = self.trunk(target)
        pairs = zip(self.trunk(image), wanted, strict=True)
        distances = [(_unit(got) - _unit(want)).square().sum(1).mean((1, 2)) for got, want in pairs]
        return torch.stack(distances).mean(0)


def _unit(features: Tensor) -> Tensor:
    return features * (features.square().sum(1, keepdim=True) + 1e-2).rsqrt()
