"""How bright it is around a shape, as a rank among the pixels of its picture. No torch.

A lesion lies in tissue, not in the shadow below it; a chip at the dark rim of a plate, not in its lit middle. Ranks
know no exposure: 0 is the darkest place of a picture, 1 the brightest.
"""

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np

SIDE = 256
"""Longer side of the pictures that are looked at; larger ones are averaged over blocks."""
RING = 4
"""Width of what is looked at around a shape, in those pixels."""


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

    def around(self, part: np.ndarray, marked: np.ndarray) -> float | None:
        """Rank of the mean brightness around `part`, (H, W) bool, without what else is `marked`; None where nothing is.

        A block counts as marked if any of its pixels is.
        """
        inside, others = (self._covered(mask) for mask in (part, marked))
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RING + 1, 2 * RING + 1))
        ring = (cv2.dilate(inside, disc) > 0) & (cv2.dilate(others, np.ones((3, 3), np.uint8)) == 0)
        return float(self._ranks(self.small[ring].mean())) if ring.any() else None

    def below(self, size: tuple[int, int]) -> np.ndarray:
        """Ranks of the mean brightness below a box of `size` (h, w) pixels, by the block of its centre: (h', w')."""
        box = tuple(max(1, round(length / self.step)) for length in size)
        return self._ranks(cv2.blur(self.small, box[::-1], borderType=cv2.BORDER_REFLECT_101))

    def _ranks(self, values: np.ndarray | float) -> np.ndarray:
        darker, not_brighter = (np.searchsorted(self.levels, values, side=side) for side in ("left", "right"))
        return np.asarray((darker + not_brighter) / (2 * len(self.levels)))

    def _covered(self, mask: np.ndarray) -> np.ndarray:
        share = cv2.resize(mask.astype(np.float32), self.small.shape[::-1], interpolation=cv2.INTER_AREA)
        return (share > 0).astype(np.uint8)
