"""Which images show the same piece: one cluster per piece, so that no piece is both learnt from and judged on.

A user's groups.json says so, or the bytes are the same, or two pictures are near-duplicates: the same piece under
another exposure, a shifted crop, a re-encoded copy. Near-duplicates also join what groups.json keeps apart: such a
list misses pairs, and a cluster too large costs a little balance where one too small costs the truth of the test.

Near-duplicates are found in two stages. A 64-bit perceptual hash, from a discrete cosine transform of the detail
thumbnail, proposes pairs; the correlation of the two thumbnails, at the best shift of a few pixels, confirms them.
What all pictures of a category share must not count, or every picture of an aligned object would be a copy of every
other one:

- a thumbnail keeps detail only: high-pass, equal local contrast, no row or column means (grinding stripes, frames);
- a hash bit says on which side of the category's median a coefficient lies;
- a pair must stand out from how alike any two pictures of the category are (median and MAD of Fisher's z).

`Looks` keeps the thumbnails of the test images, so that a changed copy of one is known later on.

N pictures of one category. No torch.
"""

import io
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from fastsynth.data.datasets import DataSet, Record
from fastsynth.files import atomic_write
from fastsynth.images import read_image

SIDE = 48
"""Side of a thumbnail in pixels, whatever the picture's aspect."""
ROWS = 256
"""Of a picture that become floats at a time."""
HASH_SIDE = 8
HASH_DISTANCE = 14
"""Bits that may differ of 64. On 1,973 pairs of same tiles 99 % differ in at most 14, of unrelated tiles 1 in 500."""
SMALL = 64
"""Up to this many pictures every pair is compared: the median of a few pictures says nothing."""
SHIFT = 3
"""Largest shift tried, in thumbnail pixels (6 % of the side)."""
MIN_CORRELATION = 0.5
"""On tiles: 99.9 % of the known pairs lie above, 30,000 unrelated pairs all below 0.3."""
OUTLIER = 6.0
"""Robust standard deviations above the category's typical pair."""
FEW = 5
"""Of fewer pictures of a category it is not known how alike any two of them are."""
MIN_LONE = 0.9
"""Correlation asked for there."""
BLOCK = 2048
"""Pairs, or rows of the hash table, worked on at once."""

Cluster = tuple[Record, ...]


def clusters(dataset: DataSet, hashes: Mapping[str, str], *, near_duplicates: bool) -> list[Cluster]:
    """Connected components of "same group", "same bytes" and, if wanted, "near-duplicate", ordered by first image.

    hashes: image → sha256 of its file. Raises ValueError when an image cannot be decoded.
    """
    records = sorted(dataset.records, key=lambda record: record.image)
    links = _near_links(dataset.root, records) if near_duplicates else []
    first: dict[str, int] = {}
    for i, record in enumerate(records):
        group = dataset.group_of(record)
        keys = [f"bytes {hashes[record.image]}"] + ([f"group {group}"] if group is not None else [])
        links += [(first.setdefault(key, i), i) for key in keys]

    parent = list(range(len(records)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in links:
        low, high = sorted((find(i), find(j)))
        parent[high] = low
    members: dict[int, list[Record]] = {}
    for i, record in enumerate(records):
        members.setdefault(find(i), []).append(record)
    return [tuple(cluster) for cluster in members.values()]


def _near_links(root: Path, records: Sequence[Record]) -> list[tuple[int, int]]:
    """Index pairs of near-duplicates, category by category. Only the thumbnails are held."""
    links = []
    for category in sorted({record.category for record in records}):
        where = [i for i, record in enumerate(records) if record.category == category]
        thumbnails = _thumbnails(root, [records[i].image for i in where])
        links += [(where[i], where[j]) for i, j in near_pairs(thumbnails)]
    return links


def _thumbnails(root: Path, images: Sequence[str]) -> np.ndarray:
    """(N, 48, 48) float32, one per image. Raises ValueError when one cannot be decoded."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        read = threads.map(lambda image: detail_thumbnail(read_image(root / image)), images)
        return np.stack(list(read))


@dataclass(frozen=True, eq=False)
class Looks:
    """How N pictures look, kept on disk: another exposure or encoding of one is known though the picture is gone.

    images: N names. thumbnails: (N, 48, 48) int8, `detail_thumbnail` scaled to ±127, 2.3 kB each.
    thresholds: (N,) float32, the correlation from which another picture shows the same thing.
    """

    images: tuple[str, ...]
    thumbnails: np.ndarray
    thresholds: np.ndarray

    @classmethod
    def of(cls, root: Path, records: Sequence[Record]) -> "Looks":
        """Raises ValueError when an image cannot be decoded."""
        images: list[str] = []
        small, thresholds = [np.zeros((0, SIDE, SIDE), np.int8)], [np.zeros(0, np.float32)]
        for category in sorted({record.category for record in records}):
            names = sorted(record.image for record in records if record.category == category)
            found = _thumbnails(root, names)
            peak = np.maximum(np.abs(found).max(axis=(1, 2), keepdims=True), 1e-6)
            images += names
            small.append(np.rint(found * (127 / peak)).astype(np.int8))
            threshold = MIN_LONE if len(names) < 2 else _threshold(np.fft.rfft2(found).astype(np.complex64))
            thresholds.append(np.full(len(names), threshold, np.float32))
        return cls(tuple(images), np.concatenate(small), np.concatenate(thresholds))

    def like(self, image: np.ndarray) -> str | None:
        """The name of the picture that `image` (H, W, C) shows again, the most alike one; None when there is none."""
        thumbnail = np.fft.rfft2(detail_thumbnail(image)[None]).astype(np.complex64)
        if not self.images or not thumbnail.any():
            return None
        count = len(self.images)
        pairs = np.stack([np.arange(count), np.full(count, count)], axis=1)
        alike = _correlations(np.concatenate([self._spectra, thumbnail]), pairs)
        best = int(np.argmax(alike - self.thresholds))
        return self.images[best] if alike[best] >= self.thresholds[best] else None

    def write(self, path: Path) -> None:
        file = io.BytesIO()
        names = np.array(self.images, np.str_)
        np.savez_compressed(file, images=names, thumbnails=self.thumbnails, thresholds=self.thresholds)
        atomic_write(path, file.getvalue())

    @classmethod
    def read(cls, path: Path) -> "Looks":
        """Raises ValueError when the file is damaged."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                images, thumbnails, thresholds = file["images"], file["thumbnails"], file["thresholds"]
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} is damaged ({error}); delete it, it is made again from the test images"
            ) from error
        fits = thumbnails.dtype == np.int8 and thumbnails.shape == (len(images), SIDE, SIDE)
        if not fits or thresholds.shape != images.shape:
            raise ValueError(f"{path} holds no thumbnails; delete it, it is made again from the test images")
        return cls(tuple(images.tolist()), thumbnails, thresholds)

    @cached_property
    def _spectra(self) -> np.ndarray:
        """(N, 48, 25) complex64 of the thumbnails, each of norm 1."""
        full = self.thumbnails.astype(np.float32)
        norms = np.sqrt(np.square(full).sum(axis=(1, 2), keepdims=True))
        spectra: np.ndarray = np.fft.rfft2(full / np.maximum(norms, 1e-6)).astype(np.complex64)
        return spectra


