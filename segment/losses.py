"""Losses on the logits of a binary segmenter. logits, foreground: (B, 1, S, S) float, foreground 0 or 1.

smp's Dice loss is one ratio over the whole batch, in which the pixels of the largest defect decide. Here every crop
has its own ratio, so that a blowhole of ten pixels weighs as much as a stain of ten thousand.

Crops without a foreground count, too. Cross-entropy alone hardly sees a false alarm of a hundred pixels, a hundredth of
a crop, beside the Dice loss of defect crops: segmenters then alarm on most of the very images they were trained on.
"""

from collections.abc import Callable

import torch
from segmentation_models_pytorch.losses import FocalLoss, LovaszLoss
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

LossFunction = Callable[[Tensor, Tensor], Tensor]
FORGIVEN = 0.01
"""False pixels, as a share of a crop without a foreground, that cost half of what an alarm all over it costs."""


def build_loss(name: str) -> LossFunction:
    """A function (logits, foreground) → scalar: "dice_ce", "dice_focal" or "lovasz"."""
    match name:
        case "dice_ce":
            return lambda logits, foreground: (
                dice_loss(logits, foreground) + binary_cross_entropy_with_logits(logits, foreground)
            )
        case "dice_focal":
            focal = FocalLoss("binary")
            return lambda logits, foreground: dice_loss(logits, foreground) + 10 * focal(logits, foreground)
        case "lovasz":
            lovasz = LovaszLoss("binary", per_image=True)
            return lambda logits, foreground: (
                lovasz(logits, foreground) + binary_cross_entropy_with_logits(logits, foreground)
            )
        case _:
            raise ValueError(f"unknown loss {name!r}; wanted dice_ce, dice_focal or lovasz")


def dice_loss(logits: Tensor, foreground: Tensor) -> Tensor:
    """1 - (2 Σ p y + ε) / (Σ p + Σ y + ε) per crop: the mean of crops with a foreground plus the mean of empty ones.

    ε is 1 pixel where there is a foreground, and `FORGIVEN` of the crop where there is none: there the ratio becomes
    Σ p / (Σ p + ε), which grows with every false pixel, where ε = 1 would call ten of them as bad as ten thousand.
    """
    probability = logits.sigmoid()
    overlap = (probability * foreground).sum(dim=(1, 2, 3))
    area = foreground.sum(dim=(1, 2, 3))
    shown: Tensor = area > 0
    smooth = torch.where(shown, 1.0, FORGIVEN * foreground[0].numel())
    dice = 1 - (2 * overlap + smooth) / (probability.sum(dim=(1, 2, 3)) + area + smooth)
    return _mean_of(dice, shown) + _mean_of(dice, ~shown)


def _mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """0 when none is chosen."""
    mean: Tensor = torch.where(chosen, values, 0).sum() / chosen.sum().clamp(min=1)
    return mean
