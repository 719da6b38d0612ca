"""Hard negatives: what a segmenter in training still calls a defect on normal training images.

Most of a normal surface is learnt soon. The dark rim of a part is not: it is seldom in a random crop, and a small share
of the loss where it is. Crops are therefore also cut around false alarms, as Sung and Poggio (1998) did for faces.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from segment.data import TrainingItem, decode_item
from segment.predict import predict

MINED_AT = 0.25, 0.5, 0.75
"""When normal images are looked through, in shares of all iterations."""
IMAGES = 200
"""Images looked through each time, random ones where there are more."""
POINTS = 32
"""Pixels kept of one image at most, so that one large alarm does not outweigh all others."""


def mining_iterations(iterations: int) -> list[int]:
    return sorted({round(share * iterations) for share in MINED_AT})


def find_hard_negatives(
    model: nn.Module, normals: Sequence[TrainingItem], *, tile: int, overlap: int, seed: tuple[int, ...]
) -> torch.Tensor:
    """(n, 3) int64: the image's place in `normals`, x and y of random pixels whose probability is at least ½.

    model: put into evaluation mode. n is 0 where nothing is called a defect.
    """
    rng = np.random.default_rng(seed)
    found = [np.zeros((0, 3), np.int64)]
    for place in rng.permutation(len(normals))[:IMAGES]:
        probability = predict(model, decode_item(normals[place]).image, tile=tile, overlap=overlap)
        y, x = np.nonzero(probability >= 0.5)
        kept = rng.permutation(len(y))[:POINTS]
        found.append(np.stack([np.full(len(kept), place), x[kept], y[kept]], axis=1))
    return torch.from_numpy(np.concatenate(found).astype(np.int64))
