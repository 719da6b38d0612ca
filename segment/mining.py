"""Hard negatives: what a segmenter in training still calls a defect where its training photographs show none.

Most of a normal surface is learnt soon. The dark rim of a part is not: it is seldom in a random crop, and a small share
of the loss where it is. Crops are therefore also cut around false alarms, as Sung and Poggio (1998) did for faces, on
normal images and beside annotated defects: what is photographed with a defect may be framed otherwise than what is not.
"""

import cv2
import numpy as np
import torch
from torch import nn

from segment.data import CropDataset
from segment.predict import predict

MINED_AT = 0.25, 0.5, 0.75
"""When images are looked through, in shares of all iterations."""
PIXELS = 15_000_000
"""Looked through each time, of random images: what a core predicts in half a minute, however large they are."""
WINDOW = 2
"""Of one image at most a random square of so many tiles a side, so that a few large images do not use it all up."""
MARGIN = 8
"""Pixels around an annotated defect that count as its own: where its border runs is no false alarm."""
POINTS = 32
"""Pixels kept of one image at most, so that one large alarm does not outweigh all others."""


def mining_iterations(iterations: int) -> list[int]:
    return sorted({round(share * iterations) for share in MINED_AT})


def _grown(foreground: np.ndarray) -> np.ndarray:
    """With `MARGIN` pixels around it: (H, W) bool."""
    return cv2.dilate(foreground.astype(np.uint8), np.ones((2 * MARGIN + 1,) * 2, np.uint8)) > 0


def find_hard_negatives(
    model: nn.Module, crops: CropDataset, *, tile: int, overlap: int, seed: tuple[int, ...]
) -> torch.Tensor:
    """(n, 3) int64: the image's place in `crops.photographed`, x and y of random pixels with probability ½ or more.

    None is of an annotated defect or within `MARGIN` of it. model: put into evaluation mode. n is 0 where nothing is
    called a defect.
    """
    rng = np.random.default_rng(seed)
    found, left = [np.zeros((0, 3), np.int64)], PIXELS
    for place in rng.permutation(len(crops.photographed)):
        decoded = crops.cache.load(crops.photographed[place])
        y0, x0 = (int(rng.integers(max(size - WINDOW * tile, 0) + 1)) for size in decoded.foreground.shape)
        window = np.s_[y0 : y0 + WINDOW * tile, x0 : x0 + WINDOW * tile]
        sound = ~_grown(decoded.foreground)[window]
        y, x = np.nonzero(sound & (predict(model, decoded.image[window], tile=tile, overlap=overlap) >= 0.5))
        kept = rng.permutation(len(y))[:POINTS]
        found.append(np.stack([np.full(len(kept), place), x0 + x[kept], y0 + y[kept]], axis=1))
        left -= sound.size
        if left <= 0:
            break
    return torch.from_numpy(np.concatenate(found).astype(np.int64))
