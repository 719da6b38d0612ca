"""Hard negatives: what a segmenter in training still calls a defect on normal training images.

Most of a normal surface is learnt soon. The dark rim of a part is not: it is seldom in a random crop, and a small share
of the loss where it is. Crops are therefore also cut around false alarms, as Sung and Poggio (1998) did for faces.
"""

import numpy as np
import torch
from torch import nn

from segment.data import CropDataset
from segment.predict import predict

MINED_AT = 0.25, 0.5, 0.75
"""When normal images are looked through, in shares of all iterations."""
PIXELS = 25_000_000
"""Looked through each time, of random images: what a core predicts in some half a minute, however large they are."""
WINDOW = 2
"""Of one image at most a random square of so many tiles a side, so that a few large images do not use it all up."""
POINTS = 32
"""Pixels kept of one image at most, so that one large alarm does not outweigh all others."""


def mining_iterations(iterations: int) -> list[int]:
    return sorted({round(share * iterations) for share in MINED_AT})


def find_hard_negatives(
    model: nn.Module, crops: CropDataset, *, tile: int, overlap: int, seed: tuple[int, ...]
) -> torch.Tensor:
    """(n, 3) int64: the image's place in `crops.normal`, x and y of random pixels whose probability is at least ½.

    model: put into evaluation mode. n is 0 where nothing is called a defect.
    """
    rng = np.random.default_rng(seed)
    found, left = [np.zeros((0, 3), np.int64)], PIXELS
    for place in rng.permutation(len(crops.normal)):
        image = crops.cache.load(crops.normal[place]).image
        y0, x0 = (int(rng.integers(max(size - WINDOW * tile, 0) + 1)) for size in image.shape[:2])
        window = image[y0 : y0 + WINDOW * tile, x0 : x0 + WINDOW * tile]
        y, x = np.nonzero(predict(model, window, tile=tile, overlap=overlap) >= 0.5)
        kept = rng.permutation(len(y))[:POINTS]
        found.append(np.stack([np.full(len(kept), place), x0 + x[kept], y0 + y[kept]], axis=1))
        left -= window.shape[0] * window.shape[1]
        if left <= 0:
            break
    return torch.from_numpy(np.concatenate(found).astype(np.int64))
