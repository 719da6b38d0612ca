"""Pure edits of the instances of a layout: each returns a new layout and leaves the old one as it was.

Instances lie in layers, so what an edit uncovers is there again, and taking an edit back is exact. Positions are
pixels, x right, y down. Ids, order and looks of the instances that an edit does not name never change.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, assert_never

import cv2
import numpy as np

from fastsynth.layouts.layout import add_instance, find_instance, free_instance, next_id, replace_instance
from fastsynth.layouts.masks import bend_mask, move_origin
from fastsynth.layouts.parts import tight_box
from fastsynth.layouts.placement import object_region
from fastsynth.types import CentreStyle, Instance, Layout, SeedStyle, Style, Warp, sample_seed

Clip = Literal["image", "object"]
"""What an edit may cut a shape off at: the frame, or the object that `placement.object_region` finds on the background.
None refuses shapes that leave the frame."""
MAX_GROWTH = 64
"""Pixels."""
MAX_SCALE = 16


def add_shape(
    layout: Layout,
    *,
    defect: str,
    mask: np.ndarray,
    left: int = 0,
    top: int = 0,
    style: Style | None = None,
    shape_source: str = "edit",
    clip: Clip | None = None,
) -> Layout:
    """A new instance on top, from a mask that need not be tight: one of the image's size is placed as it was drawn.

    mask: (h, w) bool. left, top: where its upper left pixel goes.
    Raises ValueError when the mask is empty, leaves the image and `clip` is None, or nothing is left of it.
    """
    added = _fitted(layout, _tight(Instance(next_id(layout), defect, mask, left, top)), clip)
    return add_instance(
        layout,
        defect=defect,
        mask=added.mask,
        left=added.left,
        top=added.top,
        shape_source=shape_source,
        style=style,
    )


def move_instance(layout: Layout, id: int, *, dx: int, dy: int, clip: Clip | None = None) -> Layout:
    """Shift by dx, dy pixels; shape and look stay.

    Raises ValueError when there is no such instance, it is locked, it leaves the image and `clip` is None, or nothing
    is left of it.
    """
    old = free_instance(layout, id)
    moved = replace(old, left=old.left + dx, top=old.top + dy)
    return replace_instance(layout, _fitted(layout, moved, clip))


def turn_instance(
    layout: Layout, id: int, *, degrees: float = 0.0, scale: float = 1.0, clip: Clip | None = None
) -> Layout:
    """Turn counter-clockwise and scale about the middle of its box, nearest neighbour; the look stays.

    A warp is turned with the shape; its elastic bending, which hangs on the old axes, is dropped.
    Raises ValueError as `move_instance`, and for a scale outside (0, MAX_SCALE].
    """
    old = free_instance(layout, id)
    if not (0 < scale <= MAX_SCALE and np.isfinite(degrees)):
        raise ValueError(f"instance {id}: {degrees}° at scale {scale}; wanted a scale above 0, at most {MAX_SCALE}")
    height, width = old.mask.shape
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    linear = scale * np.array([[cosine, sine], [-sine, cosine]])
    across = np.ceil(np.abs(linear) @ (width, height) - 1e-9).astype(int).clip(1)
    if max(across / layout.size[::-1]) > 4:
        raise ValueError(f"instance {id} would cover {across[0]}×{across[1]} pixels; take a smaller scale than {scale}")
    inverse = np.linalg.inv(linear)
    offset = np.array([width - 1, height - 1]) / 2 - inverse @ ((across - 1) / 2)
    y, x = np.indices((across[1], across[0]))
    source = np.rint(inverse @ np.stack([x.ravel(), y.ravel()]) + offset[:, None]).astype(int)
    valid = ((source >= 0) & (source < [[width], [height]])).all(axis=0)
    mask = np.zeros(x.size, bool)
    mask[valid] = old.mask[source[1, valid], source[0, valid]]
    middle = np.array([old.left, old.top]) + (np.array([width, height]) - across) / 2
    left, top = np.rint(middle).astype(int).tolist()  # half to even: turning on and on does not drift
    turned = replace(
        old,
        mask=_not_empty(mask.reshape(x.shape), id, f"at scale {scale}"),
        left=left,
        top=top,
        warp=None if old.warp is None else _turned_warp(old.warp, inverse, offset),
    )
    return replace_instance(layout, _fitted(layout, _tight(turned), clip))


def grow_instance(layout: Layout, id: int, *, pixels: int, clip: Clip | None = None) -> Layout:
    """Move the border out by `pixels` (negative: in), by a disc; the look stays.

    Raises ValueError as `move_instance`, for more than MAX_GROWTH pixels, and when nothing is left of it.
    """
    old = free_instance(layout, id)
    if abs(pixels) > MAX_GROWTH:
        raise ValueError(f"instance {id} by {pixels} pixels; at most {MAX_GROWTH} are grown or taken off at once")
    pad = abs(pixels) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(pixels) + 1,) * 2)
    change = cv2.dilate if pixels >= 0 else cv2.erode
    mask = change(np.pad(old.mask, pad).astype(np.uint8), disc) > 0
    grown = _shifted(old, _not_empty(mask, id, f"after {pixels} pixels"), -pad, -pad)
    return replace_instance(layout, _fitted(layout, _tight(grown), clip))


def bend_instance(layout: Layout, id: int, *, pixels: int, seed: int = 0, clip: Clip | None = None) -> Layout:
    """Bend the shape elastically, no point of it by more than `pixels`; the look stays, and is not bent with it.

    seed: of how it is bent, together with the id: two instances bend in two ways.
    Raises ValueError as `move_instance`, and for a number of pixels outside 0 … MAX_GROWTH.
    """
    old = free_instance(layout, id)
    if not 0 <= pixels <= MAX_GROWTH:
        raise ValueError(f"instance {id} by {pixels} pixels; wanted 0 to {MAX_GROWTH} to bend it by")
    mask = bend_mask(old.mask, pixels=pixels, seed=sample_seed(seed, id))
    bent = _shifted(old, _not_empty(mask, id, f"bent by {pixels} pixels"), -pixels - 1, -pixels - 1)
    return replace_instance(layout, _fitted(layout, _tight(bent), clip))


def paint_instance(
    layout: Layout, id: int, points: Sequence[tuple[int, int]], *, width: int, erase: bool = False
) -> Layout:
    """Add a brush stroke to the shape, or take one off it; the look stays.

    points: x, y of the image, at least one. width: of the round brush, in pixels.
    Raises ValueError when there is no such instance, it is locked, or nothing is left of it.
    """
    old = free_instance(layout, id)
    stroke = np.zeros(layout.size, np.uint8)
    line = np.array([*points, points[-1]], np.int32)  # one point alone would draw nothing
    cv2.polylines(stroke, [line.reshape(-1, 1, 2)], False, 1, thickness=width)
    x0, y0, x1, y1 = old.bbox
    canvas = np.zeros(layout.size, bool)
    canvas[y0:y1, x0:x1] = old.mask
    canvas = canvas & (stroke == 0) if erase else canvas | (stroke > 0)
    painted = _shifted(old, _not_empty(canvas, id, "after the stroke"), -old.left, -old.top)
    return replace_instance(layout, _tight(painted))


def copy_instance(layout: Layout, id: int, *, dx: int, dy: int, clip: Clip | None = None) -> Layout:
    """The same shape and style again, dx, dy pixels away, with a new id and on top.

    Where the style is None the copy looks like itself: its seed comes from its own id.
    Raises ValueError when there is no such instance, it leaves the image and `clip` is None, or nothing is left of it.
    """
    old = find_instance(layout, id)
    moved = _fitted(layout, replace(old, left=old.left + dx, top=old.top + dy), clip)
    return add_instance(
        layout,
        defect=moved.defect,
        mask=moved.mask,
        left=moved.left,
        top=moved.top,
        warp=moved.warp,
        shape_source=moved.shape_source,
        style=moved.style,
        severity=moved.severity,
    )


def set_class(layout: Layout, id: int, defect: str) -> Layout:
    """Give an instance another class. The shape stays; what made it look like its old class goes.

    That is its warp, and a bank centre, since every class has its own. Seeds and references are kept.
    Raises ValueError when there is no such instance, or it is locked.
    """
    old = free_instance(layout, id)
    style = None if isinstance(old.style, CentreStyle) else old.style
    return replace_instance(layout, replace(old, defect=defect, warp=None, style=style))


def set_style(layout: Layout, id: int, style: Style | None) -> Layout:
    """Give an instance another look. It replaces what the shape's own source looked like, so the warp goes.

    Raises ValueError when there is no such instance, or it is locked.
    """
    return replace_instance(layout, replace(free_instance(layout, id), style=style, warp=None))


def set_severity(layout: Layout, id: int, severity: float) -> Layout:
    """Give an instance another contrast to the background, see `layouts.severity`; shape and look stay.

    Raises ValueError when there is no such instance, or it is locked.
    """
    return replace_instance(layout, replace(free_instance(layout, id), severity=severity))


def restyle_all(layout: Layout, seed: int) -> Layout:
    """A new look for every instance that is not locked: seeds of their own, from `seed` and the instance's id."""
    for instance in layout.instances:
        if not instance.locked:
            layout = set_style(layout, instance.id, SeedStyle(sample_seed(seed, instance.id)))
    return layout


