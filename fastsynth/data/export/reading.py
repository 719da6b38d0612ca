"""The samples of a store, one at a time, as the writers of all formats need them. H, W: size of the image."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fastsynth.data.export.folder import inside
from fastsynth.data.store import IDENTITY, read_manifest
from fastsynth.files import read_json, sha256_bytes
from fastsynth.images import read_image, read_mask

Object = tuple[str, np.ndarray]
"""Defect name, and (H, W) bool where it is."""


@dataclass(frozen=True, eq=False)
class StoredSample:
    """One manifest line and its files. names: defects in the order of their class indices."""

    store: Path
    line: dict[str, Any]
    names: list[str]

    @property
    def id(self) -> str:
        return str(self.line["id"])

    def data(self, key: str) -> bytes:
        """The bytes of the file `key` (image, mask or classes). Raises ValueError when they changed since."""
        path = inside(self.store, self.line[key])
        data = path.read_bytes()
        if sha256_bytes(data) != self.line[f"{key}_sha256"]:
            raise ValueError(f"{path}: changed since it was stored; run `fastsynth audit`, restore it or make it again")
        return data

    @cached_property
    def classes(self) -> np.ndarray:
        """(H, W) uint8: 0 outside, else 1 + the position of the pixel's defect in `names`."""
        if "classes" in self.line:
            return read_image(inside(self.store, self.line["classes"]))[..., 0]
        foreground = read_mask(inside(self.store, self.line["mask"]))
        return foreground.astype(np.uint8) * np.uint8(1 + self.names.index(self.line["defect"]))

    def objects(self) -> list[Object]:
        """The defects apart. Their union is the mask, bit for bit, and no two overlap.

        A sample without an instance map knows boxes and the class of every pixel: a connected region (8 neighbours)
        belongs to the topmost instance of its class whose box holds it; a region that no box holds stands for itself.
        """
        if "instance_map" in self.line:
            ids = read_image(inside(self.store, self.line["instance_map"]))[..., 0]
            defects = {item["id"]: item["defect"] for item in self.line["instances"]}
            return [(defects[number], ids == number) for number in np.unique(ids[ids > 0]).tolist()]
        found: list[Object] = []
        for index in np.unique(self.classes[self.classes > 0]):
            name = self.names[index - 1]
            boxes = [item["bbox"] for item in self.line["instances"] if item["defect"] == name]
            found += [(name, mask) for mask in _apart(self.classes == index, boxes)]
        return found


def _apart(foreground: np.ndarray, boxes: list[list[int]]) -> list[np.ndarray]:
    if len(boxes) == 1:
        return [foreground]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(foreground.astype(np.uint8), connectivity=8)
    owners: dict[int, list[int]] = {}
    for label in range(1, count):
        x, y, width, height = (int(v) for v in stats[label, :4])
        holding = [
            number
            for number, (x0, y0, x1, y1) in enumerate(boxes)
            if x0 <= x and y0 <= y and x + width <= x1 and y + height <= y1
        ]
        owners.setdefault(holding[-1] if holding else -label, []).append(label)
    return [np.isin(labels, owned) for _, owned in sorted(owners.items())]


def defect_names(store: Path) -> list[str]:
    """Class names of the store, in the order of their indices. Raises FileNotFoundError when it is not a store."""
    path = store / IDENTITY
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; pass the folder of a store, e.g. runs/x/synthetic")
    names = read_json(path).get("defects")
    if not isinstance(names, list) or not 0 < len(names) < 256:
        raise ValueError(f"{path}: defects is {names!r}; wanted a list of 1 to 255 names")
    return [str(name) for name in names]


def read_samples(store: Path) -> Iterator[StoredSample]:
    """The samples in the order of the manifest. Raises ValueError for an id that is not a number or comes twice."""
    names, seen = defect_names(store), set()
    for line in read_manifest(store):
        name = str(line["id"])
        if not re.fullmatch(r"\d{1,18}", name) or int(name) in seen:
            raise ValueError(f"{store}: id {name!r} comes twice or is not a number; run `fastsynth audit`")
        seen.add(int(name))
        yield StoredSample(store, line, names)
