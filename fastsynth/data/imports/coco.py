"""COCO instances to an MVTec tree: run lengths are exact; a pixel is in a polygon when its centre is (even-odd)."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from fastsynth.data.datasets import check_defect_name
from fastsynth.data.export.shapes import decode_rle, fill_polygon
from fastsynth.data.imports.tree import Marks, Tree
from fastsynth.errors import shown
from fastsynth.files import read_json
from fastsynth.images import MAX_PIXELS, image_size

Entry = dict[str, Any]


def read_coco(file: Path, tree: Tree) -> None:
    """Add all images of the file; those without annotations are normal.

    Raises ValueError that names the entry when the file is not COCO instances or does not fit the pictures,
    FileNotFoundError when a picture or the file is missing.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; give the JSON with the COCO instances")
    content = read_json(file)
    try:
        names = {_number(item, "id"): _text(item, "name") for item in _entries(content, "categories")}
        images = [(_number(item, "id"), _text(item, "file_name")) for item in _entries(content, "images")]
        annotations: dict[int, list[Entry]] = defaultdict(list)
        for item in _entries(content, "annotations"):
            annotations[_number(item, "image_id")].append(item)
        for name in names.values():
            check_defect_name(name)
    except ValueError as error:
        raise ValueError(f"{file}: not COCO instances that can be read: {error}") from error
    for number, name in images:
        tree.add(name, _marks(file, tree.picture(name), annotations[number], names))


def _marks(file: Path, picture: Path, items: list[Entry], names: dict[int, str]) -> Marks:
    """All annotations of a picture, united."""
    marks = Marks()
    if not items:
        return marks
    size = image_size(picture)
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{picture}: {size[1]}×{size[0]} pixels; at most {MAX_PIXELS:,} are read")
    for item in items:
        try:
            category = _number(item, "category_id")
            if category not in names:
                raise ValueError(f"no category {category}; there are {shown(sorted(names))}")
            marks.add(names[category], _mask(item.get("segmentation"), size))
        except ValueError as error:
            raise ValueError(f"{file}: annotation {shown(item.get('id'))}: {error}") from error
    return marks


def _mask(shape: Any, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool of one annotation; its polygons are united."""
    if not shape or not isinstance(shape, dict | list):
        raise ValueError("no segmentation; a box alone cannot become a mask, draw it")
    if isinstance(shape, dict):
        if shape.get("size") != list(size):
            raise ValueError(f"segmentation is {shown(shape.get('size'))}, its picture {list(size)} (height, width)")
        return decode_rle(shape.get("counts", []), size=size)
    mask = np.zeros(size, bool)
    for polygon in shape:
        mask |= fill_polygon(_points(polygon), size=size)
    return mask


def _points(polygon: Any) -> np.ndarray:
    """(n, 2) float64: x, y."""
    try:
        points = np.asarray(polygon, np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.empty(0)
    if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
        raise ValueError("a polygon needs x, y, x, y, … of at least three points")
    return points.reshape(-1, 2)


def _entries(content: Any, key: str) -> list[Entry]:
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ValueError(f"no list of {key!r} in it; export it again")
    return found


def _number(item: Entry, key: str) -> int:
    value = item.get(key)
    try:
        number = int(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        number = None
    if number is None:
        raise ValueError(f"{key!r} is {shown(value)} in {shown(item)}; wanted a whole number")
    return number


def _text(item: Entry, key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is {shown(value)} in {shown(item)}; wanted a text")
    return value
