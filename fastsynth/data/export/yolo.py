"""YOLO-seg: images/train/<id>.png, labels/train/<id>.txt and data.yaml.

One line for each connected region: the format has one polygon per object, so a defect of many specks becomes many
objects. Read as its tools do (times the size, rounded down, filled with OpenCV) a region without holes is exact;
with holes at most pixels on the lines that join them differ. 16 bits are in the files; the tools read 8.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml

from fastsynth.data.export.folder import write
from fastsynth.data.export.reading import StoredSample
from fastsynth.data.export.shapes import contour_polygons

ADVICE = "# val is there because YOLO wants it: point it at real images, synthetic ones must not judge.\n"


def write_yolo(samples: Iterable[StoredSample], folder: Path, *, names: list[str]) -> None:
    """Points are pixel centres as shares of width and height: rounding down leads to the pixel."""
    for sample in samples:
        write(folder / "images" / "train" / f"{sample.id}.png", sample.data("image"))
        height, width = sample.classes.shape
        lines = []
        for defect, mask in sample.objects():
            for polygon in contour_polygons(mask):
                points = (polygon + 0.5) / (width, height)
                lines.append(f"{names.index(defect)} " + " ".join(f"{value:.7f}" for value in np.ravel(points)))
        write(folder / "labels" / "train" / f"{sample.id}.txt", "".join(f"{line}\n" for line in lines).encode())
    values = {"train": "images/train", "val": "images/train", "names": dict(enumerate(names))}
    write(folder / "data.yaml", (ADVICE + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)).encode())
