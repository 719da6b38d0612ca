"""CVAT: images/ for a new task, and annotations.zip to upload to it as "Segmentation mask 1.1". Masks are exact."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fastsynth.data.export.folder import write
from fastsynth.data.export.reading import StoredSample
from fastsynth.images import encode_png

LABELS, LIST = "labelmap.txt", "ImageSets/Segmentation/default.txt"
CLASSES, OBJECTS = "SegmentationClass", "SegmentationObject"


def write_cvat(samples: Iterable[StoredSample], folder: Path, *, names: list[str]) -> None:
    """Classes and objects have the colours that Pascal VOC gives to 1, 2, 3, …"""
    colors = palette(256)
    with zipfile.ZipFile(folder / "annotations.zip", "w") as archive:
        label_lines = ["# label:color_rgb:parts:actions"]
        for name, color in zip(["background", *names], colors.tolist(), strict=False):
            if ":" in name:
                raise ValueError(f"defect {name!r}: CVAT's labels cannot hold a colon; rename it")
            label_lines.append(f"{name}:{','.join(map(str, color))}::")
        _add(archive, LABELS, "\n".join([*label_lines, ""]).encode())
        listed = []
        for sample in samples:
            write(folder / "images" / f"{sample.id}.png", sample.data("image"))
            objects = np.zeros(sample.classes.shape, np.int32)
            for number, (_, mask) in enumerate(sample.objects(), start=1):
                objects[mask] = number
            _add(archive, f"{CLASSES}/{sample.id}.png", encode_png(colors[sample.classes]))
            _add(archive, f"{OBJECTS}/{sample.id}.png", encode_png(palette(int(objects.max()) + 1)[objects]))
            listed.append(sample.id)
        _add(archive, LIST, "".join(f"{name}\n" for name in listed).encode())


def palette(count: int) -> np.ndarray:
    """(count, 3) uint8: Pascal VOC's colours; every third bit of the number goes to one channel, highest first."""
    numbers = np.arange(count)[:, None] >> np.arange(3)
    bits = [((numbers >> (3 * i)) & 1) << (7 - i) for i in range(8)]
    return np.sum(bits, axis=0).astype(np.uint8)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name), data)  # dated 1980: the same store makes the same bytes
