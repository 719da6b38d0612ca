"""Spatial embedding of AnomalyDiffusion (Hu et al. 2024): tokens that say where the defect is and how it is shaped.

B batch, k tokens, D their width, H W picture size, c channels.
"""

import itertools

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

GRID = 4
"""The mask's features are averaged over GRID×GRID fields: what is left of its place."""


class SpatialEncoder(ModelMixin, ConfigMixin):
    """k tokens from a mask of any size: strided convolutions, fields of averages, one linear map.

    The published encoder is a ResNet-50 pyramid of a face model; a binary mask needs far less.

    Args:
        num_tokens: k.
        cross_attention_dim: D.
        width: c of the first convolution; doubled twice.
    """

    @register_to_config
    def __init__(self, num_tokens: int = 4, cross_attention_dim: int = 768, width: int = 32) -> None:
        super().__init__()
        widths = (1, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(GRID), nn.Flatten())
        self.to_tokens = nn.Linear(4 * width * GRID**2, num_tokens * cross_attention_dim)
        # starts as tokens of zeros, which attention hardly notices
        nn.init.zeros_(self.to_tokens.weight)
        nn.init.zeros_(self.to_tokens.bias)

    def forward(self, mask_image: Tensor) -> Tensor:
        """(B, 1, H, W) of 0 and 1 to (B, k, D)."""
        tokens = self.to_tokens(self.features(mask_image * 2 - 1))
        return tokens.unflatten(1, (self.config["num_tokens"], self.config["cross_attention_dim"]))


def with_spatial(context: Tensor, spatial: SpatialEncoder | None, mask_image: Tensor) -> Tensor:
    """(B, L, D) context followed, if there is an encoder, by the mask's tokens."""
    if spatial is None:
        return context
    return torch.cat([context, spatial(mask_image.to(spatial.dtype)).to(context)], dim=1)
