"""Generated pictures of surfaces, and the free ones scikit-image ships: what the shipped weights are trained on.

Every kind below is a height or reflectance field of its own; colour, light and blemishes are drawn on top, so that
no two pictures share more than their kind. All fields are (H, W) float32, mean about 0, std about 1.
"""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np

from fastsynth.images import read_image
from fastsynth.noise import fractal_noise, gradient_noise, standardise, white_noise

Shape = tuple[int, int]
Field = Callable[[Shape, np.random.Generator], np.ndarray]

FREE_PICTURES = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "microaneurysms.png", "moon.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
"""Pictures inside scikit-image that its documentation gives as CC0 or in the public domain."""


def free_pictures() -> list[np.ndarray]:
    """The pictures of `FREE_PICTURES`, each (H, W, 3) uint8."""
    folder = Path(str(files("skimage") / "data"))
    pictures = [read_image(folder / name) for name in FREE_PICTURES]
    return [np.repeat(p, 3, axis=2) if p.shape[2] == 1 else p for p in pictures]


def draw_surface(shape: Shape, *, rng: np.random.Generator) -> np.ndarray:
    """One surface of a random kind, lit, coloured and blemished: (H, W, 3) uint8."""
    kinds = list(KINDS)
    field = kinds[rng.integers(len(kinds))](shape, rng)
    if rng.random() < 0.3:
        other = kinds[rng.integers(len(kinds))](shape, rng)
        field = field + other * rng.uniform(0.1, 0.8)
    grey: np.ndarray = rng.uniform(60, 190) + standardise(field) * rng.uniform(3, 40)
    for _ in range(rng.integers(0, 5)):
        grey = BLEMISHES[rng.integers(len(BLEMISHES))](grey, rng)
    grey = grey + _light(shape, rng) * rng.uniform(0, 30)
    grey = grey + white_noise(shape, blur=(0, 0), rng=rng) * rng.uniform(0, 6)
    if rng.random() < 0.3:
        grey = cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.5, 1.5))
    return _colour(grey, rng)


