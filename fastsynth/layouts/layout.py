"""Pure edits of a layout, and the label map a renderer or a segmenter reads. numpy only."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fastsynth.types import Instance, Layout, Style, Warp

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
    style: Style | None = None,
    severity: float = 1.0,
) -> Layout:
    """A new layout with one more instance on top; its id is the largest one so far plus 1.

    mask: (h, w) bool, tight. left, top: where its upper left pixel goes; it must lie inside the image.
    Raises ValueError when the mask is empty or leaves the image.
    """
    added = Instance(
        next_id(layout), defect, mask, left, top, warp=warp, shape_source=shape_source, style=style, severity=severity
    )
    return replace(layout, instances=(*layout.instances, added))


def next_id(layout: Layout) -> int:
    """What the next instance will be called."""
    return 1 + max((instance.id for instance in layout.instances), default=0)


def remove_instance(layout: Layout, id: int) -> Layout:
    """A new layout without instance `id`; the others keep their ids and order.

    Raises ValueError when there is no such instance, or it is locked.
    """
    gone = free_instance(layout, id)
    return replace(layout, instances=tuple(instance for instance in layout.instances if instance is not gone))


def replace_instance(layout: Layout, changed: Instance) -> Layout:
    """A new layout where `changed` stands in the place of the instance with its id.

    Raises ValueError when there is no such instance, it is locked, or the new one leaves the image.
    """
    old = free_instance(layout, changed.id)
    instances = tuple(changed if instance is old else instance for instance in layout.instances)
    return replace(layout, instances=instances)


def find_instance(layout: Layout, id: int) -> Instance:
    """Raises ValueError when there is no such instance."""
    for instance in layout.instances:
        if instance.id == id:
            return instance
    known = ", ".join(str(instance.id) for instance in layout.instances) or "none"
    raise ValueError(f"layout on {layout.source} has no instance {id}; its ids: {known}")


def free_instance(layout: Layout, id: int) -> Instance:
    """Raises ValueError when there is no such instance, or it is locked."""
    instance = find_instance(layout, id)
    if instance.locked:
        raise ValueError(f"instance {id} of the layout on {layout.source} is locked; unlock it first")
    return instance


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
