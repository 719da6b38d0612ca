"""Generated defects for generated surfaces: what the shipped base model learns to fill masks with.

Every kind changes a picture inside a mask and nowhere else, in a way light and matter could: shading of a height
field, absorption, missing or shifted structure. Depth below means the distance from the mask's border inwards, as
a share of the largest one: 0 at the border, 1 in the middle of the thickest place.
"""

from collections.abc import Callable

import cv2
import numpy as np

from fastsynth.data.surfaces import draw_surface
from fastsynth.layouts.procedural import Kind as Shape
from fastsynth.layouts.procedural import draw_procedural
from fastsynth.noise import fractal_noise, gradient_noise, white_noise

Draw = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""(surface (H, W, 3) float32 in [0, 255], depth (H, W) float32 in [0, 1], rng) → a picture like the surface."""

SMALLEST = 4
"""Least side of a defect in pixels."""


def draw_defect(kind: str, surface: np.ndarray, foreground: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """`surface` with a defect of `kind` (a key of KINDS) inside `foreground`; both (H, W, …), uint8 and bool."""
    distance = cv2.distanceTransform(np.pad(foreground, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    depth = distance / max(float(distance.max()), 1.0)
    drawn = KINDS[kind](surface.astype(np.float32), depth, rng)
    soft = np.clip(distance / rng.uniform(0.7, 1.6), 0, 1)[..., None]  # a lens blurs every border a little
    mixed = surface + soft * (drawn - surface)
    return np.where(foreground[..., None], np.clip(np.rint(mixed), 0, 255), surface).astype(np.uint8)


def draw_foreground(kind: str, size: tuple[int, int], *, rng: np.random.Generator) -> np.ndarray:
    """A mask that suits `kind`, somewhere in a picture of `size`: (H, W) bool, from hair-thin to a third of it."""
    shapes = SHAPES[kind]
    shape = shapes[rng.integers(len(shapes))]
    longest = min(size) * np.exp(rng.uniform(np.log(0.06), np.log(0.6)))
    box = longest * np.array([1.0, rng.uniform(0.3, 1.0)])[:: rng.choice((-1, 1))]
    mask = draw_procedural(shape, (max(SMALLEST, round(box[0])), max(SMALLEST, round(box[1]))), rng)
    mask = mask[: size[0], : size[1]]
    top, left = (int(rng.integers(whole - part + 1)) for whole, part in zip(size, mask.shape, strict=True))
    foreground = np.zeros(size, bool)
    foreground[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return foreground


def groove(surface: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A scratch or crack: its bottom absorbs light, or, freshly cut, mirrors it; one flank catches some."""
    level = rng.uniform(0.3, 0.95) * np.sqrt(depth)[..., None]
    bottom = surface * rng.uniform(0, 0.4) if rng.random() < 0.75 else rng.uniform(200, 255)
    return surface + level * (bottom - surface) + _shading(depth, rng) * rng.uniform(0, 40)


def pit(surface: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A hole: shaded by its walls, dark and rough at its bottom."""
    walls = _shading(np.sqrt(depth), rng) * rng.uniform(20, 90)
    dark = 1 - rng.uniform(0.2, 0.9) * np.clip(depth * rng.uniform(1, 3), 0, 1)
    return (surface + walls) * dark[..., None] + _rough(depth, rng)


def dent(surface: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A smooth hollow or bump: shading alone, the texture goes on."""
    smooth = cv2.GaussianBlur(depth, (0, 0), 1 + 0.04 * max(depth.shape))
    return surface + _shading(smooth, rng) * rng.uniform(30, 110)


def stain(surface: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A film that swallows or scatters light, thicker in places, often with a dark or bright rim."""
    patches = 1 + 0.3 * fractal_noise(depth.shape, cells=(6, 6), octaves=4, rng=rng)
    rim = rng.uniform(-0.5, 0.5) * np.exp(-(((depth - 0.15) / 0.12) ** 2))
    film = (rng.uniform(-0.7, 0.7) * np.clip(patches, 0, 2) + rim)[..., None]
    tint = 1 + rng.uniform(-0.3, 0.3, 3) * (rng.random() < 0.5)
    return surface * np.exp(film * tint)


def missing(surface: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Something broken off: a flat, rough ground of another level, a shadow along one side."""
    ground = surface.mean((0, 1)) * rng.uniform(0.1, 1.4)
    relief = fractal_noise(depth.shape, cells=_cells(rng, 4, 24), octaves=4, rng=rng)[..., None] * rng.uniform(2, 20)
    return ground + relief + _shading(np.minimum(depth * 3, 1), rng) * rng.uniform(0, 60)


def shifted(surface: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The surface's own structure, displaced or turned: a weave pulled, a print misplaced, a part upside down."""
    height, width = depth.shape
    angle = rng.choice((0.0, 0.0, 90.0, rng.uniform(0, 360)))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, rng.uniform(0.7, 1.4))
    matrix[:, 2] += rng.uniform(-0.5, 0.5, 2) * np.array([width, height])
    return cv2.warpAffine(surface, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)


def foreign(surface: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another material in or on this one, opaque or shining through."""
    other = draw_surface(depth.shape, rng=rng).astype(np.float32)
    if rng.random() < 0.7:  # grey surfaces mostly carry grey dirt
        other = np.repeat(other.mean(2, keepdims=True), 3, axis=2)
    return surface + rng.uniform(0.3, 1) * (other - surface)


def worn(surface: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Polished, smeared or roughened: the texture's contrast changes, its mean hardly."""
    smooth = cv2.GaussianBlur(surface, (0, 0), rng.uniform(1, 4))
    return smooth + rng.uniform(0, 2.2) * (surface - smooth) + rng.uniform(-25, 25) + _rough(depth, rng)


def streaks(surface: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light that comes and goes in bands: uneven grinding, banding, drips."""
    blur = (rng.uniform(0.5, 2), rng.uniform(10, 60))[:: rng.choice((-1, 1))]
    bands = white_noise(depth.shape, blur=(blur[0], blur[1]), rng=rng)[..., None]
    return surface * (1 + rng.uniform(-0.5, 0.5)) + bands * rng.uniform(5, 35)


KINDS: dict[str, Draw] = {
    "groove": groove,
    "pit": pit,
    "dent": dent,
    "stain": stain,
    "missing": missing,
    "shifted": shifted,
    "foreign": foreign,
    "worn": worn,
    "streaks": streaks,
}
SHAPES: dict[str, tuple[Shape, ...]] = {kind: ("blob", "blob", "pits", "scratch") for kind in KINDS} | {
    "groove": ("crack", "scratch", "crack", "scratch", "blob"),
    "pit": ("pits", "blob"),
    "dent": ("blob", "scratch"),
}


def _shading(height: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light from one side on a height field: (H, W, 1), about -1 to 1."""
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * np.gradient(height, axis=1) + np.sin(angle) * np.gradient(height, axis=0)
    shade: np.ndarray = (slope / max(float(np.abs(slope).max()), 1e-6))[..., None]
    return shade


def _rough(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grain, more of it where it is deep: (H, W, 1)."""
    grain = white_noise(depth.shape, blur=(blur := rng.uniform(0.3, 1.5), blur), rng=rng)
    lumps = gradient_noise(depth.shape, cells=_cells(rng, 3, 20), rng=rng)
    rough: np.ndarray = ((grain + lumps) * np.sqrt(depth) * rng.uniform(0, 14))[..., None]
    return rough


def _cells(rng: np.random.Generator, low: float, high: float) -> tuple[float, float]:
    return float(rng.uniform(low, high)), float(rng.uniform(low, high))
