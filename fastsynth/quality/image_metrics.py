"""How close are synthetic defects to real ones, and how varied? KID, diversity, inception score, nearest neighbour.

All look at square crops around the defects, through ImageNet EfficientNet-Lite0 instead of Inception or VGG, so
their values stand beside each other but not beside published KID or LPIPS: report them under the names below.

N crops, S crop size, D pooled features, E perceptual embedding.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn.functional import adaptive_max_pool2d, normalize

from fastsynth.images import to_uint8
from fastsynth.offline import offline_classifier, offline_trunk

KID_NAME = "KID, EfficientNet-Lite0 features"
DIVERSITY_NAME = "diversity, EfficientNet-Lite0 distance"
NEAREST_NAME = "distance to the nearest training defect inside the mask, in any pose, EfficientNet-Lite0"
INCEPTION_NAME = "inception score, EfficientNet-Lite0 classes"

# Pooled: 40 channels at stride 8 and 112 at stride 16. Of all sets of layers, averaged inside the mask, these two tell
# the types of real surface defects apart best; shallower layers see grain, the deepest ImageNet's objects.
POOLED_LAYERS = (2, 3)
# Perceptual: fine texture included, as LPIPS does it.
PERCEPTUAL_LAYERS = (1, 2, 3)
BATCH = 32


class Crops(NamedTuple):
    """images: (N, 3, S, S) float32 in [-1, 1]. masks: (N, 1, S, S) bool, the defect in them."""

    images: torch.Tensor
    masks: torch.Tensor


class KIDResult(NamedTuple):
    """Unbiased, so a good set may score slightly below 0. low, high: 95 % interval."""

    mean: float
    low: float
    high: float


def defect_crops(
    images: Sequence[np.ndarray], foregrounds: Sequence[np.ndarray], *, size: int = 128, context: float = 1.5
) -> Crops:
    """One square crop per image around its whole foreground, its side `context` times the longer side of the box.

    A crop is never enlarged more than four times: a speck of five pixels is shown with its surroundings, not as a
    blur. It is moved to lie inside the image; where the image is too small, the image is mirrored.

    images: (H, W, C) uint8 or uint16. foregrounds: (H, W) bool, none empty.
    Raises ValueError when an image has no foreground or one of another size, or there are no images.
    """
    if not images:
        raise ValueError("no images to crop; pass at least one defect image")
    crops = [
        _defect_crop(image, foreground, size=size, context=context)
        for image, foreground in zip(images, foregrounds, strict=True)
    ]
    pixels = torch.from_numpy(np.stack([crop for crop, _ in crops])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([mask for _, mask in crops]))[:, None]
    return Crops(pixels.float() / 127.5 - 1, masks)


@torch.inference_mode()
def trunk_features(crops: Crops) -> np.ndarray:
    """(N, D) float32, D 152: each layer averaged inside the max-pooled mask and scaled to mean square 1."""
    features = []
    for images, masks in _batches(crops):
        pooled = []
        for layer in _trunk(POOLED_LAYERS)(images):
            inside = adaptive_max_pool2d(masks.float(), layer.shape[-2:])
            mean = (layer * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3))
            pooled.append(normalize(mean, dim=1) * mean.shape[1] ** 0.5)
        features.append(torch.cat(pooled, dim=1))
    return torch.cat(features).numpy()


def kid(
    real: np.ndarray, fake: np.ndarray, *, rng: np.random.Generator, subsets: int = 100, subset_size: int = 500
) -> KIDResult:
    """Kernel inception distance (Bińkowski et al. 2018): unbiased MMD² with the kernel (x·y / D + 1)³.

    Mean and 95 % interval over `subsets` random halves of both sets, at most `subset_size` of either. Halves drawn
    without replacement scatter around the value of the whole sets as that value scatters around the truth (delete-half
    jackknife), which makes the interval one for sampling error. Larger sets than 2 subset_size get a wider one.

    real: (N, D), fake: (M, D) float. Raises ValueError with fewer than four of either.
    """
    values = kid_of_halves(real, fake, rng=rng, subsets=subsets, subset_size=subset_size)
    low, high = np.percentile(values, [2.5, 97.5])
    return KIDResult(float(np.mean(values)), float(low), float(high))


def mean_kid(of_types: Sequence[KIDResult]) -> KIDResult:
    """Mean over defect types. Their errors are independent: each side of the interval adds up in squares."""
    means, lows, highs = np.array(of_types).T
    below, above = (float(np.sqrt(np.square(side - means).sum()) / len(means)) for side in (lows, highs))
    mean = float(means.mean())
    return KIDResult(mean, mean - below, mean + above)


def kid_of_halves(
    real: np.ndarray, fake: np.ndarray, *, rng: np.random.Generator, subsets: int = 100, subset_size: int = 500
) -> np.ndarray:
    """The (subsets,) values behind `kid`. Sets of one size meet the same halves when `rng` starts alike, so that the
    difference of two results has a narrower interval than either.
    """
    if min(len(real), len(fake)) < 4:
        raise ValueError(f"KID of {len(real)} real and {len(fake)} synthetic defects; pass at least 4 of either")
    halves = [min(len(features) // 2, subset_size) for features in (real, fake)]
    values = [
        _mmd2(
            real[rng.choice(len(real), halves[0], replace=False)],
            fake[rng.choice(len(fake), halves[1], replace=False)],
        )
        for _ in range(subsets)
    ]
    return np.array(values)


@torch.inference_mode()
def _defect_embedding(crops: Crops) -> np.ndarray:
    """(N, E) float32: unit features of every position, weighted by its share of the max-pooled mask."""
    embedded = []
    for images, masks in _batches(crops):
        layers = []
        for layer in _trunk(PERCEPTUAL_LAYERS)(images):
            inside = adaptive_max_pool2d(masks.float(), layer.shape[-2:])
            weight = inside / inside.sum(dim=(2, 3), keepdim=True)
            layers.append((normalize(layer, dim=1) * weight.sqrt()).flatten(1))
        embedded.append(torch.cat(layers, dim=1))
    return torch.cat(embedded).numpy()


@torch.inference_mode()
def perceptual_embedding(crops: Crops) -> np.ndarray:
    """(N, E) float32 whose squared distances are perceptual ones: features of unit length at every position,
    averaged over positions, summed over layers (LPIPS, Zhang et al. 2018, without its learned weights).
    """
    embedded = []
    for images, _ in _batches(crops):
        layers = [normalize(layer, dim=1).flatten(2) for layer in _trunk(PERCEPTUAL_LAYERS)(images)]
        embedded.append(torch.cat([(layer / layer.shape[2] ** 0.5).flatten(1) for layer in layers], dim=1))
    return torch.cat(embedded).numpy()


def diversity(fake: np.ndarray, real: np.ndarray) -> float:
    """Intra-cluster perceptual diversity (IC-LPIPS, Ojha et al. 2021): each synthetic defect joins its nearest real
    one; the mean distance of the pairs of a cluster, averaged over the clusters that hold a pair. 0 for copies.

    fake: (N, E), real: (M, E), both from `perceptual_embedding`. Raises ValueError when no cluster holds a pair.
    """
    cluster = _distances(fake, real).argmin(axis=1)
    members = [fake[cluster == k] for k in np.unique(cluster)]
    means = [_distances(m, m)[np.triu_indices(len(m), k=1)].mean() for m in members if len(m) > 1]
    if not means:
        raise ValueError(f"{len(fake)} synthetic defects share no nearest real one; make more than {len(real)}")
    return float(np.mean(means))


@torch.inference_mode()
def class_probabilities(crops: Crops) -> np.ndarray:
    """(N, 1000) float64, ImageNet class probabilities of the crops."""
    logits = torch.cat([_classifier()(images) for images, _ in _batches(crops)])
    return logits.double().softmax(dim=1).numpy()


def inception_score(probabilities: np.ndarray) -> float:
    """exp E KL(p(y|x) ‖ p(y)) (Salimans et al. 2016): 1 when all crops look alike, at most the number of classes.

    probabilities: (N, K), rows sum to 1.
    """
    marginal = probabilities.mean(axis=0, keepdims=True)
    safe = np.maximum(probabilities, 1e-16)
    divergence = (probabilities * (np.log(safe) - np.log(np.maximum(marginal, 1e-16)))).sum(axis=1)
    return float(np.exp(divergence.mean()))


def nearest_distance(fake: Crops, known: Crops) -> np.ndarray:
    """(N,) float32: distance of each synthetic defect to the most similar known one, in any of its eight poses.

    Perceptual as in `perceptual_embedding`, but of what lies inside the masks, which counts alike however small: a
    copied defect on another surface is near, a defect of another shape or look is not. 0 for copies, at most the
    number of layers times 2 (squared).
    """
    embedded, turned = _defect_embedding(fake), []
    for turns in range(4):
        for axes in ((), (3,)):
            posed = Crops(*(torch.flip(torch.rot90(tensor, turns, (2, 3)), axes) for tensor in known))
            turned.append(_distances(embedded, _defect_embedding(posed)).min(axis=1))
    return np.minimum.reduce(turned)


def _defect_crop(
    image: np.ndarray, foreground: np.ndarray, *, size: int, context: float
) -> tuple[np.ndarray, np.ndarray]:
    """The crop (S, S, 3) uint8 and its mask (S, S) bool."""
    if foreground.shape != image.shape[:2] or not foreground.any():
        raise ValueError(
            f"foreground is {foreground.shape} with {foreground.sum()} pixels, image is {image.shape}; "
            "pass a foreground of the image's size with at least one pixel"
        )
    x, y, width, height = cv2.boundingRect(foreground.astype(np.uint8))
    side = max(round(context * max(width, height)), size // 4)
    top, below = _window(y, height, side, foreground.shape[0])
    left, right = _window(x, width, side, foreground.shape[1])
    inside = np.s_[max(top, 0) : top + side, max(left, 0) : left + side]
    border = (max(-top, 0), below, max(-left, 0), right)
    crop = cv2.copyMakeBorder(to_uint8(image)[inside], *border, cv2.BORDER_REFLECT_101)
    mask = cv2.copyMakeBorder(foreground[inside].astype(np.float32), *border, cv2.BORDER_CONSTANT, value=0)
    if side < size:
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR)
        return crop, cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST) > 0
    # averaging keeps thin cracks: a pixel of the mask is any touch of the defect
    crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    return crop, cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA) > 0


def _window(start: int, length: int, side: int, limit: int) -> tuple[int, int]:
    """Where a window of `side` centred on [start, start + length) begins, moved into [0, limit), or centred on it
    (then negative) when it is longer; and how far it reaches beyond `limit`."""
    begin = start + (length - side) // 2
    begin = min(max(begin, 0), limit - side) if side <= limit else (limit - side) // 2
    return begin, max(begin + side - limit, 0)


@cache
def _trunk(layers: tuple[int, ...]) -> nn.Module:
    return offline_trunk(out_indices=layers)


@cache
def _classifier() -> nn.Module:
    return offline_classifier()


def _batches(crops: Crops) -> zip:
    return zip(crops.images.split(BATCH), crops.masks.split(BATCH), strict=True)


def _mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased MMD²: mean k(x, x') + mean k(y, y') - 2 mean k(x, y), pairs of different items only."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a.astype(np.float64) @ b.T.astype(np.float64) / a.shape[1] + 1) ** 3

    def off_diagonal_mean(k: np.ndarray) -> float:
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    return float(off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y)) - 2 * kernel(x, y).mean())


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) squared Euclidean distances."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None]
    return np.maximum(squares - 2 * a @ b.T, 0)
