"""Checks a store against its contract from the files alone: what the writer claims is measured again.

Every line: paths, hashes, size, channels and depth of the source, a mask of 0 and 255, nothing changed outside it,
enough changed inside, instances and class indices that fit the mask. The store: ids and seeds unique, no stray file,
no test image among the sources.

Every file is read once. Lines are checked some at a time, by threads: decoding, hashing and comparing leave Python's
lock to others.
"""

import contextlib
import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

import cv2
import numpy as np

from fastsynth.data.datasets import open_dataset
from fastsynth.data.manifest import Line, manifest_files, numbered_lines, shard_files
from fastsynth.data.split import Split
from fastsynth.data.store import FILE_KEYS, IDENTITY, MANIFEST, TEMPORARY, sample_files
from fastsynth.files import read_json, sha256_bytes
from fastsynth.images import MAX_PIXELS, read_image
from fastsynth.types import COMBINED

LINE_KEYS = {
    *("id", "image", "mask", "category", "defect", "renderer", "source_image", "source_sha256", "mask_source"),
    *("image_sha256", "mask_sha256", "seed", "num_inference_steps", "model_sha256", "config_sha256"),
    *("instances", "checks", "version"),
}
"""Keys every manifest line has; it may have more."""
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

    Raises FileNotFoundError when there is no store or no data root.
    """
    if not (store_folder / MANIFEST).is_file() and not shard_files(store_folder):
        raise FileNotFoundError(f"{store_folder / MANIFEST}: no such file; pass the folder of a store with samples")
    if not data_root.is_dir():
        raise FileNotFoundError(f"{data_root}: no such folder; pass the data root the samples were made from")
    auditor = _Auditor(store_folder, data_root)
    if split is not None:
        auditor.forbid(split)
    if not (store_folder / IDENTITY).is_file():
        auditor.problems.append(f"{IDENTITY} is missing: nothing says what the store was made from")
    samples = 0
    entries = numbered_lines(manifest_files(store_folder))
    with ThreadPoolExecutor(workers or os.cpu_count()) as threads:
        while chunk := list(islice(entries, CHUNK)):
            samples += len(chunk)
            of_lines = [auditor.line_problems(where, line) for where, line in chunk]
            sound = [line if fit else None for (_, line), (_, fit) in zip(chunk, of_lines, strict=True)]
            for (first, _), second in zip(of_lines, threads.map(auditor.file_problems, sound), strict=True):
                auditor.problems += [*first, *second]
    auditor.add_strays()
    median = float(np.median(auditor.shares)) if auditor.shares else None
    return AuditReport(samples, auditor.problems, median)


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
    identity: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sources = _Sources()
        if (self.store / IDENTITY).is_file():
            self.identity = read_json(self.store / IDENTITY)

    def forbid(self, split: Split) -> None:
        """Remember the test images by their bytes, and which masks are theirs."""
        self.test_images = {split.sha256[image]: image for image in split.test}
        test = set(split.test)
        # names alone are looked at; whether links may be followed was settled when the store was made
        records = open_dataset(self.root, follow_links=True).records
        self.test_masks = {record.mask: record.image for record in records if record.mask and record.image in test}

    def line_problems(self, where: str, line: Line | None) -> tuple[list[str], bool]:
        """What the line itself gives away, and whether its files can be looked at. where: file and number."""
        if line is None:
            return [f"{where}: not a complete line of JSON"], False
        if missing := sorted(LINE_KEYS - line.keys()):
            return [f"{where}: keys missing: {', '.join(missing)}"], False
        return _guarded(line, lambda: [*self._once(line), *self._same_run(line), *self._leaks(line)])

    def file_problems(self, line: Line | None) -> list[str]:
        """What the files of a sound line give away; safe to call from several threads."""
        return [] if line is None else _guarded(line, lambda: list(self._files(line)))[0]

    def add_strays(self) -> None:
        for path in sorted(sample_files(self.store)):
            name = path.relative_to(self.store).as_posix()
            if name not in self.listed and not path.name.startswith(TEMPORARY):
                self.problems.append(f"{name} is in no manifest line")
        for path in sorted(self.store.rglob(f"{TEMPORARY}*")):
            self.problems.append(f"{path.relative_to(self.store).as_posix()} is a temporary file left behind")

    def _once(self, line: Line) -> Iterator[str]:
        """Ids, seeds and files belong to one line each."""
        if line["id"] in self.ids:
            yield "id appears twice"
        if line["seed"] in self.seeds:
            yield f"seed {line['seed']} appears twice"
        self.ids.add(line["id"])
        self.seeds.add(line["seed"])
        for key in FILE_KEYS:
            if key in line:
                if line[key] in self.listed:
                    yield f"{key} {line[key]} is named twice"
                self.listed.add(line[key])

    def _same_run(self, line: Line) -> Iterator[str]:
        for key in ("config_sha256", "model_sha256", "version"):
            if self.identity and line[key] != self.identity.get(key):
                yield f"{key} is {line[key]!r}, the store was made with {self.identity.get(key)!r}"

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
            if not _stays_inside(name):
                broken.append(f"{key} path {name!r} must be relative, with forward slashes, without ..")
            elif not (folder / name).is_file():
                broken.append(f"{key} file {name} is missing")
            else:
                found = self.sources.read(folder / name) if key == "source" else _read_png(folder / name)
                if found[0] != line.get(f"{key}_sha256"):
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
        known = self.identity.get("defects", [])
        found = {known[i - 1] if i <= len(known) else f"index {i}" for i in np.unique(classes[classes > 0])}
        if not found <= names:
            yield f"the class-index picture holds {sorted(found)}, the instances are {sorted(names)}"


def _instance_problems(line: Line, inside: np.ndarray) -> Iterator[str]:
    """Boxes must enclose the mask exactly; areas cannot be larger than their boxes nor too small for the mask."""
    instances = line["instances"]
    if not instances:
        yield "lists no instances"
        return
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
    areas = np.array([instance["area"] for instance in instances])
    if (areas > np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)).any() or areas.sum() < np.count_nonzero(inside):
        yield f"instance areas {areas.tolist()} do not fit a mask of {np.count_nonzero(inside)} pixels"


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


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


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
            with contextlib.suppress(cv2.error):
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


def _guarded(line: Line, look: Callable[[], list[str]]) -> tuple[list[str], bool]:
    """The problems, each behind the sample's id, and whether the line's values are of the kinds they should be."""
    try:
        return [f"{line['id']}: {problem}" for problem in look()], True
    except (KeyError, TypeError, AttributeError) as error:
        return [f"{line['id']}: a value is not of the kind the manifest needs ({type(error).__name__}: {error})"], False
