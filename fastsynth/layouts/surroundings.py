"""How bright it is on the four sides of a shape, as ranks among the pixels of its picture. No torch.

A lesion lies in tissue, not in the shadow below it; a chip at the edge of a plate, lit on one side and dark on the
other, not in the middle. Ranks know no exposure: 0 is the darkest place of a picture, 1 the brightest.
"""

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np

SIDE = 256
"""Longer side of the pictures that are looked at; larger ones are averaged over blocks."""
BLACK = 0.04
"""What is darker than this share of the brightest blocks shows nothing: the ground beside a strip, the corners of a
scan. It has rank 0 and counts for no other's, or half a picture of it would squeeze what is seen into the other ranks.
"""
RING = 4
"""Width of what is looked at beside a shape, in those pixels."""


@dataclass(frozen=True, eq=False)
class Brightness:
    """size: H, W of the picture. small: (h, w) float32, means over blocks of step×step pixels. levels: (n,) those that
    are not black, in ascending order."""

    size: tuple[int, int]
    small: np.ndarray
    levels: np.ndarray
    step: int

    @classmethod
    def of(cls, image: np.ndarray) -> Self:
        """image: (H, W, C) uint8 or uint16."""
        height, width = image.shape[:2]
        step = -(-max(height, width) // SIDE)
        blocks = -(-height // step), -(-width // step)
        reduced = cv2.resize(image, blocks[::-1], interpolation=cv2.INTER_AREA).reshape(*blocks, -1)
        small = reduced.mean(axis=2, dtype=np.float32)
        # stored values may start anywhere in 16 bit, and one may be a detector's dead pixel
        low, bright = 0.0 if image.dtype == np.uint8 else float(image.min()), float(np.percentile(small, 99))
        seen = small[small >= low + BLACK * (bright - low)]
        return cls((height, width), small, np.sort(seen), step)

    def free_of(self, marked: np.ndarray) -> np.ndarray:
        """(h, w) bool: blocks that have no `marked` pixel, (H, W) bool, and no neighbour that has."""
        share = cv2.resize(marked.astype(np.float32), self.small.shape[::-1], interpolation=cv2.INTER_AREA)
        covered: np.ndarray = cv2.dilate((share > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        return ~covered

    def around(self, box: tuple[int, int, int, int], free: np.ndarray) -> dict[str, float]:
        """Rank of the mean brightness on each side of a box [x0, y0, x1, y1] in pixels, over blocks that are `free`.

        Sides without any have no entry.
        """
        scale = np.tile(np.array(self.small.shape[::-1]) / self.size[::-1], 2)
        left, top, right, bottom = np.where([True, True, False, False], np.floor(box * scale), np.ceil(box * scale))
        rows, columns = slice(int(top), int(bottom)), slice(int(left), int(right))
        strips = {
            "left": (rows, slice(max(0, columns.start - RING), columns.start)),
            "top": (slice(max(0, rows.start - RING), rows.start), columns),
            "right": (rows, slice(columns.stop, columns.stop + RING)),
            "bottom": (slice(rows.stop, rows.stop + RING), columns),
        }
        return {
            side: float(self._ranks(self.small[strip][free[strip]].mean()))
            for side, strip in strips.items()
            if free[strip].any()
        }

    def beside(self, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """The same for a box of `size` (h, w) pixels anywhere: side → ranks by the block of the box's centre, (h', w').

        Beyond the picture it is as bright as at its border.
        """
        height, width = (max(1, round(length / self.step)) for length in size)
        upright, level = (
            self._ranks(cv2.blur(self.small, box, borderType=cv2.BORDER_REPLICATE))
            for box in ((RING, height), (width, RING))
        )
        across, along = (width + RING) // 2, (height + RING) // 2
        return {
            "left": _moved(upright, -across, axis=1),
            "top": _moved(level, -along, axis=0),
            "right": _moved(upright, across, axis=1),
            "bottom": _moved(level, along, axis=0),
        }

    def _ranks(self, values: np.ndarray | float) -> np.ndarray:
        darker, not_brighter = (np.searchsorted(self.levels, values, side=side) for side in ("left", "right"))
        return np.asarray((darker + not_brighter) / (2 * len(self.levels)))


def _moved(values: np.ndarray, by: int, *, axis: int) -> np.ndarray:
    """`values` at `by` places further along the axis; beyond its end the last ones."""
    last = values.shape[axis] - 1
    return values.take(np.clip(np.arange(last + 1) + by, 0, last), axis=axis)
