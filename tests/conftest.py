"""Trees of a few tiny images, as users bring them."""

from pathlib import Path

import numpy as np
import pytest

from fastsynth.images import encode_png


def _texture(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(60, 160, (40, 48, 3), np.uint8)


def _scratch(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The image with a bright bar on it, and the bar's mask."""
    mask = np.zeros(image.shape[:2], np.uint8)
    top, left = rng.integers(4, 24, 2)
    mask[top : top + 6, left : left + 12] = 255
    return np.where(mask[..., None] > 0, 250, image).astype(np.uint8), mask


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(pixels))


@pytest.fixture
def tiny_tree(tmp_path: Path) -> Path:
    """An MVTec category `tile`: 10 normal images to train, 4 to test, 6 cracks and 6 blobs with masks; 48×40 RGB."""
    root, rng = tmp_path / "tile", np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 4)):
        for i in range(count):
            _save(root / part / "good" / f"{part}{i:02d}.png", _texture(rng))
    for defect in ("blob", "crack"):
        for i in range(6):
            image, mask = _scratch(_texture(rng), rng)
            _save(root / "test" / defect / f"{defect}{i:02d}.png", image)
            _save(root / "ground_truth" / defect / f"{defect}{i:02d}_mask.png", mask)
    return root


@pytest.fixture
def plain_folders(tiny_tree: Path, tmp_path: Path) -> Path:
    """The same defects and the 10 normal images as plain folders; masks have the very names of their images."""
    root = tmp_path / "plain parts"
    (tiny_tree / "train" / "good").rename(_parent(root / "normal"))
    for defect in ("blob", "crack"):
        (tiny_tree / "test" / defect).rename(_parent(root / "defects" / defect))
        (tiny_tree / "ground_truth" / defect).rename(_parent(root / "masks" / defect))
        for mask in sorted((root / "masks" / defect).iterdir()):
            mask.rename(mask.with_name(mask.name.replace("_mask", "")))
    return root


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