def brushed(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Streaks along one direction, as left by brushing or rolling."""
    streaks = white_noise(shape, blur=(rng.uniform(0.3, 1.2), rng.uniform(8, 60)), rng=rng)
    return _turn(streaks + 0.3 * white_noise(shape, blur=(0.5, 2), rng=rng), rng)


def cast(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Grains over slow undulation: castings, concrete, orange peel."""
    grain = white_noise(shape, blur=(s := rng.uniform(0.6, 3), s), rng=rng)
    return grain + rng.uniform(0, 2) * fractal_noise(shape, cells=_cells(rng, 1, 8), octaves=4, rng=rng)


def woven(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Warp over weft as a product of two threads, with irregular thread spacing."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    wobble = fractal_noise(shape, cells=(3, 3), octaves=2, rng=rng) * rng.uniform(0, 2)
    period = rng.uniform(4, 16)
    u, v = (x + wobble) * (np.pi / period), (y + wobble) * (np.pi / (period * rng.uniform(0.7, 1.4)))
    over = (np.floor(u / np.pi) + np.floor(v / np.pi)) % 2
    threads = np.where(over > 0, np.abs(np.sin(u)), np.abs(np.sin(v)))
    return _turn(standardise(threads) + rng.uniform(0.1, 0.7) * white_noise(shape, blur=(0.6, 0.6), rng=rng), rng)


def wood(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Year rings bent by slow noise, with fibres along them."""
    y = np.mgrid[: shape[0], : shape[1]][0].astype(np.float32) / shape[0]
    bend = fractal_noise(shape, cells=(2, 1), octaves=3, rng=rng) * rng.uniform(0.05, 0.4)
    rings = np.sin((y + bend) * 2 * np.pi * rng.uniform(4, 20))
    fibres = white_noise(shape, blur=(0.5, rng.uniform(6, 20)), rng=rng)
    return _turn(rings + fibres * rng.uniform(0.3, 1), rng)


def stone(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Rough fractal with sharp veins where a second field crosses zero."""
    rough = fractal_noise(shape, cells=_cells(rng, 2, 12), octaves=6, rng=rng, persistence=rng.uniform(0.5, 0.85))
    veins = np.exp(-np.abs(fractal_noise(shape, cells=_cells(rng, 1, 4), octaves=4, rng=rng)) * rng.uniform(8, 40))
    return rough + veins * rng.uniform(-3, 3)


def printed(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Regular marks with hard edges: grids, dots, stripes."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    period, duty = rng.uniform(6, 40), rng.uniform(0.15, 0.6)
    u, v = (x / period) % 1, (y / (period * rng.uniform(0.6, 1.6))) % 1
    marks = (u < duty, (u < duty) | (v < duty), (u - 0.5) ** 2 + (v - 0.5) ** 2 < (duty / 2) ** 2)
    field = marks[rng.integers(len(marks))].astype(np.float32)
    field = cv2.GaussianBlur(field, (0, 0), rng.uniform(0.3, 1.2))
    return _turn(standardise(field) + 0.1 * white_noise(shape, blur=(1, 1), rng=rng), rng)


def speckle(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Multiplicative interference grain over soft layers, as in ultrasound: modulus of a complex Gaussian field."""
    blur = (rng.uniform(0.5, 1.5), rng.uniform(1, 4))
    modulus = np.hypot(white_noise(shape, blur=blur, rng=rng), white_noise(shape, blur=blur, rng=rng))
    layers = fractal_noise(shape, cells=(rng.uniform(2, 8), rng.uniform(1, 3)), octaves=3, rng=rng)
    shadow = _soft_shapes(shape, rng)
    return standardise(modulus * np.exp(0.6 * layers + 0.8 * shadow))


def tissue(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Cells: distance to scattered points, with dark rims."""
    count = int(rng.uniform(20, 300))
    seeds = np.ones(shape, np.uint8)
    seeds[rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)] = 0
    distance = cv2.distanceTransform(seeds, cv2.DIST_L2, 5)
    return standardise(np.sqrt(distance)) + 0.4 * fractal_noise(shape, cells=(6, 6), octaves=3, rng=rng)


def parts(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Flat regions with crisp borders and a little grain: machined parts, tiles against a background."""
    regions = np.sign(_soft_shapes(shape, rng)) + 0.5 * np.sign(_soft_shapes(shape, rng))
    regions = cv2.GaussianBlur(regions.astype(np.float32), (0, 0), rng.uniform(0.4, 1.5))
    return regions + rng.uniform(0.05, 0.4) * cast(shape, rng)


KINDS: tuple[Field, ...] = (brushed, cast, woven, wood, stone, printed, speckle, tissue, parts)


def _line(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A scratch or a crack: a walk of short strokes, thin, darker or brighter than what it crosses."""
    height, width = grey.shape
    point = rng.uniform((0, 0), (width, height))
    angle, bend = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.5)
    drawn = np.zeros(grey.shape, np.uint8)
    thickness = int(rng.integers(1, 4))
    for _ in range(rng.integers(10, 60)):
        angle += rng.normal(0, bend)
        target = point + rng.uniform(2, 6) * np.array((np.cos(angle), np.sin(angle)))
        cv2.line(drawn, _pixel(point), _pixel(target), 255, thickness, cv2.LINE_AA)
        point = target
    return grey + drawn.astype(np.float32) / 255 * rng.uniform(20, 110) * rng.choice((-1, -1, 1))


def _pits(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A few small holes, dark with a brighter rim on one side."""
    hole = np.zeros(grey.shape, np.float32)
    for _ in range(rng.integers(1, 8)):
        centre = rng.uniform((0, 0), grey.shape[::-1])
        axes = (int(rng.integers(1, 7)), int(rng.integers(1, 7)))
        cv2.ellipse(hole, _pixel(centre), axes, rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
    rim = cv2.GaussianBlur(np.roll(hole, (1, 1), (0, 1)), (0, 0), 1.0) - hole
    return grey - hole * rng.uniform(20, 110) + np.clip(rim, 0, 1) * rng.uniform(0, 50)


def _stain(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A blotch with a ragged border: darker, brighter, or rougher than its surroundings."""
    inside = _soft_shapes(grey.shape, rng) + 0.4 * fractal_noise(grey.shape, cells=(8, 8), octaves=4, rng=rng) > 0.8
    soft = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), rng.uniform(0.5, 4))
    rough = rng.uniform(0, 20) * white_noise(grey.shape, blur=(1, 1), rng=rng)
    return grey + soft * (rng.uniform(-60, 60) + rough)


BLEMISHES = (_line, _line, _pits, _stain)


def _soft_shapes(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    return standardise(gradient_noise(shape, cells=_cells(rng, 1.2, 4), rng=rng))


def _light(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Uneven illumination: a plane and a slow undulation."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    return np.cos(angle) * x + np.sin(angle) * y + 0.5 * gradient_noise(shape, cells=(2, 2), rng=rng)


def _colour(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half the pictures stay grey; the rest get a hue that drifts with brightness and place."""
    rgb = np.repeat(grey[..., None], 3, axis=2)
    if rng.random() < 0.5:
        tint = rng.uniform(-45, 45, 3) + (grey[..., None] - 128) * rng.uniform(-0.4, 0.4, 3)
        drift = fractal_noise(grey.shape, cells=(2, 2), octaves=3, rng=rng)[..., None] * rng.uniform(-12, 12, 3)
        rgb = rgb + tint + drift
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def _turn(field: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The field at another angle; mirrored at the border so that no corner is empty."""
    height, width = field.shape
    angle = rng.choice((0.0, 90.0, rng.uniform(0, 180)))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    return cv2.warpAffine(field, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)


def _cells(rng: np.random.Generator, low: float, high: float) -> tuple[float, float]:
    return float(rng.uniform(low, high)), float(rng.uniform(low, high))


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))
