"""Checks a store against its contract from the files alone: what the writer claims is measured again.

Every line: paths, hashes, size, channels and depth of the source, a mask of 0 and 255, nothing changed outside it,
enough changed inside, instances and class indices that fit the mask. The store: ids and seeds unique, no stray file,
no test image among the sources.
"""

import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fastsynth.data.datasets import open_dataset
from fastsynth.data.split import Split
from fastsynth.data.store import FILE_KEYS, IDENTITY, MANIFEST, TEMPORARY, sample_files
from fastsynth.files import read_json, sha256_file
from fastsynth.images import read_image
from fastsynth.types import COMBINED

LINE_KEYS = {
    *("id", "image", "mask", "category", "defect", "renderer", "source_image", "source_sha256", "mask_source"),
    *("image_sha256", "mask_sha256", "seed", "num_inference_steps", "model_sha256", "config_sha256"),
    *("instances", "checks", "version"),
}
"""Keys every manifest line has; it may have more."""
MIN_CHANGED_SHARE = 0.2
"""A mask of which less has changed marks pixels that still show the source."""
SOURCES_KEPT = 16
"""Decoded sources held in memory; the layouts of a run come back to the same ones."""


@dataclass(frozen=True)
class AuditReport:
    """samples: manifest lines read. problems: one sentence each, empty when all is well.

    median_changed_share: over the samples that could be measured, None without any.
    """

    samples: int
    problems: list[str]
    median_changed_share: float | None


