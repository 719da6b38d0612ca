"""The compact autoencoder: pictures to whitened latents and back, cheap enough for a CPU.

8× down, `latent_channels` channels. The encoder strides by 4 in its first layer, so that encoding costs little; the
decoder carries most of the weights, since it must turn slightly wrong latents into coherent texture.
Legend: B batch, H W picture size (multiples of 8), h = H/8, w = W/8, C latent channels.
"""

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

DOWNSAMPLING = 8
LATENT_LIMIT = 4.0
"""The decoder squashes latents softly into ± this; whitened latents hardly ever leave it."""


@dataclass
class EncoderOutput:
    """latents: (B, C, h, w), each channel about mean 0 and variance 1 over natural pictures."""

    latents: Tensor


@dataclass
class DecoderOutput:
    """sample: (B, 3, H, W) in about [-1, 1], not clamped."""

    sample: Tensor


class ResBlock(nn.Module):
    """x + conv(SiLU(conv(SiLU(x)))); the last convolution starts at zero, so that training starts at the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(nn.functional.silu(x))
        return x + self.conv2(nn.functional.silu(hidden))


class CompactAutoencoder(ModelMixin, ConfigMixin):
    """Encoder, whitening, decoder; saved and loaded like every diffusers model.

    latent_channels: C. encoder_widths: channels at 1/4 and 1/8 of the picture's size.
    decoder_widths: channels at 1/8, 1/4, 1/2 and at full size.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        encoder_widths: tuple[int, int] = (80, 144),
        decoder_widths: tuple[int, int, int, int] = (160, 96, 48, 16),
    ) -> None:
        super().__init__()
        quarter, eighth = encoder_widths
        self.encoder = nn.Sequential(
            nn.Conv2d(3, quarter, 8, stride=4, padding=2),
            ResBlock(quarter),
            ResBlock(quarter),
            nn.Conv2d(quarter, eighth, 4, stride=2, padding=1),
            ResBlock(eighth),
            ResBlock(eighth),
            nn.Conv2d(eighth, latent_channels, 3, padding=1),
        )
        # whitening by running statistics: latents have unit variance during training too, so noise has a meaning
        self.whiten = nn.BatchNorm2d(latent_channels, affine=False, momentum=0.01)
        d8, d4, d2, d1 = decoder_widths
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, d8, 3, padding=1),
            ResBlock(d8),
            ResBlock(d8),
            ResBlock(d8),
            *_double(d8, d4),
            ResBlock(d4),
            ResBlock(d4),
            *_double(d4, d2),
            ResBlock(d2),
            ResBlock(d2),
            nn.Conv2d(d2, 4 * d1, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(d1, 3, 3, padding=1),
        )

    def encode(self, image: Tensor) -> EncoderOutput:
        """image: (B, 3, H, W) in [-1, 1], H and W multiples of 8. Raises ValueError for other sizes."""
        if image.shape[-1] % DOWNSAMPLING or image.shape[-2] % DOWNSAMPLING:
            raise ValueError(f"image is {tuple(image.shape)}; pad height and width to multiples of {DOWNSAMPLING}")
        return EncoderOutput(latents=self.whiten(_through(self.encoder, image)))

    def decode(self, latents: Tensor) -> DecoderOutput:
        """latents: (B, C, h, w), as `encode` gives them."""
        return DecoderOutput(sample=_through(self.decoder, LATENT_LIMIT * torch.tanh(latents / LATENT_LIMIT)))

    def forward(self, image: Tensor) -> DecoderOutput:
        """Picture to picture, through the latents."""
        return self.decode(self.encode(image).latents)


def _through(layers: nn.Module, x: Tensor) -> Tensor:
    """Channels last between the layers, where these convolutions are faster on a CPU; contiguous outside."""
    y: Tensor = layers(x.contiguous(memory_format=torch.channels_last))
    return y.contiguous()


def _double(before: int, after: int) -> tuple[nn.Module, nn.Module]:
    """Twice the size by repeating pixels, then a convolution: no checkerboard."""
    return nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(before, after, 3, padding=1)
