"""Training crops: a fixed mixture of defect crops, balanced over defect types, and normal crops in every batch.

Crop n of a run depends on the run's seed and n alone, so that workers, batching and resuming change nothing.
S is the crop size; images are (H, W, C) uint8 or uint16 until `to_tensor` makes them float, once.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from fastsynth.augment import A, augment_sample
from fastsynth.halo import shrink
from fastsynth.images import read_image, read_mask
from fastsynth.layouts.crop import ValueRange
from fastsynth.types import COMBINED


@dataclass(frozen=True)
class TrainingItem:
    """One image to learn from or to validate on.

    mask_path: None for a normal image. defect: its type, None for a normal image.
    synthetic: rendered, as opposed to photographed. halo: pixels by which its mask is wider than an annotator's.
    group: what the verdict resamples together, e.g. a patient.
    source_path: of a synthetic image, the normal photograph it was drawn on, pixel for pixel.
    """

    image_path: Path
    mask_path: Path | None
    defect: str | None
    synthetic: bool = False
    halo: int = 0
    group: str | None = None
    source_path: Path | None = None

    def __post_init__(self) -> None:
        if (self.mask_path is None) != (self.defect is None):
            raise ValueError(
                f"{self.image_path}: mask is {self.mask_path}, defect is {self.defect}; "
                "a defect image needs both, a normal image neither"
            )


@dataclass(frozen=True, eq=False)
class DecodedItem:
    """image: (H, W, C). foreground: (H, W) bool. boxes: (n, 4) int, [x0, y0, x1, y1] of its 8-connected regions."""

    image: np.ndarray
    foreground: np.ndarray
    boxes: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.foreground.nbytes + self.boxes.nbytes


def decode_item(item: TrainingItem) -> DecodedItem:
    """Read image and mask. Raises ValueError when their sizes differ or a defect image has an empty mask."""
    image = full_range(read_image(item.image_path))
    if item.mask_path is None:
        return DecodedItem(image, np.zeros(image.shape[:2], bool), np.zeros((0, 4), int))
    foreground = shrink(read_mask(item.mask_path), item.halo)
    if foreground.shape != image.shape[:2]:
        raise ValueError(
            f"{item.mask_path} is {foreground.shape}, its image {image.shape[:2]}; a mask has its image's size"
        )
    if not foreground.any():
        raise ValueError(f"{item.mask_path} is empty; list {item.image_path} as a normal image or leave it out")
    stats = cv2.connectedComponentsWithStats(foreground.astype(np.uint8), connectivity=8)[2][1:]
    x0, y0, width, height = stats[:, :4].T.astype(int)
    return DecodedItem(image, foreground, np.stack([x0, y0, x0 + width, y0 + height], axis=1))


def full_range(image: np.ndarray) -> np.ndarray:
    """A picture (H, W, C) as segmenters see it: of 16 bit, its own range is spread over all 65,536 values.

    Few fill them (`ValueRange`): of 12 bit all would be black, and brightened by a fifth of 65,536, all white.
    """
    if image.dtype == np.uint8:
        return image
    return ValueRange(0, 65535).from_float(ValueRange.of(image).to_float(image), image.dtype)


class ItemCache:
    """Decoded items up to a byte budget; the least recently used leave first."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self._decoded: OrderedDict[TrainingItem, DecodedItem] = OrderedDict()

    def load(self, item: TrainingItem) -> DecodedItem:
        if item in self._decoded:
            self._decoded.move_to_end(item)
            return self._decoded[item]
        decoded = decode_item(item)
        self._decoded[item] = decoded
        self.used += decoded.nbytes
        while self.used > self.budget:
            self.used -= self._decoded.popitem(last=False)[1].nbytes
        return decoded


