"""A data set to try everything on: two generated products in an MVTec tree, no download.

`brushed_metal` is grey, `woven_fabric` RGB, both 8 bit. Each defect picture is rendered twice from one surface, with
and without the damage: the mask is where the two visibly differ, and outside it the pictures are equal bit for bit.
"""

import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from fastsynth.data import demo_fabric, demo_metal
from fastsynth.data.demo_fields import Size
from fastsynth.files import atomic_write
from fastsynth.images import encode_png

Draw = Callable[[Size, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""Brightness (H, W, C) in [0, 1] without and with the damage."""

METAL_DEFECTS = {
    "scratch": demo_metal.scratch,
    "pit": demo_metal.pit,
    "stain": demo_metal.stain,
    "dent": demo_metal.dent,
}
FABRIC_DEFECTS = {
    "thread_pull": demo_fabric.thread_pull,
    "hole": demo_fabric.hole,
    "oil_spot": demo_fabric.oil_spot,
    "slub": demo_fabric.slub,
}
CATEGORIES = {"brushed_metal": tuple(METAL_DEFECTS), "woven_fabric": tuple(FABRIC_DEFECTS)}
"""Defect names of each category."""
VISIBLE = {"brushed_metal": 4.0, "woven_fabric": 10.0}
"""Grey levels of 255 by which a pixel must differ to count as damaged: more on the livelier surface."""
CLOSING = {"dent": 13, "oil_spot": 9, "stain": 7, "hole": 7}
"""Pixels across which a mask is closed; 3 where none is given. These defects are areas, not lines."""
SENSOR_NOISE = 1.2
"""Standard deviation in grey levels."""


def make_demo(
    root: Path, *, seed: int = 0, normals: int = 40, defects_per_type: int = 12, size: Size = (256, 256)
) -> None:
    """Write the tree: train/good, test/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png per category.

    normals: pictures in train/good; a quarter as many, at least two, are added in test/good.
    size: height and width in pixels, at least 64.

    Raises ValueError when a size is below 64 or a count below 1.
    """
    if min(size) < 64 or min(normals, defects_per_type) < 1:
        raise ValueError(
            f"demo of {size[0]}×{size[1]} pixels, {normals} normals and {defects_per_type} defects per type; "
            "wanted at least 64×64, 1 and 1"
        )
    for category, defects in CATEGORIES.items():
        folder = root / category
        for part, count in (("train", normals), ("test", max(2, normals // 4))):
            for index in range(count):
                image = draw_normal(category, size=size, rng=_rng(seed, category, part, index))
                atomic_write(folder / part / "good" / f"{index:03d}.png", encode_png(image))
        for defect in defects:
            for index in range(defects_per_type):
                _, image, foreground = draw_pair(category, defect, size=size, rng=_rng(seed, category, defect, index))
                mask = foreground.astype(np.uint8) * 255
                atomic_write(folder / "test" / defect / f"{index:03d}.png", encode_png(image))
                atomic_write(folder / "ground_truth" / defect / f"{index:03d}_mask.png", encode_png(mask))


def draw_normal(category: str, *, size: Size, rng: np.random.Generator) -> np.ndarray:
    """One clean picture of the category: (H, W, 1 or 3) uint8."""
    if category == "brushed_metal":
        clean = demo_metal.brushed_metal(size, rng).brightness[..., None]
    else:
        clean = demo_fabric.render_fabric(demo_fabric.woven_fabric(size, rng))
    return _photograph(clean, _noise(clean.shape, rng))


def draw_pair(
    category: str, defect: str, *, size: Size, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One surface without and with the defect, (H, W, 1 or 3) uint8 each, and the foreground, (H, W) bool."""
    foreground = np.zeros(size, bool)
    while not foreground.any():  # a faint defect may stay invisible: draw another
        if category == "brushed_metal":
            metal = demo_metal.brushed_metal(size, rng)
            clean = metal.brightness[..., None]
            damaged = METAL_DEFECTS[defect](metal, rng)[..., None]
        else:
            fabric = demo_fabric.woven_fabric(size, rng)
            clean = demo_fabric.render_fabric(fabric)
            damaged = demo_fabric.render_fabric(FABRIC_DEFECTS[defect](fabric, rng))
        difference = 255 * np.abs(damaged - clean).max(axis=2)
        foreground = _area(difference > VISIBLE[category], closing=CLOSING.get(defect, 3))
    noise = _noise(clean.shape, rng)
    image = np.where(foreground[..., None], damaged, clean)
    return _photograph(clean, noise), _photograph(image, noise), foreground


def _area(visible: np.ndarray, *, closing: int) -> np.ndarray:
    """Visible pixels, (H, W) bool, without single specks, closed and with their holes filled."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(visible.astype(np.uint8), connectivity=8)
    kept = np.isin(labels, [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= 6]).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (closing, closing))
    closed = cv2.morphologyEx(kept, cv2.MORPH_CLOSE, kernel)
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(closed, contours, -1, color=1, thickness=cv2.FILLED)
    return filled.astype(bool)


def _noise(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return SENSOR_NOISE * rng.standard_normal(shape, np.float32)


def _photograph(brightness: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(255 * brightness + noise), 0, 255).astype(np.uint8)


def _rng(seed: int, category: str, group: str, index: int) -> np.random.Generator:
    """Every picture has its own stream: more normals do not change the defects."""
    return np.random.default_rng([seed, zlib.crc32(f"{category}/{group}".encode()), index])
