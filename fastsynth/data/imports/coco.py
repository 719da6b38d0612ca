"""COCO instances to an MVTec tree: run lengths are exact; a pixel is in a polygon when its centre is (even-odd)."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from fastsynth.data.export.folder import inside
from fastsynth.data.export.shapes import decode_rle, fill_polygon
from fastsynth.data.imports.tree import Tree
from fastsynth.files import read_json
from fastsynth.images import MAX_PIXELS, image_size


def read_coco(file: Path, tree: Tree) -> None:
    """Add all images of the file; those without annotations are normal.

    Raises ValueError that names the entry when the file is not COCO instances or does not fit the pictures.
    """
    content = read_json(file)
    try:
        names = {int(item["id"]): str(item["name"]) for item in content["categories"]}
        annotations = defaultdict(list)
        for item in content["annotations"]:
            annotations[int(item["image_id"])].append(item)
        images = [(int(item["id"]), str(item["file_name"])) for item in content["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: not COCO instances ({error!r} is missing or wrong); export it again") from error
    for number, name in images:
        items = annotations[number]
        path = inside(tree.images, name)
        if items and not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; pass the folder of the pictures with --images")
        regions = [_region(file, item, names, size=image_size(path)) for item in items]
        tree.add(name, regions)


def _region(
    file: Path, item: dict[str, Any], names: dict[int, str], *, size: tuple[int, int]
) -> tuple[str, np.ndarray]:
    where = f"{file}: annotation {item.get('id')}"
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{where}: its picture has {size[1]}×{size[0]} pixels; at most {MAX_PIXELS:,} are read")
    if item.get("category_id") not in names:
        raise ValueError(f"{where}: no category {item.get('category_id')!r}; there are {sorted(names)}")
    shape = item.get("segmentation")
    if not shape:
        raise ValueError(f"{where}: no segmentation; a box alone cannot become a mask, draw it")
    try:
        return names[item["category_id"]], _mask(shape, size)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _mask(shape: Any, size: tuple[int, int]) -> np.ndarray:
    """Polygons of one annotation are united."""
    if isinstance(shape, dict):
        if tuple(shape["size"]) != size:
            raise ValueError(f"segmentation is {shape['size']}, its picture {list(size)} (height, width)")
        return decode_rle(shape["counts"], size=size)
    mask = np.zeros(size, bool)
    for polygon in shape:
        points = np.asarray(polygon, np.float64)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise ValueError("a polygon needs x, y, x, y, … of at least three points")
        mask |= fill_polygon(points.reshape(-1, 2), size=size)
    return mask
