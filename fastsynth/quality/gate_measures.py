"""What the gate measures on one sample: plain numbers from the arrays, without thresholds. numpy and OpenCV.

source, image: (H, W, C) uint8 or uint16, before and after rendering. foreground: (H, W) bool, the mask.
Floats are shares of the source's value range: 1 is from black to white.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from fastsynth.layouts.crop import ValueRange

SCALES = (0.0, 1.5, 4.0)
"""Radii in pixels at which a change may be seen: single pixels, thin lines, wide shades."""
MARGIN = 24
"""Pixels around the mask that count as its surroundings."""
SHIFT = 12
"""Distance in pixels at which the texture is looked at through the same mask."""
DARK = 0.05
"""Darker pixels count as this bright where a difference is divided by brightness."""
FLOOR = 1 / 255
"""Texture below one level of 8 bit counts as one: a smaller change is not seen."""
FAINT = 0.01
"""Nor is one in the dark of a bright picture: texture counts as at least this share of what is bright there."""
BRIGHT = 99
"""Percentile of a picture's values that is its brightness."""
BRIGHT_SIDE = 512
"""Of larger pictures only every second, third, … pixel is asked for it: all of 12 megapixels take half a second."""
DETAIL_SIDE = 32
"""Longer side of a defect's fine detail, in pixels; smaller defects keep their own size."""
BITS = 256
"""Of a fingerprint."""
SEEN_CONTRAST = 3.0
"""Contrast from which on a pixel's change can be seen."""
SEEN_SHARE = 0.08
"""Share of a mask that must be seen, or there is no defect to speak of."""


@dataclass(frozen=True)
class Change:
    """at: the window of the image that was looked at, h rows and w columns. inside: (h, w) bool, the mask in it.
    contrast: (h, w) float32, see `change`. outside: (h, w) bool, changed though outside the mask."""

    at: tuple[slice, slice]
    inside: np.ndarray
    contrast: np.ndarray
    outside: np.ndarray


def change(source: np.ndarray, image: np.ndarray, foreground: np.ndarray) -> Change:
    """How strongly every pixel changed, beyond what the local texture does by itself.

    contrast: |mean change of the mask's pixels near by|, in standard deviations of the same mean of the source's
    detail, seen through the mask at shifted places; the largest over `SCALES` and channels.
    """
    values = ValueRange.of(source)
    outside = (image != source).any(axis=2) & ~foreground
    at = _window(foreground | outside)
    before = values.to_float(source[at]) / 2
    difference = values.to_float(image[at]) / 2 - before
    inside = foreground[at]
    where = inside | outside[at]
    detail = before - _blurred(before, 2 * SCALES[-1])
    step = max(1, max(source.shape[:2]) // BRIGHT_SIDE)
    bright = (float(values.to_float(np.percentile(source[::step, ::step], BRIGHT))) + 1) / 2
    floor = max(FLOOR, FAINT * bright)
    strongest = np.zeros(np.count_nonzero(where), np.float32)
    for sigma in SCALES:
        moved = np.abs(_means(difference, where, sigma, at=where))
        # one place at a time: all together would take hundreds of bytes a pixel
        elsewhere = (_means(shifted, where, sigma, at=where) for shifted in _shifted(detail))
        texture = np.sqrt(np.mean([(found**2).mean(axis=0) for found in elsewhere], axis=0))
        strongest = np.maximum(strongest, (moved / np.maximum(texture, floor)).max(axis=1))
    contrast = np.zeros(inside.shape, np.float32)
    contrast[where] = strongest
    return Change(at, inside, contrast, outside[at])


def visible_share(found: Change, *, min_contrast: float) -> float:
    """Share of the mask whose change can be seen."""
    return float((found.contrast[found.inside] >= min_contrast).mean())


def outside_share(found: Change, *, min_contrast: float) -> float:
    """Visibly changed pixels outside the mask, per pixel of the mask."""
    return float(((found.contrast >= min_contrast) & found.outside).sum() / found.inside.sum())


def offset(found: Change, *, min_contrast: float) -> float:
    """Distance from the mask's centre to the centre of what can be seen inside it, per root-mean-square radius.

    Whatever can be seen counts alike: a crack with one dark end is no crack in the wrong place.
    """
    points = np.argwhere(found.inside).astype(np.float64)
    weights = np.minimum(found.contrast[found.inside].astype(np.float64), min_contrast)
    if weights.sum() <= 0:
        return 0.0
    centre = points.mean(axis=0)
    radius = np.sqrt(((points - centre) ** 2).sum(axis=1).mean() + 0.5)
    return float(np.linalg.norm(np.average(points, axis=0, weights=weights) - centre) / radius)


def border_step(image: np.ndarray, foreground: np.ndarray, values: ValueRange | None = None) -> float:
    """Mean difference between the two pixels inside and the two outside, all along the mask's border, as a share of
    the brighter side: a dark crack is as much of a step in dim light as in bright light.

    values: of the picture that `image` is a part of; None: it is the whole picture."""
    at = _window(foreground)
    pixels, inside = ((values or ValueRange.of(image)).to_float(image[at]) + 1) / 2, foreground[at]
    grown = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2) > 0
    kept = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2) > 0
    border = inside & (cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) == 0)
    if not border.any():
        return 0.0
    within = _means(pixels, inside & ~kept, 1.5, at=border)
    around = _means(pixels, grown & ~inside, 1.5, at=border)
    brighter = np.maximum(np.maximum(within, around), DARK)
    return float((np.abs(within - around) / brighter).max(axis=1).mean())


