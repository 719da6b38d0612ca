"""Pure edits of a layout, and the label map a renderer or a segmenter reads. numpy only."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fastsynth.types import Instance, Layout, Warp

MAX_CLASSES = 255
"""A class map is uint8 and 0 is the background."""


def add_instance(
    layout: Layout,
    *,
    defect: str,
    mask: np.ndarray,
    left: int,
    top: int,
    warp: Warp | None = None,
    shape_source: str = "",
) -> Layout:
    """A new layout with one more instance on top; its id is the largest one so far plus 1.

    mask: (h, w) bool, tight. left, top: where its upper left pixel goes; it must lie inside the image.
    Raises ValueError when the mask is empty or leaves the image.
    """
    number = 1 + max((instance.id for instance in layout.instances), default=0)
    added = Instance(number, defect, mask, left, top, warp=warp, shape_source=shape_source)
    return replace(layout, instances=(*layout.instances, added))


def remove_instance(layout: Layout, id: int) -> Layout:
    """A new layout without instance `id`; the others keep their ids and order.

    Raises ValueError when there is no such instance.
    """
    kept = tuple(instance for instance in layout.instances if instance.id != id)
    if len(kept) == len(layout.instances):
        known = ", ".join(str(instance.id) for instance in layout.instances) or "none"
        raise ValueError(f"layout on {layout.source} has no instance {id}; its ids: {known}")
    return replace(layout, instances=kept)


def class_map(layout: Layout, classes: Sequence[str]) -> np.ndarray:
    """(H, W) uint8: 1 + index into `classes` of the topmost instance, 0 for the background.

    Raises ValueError when an instance's defect is not in `classes`, or there are more than 255 of them.
    """
    if len(classes) > MAX_CLASSES:
        raise ValueError(f"{len(classes)} classes; a class map holds at most {MAX_CLASSES}, merge some")
    index = {name: number for number, name in enumerate(classes, start=1)}
    indices = np.zeros(layout.size, np.uint8)
    for instance in layout.instances:
        if instance.defect not in index:
            raise ValueError(f"defect {instance.defect!r} is not among the classes {', '.join(classes)}; add it")
        x0, y0, x1, y1 = instance.bbox
        indices[y0:y1, x0:x1][instance.mask] = index[instance.defect]
    return indices
