"""FARM: the foreground-aware reconstruction module (FAST, Xu et al. 2025, arXiv 2509.20295, section 3.3).

A small encoder-decoder that guesses, from a noisy latent and the mask, what the clean latent looks like inside the
mask. Noised again to the same level, its guess replaces the masked part of the denoiser's input, so that even a
thin defect leaves a signal there. Trained to return mask ⊙ x_0.

`FARM()` improves on the published module where small batches, thin masks and other sizes hurt it; `FARM.published()`
is the module of the authors' code. B batch, C latent channels, h w latent size, W width.
"""

from typing import Literal, Self

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 8


class FARM(ModelMixin, ConfigMixin):
    """Clean latent inside the mask, from a noisy latent, the mask and the timestep.

    Encoder: W channels at full size, 2W at half, 4W at a quarter. There a soft gate (1 inside the mask, learned
    outside) weighs the features and the timestep is added. The decoder goes back up and sees the mask at every size.
    The default width keeps the module near a tenth of a 15 M denoiser (61 MMAC at 32×16×16).

    Args:
        in_channels: C.
        width: W; a multiple of 8 when norm is "group".
        time_embed_dim: length of the (trainable, sinusoidally initialised) timestep embedding.
        num_train_timesteps: length of its table.
        norm: "group" does not mix samples; "batch" as published mixes noise levels across a small batch.
        mask_resize: "max" keeps every line of a mask on coarse grids, "nearest" as published loses thin ones.
        gate: "feature" reads the gate from encoder features and timestep, at any size; "grid" as published is a
            map learned per timestep for 8×8 cells, which ties the module to 32×32 latents.
        skips: carry full-size and half-size encoder features over to the decoder.
        residual: return mask ⊙ (g(t) ⊙ sample + decoder) with a learned gain g per timestep and channel: near t = 0
            the sample is almost the answer, and a decoder alone would only blur it.
        class_embed_dim: length of the vector that says which (category, defect) to draw, or None for one type.

    Raises ValueError for a choice that does not exist.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        width: int = 48,
        time_embed_dim: int = 128,
        num_train_timesteps: int = 1000,
        norm: Literal["group", "batch"] = "group",
        mask_resize: Literal["max", "nearest"] = "max",
        gate: Literal["feature", "grid"] = "feature",
        skips: bool = True,
        residual: bool = True,
        class_embed_dim: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("norm", norm, ("group", "batch")),
            ("mask_resize", mask_resize, ("max", "nearest")),
            ("gate", gate, ("feature", "grid")),
        ):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}")
        full, half, quarter = width, 2 * width, 4 * width
        self.encode_full = nn.Sequential(_block(in_channels, full, norm), _block(full, full, norm))
        self.encode_half = nn.Sequential(_block(full, half, norm), _block(half, half, norm))
        self.encode_quarter = nn.Sequential(
            _block(half, quarter, norm), _block(quarter, quarter, norm), nn.Conv2d(quarter, quarter, 1)
        )
        self.time_table = nn.Embedding.from_pretrained(_sinusoids(num_train_timesteps, time_embed_dim), freeze=False)
        self.time_projection = nn.Linear(time_embed_dim, quarter)
        if gate == "grid":
            self.to_gate: nn.Module = nn.Sequential(nn.Linear(time_embed_dim, 256), nn.ReLU(), nn.Linear(256, 64))
        else:
            self.to_gate = nn.Conv2d(quarter, 1, 1)
        if class_embed_dim is not None:
            # starts as the identity: scale 0, shift 0
            self.class_projection = nn.Linear(class_embed_dim, 2 * quarter)
            nn.init.zeros_(self.class_projection.weight)
            nn.init.zeros_(self.class_projection.bias)
        if residual:
            self.to_gain = nn.Linear(time_embed_dim, in_channels)
        self.bottleneck = nn.Conv2d(quarter, quarter, 1)
        self.decode_half = _block(quarter + 1 + half * skips, half, norm)
        self.decode_full = _block(half + 1 + full * skips, full, norm)
        self.output = nn.Conv2d(full + 1, in_channels, 3, padding=1)

    @classmethod
    def published(cls, in_channels: int = 4) -> Self:
        """The module of the authors' code: 1,863,144 parameters at 4 channels, 32×32 latents only."""
        return cls(
            in_channels=in_channels,
            width=64,
            norm="batch",
            mask_resize="nearest",
            gate="grid",
            skips=False,
            residual=False,
        )

    def forward(self, sample: Tensor, mask: Tensor, timestep: Tensor, class_embedding: Tensor | None = None) -> Tensor:
        """The clean latent inside the mask (0 outside, or trained towards it), (B, C, h, w).

        Args:
            sample: (B, C, h, w) latent at `timestep`; h, w at least 4, exactly 32 with gate="grid".
            mask: (B, 1, h, w), 1 inside the defect, 0 outside.
            timestep: (B,) int64 in 0 … num_train_timesteps - 1.
            class_embedding: (B, class_embed_dim), given if and only if the module was built for one.

        Raises ValueError for shapes that do not fit.
        """
        self._check(sample, mask, class_embedding)
        mask = mask.to(sample.dtype)
        full = self.encode_full(sample)
        half = self.encode_half(F.max_pool2d(full, 2))
        quarter = self.encode_quarter(F.max_pool2d(half, 2))

        time = self.time_table(timestep)
        shift = self.time_projection(time)[:, :, None, None]
        grid = self.config["gate"] == "grid"
        gate = self.to_gate(time).unflatten(1, (1, 8, 8)) if grid else self.to_gate(quarter + shift)
        inside = self._resize_mask(mask, quarter)
        x = quarter * (inside + (1 - inside) * gate.sigmoid()) + shift
        if class_embedding is not None:
            scale, shift = self.class_projection(class_embedding)[:, :, None, None].chunk(2, dim=1)
            x = x * (1 + scale) + shift

        x = self.decode_half(self._up(self.bottleneck(x), half, mask))
        x = self.decode_full(self._up(x, full, mask))
        x = self.output(torch.cat([x, mask], dim=1))
        if self.config["residual"]:
            gain = self.to_gain(time).sigmoid()[:, :, None, None]
            x = mask * (gain * sample + x)
        return x

    def _up(self, x: Tensor, encoded: Tensor, mask: Tensor) -> Tensor:
        """`x` at the size of `encoded`, with the mask and, if asked for, `encoded` itself as further channels."""
        x = F.interpolate(x, size=encoded.shape[-2:], mode="bilinear", align_corners=True)
        skip = [encoded] if self.config["skips"] else []
        return torch.cat([x, self._resize_mask(mask, encoded), *skip], dim=1)

    def _resize_mask(self, mask: Tensor, like: Tensor) -> Tensor:
        size = like.shape[-2:]
        if self.config["mask_resize"] == "nearest":
            return F.interpolate(mask, size=size, mode="nearest")
        return F.adaptive_max_pool2d(mask, size)

    def _check(self, sample: Tensor, mask: Tensor, class_embedding: Tensor | None) -> None:
        batch, _, height, width = sample.shape
        if mask.shape != (batch, 1, height, width):
            raise ValueError(
                f"mask is {tuple(mask.shape)}, sample is {tuple(sample.shape)}; "
                f"resize the mask to {(batch, 1, height, width)}"
            )
        if self.config["gate"] == "grid" and (height, width) != (32, 32):
            raise ValueError(
                f"latents are {height}×{width}, the published gate is 32×32 only; build FARM(gate='feature')"
            )
        if min(height, width) < 4:
            raise ValueError(f"latents are {height}×{width}; FARM halves them twice, pass at least 4×4")
        if (class_embedding is None) != (self.config["class_embed_dim"] is None):
            raise ValueError(
                f"class_embedding is {'missing' if class_embedding is None else 'given'}, "
                f"but FARM was built with class_embed_dim={self.config['class_embed_dim']}; make the two agree"
            )


def _block(in_channels: int, out_channels: int, norm: Literal["group", "batch"]) -> nn.Sequential:
    layer = nn.BatchNorm2d(out_channels) if norm == "batch" else nn.GroupNorm(GROUPS, out_channels)
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), layer, nn.ReLU())


def _sinusoids(length: int, dim: int) -> Tensor:
    """(length, dim): sines in the even columns, cosines in the odd ones, base 10000."""
    frequency = 10000 ** (-torch.arange(0, dim, 2) / dim)
    angle = torch.arange(length)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
