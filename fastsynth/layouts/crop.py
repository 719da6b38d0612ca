"""Native resolution: cut a square around an instance, synthesise at the model's size, paste back at its own size.

Small instances zoom in and large ones zoom out, since the crop follows the instance, not the model. Only pixels
inside the mask ever change. Outside the models (H, W, C) uint8 or uint16; inside float NCHW in [-1, 1].
"""

from dataclasses import dataclass

import cv2
import numpy as np

MIN_SIDE = 32
"""Smallest crop in source pixels: below it a picture holds too little context to zoom into."""


@dataclass(frozen=True)
class Crop:
    """A square of the image, in source pixels; it may reach beyond the border, where the image is mirrored."""

    left: int
    top: int
    side: int


@dataclass(frozen=True)
class ValueRange:
    """Which pixel values become -1 and 1. 16-bit pictures use their own range: few of them fill all 65,536 values."""

    low: float
    high: float

    @staticmethod
    def of(image: np.ndarray) -> "ValueRange":
        if image.dtype == np.uint8:
            return ValueRange(0.0, 255.0)
        low, high = float(image.min()), float(image.max())
        return ValueRange(low, max(high, low + 1.0))

    def to_float(self, image: np.ndarray) -> np.ndarray:
        """Pixels to float32 in [-1, 1] (a little outside for pixels out of the range)."""
        return (image.astype(np.float32) - self.low) * (2.0 / (self.high - self.low)) - 1.0

    def from_float(self, image: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """float in [-1, 1] to pixels, rounded and clipped to what `dtype` holds."""
        pixels = (image + 1.0) * ((self.high - self.low) / 2.0) + self.low
        return np.clip(np.rint(pixels), 0, np.iinfo(dtype).max).astype(dtype)


def crop_around(
    bbox: tuple[int, int, int, int], *, image_size: tuple[int, int], context: float = 2.0, min_side: int = MIN_SIDE
) -> Crop:
    """The square around `bbox` ([x0, y0, x1, y1]): `context` times its longer side, at least `min_side` pixels.

    It is moved inside the image (H, W) where it fits, so that as little as possible is mirrored.
    """
    x0, y0, x1, y1 = bbox
    longer = max(x1 - x0, y1 - y0)
    side = max(round(longer * context), min_side)
    # a large defect may not fit with all its context: give up context before mirroring
    side = max(min(side, min(image_size)), longer + 8, min_side)
    left = _inside((x0 + x1 - side) // 2, side, image_size[1])
    top = _inside((y0 + y1 - side) // 2, side, image_size[0])
    return Crop(left=left, top=top, side=side)


def cut(image: np.ndarray, crop: Crop) -> np.ndarray:
    """The crop's pixels at native size, (side, side, ...) in the image's dtype; mirrored beyond the border."""
    height, width = image.shape[:2]
    x0, y0 = max(crop.left, 0), max(crop.top, 0)
    x1, y1 = min(crop.left + crop.side, width), min(crop.top + crop.side, height)
    inner = image[y0:y1, x0:x1]
    if inner.shape[:2] == (crop.side, crop.side):
        return inner
    pads = (y0 - crop.top, crop.top + crop.side - y1, x0 - crop.left, crop.left + crop.side - x1)
    rows = _mirror(inner.shape[0], pads[0], pads[1])
    columns = _mirror(inner.shape[1], pads[2], pads[3])
    return inner[rows][:, columns]


def cut_mask(foreground: np.ndarray, crop: Crop) -> np.ndarray:
    """(side, side) bool, False beyond the border: no defect is asked for outside the image."""
    height, width = foreground.shape
    cropped = np.zeros((crop.side, crop.side), bool)
    x0, y0 = max(crop.left, 0), max(crop.top, 0)
    x1, y1 = min(crop.left + crop.side, width), min(crop.top + crop.side, height)
    cropped[y0 - crop.top : y1 - crop.top, x0 - crop.left : x1 - crop.left] = foreground[y0:y1, x0:x1]
    return cropped


def to_model(crop: np.ndarray, *, size: int, values: ValueRange) -> np.ndarray:
    """A native crop (side, side, C) to the model's (3, size, size) float32 in [-1, 1]; grey is repeated."""
    scaled = _resize(values.to_float(crop), size)
    rgb = np.repeat(scaled, 3, axis=2) if scaled.shape[2] == 1 else scaled
    return np.ascontiguousarray(rgb.transpose(2, 0, 1))


def mask_to_model(foreground: np.ndarray, *, size: int) -> np.ndarray:
    """(side, side) bool to (1, size, size) float32 of 0 and 1. Zooming out keeps every covered cell, so thin stays."""
    side = foreground.shape[0]
    if side <= size:
        scaled = cv2.resize(foreground.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
    else:
        covered = cv2.resize(foreground.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
        scaled = (covered > 0).astype(np.uint8)
    return scaled.astype(np.float32)[None]


def add_change(source: np.ndarray, change: np.ndarray, foreground: np.ndarray, *, feather: float) -> np.ndarray:
    """What a model changed, added to what it started from at native size: (side, side, C) float.

    source: (side, side, C) float in [-1, 1]. It keeps the grain and the hair-thin lines that the model's size cannot
    hold. change: (3, size, size) float, at the model's size. foreground: (side, side) bool.
    feather: pixels over which the change fades in from the mask's border inwards; thin defects get it in full.
    """
    native = _resize(change.transpose(1, 2, 0), source.shape[0])
    if source.shape[2] == 1:
        native = native.mean(axis=2, keepdims=True)
    changed: np.ndarray = source + feather_weight(foreground, feather)[..., None] * native
    return changed


def paste(image: np.ndarray, drawn: np.ndarray, crop: Crop, foreground: np.ndarray, *, values: ValueRange) -> None:
    """Write `drawn`, (side, side, C) float in [-1, 1], into `image` in place, inside `foreground` alone.

    foreground: (side, side) bool; what lies beyond the image's border is dropped.
    """
    height, width = image.shape[:2]
    x0, y0 = max(crop.left, 0), max(crop.top, 0)
    x1, y1 = min(crop.left + crop.side, width), min(crop.top + crop.side, height)
    at = np.s_[y0 - crop.top : y1 - crop.top, x0 - crop.left : x1 - crop.left]
    inside = foreground[at]
    image[y0:y1, x0:x1][inside] = values.from_float(drawn[at][inside], image.dtype)


def feather_weight(foreground: np.ndarray, feather: float, *, beyond: np.ndarray | None = None) -> np.ndarray:
    """(H, W) float32: 0 outside, rising to 1 over `feather` pixels inwards, sooner where the mask is thin.

    beyond: (H, W) bool, what lies beyond the image. What its border cuts does not fade out there.
    """
    padded = np.pad(foreground if beyond is None else foreground | beyond, 1).astype(np.uint8)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1] * foreground
    width = np.clip(0.25 * distance.max(), 1.0, max(feather, 1.0))
    return np.clip(distance / width, 0.0, 1.0)


def ring(foreground: np.ndarray, *, width: int) -> np.ndarray:
    """(H, W) bool: the pixels within `width` outside the foreground, one pixel away from it."""
    grown = cv2.dilate(foreground.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=width + 1)
    near = cv2.dilate(foreground.astype(np.uint8), np.ones((3, 3), np.uint8))
    return (grown > 0) & (near == 0)


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    side = image.shape[0]
    if side == size:
        return image
    method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return cv2.resize(image, (size, size), interpolation=method).reshape(size, size, -1)


def _inside(start: int, side: int, length: int) -> int:
    """Move [start, start + side) into [0, length), or centre it when it is longer."""
    return (length - side) // 2 if side > length else min(max(start, 0), length - side)


def _mirror(length: int, before: int, after: int) -> np.ndarray:
    """Indices that extend 0 … length-1 by mirroring, any distance."""
    positions = np.arange(-before, length + after)
    folded = np.abs(positions) % max(2 * length - 2, 1)
    return np.where(folded < length, folded, 2 * length - 2 - folded) if length > 1 else np.zeros_like(positions)
