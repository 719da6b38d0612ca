"""The halo: the blurred border of a defect, which annotators leave out of its mask.

Lenses blur, and annotators draw the border where they see it, so some of a defect lies outside its mask. Outside a
sample's mask not a bit may change. What shall fade out softly has to lie inside, so renderers work on masks that are
grown by the halo. A segmenter learns from labels that are shrunk by it again, which are as an annotator draws.
"""

from collections.abc import Iterable

import cv2
import numpy as np

WIDEST = 4
"""Pixels; what reaches farther is no blur."""
SHARE = 0.1
"""Of a defect's contrast: where less is left outside its mask, the halo ends."""
RIM = 4
"""Depth in pixels of the inside whose contrast counts as the defect's."""
SURROUNDINGS = 8, 12
"""Pixels from the mask between which the surface is taken for sound."""
TELLING = 0.5
"""Contrast, in standard deviations of the surface, below which a defect tells nothing of its border."""


def grow(foreground: np.ndarray, halo: int) -> np.ndarray:
    """(H, W) bool: the foreground and every pixel within `halo` pixels of it."""
    if halo == 0 or not foreground.any():
        return foreground
    grown: np.ndarray = _distance(~foreground) <= halo
    return grown


def shrink(foreground: np.ndarray, halo: int) -> np.ndarray:
    """(H, W) bool: the foreground without the pixels within `halo` pixels of what is outside.

    The frame is no border. A region too thin for that keeps its inner half, so that none is lost.
    """
    if halo == 0 or not foreground.any():
        return foreground
    depth = _distance(foreground)
    count, regions = cv2.connectedComponents(foreground.astype(np.uint8), connectivity=8)
    deepest = np.zeros(count, np.float32)
    np.maximum.at(deepest, regions.ravel().astype(np.intp), depth.ravel())
    kept: np.ndarray = foreground & (depth > np.where(deepest > halo, halo, deepest / 2)[regions])
    return kept


def measure_halo(defects: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> int:
    """Pixels, 0 to WIDEST, by which defects reach beyond their masks.

    Of a type: how far, in a row, the median of its defects keeps SHARE of the contrast. Then the median over the types,
    rounded down; types of too little contrast have no say, and without any other it is 0.
    defects: type, image (H, W, C) uint8 or uint16, foreground (H, W) bool.
    """
    left: dict[str, list[tuple[float, np.ndarray]]] = {}
    for name, image, foreground in defects:
        found = _contrast_outside(image, foreground)
        if found is not None:
            left.setdefault(name, []).append(found)
    halos = []
    for found_ones in left.values():
        if np.median([contrast for contrast, _ in found_ones]) >= TELLING:
            faint = np.median([shares for _, shares in found_ones], axis=0) < SHARE
            halos.append(int(np.argmax([*faint, True])))
    return int(np.median(halos)) if halos else 0


def _contrast_outside(image: np.ndarray, foreground: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Contrast of the rim in standard deviations of the surface, and what share of it is left 1 to WIDEST px outside.

    None where too little of the surroundings is in the picture, or they are all of one value.
    """
    rows, columns = (np.flatnonzero(foreground.any(axis=axis)) for axis in (1, 0))
    margin = SURROUNDINGS[1] + 1
    window = np.s_[
        max(0, rows[0] - margin) : rows[-1] + margin + 1, max(0, columns[0] - margin) : columns[-1] + margin + 1
    ]
    grey, inside = image[window].astype(np.float32).mean(axis=2), foreground[window]
    outwards, depth = _distance(~inside), _distance(inside)
    surface = grey[(outwards > SURROUNDINGS[0]) & (outwards <= SURROUNDINGS[1])]
    if len(surface) < 16 or surface.std() == 0:
        return None
    contrast = float(grey[inside & (depth <= RIM)].mean() - surface.mean())
    if contrast == 0:
        return None
    rings = [grey[(outwards > far - 0.5) & (outwards <= far + 0.5)] for far in range(1, WIDEST + 1)]
    if not all(len(ring) for ring in rings):
        return None
    shares = np.array([float(ring.mean() - surface.mean()) for ring in rings]) / contrast
    return abs(contrast) / float(surface.std()), shares


def _distance(inside: np.ndarray) -> np.ndarray:
    """(H, W) float32: from every pixel inside to the nearest one outside; 0 outside."""
    found: np.ndarray = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return found
