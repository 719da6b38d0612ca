"""What renderers are trained on: perceptual, diversity, adversarial and feature-matching losses.

CRN (arXiv 1707.09405, with the terms its code has and its paper lacks): layers l = 0 … L - 1 of a frozen trunk φ,
outputs u = 1 … k, class shares M_c, layer weights λ_l. pix2pixHD (arXiv 1711.11585): scales s, coarsest first.
B batch, k outputs, N classes, C_l h_l w_l channels and size of layer l.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ClassNorm = Literal["none", "area", "sqrt_area"]
Adversary = Literal["lsgan", "hinge"]


def layer_terms(features: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """(L,): mean |φ_l(image) − φ_l(target)| of every layer. features, target: L maps (B, C_l, h_l, w_l)."""
    return torch.stack([F.l1_loss(found, wanted) for found, wanted in zip(features, target, strict=True)])


def perceptual_loss(features: Sequence[Tensor], target: Sequence[Tensor], *, weights: Tensor) -> Tensor:
    """Σ_l λ_l mean |φ_l(image) − φ_l(target)|, a scalar. weights: (L,)."""
    return (weights * layer_terms(features, target)).sum()


class DiversityLoss(NamedTuple):
    """loss: scalar. wins: (k, N), in how many images of the batch an output came closest to a class that is there."""

    loss: Tensor
    wins: Tensor


def diversity_loss(
    features: Sequence[Tensor],
    target: Sequence[Tensor],
    classes: Tensor,
    *,
    weights: Tensor,
    mean_weight: float = 0.001,
    class_norm: ClassNorm = "none",
) -> DiversityLoss:
    """(1 - m) Σ_c min_u T_uc + m Σ_c mean_u T_uc, averaged over the batch.

    T_uc = Σ_l λ_l mean_x M_c(x) mean_channels |φ_l(image_u)(x) − φ_l(target)(x)|: the best output is chosen per class,
    after summing the layers, so in one image different outputs may win different classes. With k = 1 and shares that
    sum to 1 this is `perceptual_loss`.

    Args:
        features: L maps (B, k, C_l, h_l, w_l), of the outputs.
        target: L maps (B, C_l, h_l, w_l).
        classes: (B, N, H, W) class planes, averaged down to each layer's size.
        weights: (L,) λ.
        mean_weight: m. With 0 most outputs stop learning; larger values make the outputs alike.
        class_norm: what a class counts: "none" its share of the area, as published; "area" the same for each class
            in the image; "sqrt_area" between the two. An image's classes count 1 together in every case.
    """
    errors = torch.stack(
        [
            weight * _errors_by_class(found, wanted, classes)
            for weight, found, wanted in zip(weights, features, target, strict=True)
        ]
    ).sum(0)
    share = classes.mean(dim=(2, 3))
    errors = errors * _class_factors(share, class_norm)[:, None]
    best, winner = errors.min(dim=1)
    loss = ((1 - mean_weight) * best + mean_weight * errors.mean(dim=1)).sum(dim=1).mean()
    won = F.one_hot(winner, errors.shape[1]) * (share > 0)[..., None]
    return DiversityLoss(loss, won.sum(0).T)


def win_shares(wins: Tensor) -> Tensor:
    """(k, N) counts, summed over any number of steps, to shares that sum to 1 per class; NaN for a class not seen."""
    return wins / wins.sum(dim=0)


def _errors_by_class(found: Tensor, wanted: Tensor, classes: Tensor) -> Tensor:
    """(B, k, N): mean over all positions of share × error. found: (B, k, C, h, w), wanted: (B, C, h, w)."""
    error = (found - wanted[:, None]).abs().mean(dim=2)
    share = F.interpolate(classes, size=error.shape[-2:], mode="area")
    return torch.einsum("bkhw,bchw->bkc", error, share) / error[0, 0].numel()


def _class_factors(share: Tensor, class_norm: ClassNorm) -> Tensor:
    """(B, N) factors f_c with Σ_c share_c f_c = Σ_c share_c; 0 for classes that are not there. share: (B, N)."""
    present = share > 0
    safe = share.clamp(min=torch.finfo(share.dtype).tiny)
    match class_norm:
        case "none":
            factors = present.to(share.dtype)
        case "area":
            factors = present / safe
        case "sqrt_area":
            factors = present / safe.sqrt()
        case _:
            assert_never(class_norm)
    return factors * (share.sum(1) / (share * factors).sum(1).clamp(min=1e-12))[:, None]


class LayerWeights(nn.Module):
    """λ: weights of the trunk's layers that make the terms of all layers equally large on average.

    Average the terms over an epoch or some hundred images with `observe`, then freeze. All of it is in the state dict,
    so a resumed or finished training knows its λ.

    total_loss: what the weighted terms are together. None: as many times the first layer's term as there are layers,
    which is CRN's picture and keeps the weight 1; all weights are 1 until `freeze`. A number, for a loss that others
    stand beside: exactly this on average, over what was observed so far until `freeze`, since the scales of two trunks
    differ by orders of magnitude.
    """

    weights: Tensor
    total: Tensor
    count: Tensor

    def __init__(self, num_layers: int, *, total_loss: float | None = None) -> None:
        super().__init__()
        self.total_loss = total_loss
        self.register_buffer("weights", torch.ones(num_layers))
        self.register_buffer("total", torch.zeros(num_layers, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def observe(self, terms: Tensor) -> None:
        """terms: (L,), what `layer_terms` gave. With a `total_loss`, raises ValueError as `freeze` does."""
        self.total += terms.detach().double()
        self.count += 1
        if self.total_loss is not None:
            self.freeze()

    def freeze(self) -> None:
        """λ_l = mean of term 0 / mean of term l, or total_loss / L / mean of term l; anew after more observations.

        Raises ValueError when nothing was observed, or a layer's term was always 0.
        """
        if not self.count or not (self.total > 0).all():
            raise ValueError(f"terms {self.total.tolist()} after {int(self.count)} observations; observe renders first")
        means = self.total / self.count
        wanted = means[0] if self.total_loss is None else self.total_loss / len(means)
        self.weights.copy_(wanted / means)


def discriminator_loss(
    real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]], *, adversary: Adversary
) -> Tensor:
    """What the discriminators lose, a scalar.

    "lsgan", as published: ½ (mean (real − 1)² + mean fake²), summed over the scales. "hinge": mean (1 − real)₊ +
    mean (1 + fake)₊, averaged over the scales (SPADE).

    real, fake: for each scale the maps of all layers, logits last; `fake` from detached images.
    """
    pairs = [(r[-1], f[-1]) for r, f in zip(real, fake, strict=True)]
    match adversary:
        case "lsgan":
            return torch.stack([((r - 1).square().mean() + f.square().mean()) / 2 for r, f in pairs]).sum()
        case "hinge":
            return torch.stack([(1 - r).relu().mean() + (1 + f).relu().mean() for r, f in pairs]).mean()
        case _:
            assert_never(adversary)


def generator_loss(fake: Sequence[Sequence[Tensor]], *, adversary: Adversary) -> Tensor:
    """What the generator loses to the discriminators: "lsgan" Σ_s mean (fake − 1)², "hinge" the mean of −fake."""
    logits = [maps[-1] for maps in fake]
    match adversary:
        case "lsgan":
            return torch.stack([(f - 1).square().mean() for f in logits]).sum()
        case "hinge":
            return -torch.stack([f.mean() for f in logits]).mean()
        case _:
            assert_never(adversary)


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean |fake − real| of every map but the logits, averaged over the scales; × 4 / maps per scale, which is 1 at
    the published depth of 3. Gradients flow to `fake` only."""
    total = torch.zeros((), device=fake[0][0].device)
    for real_maps, fake_maps in zip(real, fake, strict=True):
        *wanted, _ = real_maps
        *found, _ = fake_maps
        terms = [F.l1_loss(f, r.detach()) for f, r in zip(found, wanted, strict=True)]
        total = total + torch.stack(terms).sum() * 4 / len(terms)
    return total / len(real)
