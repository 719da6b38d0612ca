"""Losses on the logits of a binary segmenter. logits, foreground: (B, 1, S, S) float, foreground 0 or 1.

smp's Dice loss is one ratio over the whole batch, in which the pixels of the largest defect decide. Here every crop
has its own ratio, so that a blowhole of ten pixels weighs as much as a stain of ten thousand.
"""

from collections.abc import Callable

import torch
from segmentation_models_pytorch.losses import FocalLoss, LovaszLoss
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

LossFunction = Callable[[Tensor, Tensor], Tensor]


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
    """1 - 2 Σ p y / (Σ p + Σ y) per crop, averaged over the crops that have a foreground; 0 when none has."""
    probability = logits.sigmoid()
    overlap = (probability * foreground).sum(dim=(1, 2, 3))
    area = foreground.sum(dim=(1, 2, 3))
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=(1, 2, 3)) + area + 1)
    shown: Tensor = area > 0
    return torch.where(shown, dice, 0).sum() / shown.sum().clamp(min=1)
