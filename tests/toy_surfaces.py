"""The toy set of style edits: surfaces of two shades with a part, blobs and scratches, every defect in three colours.

What a pixel shows is known from how it was drawn, so a segmenter by nearest colour is exact on real pictures.
"""

from collections.abc import Iterator

import numpy as np
import torch

from generators.batches import Batch, components

SIDE = 32
NAMES = ("surface", "part", "blob", "scratch")
DEFECTS = (2, 3)
COLOURS: dict[int, np.ndarray] = {
    0: np.array([[90, 90, 90], [130, 130, 130]], float),
    1: np.array([[60, 90, 150]], float),
    2: np.array([[220, 40, 40], [240, 200, 30], [20, 20, 20]], float),
    3: np.array([[250, 250, 250], [150, 40, 180], [20, 120, 40]], float),
}
"""Class id → the colours it comes in, RGB."""
GRAIN = 4.0


def draw_toy(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """Labels (S, S), the picture (S, S, 3) uint8, and class → index of its colour; every class once."""
    y, x = np.indices((SIDE, SIDE))
    labels = np.zeros((SIDE, SIDE), np.uint8)
    top, left = rng.integers(1, 18, 2)
    labels[top : top + 12, left : left + 12] = 1
    row, column = rng.integers(6, 26, 2)
    labels[(y - row) ** 2 + (x - column) ** 2 <= rng.integers(9, 17)] = 2
    start, slope = rng.integers(4, 28), rng.uniform(-0.4, 0.4)
    on_line = np.abs(x - (start + slope * (y - SIDE / 2))) <= 1
    labels[on_line & (y > rng.integers(2, 10)) & (y < rng.integers(20, 30))] = 3
    modes = {label: int(rng.integers(len(colours))) for label, colours in COLOURS.items()}
    picture = np.stack([COLOURS[label][mode] for label, mode in modes.items()])[labels]
    return labels, np.clip(picture + rng.normal(0, GRAIN, picture.shape), 0, 255).astype(np.uint8), modes


class ToySource:
    """`count` toy pictures to train on, others to show."""

    class_names = NAMES

    def __init__(self, count: int, *, seed: int = 0) -> None:
        drawn = [draw_toy(np.random.default_rng((seed, number))) for number in range(count + 6)]
        self.labels, self.pictures = (np.stack([each[part] for each in drawn]) for part in (0, 1))
        self.count = count

    def draw(self, count: int, *, shrink: int, rng: np.random.Generator) -> Batch:
        return self._batch(rng.integers(self.count, size=count), shrink)

    def samples(self, count: int, *, shrink: int) -> Batch:
        return self._batch(np.arange(self.count, self.count + 6)[:count], shrink)

    def every(self, *, shrink: int, batch_size: int) -> Iterator[Batch]:
        for start in range(0, self.count, batch_size):
            yield self._batch(np.arange(start, min(start + batch_size, self.count)), shrink)

    def _batch(self, picks: np.ndarray, shrink: int) -> Batch:
        assert shrink == 1
        labels = torch.from_numpy(self.labels[picks].astype(np.int64))
        image = torch.from_numpy(self.pictures[picks]).movedim(-1, 1).float() / 127.5 - 1
        return Batch(labels, components(labels), image)


def nearest_class(picture: np.ndarray) -> np.ndarray:
    """(S, S): the class one of whose colours is nearest. picture: (S, S, 3), 0 to 255."""
    distances = [
        np.linalg.norm(picture[:, :, None] - colours, axis=3).min(axis=2) for _, colours in sorted(COLOURS.items())
    ]
    found: np.ndarray = np.argmin(distances, axis=0)
    return found