def swap_styles(layout: Layout, first: int, second: int) -> Layout:
    """Exchange the styles of two instances.

    Raises ValueError when one is missing, locked, or has no style of its own that the other could take.
    """
    styles = {id: free_instance(layout, id).style for id in (first, second)}
    for id, style in styles.items():
        if style is None:
            raise ValueError(f"instance {id} has no style of its own to swap; set one, or restyle the layout, first")
    return set_style(set_style(layout, first, styles[second]), second, styles[first])


def lock_instance(layout: Layout, id: int, *, locked: bool = True) -> Layout:
    """Protect an instance from edits, or allow them again. Raises ValueError when there is no such instance."""
    old = find_instance(layout, id)
    instances = tuple(replace(old, locked=locked) if instance is old else instance for instance in layout.instances)
    return replace(layout, instances=instances)


def looks_of(layout: Layout, count: int, *, seed: int) -> list[Layout]:
    """The layout as it is and `count - 1` restyled ones: many looks for one layout, to render in one call."""
    return [layout, *(restyle_all(layout, sample_seed(seed, number)) for number in range(1, count))]


def _fitted(layout: Layout, instance: Instance, clip: Clip | None) -> Instance:
    """The part of `instance` that `clip` allows; None leaves the check to the layout."""
    match clip:
        case None:
            return instance
        case "image":
            allowed = np.ones(layout.size, bool)
        case "object":
            allowed = object_region(layout.background)
        case _:
            assert_never(clip)
    height, width = layout.size
    x0, y0, x1, y1 = instance.bbox
    kept = np.zeros_like(instance.mask)
    rows, columns = slice(max(y0, 0), max(min(y1, height), 0)), slice(max(x0, 0), max(min(x1, width), 0))
    part = allowed[rows, columns]
    if part.size:
        inner = slice(rows.start - y0, rows.stop - y0), slice(columns.start - x0, columns.stop - x0)
        kept[inner] = instance.mask[inner] & part
    return _tight(replace(instance, mask=_not_empty(kept, instance.id, f"inside the {clip}")))


def _tight(instance: Instance) -> Instance:
    x0, y0, x1, y1 = tight_box(instance.mask)
    return _shifted(instance, np.ascontiguousarray(instance.mask[y0:y1, x0:x1]), x0, y0)


def _shifted(instance: Instance, mask: np.ndarray, left: int, top: int) -> Instance:
    """The instance with `mask`, whose upper left pixel is pixel (left, top) of the old one."""
    warp = None if instance.warp is None else move_origin(instance.warp, left, top)
    return replace(instance, mask=mask, left=instance.left + left, top=instance.top + top, warp=warp)


def _turned_warp(warp: Warp, linear: np.ndarray, offset: np.ndarray) -> Warp:
    """`warp` for a patch whose pixel p was pixel linear @ p + offset."""
    matrix = np.array(warp.matrix).reshape(2, 3) @ np.vstack([np.column_stack([linear, offset]), [0, 0, 1]])
    a, b, c, d, e, f = matrix.ravel().tolist()
    return replace(warp, matrix=(a, b, c, d, e, f), amplitude=0.0)


def _not_empty(mask: np.ndarray, id: int, when: str) -> np.ndarray:
    if not mask.any():
        raise ValueError(f"nothing is left of instance {id} {when}; change it less, or remove it")
    return mask
