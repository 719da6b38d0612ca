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
RING = 4
"""Width of what is looked at beside a shape, in those pixels."""


@dataclass(frozen=True, eq=False)
class Brightness:
    """small: (h, w) float32, means over blocks of step×step pixels. levels: (h·w,) the same in ascending order."""

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
        return cls(small, np.sort(small, axis=None), step)

    def around(self, part: np.ndarray, marked: np.ndarray) -> dict[str, float]:
        """Rank of the mean brightness beside `part`, (H, W) bool, on each side of its box, without what is `marked`.

        A block counts as marked if it or a neighbour has a marked pixel. Sides where nothing is left have no entry.
        """
        free = cv2.dilate(self._covered(marked), np.ones((3, 3), np.uint8)) == 0
        left, top, width, height = cv2.boundingRect(self._covered(part))
        rows, columns = slice(top, top + height), slice(left, left + width)
        strips = {
            "left": (rows, slice(max(0, left - RING), left)),
            "top": (slice(max(0, top - RING), top), columns),
            "right": (rows, slice(left + width, left + width + RING)),
            "bottom": (slice(top + height, top + height + RING), columns),
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
        upright, level = (self._ranks(cv2.blur(self.small, box)) for box in ((RING, height), (width, RING)))
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

    def _covered(self, mask: np.ndarray) -> np.ndarray:
        share = cv2.resize(mask.astype(np.float32), self.small.shape[::-1], interpolation=cv2.INTER_AREA)
        return (share > 0).astype(np.uint8)


def _moved(values: np.ndarray, by: int, *, axis: int) -> np.ndarray:
    """`values` at `by` places further along the axis; beyond its end the last ones."""
    last = values.shape[axis] - 1
    return values.take(np.clip(np.arange(last + 1) + by, 0, last), axis=axis)
