"""COCO: images/<id>.png and annotations.json. As run lengths exact; as polygons exact for pycocotools.

Polygons follow the pixels' edges. Tools that also draw a polygon's border (OpenCV) add at most the line of pixels
right of and below it, and the cuts to its holes.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fastsynth.data.export.folder import write
from fastsynth.data.export.reading import StoredSample
from fastsynth.data.export.shapes import corner_polygons, encode_rle


def write_coco(samples: Iterable[StoredSample], folder: Path, *, names: list[str], polygons: bool) -> None:
    """`names` get the category ids 1, 2, …; one annotation for each object."""
    categories = [{"id": number, "name": name, "supercategory": "defect"} for number, name in enumerate(names, start=1)]
    rest = folder / "annotations.part"
    with (folder / "annotations.json").open("w+b") as images, rest.open("w+b") as annotations:
        images.write(b'{"categories": ' + _dump(categories) + b',\n"images": [')
        number = 0
        for position, sample in enumerate(samples):
            name = f"{sample.id}.png"
            write(folder / "images" / name, sample.data("image"))
            height, width = sample.classes.shape
            image = {"id": position + 1, "file_name": name, "width": width, "height": height}
            images.write(b",\n" * (position > 0) + _dump(image))
            for defect, mask in sample.objects():
                number += 1
                found = {"id": number, "image_id": position + 1, "category_id": 1 + names.index(defect), "iscrowd": 0}
                annotations.write(b",\n" * (number > 1) + _dump(found | _describe(mask, polygons)))
        images.write(b'],\n"annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, images)
        images.write(b"]}\n")
    rest.unlink()


def _describe(mask: np.ndarray, polygons: bool) -> dict[str, Any]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    x, y = int(columns[0]), int(rows[0])
    shape: Any = {"size": list(mask.shape), "counts": encode_rle(mask)}
    if polygons:
        shape = [polygon.ravel().tolist() for polygon in corner_polygons(mask)]
    bbox = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
    return {"segmentation": shape, "bbox": bbox, "area": int(mask.sum())}


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
