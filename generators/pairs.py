"""Photos and their layouts from folders, for renderers of whole pictures.

Two ways to keep them: a folder of photos and one of layouts with the same stems; or one folder of pictures that show
the photo left and its layout right. A layout holds a grey value or a colour per class; colours are taken to the
nearest one of the palette, since JPEG does not keep them.

H W size of a loaded picture, S side of a training crop.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from fastsynth.files import sha256_bytes, sha256_file
from fastsynth.images import IMAGE_SUFFIXES, list_images, read_image, read_indices, to_uint8
from generators.batches import Batch, components_of

MAX_NAMED = 20
"""Pictures without partner that an error names of each folder; the others are counted."""
CACHED_PIXELS = 100_000_000
"""Loaded pixels kept in memory, of 13 bytes each."""


Value = tuple[int, int, int] | int
"""How a layout shows a class: its colour, or its grey value."""


@dataclass(frozen=True)
class PairFiles:
    """layout: None where the photo's file holds both. instances: None to count connected regions."""

    photo: Path
    layout: Path | None
    instances: Path | None


class Pair(NamedTuple):
    """image: (H, W, 3) uint8. labels: (H, W) int16. instances: (H, W) int64."""

    image: np.ndarray
    labels: np.ndarray
    instances: np.ndarray


def find_pairs(photos: Path, layouts: Path | None, instances: Path | None) -> list[PairFiles]:
    """All pairs, by stem.

    Raises FileNotFoundError for a missing folder; ValueError for pictures without a partner, two of one stem, or none.
    """
    by_stem = _pictures(photos)
    partners = [None if folder is None else _pictures(folder) for folder in (layouts, instances)]
    for folder, found in zip((layouts, instances), partners, strict=True):
        if found is not None and found.keys() != by_stem.keys():
            sides = ((photos, by_stem.keys() - found.keys()), (folder, found.keys() - by_stem.keys()))
            named = [f"{len(alone)} of {side}: {_some(sorted(alone))}" for side, alone in sides if alone]
            raise ValueError(f"pictures without a partner of the same stem; {'; '.join(named)}; add or remove them")
    if not by_stem:
        raise ValueError(f"{photos} holds no pictures; wanted {', '.join(sorted(IMAGE_SUFFIXES))}")
    files = [[None if found is None else found[stem] for found in partners] for stem in by_stem]
    return [PairFiles(photo, *rest) for photo, rest in zip(by_stem.values(), files, strict=True)]


