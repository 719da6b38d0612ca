"""Who judges the renders: pix2pixHD's patch discriminators at several sizes (arXiv 1711.11585).

All of them are the same small network on the image at 1, 1/2, 1/4, …; each sees layout and image together, never the
styles. B batch, C channels of layout and image, s scales.
"""

import itertools

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as with_spectral_norm

from generators.blocks import init_normal
from generators.encoding import input_pyramid

SLOPE = 0.2
WIDEST = 512


class MultiScaleDiscriminator(ModelMixin, ConfigMixin):
    """Patch discriminators on an image pyramid.

    Args:
        in_channels: C, planes of the layout (classes and edges) plus channels of the image.
        width: channels of the first layer; doubled in each further one, up to 512. 64 as published.
        num_layers: layers with stride 2 (3: patches of 70 pixels).
        num_scales: s. Scale 0 is the coarsest, so that adding a finer one keeps what the others have learnt.
        spectral_norm: bounds each layer's gain (Miyato et al. 2018); not in the publication.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int,
        width: int = 64,
        num_layers: int = 3,
        num_scales: int = 2,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            PatchDiscriminator(in_channels, width=width, num_layers=num_layers) for _ in range(num_scales)
        )
        init_normal(self)
        if spectral_norm:
            for part in list(self.modules()):
                if isinstance(part, nn.Conv2d):
                    with_spectral_norm(part)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """For each scale, coarsest first, the maps of every layer; the last map of a scale holds its logits.

        x: (B, C, H, W), the layout's planes, then the image in [-1, 1].
        """
        sizes = input_pyramid(x, levels=len(self.scales))
        return [scale(here) for scale, here in zip(self.scales, reversed(sizes), strict=True)]


class PatchDiscriminator(nn.Module):
    """4×4 convolutions: `num_layers` with stride 2, one more with stride 1, and one to a logit per patch."""

    def __init__(self, in_channels: int, *, width: int, num_layers: int) -> None:
        super().__init__()
        widths = [in_channels, *(min(width * 2**i, WIDEST) for i in range(num_layers + 1))]
        self.layers = nn.ModuleList()
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            conv = nn.Conv2d(before, after, 4, stride=2 if i < num_layers else 1, padding=2)
            norm = [nn.InstanceNorm2d(after)] if i > 0 else []
            self.layers.append(nn.Sequential(conv, *norm, nn.LeakyReLU(SLOPE)))
        self.layers.append(nn.Sequential(nn.Conv2d(widths[-1], 1, 4, padding=2)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """num_layers + 2 maps."""
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps
