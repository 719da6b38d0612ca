"""Checks a store against its contract from the files alone: what the writer claims is measured again.

Every line: what `data.manifest` asks of it, hashes, size, channels and depth of the source, a mask of 0 and 255,
nothing changed outside it, enough changed inside, instances and class indices that fit the mask. The store: ids and
seeds unique, nothing in it but its own files, no symbolic link, no test image among the sources.

Every file is read once. Lines are checked some at a time, by threads: decoding, hashing and comparing leave Python's
lock to others.
"""

import os
import struct
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np

from fastsynth.data.datasets import category_folders, open_dataset
from fastsynth.data.identity import IDENTITY, Identity, read_identity
from fastsynth.data.manifest import (
    CARD,
    MANIFEST,
    REJECTED,
    SHARDS,
    Entry,
    Line,
    entries,
    manifest_files,
    shard_files,
)
from fastsynth.data.split import Split
from fastsynth.data.store import FILE_KEYS, TEMPORARY, links
from fastsynth.errors import shown
from fastsynth.files import sha256_bytes
from fastsynth.images import MAX_PIXELS, read_image
from fastsynth.locks import LOCK
from fastsynth.types import COMBINED

OWN = {IDENTITY, MANIFEST, LOCK, SHARDS, REJECTED, CARD}
"""What a store holds beside the folders of its categories."""
MIN_CHANGED_SHARE = 0.2
"""A mask of which less has changed marks pixels that still show the source."""
SOURCE_BYTES = 256_000_000
"""Decoded sources held in memory; the layouts of a run come back to the same ones."""
CHUNK = 256
"""Lines that are read ahead of the checks."""
PNG = b"\x89PNG\r\n\x1a\n"
Picture = tuple[str, np.ndarray]
"""Hash of a file, and its pixels (H, W, C) in OpenCV's order of channels; of size 0 when it cannot be read."""


@dataclass(frozen=True)
class AuditReport:
    """samples: manifest lines read. problems: one sentence each, empty when all is well.

    median_changed_share: over the samples that could be measured, None without any.
    """

    samples: int
    problems: list[str]
    median_changed_share: float | None


def audit(store_folder: Path, *, data_root: Path, split: Split | None, workers: int | None = None) -> AuditReport:
    """Check every sample of the store; `source_image` paths are relative to `data_root`.

    split: when given, no source image and no source mask may belong to one of its test images.
    workers: threads, by default one per core.

    Raises FileNotFoundError when there is no store or no data root, or none of the sources is in it.
    """
    if not (store_folder / MANIFEST).is_file() and not shard_files(store_folder):
        raise FileNotFoundError(f"{store_folder / MANIFEST}: no such file; pass the folder of a store with samples")
    if not data_root.is_dir():
        raise FileNotFoundError(f"{data_root}: no such folder; pass the data root the samples were made from")
    auditor = _Auditor(store_folder, data_root)
    if split is not None:
        auditor.forbid(split)
    samples = 0
    found = entries(manifest_files(store_folder))
    with ThreadPoolExecutor(workers or os.cpu_count()) as threads:
        while chunk := list(islice(found, CHUNK)):
            if samples == 0:
                _refuse_other_root(chunk, data_root)
            samples += len(chunk)
            of_lines = [auditor.line_problems(entry) for entry in chunk]
            of_files = threads.map(auditor.file_problems, (entry.line for entry in chunk))
            for first, second in zip(of_lines, of_files, strict=True):
                auditor.problems += [*first, *second]
    auditor.add_strays()
    median = float(np.median(auditor.shares)) if auditor.shares else None
    return AuditReport(samples, auditor.problems, median)


def _refuse_other_root(chunk: list[Entry], data_root: Path) -> None:
    """A wrong folder is one mistake, not one problem for every sample."""
    sources = [entry.line["source_image"] for entry in chunk if entry.line]
    if sources and not any((data_root / source).is_file() for source in sources):
        raise FileNotFoundError(
            f"{data_root}: holds no {sources[0]} nor another source of the first {len(sources)} samples; pass the "
            "data root they were made from"
        )


@dataclass
class _Auditor:
    """What must be remembered from line to line."""

    store: Path
    root: Path
    problems: list[str] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    seeds: set[int] = field(default_factory=set)
    listed: set[str] = field(default_factory=set)
    test_images: dict[str, str] = field(default_factory=dict)
    test_masks: dict[str, str] = field(default_factory=dict)
    identity: Identity | None = None

    def __post_init__(self) -> None:
        self.sources = _Sources()
        if not (self.store / IDENTITY).is_file():
            self.problems.append(f"{IDENTITY} is missing: nothing says what the store was made from")
            return
        try:
            self.identity = read_identity(self.store)
        except ValueError as error:
            self.problems.append(str(error))

    def forbid(self, split: Split) -> None:
        """Remember the test images by their bytes, and which masks are theirs."""
        self.test_images = {split.sha256[image]: image for image in split.test}
        test = set(split.test)
        folders = category_folders(self.root)  # those the split is of; what lies beside them is no one's concern
        of_split = [
            name
            for name, folder in folders.items()
            if folder == self.root or any(p.startswith(f"{name}/") for p in test)
        ]
        # names alone are looked at; whether links may be followed was settled when the store was made
        records = open_dataset(self.root, categories=of_split, follow_links=True).records
        self.test_masks = {record.mask: record.image for record in records if record.mask and record.image in test}

    def line_problems(self, entry: Entry) -> list[str]:
        """What the line itself gives away."""
        where, line, problem = entry
        if line is None:
            return [f"{where}: {problem}"]
        return [f"{line['id']}: {each}" for each in (*self._once(line), *self._same_run(line), *self._leaks(line))]

    def file_problems(self, line: Line | None) -> list[str]:
        """What the files of a sound line give away; safe to call from several threads."""
        return [] if line is None else [f"{line['id']}: {each}" for each in self._files(line)]

    def add_strays(self) -> None:
        """What lies in the store and is not the store's. Of a folder without any sample only its name is told."""
        categories = {name.partition("/")[0] for name in self.listed}
        for link in sorted(links(self.store)):
            self.problems.append(f"{self._name(link)} is a symbolic link; a store holds its files itself")
        for path in sorted(self.store.iterdir()):
            if path.name in categories and path.is_dir():
                files = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
                self.problems += map(self._stray, sorted(file for file in files if self._name(file) not in self.listed))
            elif path.name not in OWN:
                self.problems.append(self._stray(path))

    def _stray(self, path: Path) -> str:
        what = "a temporary file left behind" if path.name.startswith(TEMPORARY) else "in no manifest line"
        return f"{self._name(path)} is {what}"

    def _name(self, path: Path) -> str:
        return path.relative_to(self.store).as_posix()

    def _once(self, line: Line) -> Iterator[str]:
        """Ids and seeds belong to one line each."""
        if line["id"] in self.ids:
            yield "id appears twice"
        if line["seed"] in self.seeds:
            yield f"seed {line['seed']} appears twice"
        self.ids.add(line["id"])
        self.seeds.add(line["seed"])
        self.listed.update(line[key] for key in FILE_KEYS if key in line)

    def _same_run(self, line: Line) -> Iterator[str]:
        if self.identity is None:
            return
        made_with: dict[str, Any] = {**self.identity}
        for key in ("config_sha256", "model_sha256", "version"):
            if line[key] != made_with[key]:
                yield f"{key} is {line[key]!r}, the store was made with {made_with[key]!r}"

    def _leaks(self, line: Line) -> Iterator[str]:
        if line["source_sha256"] in self.test_images:
            yield f"made from the test image {self.test_images[line['source_sha256']]}"
        shapes = {line["mask_source"], *(instance.get("mask_source") for instance in line["instances"])}
        for shape in sorted(shapes & self.test_masks.keys()):
            yield f"its shape comes from {shape}, the mask of the test image {self.test_masks[shape]}"

    def _files(self, line: Line) -> Iterator[str]:
        """Files first; only when they are the ones that were written are the pictures compared."""
        named = [(key, self.store, line[key]) for key in FILE_KEYS if key in line]
        named.append(("source", self.root, line["source_image"]))
        broken, pictures = [], {}
        for key, folder, name in named:
            path = folder / name
            if key != "source" and path.is_symlink():
                broken.append(f"{key} file {name} is a symbolic link; put the file itself there")
                continue
            try:
                found = self.sources.read(path) if key == "source" else _read_png(path)
            except (FileNotFoundError, NotADirectoryError):
                broken.append(f"{key} file {name} is missing")
            except OSError as error:
                broken.append(f"{key} file {name} cannot be read ({error.strerror})")
            else:
                if found[0] != line[f"{key}_sha256"]:
                    broken.append(f"{key}_sha256 differs from the file {name}")
                pictures[key] = found[1]
        yield from broken or self._pictures(line, **pictures)

    def _pictures(
        self,
        line: Line,
        *,
        source: np.ndarray,
        image: np.ndarray,
        mask: np.ndarray,
        classes: np.ndarray | None = None,
        instance_map: np.ndarray | None = None,
    ) -> Iterator[str]:
        for key, picture in (("source", source), ("image", image), ("mask", mask)):
            if not picture.size:
                yield f"{key} is not a readable picture"
                return
        if image.shape != source.shape or image.dtype != source.dtype:
            yield f"image is {image.dtype} {image.shape}, its source is {source.dtype} {source.shape}"
            return
        if mask.shape != (*image.shape[:2], 1) or mask.dtype != np.uint8:
            yield f"mask is {mask.dtype} {mask.shape}, wanted one channel of 8 bit in the image's size"
            return
        inside = mask[..., 0] == 255
        if np.count_nonzero(mask) != np.count_nonzero(inside):
            yield f"mask holds the values {np.unique(mask).tolist()[:6]}, wanted 0 and 255"
            return
        if not inside.any():
            yield "mask is empty"
            return
        yield from self._changes(line, _differing(image, source), inside)
        yield from _instance_problems(line, inside)
        yield from self._class_problems(line, classes, inside)
        if instance_map is not None:
            yield from _instance_map_problems(line, instance_map, inside)

    def _changes(self, line: Line, changed: np.ndarray, inside: np.ndarray) -> Iterator[str]:
        checks = line["checks"]
        within = int(np.count_nonzero(changed & inside))
        outside = int(np.count_nonzero(changed)) - within
        if outside:
            yield f"{outside} pixels changed outside the mask"
        if checks["outside_unchanged"] is not (outside == 0):
            yield f"outside_unchanged is recorded as {checks['outside_unchanged']}"
        share = within / int(np.count_nonzero(inside))
        self.shares.append(share)
        if share <= MIN_CHANGED_SHARE:
            yield f"only {share:.1%} of the mask changed, wanted more than {MIN_CHANGED_SHARE:.0%}"
        if abs(share - checks["changed_share"]) > 1e-4:
            yield f"changed_share is recorded as {checks['changed_share']}, it is {share:.4f}"

    def _class_problems(self, line: Line, classes: np.ndarray | None, inside: np.ndarray) -> Iterator[str]:
        names = {instance["defect"] for instance in line["instances"]}
        if classes is None:
            if len(names) > 1:
                yield f"holds {len(names)} classes but no class-index picture"
            return
        if classes.shape != (*inside.shape, 1) or not np.array_equal(classes[..., 0] > 0, inside):
            yield "the class-index picture does not cover the same pixels as the mask"
            return
        known = self.identity["defects"] if self.identity else []
        found = {known[i - 1] if i <= len(known) else f"index {i}" for i in np.unique(classes[classes > 0])}
        if not found <= names:
            yield f"the class-index picture holds {sorted(found)}, the instances are {sorted(names)}"


def _instance_problems(line: Line, inside: np.ndarray) -> Iterator[str]:
    """Boxes must enclose the mask exactly; areas cannot be too small for it."""
    instances = line["instances"]
    names = {instance["defect"] for instance in instances}
    wanted = names.pop() if len(names) == 1 else COMBINED
    if line["defect"] != wanted:
        yield f"defect is {line['defect']!r}, its instances say {wanted!r}"
    boxes = np.array([instance["bbox"] for instance in instances])
    left, top, width, height = cv2.boundingRect(inside.view(np.uint8))
    box = [left, top, left + width, top + height]
    union = [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]
    if union != box:
        yield f"the instances cover {union}, the mask covers {box}"
    areas = [instance["area"] for instance in instances]
    if sum(areas) < np.count_nonzero(inside):
        yield f"instance areas {shown(areas)} do not fit a mask of {np.count_nonzero(inside)} pixels"


def _instance_map_problems(line: Line, instance_map: np.ndarray, inside: np.ndarray) -> Iterator[str]:
    if instance_map.shape != (*inside.shape, 1) or not np.array_equal(instance_map[..., 0] > 0, inside):
        yield "the instance picture does not cover the same pixels as the mask"
        return
    for instance in line["instances"]:
        x0, y0, x1, y1 = instance["bbox"]
        own = instance_map[..., 0] == instance["id"]
        if np.count_nonzero(own) != np.count_nonzero(own[y0:y1, x0:x1]):
            yield f"the instance picture holds instance {instance['id']} outside its box"
    known = {instance["id"] for instance in line["instances"]}
    if unknown := sorted(set(np.unique(instance_map[instance_map > 0]).tolist()) - known):
        yield f"the instance picture holds the ids {unknown}, which no instance has"


class _Sources:
    """The sources read last, decoded; shared by the threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, Picture] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def read(self, path: Path) -> Picture:
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
        found = _read_source(path)
        with self._lock:
            if path not in self._kept:
                self._kept[path] = found
                self._bytes += found[1].nbytes
            while self._bytes > SOURCE_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1][1].nbytes
        return found


def _read_source(path: Path) -> Picture:
    """A picture of any kind that a data set may hold."""
    sha256 = sha256_bytes(path.read_bytes())
    try:
        image = read_image(path)
    except ValueError:
        image = np.zeros((0, 0, 1), np.uint8)
    return sha256, np.ascontiguousarray(image[..., ::-1])


def _read_png(path: Path) -> Picture:
    """A picture as the store writes it; nothing else, nothing too large and nothing cut off is decoded."""
    data = path.read_bytes()
    picture = None
    if data[:8] == PNG and data[12:16] == b"IHDR" and b"IEND" in data[-16:]:
        width, height = struct.unpack(">II", data[16:24])
        if width * height <= MAX_PIXELS:
            with suppress(cv2.error):  # of absurd sizes
                picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        picture = np.zeros((0, 0, 1), np.uint8)
    return sha256_bytes(data), picture[..., None] if picture.ndim == 2 else picture


def _differing(image: np.ndarray, source: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of which any channel differs."""
    differs = cv2.compare(image, source, cv2.CMP_NE)
    if differs.ndim == 3 and differs.shape[2] == 3:
        differs = cv2.cvtColor(differs, cv2.COLOR_BGR2GRAY)  # 255 in any one channel stays above 0
    found: np.ndarray = differs.reshape(differs.shape[:2]) > 0
    return found
