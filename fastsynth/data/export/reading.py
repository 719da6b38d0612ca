"""The samples of a store, one at a time, as the writers of all formats need them. H, W: size of the image."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from fastsynth.data.export.folder import inside
from fastsynth.data.identity import read_identity
from fastsynth.data.manifest import Line, read_manifest
from fastsynth.errors import shown
from fastsynth.files import sha256_bytes
from fastsynth.images import read_image, read_mask
from fastsynth.types import COMBINED

Object = tuple[str, np.ndarray]
"""Defect name, and (H, W) bool where it is."""


@dataclass(frozen=True, eq=False)
class StoredSample:
    """One manifest line and its files. names: defects in the order of their class indices."""

    store: Path
    line: Line
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
            classes = read_image(inside(self.store, self.line["classes"]))[..., 0]
            if classes.max() > len(self.names):
                raise ValueError(f"{self.line['classes']}: class {classes.max()} is unknown; run `fastsynth audit`")
            return classes
        if self.line["defect"] not in self.names:
            raise ValueError(f"{self.store}: sample {self.id} is combined, without classes; run `fastsynth audit`")
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
            found_ids = np.unique(ids[ids > 0]).tolist()
            if unknown := sorted(set(found_ids) - defects.keys()):
                raise ValueError(
                    f"{self.line['instance_map']}: instance {unknown[0]} is unknown; run `fastsynth audit`"
                )
            return [(defects[number], ids == number) for number in found_ids]
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


def read_samples(store: Path) -> Iterator[StoredSample]:
    """The samples in the order of the manifest.

    Raises FileNotFoundError when it is not a store, ValueError for an id that comes twice, a defect that store.json
    does not know, and an empty manifest.
    """
    names, seen = read_identity(store)["defects"], set()
    for line in read_manifest(store):
        if line["id"] in seen:
            raise ValueError(f"{store}: id {line['id']} comes twice; run `fastsynth audit`")
        seen.add(line["id"])
        defects = {item["defect"] for item in line["instances"]} | ({line["defect"]} - {COMBINED})
        if unknown := sorted(defects - set(names)):
            raise ValueError(
                f"{store}: sample {line['id']} has the defect {shown(unknown[0])}, store.json knows "
                f"{shown(names)}; run `fastsynth audit`"
            )
        yield StoredSample(store, line, names)
    if not seen:
        raise ValueError(f"{store}: the manifest lists no samples; generate some first")
