"""A whole picture's layout as layers: every region one instance that reaches under what it encloses. No torch."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from fastsynth.layouts.parts import tight_box
from fastsynth.types import Instance

MAX_REGIONS = 65_535
"""An instance map is uint16."""


def layered(labels: np.ndarray, instances: np.ndarray, class_names: Sequence[str]) -> tuple[Instance, ...]:
    """The regions of a layout in drawing order, numbered from 1; painted in it they are the layout again.

    A region goes on under the regions in its holes, and the largest under all, so that one of these taken away or moved
    shows what is around it: a wall is behind its window. Regions that were drawn before are never covered.

    labels: (H, W) integers; pixels whose id is no index of `class_names` belong to no region.
    instances: (H, W) integers.
    Raises ValueError for more than 65,535 regions.
    """
    known = (labels >= 0) & (labels < len(class_names))
    keys = np.stack([instances[known].astype(np.int64), labels[known].astype(np.int64)], axis=1)
    found, index = np.unique(keys, axis=0, return_inverse=True)
    if len(found) > MAX_REGIONS:
        raise ValueError(f"{len(found)} regions in a layout; at most {MAX_REGIONS} can be told apart")
    numbers = np.zeros(labels.shape, np.int64)
    numbers[known] = index.reshape(-1) + 1
    boxes = ndimage.find_objects(numbers)
    filled = [ndimage.binary_fill_holes(numbers[box] == n) for n, box in enumerate(boxes, start=1)]
    order = np.argsort([-int(mask.sum()) for mask in filled], kind="stable")
    drawn = ~known
    layers: list[Instance] = []
    for number in order:
        reach = np.zeros(labels.shape, bool)
        reach[boxes[number]] = filled[number]
        mask = reach & ~drawn if layers else known
        drawn |= numbers == number + 1
        x0, y0, x1, y1 = tight_box(mask)
        name = class_names[found[number][1]]
        layers.append(Instance(len(layers) + 1, name, mask[y0:y1, x0:x1].copy(), left=x0, top=y0))
    return tuple(layers)
