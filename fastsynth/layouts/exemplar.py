"""Exemplars: a real training defect, warped to a layout's mask, tone-matched and pasted, to start the sampler from.

Noised to a share `strength` of the diffusion time it is a dial between copy-paste (0) and pure synthesis (1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fastsynth.layouts.crop import Crop, ValueRange, cut, cut_mask, feather_weight, ring
from fastsynth.layouts.masks import warp_coordinates
from fastsynth.types import Instance, Warp


@dataclass(frozen=True, eq=False)
class Exemplar:
    """A real training defect.

    image: (H, W, C) uint8 or uint16. foreground: (H, W) bool. source: the mask's path, relative to the data root.
    """

    image: np.ndarray
    foreground: np.ndarray
    category: str
    defect: str
    source: str


class ExemplarBank:
    """The training defects, by category and type, and by the path of their mask."""

    def __init__(self, exemplars: Sequence[Exemplar]) -> None:
        self.by_source = {exemplar.source: exemplar for exemplar in exemplars}
        self.by_pair: dict[tuple[str, str], list[Exemplar]] = {}
        for exemplar in exemplars:
            self.by_pair.setdefault((exemplar.category, exemplar.defect), []).append(exemplar)

    def warped_into(
        self, background: np.ndarray, instance: Instance, crop: Crop, *, category: str, seed: int
    ) -> np.ndarray:
        """`background`'s crop with the instance's exemplar pasted in: (side, side, C) float32 in [-1, 1]."""
        clean = ValueRange.of(background).to_float(cut(background, crop))
        inside = instance_mask(instance, crop)
        return _blend(clean, self.warped(instance, crop, inside, category=category, seed=seed), inside)

    def warped(self, instance: Instance, crop: Crop, inside: np.ndarray, *, category: str, seed: int) -> np.ndarray:
        """The instance's exemplar in the crop's place, with its own surroundings: (side, side, C) float32 in [-1, 1].

        The shape's own source is taken where the mask was drawn from one; a procedural mask borrows a random defect
        of its type, turned and scaled so that their second moments agree. inside: `instance_mask`, (side, side).
        """
        exemplar, warp = self._choose(instance, category, seed)
        map_x, map_y = warp_coordinates(warp, inside.shape, origin=(crop.left - instance.left, crop.top - instance.top))
        # of a large picture only the part that is looked at becomes floats
        x0, y0, width, height = cv2.boundingRect(exemplar.foreground.view(np.uint8))
        columns = _looked_at(map_x, exemplar.foreground.shape[1], x0, x0 + width)
        rows = _looked_at(map_y, exemplar.foreground.shape[0], y0, y0 + height)
        map_x, map_y = map_x - columns.start, map_y - rows.start
        _mirror_into(exemplar.foreground[rows, columns], map_x, map_y, inside)
        pixels = ValueRange.of(exemplar.image).to_float(exemplar.image[rows, columns])
        # linear interpolation flattens hair-thin lines more, but OpenCV's cubic never returns from one row or column
        method = cv2.INTER_CUBIC if min(pixels.shape[:2]) > 1 else cv2.INTER_LINEAR
        defect = cv2.remap(pixels, map_x, map_y, method, borderMode=cv2.BORDER_REFLECT_101)
        return defect.reshape(*inside.shape, -1)

    def _choose(self, instance: Instance, category: str, seed: int) -> tuple[Exemplar, Warp]:
        if instance.warp is not None and instance.warp.source in self.by_source:
            return self.by_source[instance.warp.source], instance.warp
        pair = category, instance.defect
        if pair not in self.by_pair:
            known = ", ".join("/".join(pair) for pair in sorted(self.by_pair)) or "none"
            raise ValueError(f"no training defect {'/'.join(pair)} to start from; there are: {known}")
        choices = self.by_pair[pair]
        exemplar = choices[np.random.default_rng(seed).integers(len(choices))]
        return exemplar, moment_warp(instance.mask, exemplar)


def _looked_at(places: np.ndarray, size: int, first: int, last: int) -> slice:
    """The part of an axis of length `size` that holds first … last and all pixels near `places`, mirrored ones too."""
    low, high = min(int(np.floor(places.min())) - 2, first), max(int(np.ceil(places.max())) + 3, last)
    # what lies beyond the border is mirrored: it comes from as far inside
    low, high = min(low, 2 * size - high - 2), max(high, 2 - low)
    return slice(max(low, 0), min(high, size))


def moment_warp(mask: np.ndarray, exemplar: Exemplar) -> Warp:
    """The similarity-like affine map that takes the mask's centre and principal axes to the exemplar's largest part."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(exemplar.foreground.astype(np.uint8))
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    centre_from, axes_from = _moments(mask)
    centre_to, axes_to = _moments(labels == largest)
    linear = axes_to @ np.linalg.inv(axes_from)
    matrix = np.column_stack([linear, centre_to - linear @ centre_from])
    a, b, c, d, e, f = (float(value) for value in matrix.ravel())
    return Warp(source=exemplar.source, matrix=(a, b, c, d, e, f))


