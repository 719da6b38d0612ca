"""Does a picture show what its layout says, and nothing else? Visibility, alignment and leak. numpy and OpenCV.

They compare a picture with defects and the same picture without: in a store the source, with an editor what there was
before. Whether a segmenter that knows real defects alone finds them too is asked in `fastsynth.recipes.evaluating`.

H W picture size, C channels.
"""

from typing import Any

import cv2
import numpy as np

from fastsynth.quality.gate_measures import SEEN_CONTRAST, SEEN_SHARE, Change

MARGIN = 2
"""Pixels around a mask in which a change is no leak: feathering and interpolation reach so far."""
SMALLEST_CHANGE = 1e-6
"""A mean change below it counts as this much, in the units of the pictures."""


def truth(found: Change, source: np.ndarray, image: np.ndarray, instances: np.ndarray) -> dict[str, Any]:
    """What a manifest line says under "truth", JSON values rounded to 4 digits.

    alignment: IoU of the mask with what visibly changed. leak: see `leak_ratio`. visible: {id: share of the instance
    that can be seen}; 0 for one that others cover. invisible: how many of them hardly can.

    found: of the whole mask. source, image: (H, W, C) uint8 or uint16. instances: (H, W) topmost ids, 0 outside.
    """
    seen, ids = found.contrast >= SEEN_CONTRAST, instances[found.at]
    numbers = [int(number) for number in np.unique(ids) if number]
    visible = {number: float(seen[ids == number].mean()) for number in numbers}
    return {
        "alignment": round(overlap(seen, found.inside), 4),
        "leak": round(leak_ratio(source, image, instances > 0), 4) if found.outside.any() else 0.0,
        "visible": {str(number): round(share, 4) for number, share in visible.items()},
        "invisible": sum(share < SEEN_SHARE for share in visible.values()),
    }


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two foregrounds, (H, W) bool; 1 when both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def leak_ratio(before: np.ndarray, after: np.ndarray, region: np.ndarray) -> float:
    """Mean absolute change more than `MARGIN` pixels away from the region, per mean absolute change inside it.

    0 where nothing but the region changed, 1 where all changed alike. before, after: (H, W, C), any number type.
    region: (H, W) bool, not empty: what was meant to change.
    """
    change = np.abs(after.astype(np.float64) - before).mean(axis=2)
    near = cv2.dilate(region.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=MARGIN) > 0
    outside = float(change[~near].mean()) if not near.all() else 0.0
    return outside / max(float(change[region].mean()), SMALLEST_CHANGE)