class CropDataset(Dataset):
    """Crop n of an endless sequence: `{"image": (3, S, S) float32 in [-1, 1], "foreground": (1, S, S) float32}`.

    Batch b holds the crops b·batch_size … (b + 1)·batch_size - 1: first `normal_share` of them from normal images
    (at least one), then defect crops whose types take turns. A defect crop is cut around a random pixel of a random
    region of a random image of its type, or, `random_share` of them, anywhere in that image. A normal crop lies
    anywhere, or, with the probability `hard_negative_share`, around one of `hard_negatives`, if there are any. While
    synthetic samples are drawn, `source_share` of the others lie on a pixel of a sample's defect, in its source.

    photographed: the items that are not synthetic, at ratio 1 the normal ones alone.
    hard_negatives: (n, 3) int64, the place of an image in `photographed`, x and y, as `segment.mining` finds them; none
        at first. What they are when the workers of a loader start is what those see.

    synthetic_ratio: probability that a defect crop comes from a synthetic item; a type that has only one kind of item
        takes what it has, but ratios 0 and 1 never touch the other kind.
    synthetic_batches: batches from this one on count as `synthetic_ratio` 0 for types that have real items.
    zoom: range of the magnification, drawn evenly on a log scale.

    Raises ValueError when the items leave a part of the mixture empty.
    """

    def __init__(
        self,
        items: Sequence[TrainingItem],
        *,
        augmentation: A.Compose,
        crop_size: int,
        batch_size: int,
        normal_share: float,
        synthetic_ratio: float,
        synthetic_batches: int,
        random_share: float,
        hard_negative_share: float,
        source_share: float,
        zoom: tuple[float, float],
        cache_bytes: int,
        seed: int,
    ) -> None:
        self.normal = [item for item in items if item.defect is None]
        with_real = synthetic_ratio < 1
        self.photographed = [item for item in items if not item.synthetic and (with_real or item.defect is None)]
        self.pools = _pools(items, synthetic_ratio)
        self.sourced = _sourced(self.pools, self.normal)
        self.defects = sorted(self.pools)
        self.normals_per_batch = max(1, round(batch_size * normal_share)) if normal_share else 0
        self.defects_per_batch = batch_size - self.normals_per_batch
        if self.normals_per_batch and not self.normal:
            raise ValueError(f"normal_share is {normal_share}, but there is no normal image; add some or set it to 0")
        if self.defects_per_batch < 1:
            raise ValueError(f"normal_share {normal_share} leaves no defect in a batch of {batch_size}; lower it")
        self.augmentation = augmentation
        self.crop_size = crop_size
        self.batch_size = batch_size
        self.synthetic_ratio, self.synthetic_batches = synthetic_ratio, synthetic_batches
        self.random_share = random_share
        self.hard_negative_share = hard_negative_share
        self.source_share = source_share
        self.hard_negatives = torch.zeros(0, 3, dtype=torch.int64)
        self.zoom = zoom
        self.cache = ItemCache(cache_bytes)
        self.seed = seed

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, number))
        item, point = self.draw(number, rng)
        decoded = self.cache.load(item)
        side = max(1, round(self.crop_size / float(np.exp(rng.uniform(*np.log(self.zoom))))))
        left, top = self._corner(decoded, point, side, rng)
        image = cut(decoded.image, left, top, side)
        foreground = cut(decoded.foreground.view(np.uint8), left, top, side)
        image, inside = augment_sample(
            self.augmentation,
            _resize(image, self.crop_size),
            resize_foreground(foreground, self.crop_size),
            seed=int(rng.integers(2**32)),
        )
        if inside.shape != (self.crop_size, self.crop_size):
            raise ValueError(
                f"the augmentation turns a crop of {self.crop_size}² into {inside.shape}; "
                "remove what resizes or crops, crop_size and zoom do that"
            )
        return {"image": to_tensor(image), "foreground": torch.from_numpy(inside[None].astype(np.float32))}

    def draw(self, number: int, rng: np.random.Generator) -> tuple[TrainingItem, tuple[int, int] | None]:
        """What crop `number` is cut from, and the x, y that it has to show if it is a hard negative."""
        batch, index = divmod(number, self.batch_size)
        if index < self.normals_per_batch:
            if len(self.hard_negatives) and rng.random() < self.hard_negative_share:
                place, x, y = self.hard_negatives[rng.integers(len(self.hard_negatives))].tolist()
                return self.photographed[place], (x, y)
            if self.sourced and batch < self.synthetic_batches and rng.random() < self.source_share:
                of_type = self.sourced[rng.integers(len(self.sourced))]
                sample, source = of_type[rng.integers(len(of_type))]
                return source, _point_inside(self.cache.load(sample), rng)
            return self.normal[rng.integers(len(self.normal))], None
        turn = batch * self.defects_per_batch + index - self.normals_per_batch
        real, synthetic = self.pools[self.defects[turn % len(self.defects)]]
        ratio = self.synthetic_ratio if batch < self.synthetic_batches else 0
        pool = (synthetic or real) if rng.random() < ratio else (real or synthetic)
        return pool[rng.integers(len(pool))], None

    def _corner(
        self, decoded: DecodedItem, point: tuple[int, int] | None, side: int, rng: np.random.Generator
    ) -> tuple[int, int]:
        height, width = decoded.foreground.shape
        if point is None and len(decoded.boxes) and rng.random() >= self.random_share:
            point = _point_inside(decoded, rng)
        if point is not None:
            # the point lies anywhere in the middle three quarters of the crop
            left, top = (round(place - side * rng.uniform(0.125, 0.875)) for place in point)
        else:
            # the centre lies anywhere in the image: with the corner drawn inside, crops of normal images would hardly
            # ever show the border that defect crops slide to, and the border itself would pass for a defect
            left, top = (round(size * rng.random() - side / 2) for size in (width, height))
        return _slide_inside(left, side, width), _slide_inside(top, side, height)


