"""The parts of real masks: shapes that were annotated, with where they lay and how bright it was beside them.

A part is kept as a signed distance field (positive inside, 0 on the border), which is smooth, so it can be sampled
between the pixels without jagged borders, and thickness is one subtraction. Where a part is thin, the distance to its
centre line is kept too: a crack of one pixel stays connected.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import cv2
import numpy as np
from skimage.morphology import skeletonize

from fastsynth.layouts.grain import direction
from fastsynth.layouts.surroundings import Brightness

PADDING = 16
"""Pixels around a part where its distance fields are known: thickness / scale may not exceed it."""
CRUMB = 4, 0.001
"""Parts below so many pixels, or this share of their type's median area, are slips of the annotator's pen."""
THIN = 3
"""Up to this half width, in pixels, a stretch of a part has a centre line that must not break."""


@dataclass(frozen=True, eq=False)
class RealMask:
    """One annotated mask image.

    source: its path relative to the data root, forward slashes.
    foreground: (H, W) bool.
    group: what it was photographed of, a piece or a patient, where that is known.
    brightness: that of its picture, where that is known.
    direction: which way its picture's surface runs (`grain.direction`), where that is known.
    """

    source: str
    defect: str
    foreground: np.ndarray
    group: str | None = None
    brightness: Brightness | None = None
    direction: np.ndarray | None = None

    @classmethod
    def of(cls, image: np.ndarray, foreground: np.ndarray, *, source: str, defect: str, group: str | None) -> Self:
        """With all that its picture, (H, W, C) uint8 or uint16, tells."""
        return cls(source, defect, foreground, group, Brightness.of(image), direction(image, foreground))


@dataclass(frozen=True, eq=False)
class RealPart:
    """One shape of a real mask.

    foreground: (h, w) bool, tight. left, top: where it lay. frame: H, W of the mask image.
    surroundings: side → rank of the brightness there, in its picture, where that is known.
    """

    source: str
    defect: str
    foreground: np.ndarray
    left: int
    top: int
    frame: tuple[int, int]
    group: str | None = None
    surroundings: Mapping[str, float] = field(default_factory=dict)

    @property
    def piece(self) -> tuple[bool, str]:
        """What it was photographed of: its group, or its mask if there is none."""
        return self.group is None, self.group or self.source

    @property
    def centre(self) -> tuple[float, float]:
        """Of the bounding box, in pixel indices x, y."""
        height, width = self.foreground.shape
        return self.left + (width - 1) / 2, self.top + (height - 1) / 2

    @property
    def relative_centre(self) -> tuple[float, float]:
        """x, y in [0, 1]."""
        height, width = self.frame
        x, y = self.centre
        return (x + 0.5) / width, (y + 0.5) / height

    @property
    def sides(self) -> frozenset[str]:
        """Sides of the mask image this part touches: there the frame cut it, not the product."""
        (height, width), (frame_height, frame_width) = self.foreground.shape, self.frame
        touched = {
            "left": self.left == 0,
            "top": self.top == 0,
            "right": self.left + width == frame_width,
            "bottom": self.top + height == frame_height,
        }
        return frozenset(side for side, touches in touched.items() if touches)

    @cached_property
    def signed_distance(self) -> np.ndarray:
        """(h + 2 PADDING, w + 2 PADDING) float32: pixels to the border, positive inside."""
        inside = np.pad(self.foreground, PADDING).astype(np.uint8)
        return np.where(inside, _distance(inside) - np.float32(0.5), np.float32(0.5) - _distance(1 - inside))

    @cached_property
    def line_distance(self) -> np.ndarray | None:
        """Like `signed_distance` in size: pixels to the centre line of the thin stretches. None without such."""
        thin = _thin_stretches(np.pad(self.foreground, PADDING))
        if not thin.any():
            return None
        return _distance(1 - skeletonize(thin).astype(np.uint8))


def split_parts(mask: RealMask) -> list[RealPart]:
    """The parts of a mask: connected components, where those that lie closer than their own size are one.

    Size is √area; for two components of sizes a and b the limit is √(a b). A cluster of pits or a broken crack is
    one shape. An empty mask has no parts.
    """
    if not mask.foreground.any():
        return []
    left, top, right, bottom = tight_box(mask.foreground)
    inside = mask.foreground[top:bottom, left:right].astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    group = _groups_of_components(labels, stats[1:])
    free = None if mask.brightness is None else mask.brightness.free_of(mask.foreground)
    parts = []
    for g in np.unique(group):
        members = 1 + np.flatnonzero(group == g)
        (x0, y0), (x1, y1) = stats[members, :2].min(axis=0), (stats[members, :2] + stats[members, 2:4]).max(axis=0)
        tight = np.isin(labels[y0:y1, x0:x1], members)
        box = (left + int(x0), top + int(y0), left + int(x1), top + int(y1))
        surroundings = {} if mask.brightness is None or free is None else mask.brightness.around(box, free)
        frame = mask.foreground.shape[0], mask.foreground.shape[1]
        parts.append(RealPart(mask.source, mask.defect, tight, *box[:2], frame, mask.group, surroundings))
    return parts


def without_crumbs(parts: list[RealPart]) -> list[RealPart]:
    """The parts that are no slips of the annotator's pen, see CRUMB."""
    if not parts:
        return []
    areas = np.array([part.foreground.sum() for part in parts])
    median = float(np.median(areas))
    limit = min(median, max(CRUMB[0], CRUMB[1] * median))
    return [part for part, area in zip(parts, areas, strict=True) if area >= limit]


