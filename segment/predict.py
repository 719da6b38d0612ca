"""Probability maps at native size: tiles that overlap, blended so that no seam shows.

Each tile counts with a weight that falls off linearly over the overlap; the weighted mean of the probabilities is
the map. A constant network therefore gives a constant map, and an image that fits one tile is predicted in one go.
"""

import numpy as np
import torch
from torch import nn

from segment.data import to_tensor
from segment.models import STRIDE


def predict(model: nn.Module, image: np.ndarray, *, tile: int = 256, overlap: int = 32, batch: int = 4) -> np.ndarray:
    """(H, W) float32, the probability of a defect.

    model: (B, 3, h, w) float in [-1, 1] → (B, 1, h, w) logits; put into evaluation mode.
    image: (H, W, 1 or 3) uint8, or uint16 from `full_range`, any size; mirrored at its borders up to multiples of 32.
    tile: side of the tiles, px, a multiple of 32. overlap: pixels neighbours share at least, below `tile`.
    batch: tiles per call of the network.

    Raises ValueError for a tile size or overlap that does not fit.
    """
    if tile <= 0 or tile % STRIDE or not 0 <= overlap < tile:
        raise ValueError(
            f"tile is {tile}, overlap is {overlap}; wanted a positive multiple of {STRIDE} and 0 ≤ overlap < tile"
        )
    height, width = image.shape[:2]
    padding = [(0, -height % STRIDE), (0, -width % STRIDE), (0, 0)]
    padded = np.pad(image, padding, mode="reflect")
    tile_height, tile_width = (min(tile, size) for size in padded.shape[:2])
    corners = [
        (top, left)
        for top in tile_starts(padded.shape[0], tile_height, overlap)
        for left in tile_starts(padded.shape[1], tile_width, overlap)
    ]
    if len(corners) == 1:
        return np.ascontiguousarray(_probabilities(model, [padded])[0, :height, :width])
    weight = np.outer(_ramp(tile_height, overlap), _ramp(tile_width, overlap))
    total = np.zeros(padded.shape[:2], np.float32)
    weights = np.zeros(padded.shape[:2], np.float32)
    for first in range(0, len(corners), batch):
        group = corners[first : first + batch]
        tiles = [padded[top : top + tile_height, left : left + tile_width] for top, left in group]
        for (top, left), probability in zip(group, _probabilities(model, tiles), strict=True):
            total[top : top + tile_height, left : left + tile_width] += weight * probability
            weights[top : top + tile_height, left : left + tile_width] += weight
    # a weighted mean may round beyond 1
    return np.minimum(total / weights, 1)[:height, :width]


def tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    """Evenly spread starts of the fewest tiles that cover [0, size) with at least `overlap` shared pixels."""
    if size <= tile:
        return [0]
    steps = -(-(size - tile) // (tile - overlap))
    return [round(step * (size - tile) / steps) for step in range(steps + 1)]


def _ramp(tile: int, overlap: int) -> np.ndarray:
    """(tile,) float32: rises to 1 from either end over `overlap` pixels, never zero."""
    distance = np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 1
    return (np.minimum(distance, overlap + 1) / (overlap + 1)).astype(np.float32)


@torch.inference_mode()
def _probabilities(model: nn.Module, tiles: list[np.ndarray]) -> np.ndarray:
    """(B, h, w) float32 from B tiles (h, w, C)."""
    device = next(model.parameters()).device
    inputs = torch.stack([to_tensor(tile) for tile in tiles]).to(device)
    return model.eval()(inputs)[:, 0].sigmoid().float().cpu().numpy()