def detail(image: np.ndarray, foreground: np.ndarray, values: ValueRange | None = None) -> np.ndarray:
    """The defect's fine detail: (32, 32) float32 of norm 1, zero outside the mask, which is centred by its box.

    Grain, edges and pits say whose picture it is; what is smooth may look alike without being a copy.
    values: as in `border_step`.
    """
    x, y, width, height = cv2.boundingRect(foreground.astype(np.uint8))
    box = image[y : y + height, x : x + width]
    grey: np.ndarray = ((values or ValueRange.of(image)).to_float(box) / 2).mean(axis=2)
    inside: np.ndarray = foreground[y : y + height, x : x + width].astype(np.float32)
    scale = min(1.0, DETAIL_SIDE / max(width, height))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    if scale < 1:
        grey = cv2.resize(grey * inside, size, interpolation=cv2.INTER_AREA)
        inside = cv2.resize(inside, size, interpolation=cv2.INTER_AREA)
        grey = grey / np.maximum(inside, 1e-6)
        inside = (inside >= 0.5).astype(np.float32) if (inside >= 0.5).any() else (inside > 0).astype(np.float32)
    covered = inside > 0
    canvas = np.zeros((DETAIL_SIDE, DETAIL_SIDE), np.float32)
    top, left = (DETAIL_SIDE - size[1]) // 2, (DETAIL_SIDE - size[0]) // 2
    high = grey[covered] - _means(grey[..., None], covered, 2.0, at=covered)[:, 0]
    canvas[top : top + size[1], left : left + size[0]][covered] = high
    return canvas / max(float(np.linalg.norm(canvas)), 1e-6)


def turned(found: np.ndarray) -> np.ndarray:
    """(8, 32, 32): a detail in all quarter turns and mirrorings."""
    turns = [np.rot90(found, number) for number in range(4)]
    return np.stack([*turns, *(turn[:, ::-1] for turn in turns)])


def similarity(found: np.ndarray, others: np.ndarray, *, shift: int = 2) -> np.ndarray:
    """(N,) correlations with each of `others` (N, 32, 32), the best over shifts of at most `shift` pixels."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(found, shift), found.shape)
    shifted = windows.reshape(-1, found.size)
    # one product for all shifts: the others are read from memory once
    best: np.ndarray = (others.reshape(len(others), -1) @ shifted.T).max(axis=1)
    return best


def fingerprint(found: np.ndarray) -> int:
    """256 bits, of which two details at an angle φ share about 256 (1 - φ / π): signs of random projections (SimHash,
    Charikar 2002). Of whole numbers, whose sums are exact in any order, so that no other machine flips a bit."""
    bits = _projections() @ np.rint(found.ravel().astype(np.float64) * 4096) > 0
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@cache
def _projections() -> np.ndarray:
    """(256, 1024) float64 of -1 and 1, the same for ever: fingerprints are stored."""
    return np.random.default_rng(0).integers(0, 2, (BITS, DETAIL_SIDE**2)) * 2.0 - 1.0


def _shifted(detail: np.ndarray) -> Iterator[np.ndarray]:
    """What the mask would show of the detail at eight shifted places, (h, w, C) each."""
    steps = [(dy, dx) for dy in (-SHIFT, 0, SHIFT) for dx in (-SHIFT, 0, SHIFT) if (dy, dx) != (0, 0)]
    return (np.roll(detail, step, axis=(0, 1)) for step in steps)


def _means(values: np.ndarray, inside: np.ndarray, sigma: float, *, at: np.ndarray) -> np.ndarray:
    """(n, C): Gaussian mean over the pixels inside alone, at the n pixels of `at`; both (h, w) bool."""
    if sigma == 0:
        return values[at]
    weight = inside.astype(np.float32)[..., None]
    total: np.ndarray = _blurred(values * weight, sigma)[at] / np.maximum(_blurred(weight, sigma)[at], 1e-6)
    return total


def _blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    blurred: np.ndarray = cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return blurred.reshape(values.shape)


def _window(foreground: np.ndarray) -> tuple[slice, slice]:
    """The mask's box and `MARGIN` pixels around it, inside the image."""
    x, y, width, height = cv2.boundingRect(foreground.astype(np.uint8))
    return (
        slice(max(y - MARGIN, 0), y + height + MARGIN),
        slice(max(x - MARGIN, 0), x + width + MARGIN),
    )
