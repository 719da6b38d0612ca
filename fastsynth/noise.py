"""Gradient (Perlin) noise and fields made of it. numpy only; every function takes its own `rng`."""

import cv2
import numpy as np


def gradient_noise(shape: tuple[int, int], *, cells: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """One octave of gradient noise (Perlin 1985, with the quintic fade of 2002).

    shape: (H, W). cells: lattice cells along y and x; more cells, finer noise.
    Returns (H, W) float32, mean about 0, within about [-1, 1].
    """
    height, width = shape
    y = np.linspace(0, cells[0], height, endpoint=False, dtype=np.float32)
    x = np.linspace(0, cells[1], width, endpoint=False, dtype=np.float32)
    rows, columns = int(np.ceil(cells[0])) + 1, int(np.ceil(cells[1])) + 1
    angle = rng.uniform(0, 2 * np.pi, (rows + 1, columns + 1)).astype(np.float32)
    gradient_y, gradient_x = np.sin(angle), np.cos(angle)
    iy, ix = y.astype(int), x.astype(int)
    fy, fx = (y - np.floor(y))[:, None], (x - np.floor(x))[None, :]

    def corner(dy: int, dx: int) -> np.ndarray:
        at = np.ix_(iy + dy, ix + dx)
        return gradient_y[at] * (fy - dy) + gradient_x[at] * (fx - dx)

    u, v = _fade(fx), _fade(fy)
    top = corner(0, 0) * (1 - u) + corner(0, 1) * u
    bottom = corner(1, 0) * (1 - u) + corner(1, 1) * u
    return np.sqrt(np.float32(2.0)) * (top * (1 - v) + bottom * v)


def fractal_noise(
    shape: tuple[int, int],
    *,
    cells: tuple[float, float],
    octaves: int,
    rng: np.random.Generator,
    persistence: float = 0.5,
) -> np.ndarray:
    """Octaves of gradient noise, each twice as fine and `persistence` times as strong. (H, W) float32, std 1."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        scale = 2.0**octave
        fine = gradient_noise(shape, cells=(cells[0] * scale, cells[1] * scale), rng=rng)
        total += persistence**octave * fine
    return standardise(total)


def white_noise(shape: tuple[int, int], *, blur: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """White noise smoothed by a Gaussian of `blur` pixels along y and x (0 for none). (H, W) float32, std 1."""
    noise: np.ndarray = rng.standard_normal(shape, np.float32)
    sigma_y, sigma_x = blur
    if sigma_y > 0 or sigma_x > 0:
        noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=max(sigma_x, 1e-3), sigmaY=max(sigma_y, 1e-3))
    return standardise(noise)


def standardise(field: np.ndarray) -> np.ndarray:
    """Mean 0, standard deviation 1; a constant field becomes 0."""
    return ((field - field.mean()) / max(float(field.std()), 1e-8)).astype(np.float32)


def _fade(t: np.ndarray) -> np.ndarray:
    return t * t * t * (t * (t * 6 - 15) + 10)
