"""In which poses a picture may be shown: a grain that runs one way must not be learnt, or drawn, both ways."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pose:
    """turns: by 90°, counter-clockwise, first. axes: of (rows, columns), 0 and 1, those that are mirrored then."""

    turns: int
    axes: tuple[int, ...]

    def of(self, array: np.ndarray) -> np.ndarray:
        """A picture (C, S, S) in this pose."""
        return np.flip(np.rot90(array, self.turns, axes=(1, 2)), self._dimensions)

    def undone(self, array: np.ndarray) -> np.ndarray:
        """What was in this pose, upright again."""
        return np.rot90(np.flip(array, self._dimensions), -self.turns, axes=(1, 2))

    @property
    def _dimensions(self) -> tuple[int, ...]:
        return tuple(1 + axis for axis in self.axes)


@dataclass(frozen=True)
class Poses:
    """quarter_turns: numbers of turns by 90°. flip: mirror each axis with probability ½."""

    quarter_turns: Sequence[int]
    flip: bool

    def drawn(self, rng: np.random.Generator) -> Pose:
        turns = self.quarter_turns[int(rng.integers(len(self.quarter_turns)))]
        return Pose(turns, tuple(axis for axis in range(2) if rng.random() < 0.5) if self.flip else ())


ALL_POSES = Poses(quarter_turns=(0, 1, 2, 3), flip=True)