def _point_inside(decoded: DecodedItem, rng: np.random.Generator) -> tuple[int, int]:
    """x, y of a random pixel of a random region."""
    x0, y0, x1, y1 = decoded.boxes[rng.integers(len(decoded.boxes))]
    rows, columns = np.nonzero(decoded.foreground[y0:y1, x0:x1])
    pick = rng.integers(len(rows))
    return int(x0 + columns[pick]), int(y0 + rows[pick])


def cut(image: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    """(side, side[, C]) from (H, W[, C]), mirrored where the image is smaller than the square.

    On each axis the square lies inside the image or covers it.
    """
    height, width = image.shape[:2]
    before_x, before_y = max(0, -left), max(0, -top)
    after_x, after_y = max(0, left + side - width), max(0, top + side - height)
    inside = image[max(0, top) : top + side, max(0, left) : left + side]
    padding = [(before_y, after_y), (before_x, after_x), (0, 0)][: image.ndim]
    return np.pad(inside, padding, mode="reflect")


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 1 or 3) uint8 or uint16 → (3, H, W) float32 in [-1, 1], grey repeated."""
    scaled = image.astype(np.float32) * np.float32(2 / np.iinfo(image.dtype).max) - 1
    planes = np.ascontiguousarray(scaled.transpose(2, 0, 1))
    return torch.from_numpy(planes).expand(3, -1, -1).contiguous()


def resize_foreground(foreground: np.ndarray, side: int) -> np.ndarray:
    """(s, s) uint8, 0 or 1, as (side, side) bool. Enlarged by nearest neighbour.

    Shrunk, a pixel is foreground that covers it at least half as much as the fullest of its 3×3 neighbourhood: half of
    the pixel for large regions, and thin lines stay whole, where nearest neighbour would break them into dashes.
    """
    if foreground.shape[0] <= side:
        return cv2.resize(foreground, (side, side), interpolation=cv2.INTER_NEAREST) > 0
    covered = cv2.resize(foreground.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    fullest = cv2.dilate(covered, np.ones((3, 3), np.uint8))
    return (covered > 0) & (covered >= fullest / 2)


def _pools(
    items: Sequence[TrainingItem], synthetic_ratio: float
) -> dict[str, tuple[list[TrainingItem], list[TrainingItem]]]:
    """Real and synthetic items per defect type, without what `synthetic_ratio` excludes."""
    pools: dict[str, tuple[list[TrainingItem], list[TrainingItem]]] = {}
    for item in items:
        excluded = synthetic_ratio == 0 if item.synthetic else synthetic_ratio == 1
        if item.defect is not None and not excluded:
            pools.setdefault(item.defect, ([], []))[item.synthetic].append(item)
    if COMBINED in pools and not pools[COMBINED][0] and len(pools) > 1:
        # drawn with several types in one image: no type of its own, or it would have a turn without real images
        _, drawn = pools.pop(COMBINED)
        for _, synthetic in pools.values():
            synthetic += drawn
    if not pools:
        raise ValueError(f"no defect image to train on at synthetic_ratio {synthetic_ratio}; add some")
    if synthetic_ratio > 0 and not any(synthetic for _, synthetic in pools.values()):
        raise ValueError(
            f"synthetic_ratio is {synthetic_ratio}, but no item is synthetic; generate some or set it to 0"
        )
    return pools


def _sourced(
    pools: dict[str, tuple[list[TrainingItem], list[TrainingItem]]], normal: Sequence[TrainingItem]
) -> list[list[tuple[TrainingItem, TrainingItem]]]:
    """Per defect type, synthetic items with the normal item that each was drawn on; types without any are left out."""
    at = {item.image_path: item for item in normal}
    found = [[(s, at[s.source_path]) for s in drawn if s.source_path in at] for _, drawn in pools.values()]
    return [of_type for of_type in found if of_type]


def _slide_inside(start: int, side: int, size: int) -> int:
    """Keep [start, start + side) inside [0, size), or centre it where it does not fit."""
    return -((side - size) // 2) if side > size else min(max(start, 0), size - side)


def _resize(image: np.ndarray, side: int) -> np.ndarray:
    shrinks = image.shape[0] > side
    resized = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(side, side, image.shape[2])