def detail_thumbnail(image: np.ndarray) -> np.ndarray:
    """(48, 48) float32 of norm 1 from an image (H, W, 1 or 3), 8 or 16 bit; all zero when there is no detail."""
    # rows some at a time: as floats a large picture would not fit into memory beside the others
    parts = (image[start : start + ROWS].astype(np.float32) for start in range(0, len(image), ROWS))
    narrow = [cv2.resize(part, (SIDE, len(part)), interpolation=cv2.INTER_AREA) for part in parts]
    colour = cv2.resize(np.concatenate(narrow), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    small = colour.reshape(SIDE, SIDE, -1).mean(axis=2)
    high = small - cv2.GaussianBlur(small, (0, 0), 2.0)
    spread = float(high.std())
    if spread < 1e-3:
        return np.zeros((SIDE, SIDE), np.float32)
    local = np.sqrt(cv2.GaussianBlur(high * high, (0, 0), 4.0))
    even = high / (local + 0.1 * spread)
    even -= even.mean(axis=0, keepdims=True)
    even -= even.mean(axis=1, keepdims=True)
    # the border fades out: what a shifted crop cuts off should not count
    taper = np.hanning(SIDE + 2)[1:-1]
    even *= np.minimum(1, 2 * np.sqrt(np.outer(taper, taper)))
    return (even / max(float(np.linalg.norm(even)), 1e-6)).astype(np.float32)


def near_pairs(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Index pairs (i < j) of pictures that show the same thing.

    thumbnails: (N, 48, 48) float32 from `detail_thumbnail`, all of one category.
    """
    if len(thumbnails) < 2:
        return []
    spectra = np.fft.rfft2(thumbnails).astype(np.complex64)
    pairs = _candidates(thumbnails)
    alike = _correlations(spectra, pairs)
    found = pairs[alike >= _threshold(spectra)]
    return [(int(i), int(j)) for i, j in found]


def _candidates(thumbnails: np.ndarray) -> np.ndarray:
    """(P, 2) index pairs whose hashes are close."""
    count = len(thumbnails)
    if count <= SMALL:
        return np.stack(np.triu_indices(count, 1), axis=1)
    signs = _hashes(thumbnails)
    found = []
    for start in range(0, count, BLOCK):
        agreement = signs[start : start + BLOCK] @ signs.T  # 64 - 2 · distance
        i, j = np.nonzero(agreement >= HASH_SIDE**2 - 2 * HASH_DISTANCE)
        found.append(np.stack([i + start, j], axis=1)[j > i + start])
    return np.concatenate(found)


def _hashes(thumbnails: np.ndarray) -> np.ndarray:
    """(N, 64) float32 of -1 and 1: the low frequencies, the constant row and column left out, against their median."""
    waves = np.stack([cv2.dct(thumbnail)[1 : HASH_SIDE + 1, 1 : HASH_SIDE + 1].ravel() for thumbnail in thumbnails])
    return np.where(waves > np.median(waves, axis=0), 1, -1).astype(np.float32)


def _correlations(spectra: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(P,) float32 in [-1, 1]: the best correlation over shifts of at most 3 pixels each way."""
    shifts = np.arange(-SHIFT, SHIFT + 1)
    best = [np.zeros(0, np.float32)]
    for start in range(0, len(pairs), BLOCK):
        i, j = pairs[start : start + BLOCK].T
        surface = np.fft.irfft2(spectra[i] * spectra[j].conj(), s=(SIDE, SIDE))
        best.append(surface[:, shifts][:, :, shifts].max(axis=(1, 2)).astype(np.float32))
    return np.concatenate(best)


def _threshold(spectra: np.ndarray) -> float:
    """Correlation from which a pair stands out among some 4,000 pairs spread over the category."""
    count = len(spectra)
    steps = np.unique(np.linspace(0, count, 2 + math.ceil(4000 / count))[1:-1].astype(int))
    first = np.arange(count)
    pairs = np.concatenate([np.stack([first, (first + step) % count], axis=1) for step in steps if step > 0])
    z = np.arctanh(np.clip(_correlations(spectra, pairs), -0.999999, 0.999999))
    middle = float(np.median(z))
    spread = 1.4826 * float(np.median(np.abs(z - middle)))
    return max(MIN_CORRELATION if count >= FEW else MIN_LONE, math.tanh(middle + OUTLIER * spread))