def part_weights(parts: Sequence[RealPart]) -> np.ndarray:
    """How often each part is drawn, (N,), sum 1: groups alike, the masks of one alike, the parts of one by their areas;
    each times the square of `free_outline`.

    Evenly drawn, the specks beside a long crack would outnumber the cracks, and what was photographed six times would
    be six times as common. A mask without a group is one of its own. A shape that the frame cut is known in part only
    and fits few places: its share of free outline counts twice.
    """
    areas = np.array([part.foreground.sum() for part in parts], float)
    of_mask: dict[str, float] = {}
    for part, area in zip(parts, areas, strict=True):
        of_mask[part.source] = of_mask.get(part.source, 0.0) + area
    groups = {part.source: part.piece for part in parts}
    masks = Counter(groups.values())
    shares = [area / of_mask[part.source] / masks[groups[part.source]] for part, area in zip(parts, areas, strict=True)]
    weights = np.array(shares) * np.square([free_outline(part) for part in parts])
    total = weights.sum()
    return weights / total if total > 0 else np.array(shares) / len(masks)


def free_outline(part: RealPart) -> float:
    """Share of the part's outline, counted in sides of pixels, that does not lie on the frame: 0 to 1."""
    padded = np.pad(part.foreground, 1).astype(np.int8)
    outline = sum(int(np.abs(np.diff(padded, axis=axis)).sum()) for axis in (0, 1))
    inside = part.foreground
    lines = {"left": inside[:, 0], "top": inside[0], "right": inside[:, -1], "bottom": inside[-1]}
    return 1 - sum(int(lines[side].sum()) for side in part.sides) / outline


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """[x0, y0, x1, y1] around the True pixels of `mask` (H, W) bool, which must hold at least one."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    assert width > 0, "the mask is empty"
    return left, top, left + width, top + height


def _distance(mask: np.ndarray) -> np.ndarray:
    return cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _thin_stretches(inside: np.ndarray) -> np.ndarray:
    """What a disc of radius THIN cannot reach from within, corners of thick parts left out; (H, W) bool."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * THIN + 1, 2 * THIN + 1))
    thick = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_OPEN, disc)
    if not thick.any():
        return inside
    rest = inside.astype(np.uint8) - thick
    _, labels, stats, _ = cv2.connectedComponentsWithStats(rest, connectivity=8)
    long = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) > 2 * THIN
    long[0] = False
    # grown back into the thick part, so that the centre line holds on to it
    return (cv2.dilate(long[labels].astype(np.uint8), disc) > 0) & inside


def _groups_of_components(labels: np.ndarray, stats: np.ndarray) -> np.ndarray:
    """Group number of every component; stats: (n, 5) as OpenCV gives them, without the background."""
    outlines = [_outline(labels, number, box) for number, box in enumerate(stats, start=1)]
    size = np.sqrt(stats[:, cv2.CC_STAT_AREA])
    low, extent = stats[:, :2], stats[:, 2:4]
    group = np.arange(len(stats))
    for i in range(len(stats)):
        limits = np.sqrt(size[i] * size)
        gaps = np.maximum(np.maximum(low - (low[i] + extent[i]), low[i] - (low + extent)), 0)
        for j in np.flatnonzero(np.hypot(gaps[:, 0], gaps[:, 1]) <= limits):
            if group[i] != group[j] and _gap(outlines[i], outlines[j]) <= limits[j]:
                group[group == group[j]] = group[i]
    return group


def _outline(labels: np.ndarray, number: int, box: np.ndarray) -> np.ndarray:
    """Border pixels of a component, thinned out to a few hundred: (n, 2) float32."""
    x, y, width, height = box[:4]
    own = (labels[y : y + height, x : x + width] == number).astype(np.uint8)
    contours, _ = cv2.findContours(own, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(int(x), int(y)))
    points = np.concatenate(contours)[:, 0].astype(np.float32)
    return points[:: 1 + len(points) // 400]


def _gap(first: np.ndarray, second: np.ndarray) -> float:
    offsets = first[:, None] - second[None]
    return float(np.sqrt((offsets**2).sum(axis=2).min()))