def _pictures(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; check data.photos, data.layouts and data.instances")
    found: dict[str, Path] = {}
    for path in list_images(folder):
        if path.stem in found:
            raise ValueError(f"{found[path.stem]} and {path.name} have one stem, pairs go by stem; remove one of them")
        found[path.stem] = path
    return found


def _some(names: list[str]) -> str:
    """The first ones, and how many more there are."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


class Palette:
    """Layout pixels to class ids. classes: name → colour or grey value, all of one kind.

    ignore: of pixels without a class, of the same kind; it becomes the id `ignore_id`. Raises ValueError for a mixture,
    or for two that are equal.
    """

    ignore_id = 255

    def __init__(self, classes: Mapping[str, Value], *, ignore: Value | None) -> None:
        self.names = tuple(classes)
        if len(classes) >= self.ignore_id:
            raise ValueError(f"data.classes has {len(classes)} classes; at most {self.ignore_id - 1} are possible")
        values = list(classes.values()) + ([] if ignore is None else [ignore])
        ids = [*range(len(classes)), self.ignore_id][: len(values)]
        self.greys = {value: number for value, number in zip(values, ids, strict=True) if isinstance(value, int)}
        self.colours = {value: number for value, number in zip(values, ids, strict=True) if not isinstance(value, int)}
        if self.greys and self.colours:
            raise ValueError("data.classes and data.ignore hold colours and grey values; use one kind")
        if len({*values}) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            owners = [name for name, value in classes.items() if value == twice] + ["data.ignore"]
            raise ValueError(f"data.classes: {owners[0]} and {owners[1]} have the same value {twice}; change one")

    def labels(self, layout: np.ndarray, *, source: Path) -> np.ndarray:
        """(H, W) int16. layout: (H, W, 1 or 3) as read.

        Raises ValueError for a grey value that is not listed, or colours where classes are grey values.
        """
        if self.colours:
            return self._nearest(to_uint8(layout))
        if (layout != layout[..., :1]).any():
            raise ValueError(
                f"{source} is coloured, and data.classes holds grey values; write colours [r, g, b] there, "
                "or save the layout in grey"
            )
        grey = layout[..., 0].astype(np.int64)
        values, index = np.unique(grey, return_inverse=True)
        unknown = [int(value) for value in values if int(value) not in self.greys]
        if unknown:
            raise ValueError(
                f"{source}: grey values {', '.join(map(str, unknown[:5]))} belong to no class; "
                "add them to data.classes, or name the one to ignore in data.ignore"
            )
        labels: np.ndarray = np.array([self.greys[int(value)] for value in values], np.int16)[index]
        return labels.reshape(grey.shape)

    def _nearest(self, layout: np.ndarray) -> np.ndarray:
        """The class of the nearest colour, by squared distance in RGB."""
        best = np.full(layout.shape[:2], np.inf, np.float32)
        labels = np.zeros(layout.shape[:2], np.int16)
        for colour, number in self.colours.items():
            distance = ((layout.astype(np.float32) - colour) ** 2).sum(2)
            closer = distance < best
            best[closer], labels[closer] = distance[closer], number
        return labels

    def read(self, path: Path) -> np.ndarray:
        """The labels of a layout's file, (H, W) int16. Raises FileNotFoundError, or ValueError as `labels` does.

        Where classes are grey values, the pixels of a picture with a colour table are its indices.
        """
        indices = read_indices(path) if self.greys else None
        return self.labels(read_image(path) if indices is None else indices, source=path)


def instance_ids(picture: np.ndarray) -> np.ndarray:
    """(H, W) int32: a grey value of 8 or 16 bits, as in Cityscapes, or R + 256 G + 65536 B, as in COCO panoptic.

    picture: (H, W, 1 or 3) as read.
    """
    weights = (1, 256, 65536)[: picture.shape[2]]
    ids: np.ndarray = (picture.astype(np.int32) * np.array(weights, np.int32)).sum(axis=2, dtype=np.int32)
    return ids


def read_instances(path: Path, *, size: tuple[int, ...]) -> np.ndarray:
    """`instance_ids` of a file. size: (H, W) of its layout. Raises ValueError for another size."""
    ids = instance_ids(read_image(path))
    if ids.shape != size:
        raise ValueError(f"{path} is {ids.shape}, its layout is {size}; save it at that size, with nearest neighbours")
    return ids


def scale_layout(labels: np.ndarray, instances: np.ndarray | None, *, shorter: int) -> tuple[np.ndarray, np.ndarray]:
    """Both maps so that their shorter side has `shorter` pixels; instances of None are counted. (H, W) int16, int64."""
    scale = shorter / min(labels.shape)
    height, width = (max(shorter, round(side * scale)) for side in labels.shape)

    def nearest(ids: np.ndarray) -> np.ndarray:
        return cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)

    labels = nearest(labels)
    return labels, components_of(labels) if instances is None else nearest(instances).astype(np.int64)


class PairSource:
    """Random crops of photos with their layouts.

    Args:
        files: what `find_pairs` gave. held_out: the last so many, after mixing by `seed`, are shown and not trained on.
        load_size: length of a loaded picture's shorter side. crop_size: S. flip: mirror half of the crops.

    Raises ValueError when nothing is left to train on.
    """

    def __init__(
        self,
        files: list[PairFiles],
        palette: Palette,
        *,
        load_size: int,
        crop_size: int,
        flip: bool,
        held_out: int,
        seed: int,
    ) -> None:
        order = np.random.default_rng(seed).permutation(len(files))
        if len(files) <= held_out:
            raise ValueError(f"{len(files)} pairs, of which {held_out} are held out; lower data.held_out")
        self.training = [files[i] for i in sorted(order[: len(files) - held_out])]
        self.shown = [files[i] for i in sorted(order[len(files) - held_out :])] or self.training
        self.palette, self.load_size, self.crop_size, self.flip = palette, load_size, crop_size, flip
        self.class_names = palette.names
        self._load = lru_cache(maxsize=max(8, CACHED_PIXELS // load_size**2))(self._read)

    def sha256(self) -> str:
        """Hash of the names and contents of all files, those held out too: which ones these are depends on all."""
        lines = [
            f"{path.name} {sha256_file(path)}"
            for files in sorted({*self.training, *self.shown}, key=lambda files: files.photo.name)
            for path in (files.photo, files.layout, files.instances)
            if path is not None
        ]
        return sha256_bytes("\n".join(lines).encode())

    def pair(self, stem: str) -> Pair:
        """One photo with its layout, whole. Raises ValueError when there is none of this stem."""
        for files in (*self.training, *self.shown):
            if files.photo.stem == stem:
                return self._load(files)
        stems = sorted(files.photo.stem for files in (*self.training, *self.shown))
        raise ValueError(f"no photo {stem!r} among {len(stems)}; wanted a name without its ending, as {stems[0]}")

    def draw(self, count: int, *, shrink: int, rng: np.random.Generator) -> Batch:
        picks = [self._load(self.training[rng.integers(len(self.training))]) for _ in range(count)]
        return self._batch([self._random_crop(pair, rng) for pair in picks], shrink)

    def samples(self, count: int, *, shrink: int) -> Batch:
        """The middles of held-out pictures, evenly spread over them."""
        picks = np.linspace(0, len(self.shown) - 1, min(count, len(self.shown))).round().astype(int)
        return self._batch([self._middle(self._load(self.shown[pick])) for pick in picks], shrink)

    def every(self, *, shrink: int, batch_size: int) -> Iterator[Batch]:
        """Crops that show all of every training picture; they overlap where its sides are no multiples of S."""
        return self._batches(itertools.chain.from_iterable(map(self._tiles, self._training())), shrink, batch_size)

    def middles(self, *, shrink: int, batch_size: int) -> Iterator[Batch]:
        """The middle of every training picture, as `samples` shows those held out."""
        return self._batches(map(self._middle, self._training()), shrink, batch_size)

    def _training(self) -> Iterator[Pair]:
        return map(self._load, self.training)

    def _batches(self, crops: Iterator[Pair], shrink: int, batch_size: int) -> Iterator[Batch]:
        while some := list(itertools.islice(crops, batch_size)):
            yield self._batch(some, shrink)

    def _read(self, files: PairFiles) -> Pair:
        picture = read_image(files.photo)
        if files.layout is None:
            middle = picture.shape[1] // 2
            picture, layout = picture[:, :middle], picture[:, middle : 2 * middle]
            labels = self.palette.labels(layout, source=files.photo)
        else:
            labels = self.palette.read(files.layout)
        if labels.shape != picture.shape[:2]:
            raise ValueError(
                f"{files.layout} is {labels.shape}, its photo is {picture.shape[:2]}; "
                "save the layout at the photo's size, with nearest neighbours"
            )
        ids = None if files.instances is None else read_instances(files.instances, size=labels.shape)
        labels, numbers = scale_layout(labels, ids, shorter=self.load_size)
        height, width = labels.shape
        method = cv2.INTER_AREA if height < picture.shape[0] else cv2.INTER_CUBIC
        return Pair(cv2.resize(to_uint8(picture), (width, height), interpolation=method), labels, numbers)

    def _random_crop(self, pair: Pair, rng: np.random.Generator) -> Pair:
        top, left = (int(rng.integers(side - self.crop_size + 1)) for side in pair.labels.shape)
        crop = self._cut(pair, top, left)
        return Pair(*(part[:, ::-1] for part in crop)) if self.flip and rng.random() < 0.5 else crop

    def _middle(self, pair: Pair) -> Pair:
        top, left = ((side - self.crop_size) // 2 for side in pair.labels.shape)
        return self._cut(pair, top, left)

    def _tiles(self, pair: Pair) -> Iterator[Pair]:
        """The fewest crops that cover the picture, evenly spread."""
        tops, lefts = (
            np.linspace(0, side - self.crop_size, math.ceil(side / self.crop_size)).round().astype(int)
            for side in pair.labels.shape
        )
        return (self._cut(pair, top, left) for top in tops for left in lefts)

    def _cut(self, pair: Pair, top: int, left: int) -> Pair:
        return Pair(*(part[top : top + self.crop_size, left : left + self.crop_size] for part in pair))

    def _batch(self, crops: list[Pair], shrink: int) -> Batch:
        side = self.crop_size // shrink
        images = np.stack(
            [cv2.resize(np.ascontiguousarray(c.image), (side, side), interpolation=cv2.INTER_AREA) for c in crops]
        )
        image = torch.from_numpy(images).movedim(-1, 1).float() / 127.5 - 1
        at = np.s_[shrink // 2 :: shrink, shrink // 2 :: shrink]
        labels, instances = (
            torch.from_numpy(np.stack([np.asarray(ids[at], np.int64) for ids in column]))
            for column in zip(*[(c.labels, c.instances) for c in crops], strict=True)
        )
        return Batch(labels, instances, image)