def _mirror_into(foreground: np.ndarray, map_x: np.ndarray, map_y: np.ndarray, inside: np.ndarray) -> None:
    """Make every pixel `inside` the shape look at the defect: mirror, in place, what looks past its border.

    A drawn crack does not follow the real one's bends; without this most of it would show sound surface.
    foreground: (H, W) bool. map_x, map_y: (side, side) float32, source pixels. inside: (side, side) bool.
    """
    height, width = foreground.shape
    background = np.pad(~foreground, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(
        background, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    spots = np.zeros((labels.max() + 1, 2), int)
    y, x = np.nonzero(background == 0)
    spots[labels[y, x]] = np.column_stack([x - 1, y - 1])

    def covered(at_x: np.ndarray, at_y: np.ndarray) -> np.ndarray:
        column, row = np.rint(at_x).astype(int), np.rint(at_y).astype(int)
        valid = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        found: np.ndarray = valid & foreground[row.clip(0, height - 1), column.clip(0, width - 1)]
        return found

    rows, columns = np.nonzero(inside & ~covered(map_x, map_y))
    from_x, from_y = map_x[rows, columns], map_y[rows, columns]
    nearest = spots[
        labels[np.rint(from_y).astype(int).clip(0, height - 1) + 1, np.rint(from_x).astype(int).clip(0, width - 1) + 1]
    ]
    mirrored = 2 * nearest - np.column_stack([from_x, from_y])
    mirrored = np.where(covered(*mirrored.T)[:, None], mirrored, nearest)
    map_x[rows, columns], map_y[rows, columns] = mirrored.T


def _moments(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre (x, y) and a 2×2 matrix whose columns are the principal axes, scaled by the standard deviations."""
    y, x = np.nonzero(mask)
    points = np.stack([x, y]).astype(np.float64)
    centre = points.mean(1)
    spread = np.cov(points) if points.shape[1] > 1 else np.zeros((2, 2))
    variances, axes = np.linalg.eigh(spread + 0.1 * np.eye(2))  # a single row of pixels still has a width
    return centre, axes * np.sqrt(variances)


def _blend(background: np.ndarray, defect: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Give the defect the background's light, then paste it inside the mask.

    Where the surroundings are k times as bright, so is the contrast of the defect: a surface reflects a share.
    """
    defect = like_channels(defect, background.shape[2])
    around = ring(foreground, width=4)
    if around.any():
        wanted, found = np.median(background[around], axis=0), np.median(defect[around], axis=0)
        # -1 is black; the limits keep noise in near-black surroundings from blowing up
        gain = np.clip((wanted.mean() + 1) / max(found.mean() + 1, 1e-3), 0.5, 2.0)
        defect = wanted + gain * (defect - found)
    weight = feather_weight(foreground, 2.0)[..., None]
    return np.clip(background + weight * (defect - background), -1, 1).astype(np.float32)


def like_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """(h, w, C) as (h, w, channels): grey where the two differ."""
    return image if image.shape[2] == channels else np.repeat(image.mean(2, keepdims=True), channels, axis=2)


def instance_mask(instance: Instance, crop: Crop) -> np.ndarray:
    """The instance's foreground inside the crop, (side, side) bool."""
    return cut_mask(instance.mask, Crop(crop.left - instance.left, crop.top - instance.top, crop.side))
