"""Whether a surface runs one way, as brushed metal, a weave or layers of tissue do. No torch.

On such a surface a defect that was turned shows: its own piece of surface, inside the mask, runs another way.
"""

from collections.abc import Sequence

import cv2
import numpy as np

SIDE = 512
"""Sides of the middle that is looked at, pixels."""
BLUR = 1.5
"""Standard deviation of the smoothing before gradients are taken, pixels: the sensor's noise runs no way."""
FOLDS = 2, 4
"""Stripes look the same after half a turn, a grid after a quarter."""
RUNS_ONE_WAY = 0.3
"""From this share of the gradients' power on. Noise and blobs are below 0.1, the demo's weave is above 0.4, its brushed
metal above 0.8."""
ALONG, ANYHOW = (-5.0, 5.0), (-20.0, 20.0)
"""Degrees by which defects are turned on a surface that runs one way, and on any other."""


def direction(image: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Σ |g|² (g/|g|)^k / Σ |g|² for k in `FOLDS`, over the gradients g as complex numbers: (2,) complex.

    For k = 2 its absolute value is the coherence of the structure tensor (Bigün and Granlund 1987): 0 where gradients
    point anywhere, 1 where all lie on one line. 0 for an image without any.

    image: (H, W, C) uint8 or uint16. foreground: (H, W) bool, pixels that are not looked at, nor their neighbours.
    """
    height, width = foreground.shape
    top, left = max(0, (height - SIDE) // 2), max(0, (width - SIDE) // 2)
    middle = np.s_[top : top + SIDE, left : left + SIDE]
    grey = cv2.GaussianBlur(image[middle].mean(axis=2, dtype=np.float32), (0, 0), BLUR)
    gradient = cv2.Scharr(grey, cv2.CV_32F, 1, 0) + 1j * cv2.Scharr(grey, cv2.CV_32F, 0, 1)
    near = cv2.dilate(foreground[middle].astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    power = np.where(near, 0.0, np.abs(gradient) ** 2).astype(float)
    angle = np.angle(gradient)
    return np.array([(power * np.exp(1j * k * angle)).sum() for k in FOLDS]) / max(power.sum(), 1e-9)


def rotation_range(directions: Sequence[np.ndarray]) -> tuple[float, float]:
    """Degrees by which defects may be turned on surfaces of these directions; parts that lie anyhow cancel out."""
    return ALONG if directions and np.abs(np.mean(directions, axis=0)).max() >= RUNS_ONE_WAY else ANYHOW