def audit(store_folder: Path, *, data_root: Path, split: Split | None) -> AuditReport:
    """Check every sample of the store; `source_image` paths are relative to `data_root`.

    split: when given, no source image and no source mask may belong to one of its test images.

    Raises FileNotFoundError when there is no store or no data root.
    """
    if not (store_folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{store_folder / MANIFEST}: no such file; pass the folder of a store with samples")
    if not data_root.is_dir():
        raise FileNotFoundError(f"{data_root}: no such folder; pass the data root the samples were made from")
    auditor = _Auditor(store_folder, data_root)
    if split is not None:
        auditor.forbid(split)
    if not (store_folder / IDENTITY).is_file():
        auditor.problems.append(f"{IDENTITY} is missing: nothing says what the store was made from")
    samples = 0
    with (store_folder / MANIFEST).open("rb") as manifest:
        for samples, raw in enumerate(manifest, start=1):
            auditor.add_line(samples, raw)
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
    sources: OrderedDict[str, tuple[str, np.ndarray]] = field(default_factory=OrderedDict)
    identity: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.store / IDENTITY).is_file():
            self.identity = read_json(self.store / IDENTITY)

    def forbid(self, split: Split) -> None:
        """Remember the test images by their bytes, and which masks are theirs."""
        self.test_images = {split.sha256[image]: image for image in split.test}
        test = set(split.test)
        records = open_dataset(self.root).records
        self.test_masks = {record.mask: record.image for record in records if record.mask and record.image in test}

    def add_line(self, number: int, raw: bytes) -> None:
        try:
            line = json.loads(raw)
        except ValueError:
            line = None
        if not isinstance(line, dict) or not raw.endswith(b"\n"):
            self.problems.append(f"{MANIFEST}:{number}: not a complete line of JSON")
        elif missing := sorted(LINE_KEYS - line.keys()):
            self.problems.append(f"{MANIFEST}:{number}: keys missing: {', '.join(missing)}")
        else:
            try:
                found = [*self._once(line), *self._same_run(line), *self._leaks(line), *self._files(line)]
            except (KeyError, TypeError, AttributeError) as error:
                found = [f"a value is not of the kind the manifest needs ({type(error).__name__}: {error})"]
            self.problems += [f"{line['id']}: {problem}" for problem in found]

    def add_strays(self) -> None:
        for path in sorted(sample_files(self.store)):
            name = path.relative_to(self.store).as_posix()
            if name not in self.listed and not path.name.startswith(TEMPORARY):
                self.problems.append(f"{name} is in no manifest line")
        for path in sorted(self.store.rglob(f"{TEMPORARY}*")):
            self.problems.append(f"{path.relative_to(self.store).as_posix()} is a temporary file left behind")

    def _once(self, line: dict[str, Any]) -> Iterator[str]:
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

    def _same_run(self, line: dict[str, Any]) -> Iterator[str]:
        for key in ("config_sha256", "model_sha256", "version"):
            if self.identity and line[key] != self.identity.get(key):
                yield f"{key} is {line[key]!r}, the store was made with {self.identity.get(key)!r}"

    def _leaks(self, line: dict[str, Any]) -> Iterator[str]:
        if line["source_sha256"] in self.test_images:
            yield f"made from the test image {self.test_images[line['source_sha256']]}"
        shapes = {line["mask_source"], *(instance.get("mask_source") for instance in line["instances"])}
        for shape in sorted(shapes & self.test_masks.keys()):
            yield f"its shape comes from {shape}, the mask of the test image {self.test_masks[shape]}"

    def _files(self, line: dict[str, Any]) -> Iterator[str]:
        """Files first; only when they are the ones that were written are the pictures compared."""
        named = [(key, self.store, line[key]) for key in FILE_KEYS if key in line]
        named.append(("source", self.root, line["source_image"]))
        broken = []
        for key, folder, name in named:
            if not _stays_inside(name):
                broken.append(f"{key} path {name!r} must be relative, with forward slashes, without ..")
            elif not (folder / name).is_file():
                broken.append(f"{key} file {name} is missing")
            elif self._sha256(key, folder / name) != line.get(f"{key}_sha256"):
                broken.append(f"{key}_sha256 differs from the file {name}")
        yield from broken or self._pictures(line)

    def _sha256(self, key: str, path: Path) -> str:
        return self._source(path)[0] if key == "source" else sha256_file(path)

    def _source(self, path: Path) -> tuple[str, np.ndarray]:
        """Hash and pixels; an unreadable source has none, shape (0, 0, 1)."""
        name = str(path)
        if name not in self.sources:
            self.sources[name] = sha256_file(path), _read(path)
            if len(self.sources) > SOURCES_KEPT:
                self.sources.popitem(last=False)
        self.sources.move_to_end(name)
        return self.sources[name]

    def _pictures(self, line: dict[str, Any]) -> Iterator[str]:
        source = self._source(self.root / line["source_image"])[1]
        image, mask = _read(self.store / line["image"]), _read(self.store / line["mask"])
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
        values = np.unique(mask)
        if not set(values.tolist()) <= {0, 255}:
            yield f"mask holds the values {values.tolist()[:6]}, wanted 0 and 255"
            return
        inside = mask[..., 0] > 0
        if not inside.any():
            yield "mask is empty"
            return
        yield from self._changes(line, (image != source).any(axis=2), inside)
        yield from _instance_problems(line, inside)
        yield from self._class_problems(line, inside)

    def _changes(self, line: dict[str, Any], changed: np.ndarray, inside: np.ndarray) -> Iterator[str]:
        checks = line["checks"]
        outside = int((changed & ~inside).sum())
        if outside:
            yield f"{outside} pixels changed outside the mask"
        if checks["outside_unchanged"] is not (outside == 0):
            yield f"outside_unchanged is recorded as {checks['outside_unchanged']}"
        share = float(changed[inside].mean())
        self.shares.append(share)
        if share <= MIN_CHANGED_SHARE:
            yield f"only {share:.1%} of the mask changed, wanted more than {MIN_CHANGED_SHARE:.0%}"
        if abs(share - checks["changed_share"]) > 1e-4:
            yield f"changed_share is recorded as {checks['changed_share']}, it is {share:.4f}"

    def _class_problems(self, line: dict[str, Any], inside: np.ndarray) -> Iterator[str]:
        names = {instance["defect"] for instance in line["instances"]}
        if "classes" not in line:
            if len(names) > 1:
                yield f"holds {len(names)} classes but no class-index picture"
            return
        classes = _read(self.store / line["classes"])
        if classes.shape != (*inside.shape, 1) or not np.array_equal(classes[..., 0] > 0, inside):
            yield "the class-index picture does not cover the same pixels as the mask"
            return
        known = self.identity.get("defects", [])
        found = {known[i - 1] if i <= len(known) else f"index {i}" for i in np.unique(classes[classes > 0])}
        if not found <= names:
            yield f"the class-index picture holds {sorted(found)}, the instances are {sorted(names)}"


def _instance_problems(line: dict[str, Any], inside: np.ndarray) -> Iterator[str]:
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
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
    union = [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]
    if union != box:
        yield f"the instances cover {union}, the mask covers {box}"
    areas = np.array([instance["area"] for instance in instances])
    if (areas > np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)).any() or areas.sum() < inside.sum():
        yield f"instance areas {areas.tolist()} do not fit a mask of {int(inside.sum())} pixels"


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _read(path: Path) -> np.ndarray:
    """The picture as stored, or an array of size 0 when it cannot be read."""
    try:
        return read_image(path)
    except ValueError:
        return np.zeros((0, 0, 1), np.uint8)
