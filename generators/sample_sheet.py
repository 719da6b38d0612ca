"""Sheets of what a renderer draws while it is trained: layout, photo, renders."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from torch import Tensor

from fastsynth.sheets import contact_sheet, save_sheet
from generators.batches import Batch
from generators.loop import Task

TILE = 128
PALETTE = "tab20"


def draw_samples(folder: Path, batch: Batch, step: int, task: Task) -> None:
    """Write `<folder>/step-<step>.png`."""
    device = next(task.players[0].parameters()).device
    renders = task.samples(batch.to(device))
    save_sheet(folder / f"step-{step:06d}.png", sample_sheet(batch, {"render": renders}))


def sample_sheet(batch: Batch, renders: dict[str, Sequence[Tensor]]) -> np.ndarray:
    """One column per layout; rows: the layout, the photo, and all renders, labelled by their key. (H, W, 3) uint8."""
    rows = [[paint(labels.numpy()) for labels in batch.labels.cpu()], pixels(batch.image)]
    labels = ["layout", "photo"]
    for name, pictures in renders.items():
        rows += [pixels(picture) for picture in pictures]
        labels += [f"{name} {number + 1}" for number in range(len(pictures))]
    return contact_sheet(rows, row_labels=labels, tile=TILE)


def paint(labels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: a colour for each class id, repeating after 20."""
    colours = np.array(matplotlib.colormaps[PALETTE].colors)  # type: ignore[attr-defined]
    painted: np.ndarray = (colours[labels % len(colours)] * 255).astype(np.uint8)
    return painted


def pixels(image: Tensor) -> list[np.ndarray]:
    """(B, 3, H, W) in [-1, 1] to B pictures (H, W, 3) uint8."""
    scaled = ((image.clamp(-1, 1) + 1) * 127.5).round().byte()
    return list(scaled.movedim(1, -1).cpu().numpy())
