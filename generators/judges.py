"""The adversaries of pix2pixHD's generator, behind one face: patches (arXiv 1711.11585) or a segmenter (OASIS).

A judge says what the generator loses to it, and what it loses itself. B batch, N classes, H W picture size.
"""

from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from generators.batches import Batch
from generators.discriminators import MultiScaleDiscriminator
from generators.image_pool import ImagePool
from generators.losses import Adversary, discriminator_loss, feature_matching_loss, generator_loss
from generators.segmenter_discriminator import (
    SegmenterDiscriminator,
    label_mix,
    label_mix_loss,
    segmentation_loss,
    segmenter_loss,
)


class Judge(Protocol):
    """states: what a checkpoint has to remember.

    Arguments of both methods: judged, the discriminator, which accelerate may have wrapped; the planes of the layout
    without styles (B, N [+ 1], H, W), of which the first N are classes (B, N, H, W); the batch with the real
    pictures; the rendered pictures (B, 3, H, W).
    """

    states: list[ImagePool]

    def losses_of_generator(
        self, judged: nn.Module, planes: Tensor, classes: Tensor, batch: Batch, fake: Tensor
    ) -> dict[str, Tensor]:
        """Weighted terms by name."""
        ...

    def own_loss(
        self,
        judged: nn.Module,
        planes: Tensor,
        classes: Tensor,
        batch: Batch,
        fake: Tensor,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """fake: detached."""
        ...


class PatchJudge:
    """Real or rendered, patch by patch, layout and picture seen together; with feature matching."""

    def __init__(self, *, adversary: Adversary, feature_weight: float, pool: ImagePool) -> None:
        self.adversary, self.feature_weight, self.pool = adversary, feature_weight, pool
        self.states = [pool]

    def losses_of_generator(
        self, judged: nn.Module, planes: Tensor, classes: Tensor, batch: Batch, fake: Tensor
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            real = judged(torch.cat([planes, batch.image], dim=1))
        found = judged(torch.cat([planes, fake], dim=1))
        return {
            "adversarial": generator_loss(found, adversary=self.adversary),
            "matching": self.feature_weight * feature_matching_loss(real, found),
        }

    def own_loss(
        self,
        judged: nn.Module,
        planes: Tensor,
        classes: Tensor,
        batch: Batch,
        fake: Tensor,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        pairs = self.pool.exchange(torch.cat([planes, fake], dim=1))
        real = judged(torch.cat([planes, batch.image], dim=1))
        return discriminator_loss(real, judged(pairs), adversary=self.adversary)


class SegmenterJudge:
    """Every pixel its class, or rendered; consistent under LabelMix."""

    def __init__(self, *, label_mix_weight: float) -> None:
        self.label_mix_weight = label_mix_weight
        self.states: list[ImagePool] = []

    def losses_of_generator(
        self, judged: nn.Module, planes: Tensor, classes: Tensor, batch: Batch, fake: Tensor
    ) -> dict[str, Tensor]:
        return {"adversarial": segmentation_loss(judged(fake), classes)}

    def own_loss(
        self,
        judged: nn.Module,
        planes: Tensor,
        classes: Tensor,
        batch: Batch,
        fake: Tensor,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        real, rendered = judged(batch.image), judged(fake)
        loss = segmenter_loss(real, rendered, classes, hole=batch.hole)
        if self.label_mix_weight == 0:
            return loss
        mixed = label_mix(batch.image, fake, classes, generator=generator)
        return loss + self.label_mix_weight * label_mix_loss(judged(mixed.image), real, rendered, mixed.mask)


Discriminator = MultiScaleDiscriminator | SegmenterDiscriminator


def grow_patches(
    smaller: MultiScaleDiscriminator | None, *, in_channels: int, width: int, num_scales: int, spectral_norm: bool
) -> MultiScaleDiscriminator:
    """Patch discriminators for `num_scales` sizes, the coarser of them with the weights of `smaller`."""
    grown = MultiScaleDiscriminator(in_channels, width=width, num_scales=num_scales, spectral_norm=spectral_norm)
    if smaller is not None:
        for new, old in zip(grown.scales, smaller.scales, strict=False):  # coarsest first
            new.load_state_dict(old.state_dict())
    return grown


def load_discriminator(folder: Path, *, kind: Literal["patch", "segmenter"]) -> Discriminator:
    """As `save_pretrained` left it."""
    model = MultiScaleDiscriminator if kind == "patch" else SegmenterDiscriminator
    loaded: Discriminator = model.from_pretrained(folder)
    return loaded
