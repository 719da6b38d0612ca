"""Small fields the demo is drawn with. Positions are (y, x) in pixels, fields (H, W) float32."""

import cv2
import numpy as np

from fastsynth.noise import fractal_noise

Size = tuple[int, int]
Point = tuple[float, float]


def grid(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """y (H, 1) and x (1, W) from -1 to 1."""
    y = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size[1], dtype=np.float32)[None, :]
    return y, x


def offsets(size: Size, center: Point, *, angle: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Pixel offsets from `center` along axes turned by `angle` radians: (across, along)."""
    y = np.arange(size[0], dtype=np.float32)[:, None] - np.float32(center[0])
    x = np.arange(size[1], dtype=np.float32)[None, :] - np.float32(center[1])
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    return y * cosine - x * sine, x * cosine + y * sine


def place(size: Size, *, margin: float, rng: np.random.Generator) -> Point:
    """A random point at least the share `margin` of the size away from every border."""
    y, x = rng.uniform(margin, 1 - margin, 2)
    return float(y * size[0]), float(x * size[1])


def undulation(size: Size, *, wavelength: float, rng: np.random.Generator) -> np.ndarray:
    """Slow random waves, std about 1. Drawn at an eighth of the size: nothing in them is finer than that.

    wavelength: pixels, of the slowest of the three octaves.
    """
    small = (max(8, size[0] // 8), max(8, size[1] // 8))
    cells = (size[0] / wavelength, size[1] / wavelength)
    coarse = fractal_noise(small, cells=cells, octaves=3, rng=rng)
    return cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def step(value: np.ndarray, softness: float) -> np.ndarray:
    """0 below 0, 1 above `softness`, smooth between."""
    t = np.clip(value / softness, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)
