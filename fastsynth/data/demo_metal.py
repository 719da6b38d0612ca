"""The brushed metal of the demo: a lit surface and its defects. Brightness is float32 in [0, 1], (H, W).

A defect takes a clean surface and returns the brightness with the damage; `demo` finds the mask by comparing.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from fastsynth.data.demo_fields import Point, Size, grid, offsets, place, step, undulation
from fastsynth.noise import fractal_noise, standardise, white_noise


@dataclass(frozen=True, eq=False)
class Metal:
    """brightness: (H, W) float32. light: unit vector (y, x) towards the lamp, in the image plane."""

    brightness: np.ndarray
    light: tuple[float, float]


def brushed_metal(size: Size, rng: np.random.Generator) -> Metal:
    """Streaks along x, turned and scaled a little, under a slanting lamp whose glare is a soft band."""
    brushing = _turned(_streaks((int(1.4 * size[0]), int(1.4 * size[1])), rng), size, rng)
    y, x = grid(size)
    angle = rng.uniform(-0.9, 0.9) - np.pi / 2
    light = (float(np.sin(angle)), float(np.cos(angle)))
    slope = rng.uniform(0.02, 0.08) * (light[0] * y + light[1] * x)
    glare = rng.uniform(0.02, 0.10) * np.exp(-(((y - rng.uniform(-0.8, 0.8)) / rng.uniform(0.35, 0.7)) ** 2))
    vignette = rng.uniform(0.03, 0.08) * (x**2 + y**2)
    mottle = 0.008 * undulation(size, wavelength=min(size) / 3, rng=rng)
    exposure = rng.uniform(0.47, 0.58)
    lit = exposure + slope + glare - vignette + mottle
    # streaks reflect: they stand out more where there is more light
    return Metal(np.clip(lit * (1 + 0.07 * brushing), 0, 1).astype(np.float32), light)


def scratch(metal: Metal, rng: np.random.Generator) -> np.ndarray:
    """A thin groove across the brushing: dark floor, bright ridge thrown up on the side towards the lamp."""
    image = metal.brightness.copy()
    length = rng.uniform(0.15, 0.65) * min(image.shape)
    angle = rng.uniform(np.radians(25), np.radians(155))
    width, strength = rng.uniform(0.55, 1.3), rng.uniform(0.16, 0.34)
    bend = rng.uniform(-0.12, 0.12)
    center = place(image.shape, margin=0.2, rng=rng)
    image += _groove(metal, center, angle, length=length, width=width, strength=strength, bend=bend, rng=rng)
    if rng.random() < 0.3:  # the tool bounced: a fainter stroke beside the first
        shift = rng.uniform(4, 9)
        beside = (center[0] + shift * np.cos(angle), center[1] - shift * np.sin(angle))
        share = rng.uniform(0.3, 0.7)
        image += _groove(
            metal, beside, angle, length=share * length, width=0.8 * width, strength=0.6 * strength, bend=bend, rng=rng
        )
    return np.clip(image, 0, 1)


def pit(metal: Metal, rng: np.random.Generator) -> np.ndarray:
    """One to four small holes with a dark floor; the rim that faces the lamp is lit."""
    image = metal.brightness.copy()
    center = place(image.shape, margin=0.15, rng=rng)
    for index in range(rng.integers(1, 5)):
        at = center if index == 0 else tuple(np.add(center, rng.normal(0, 14, 2)))
        radius = rng.uniform(1.5, 5.0) if index == 0 else rng.uniform(1.2, 3.0)
        y, x = offsets(image.shape, at)
        theta = np.arctan2(y, x)
        ragged = sum(rng.uniform(0, 0.28) / k * np.cos(k * theta + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3, 5))
        r = np.hypot(y, x) / (radius * (1 + ragged))
        floor = step((1.0 - r) * radius + 0.5, 1.0)
        facing = (y * metal.light[0] + x * metal.light[1]) / np.maximum(np.hypot(y, x), 1e-3)
        rim = np.exp(-(((r - 1.15) * radius / 0.9) ** 2)) * (1 - floor)
        depth = rng.uniform(0.6, 0.85)
        # the wall away from the lamp looks towards it
        inside = 1 - floor * (depth - 0.25 * np.clip(-facing, 0, 1) * np.clip(r, 0, 1))
        image = image * inside + rim * (0.05 + 0.20 * np.clip(-facing, -0.4, 1))
    return np.clip(image, 0, 1)


def stain(metal: Metal, rng: np.random.Generator) -> np.ndarray:
    """A dried film of uneven thickness: low contrast, irregular outline, a darker tide line at its edge."""
    shape = metal.brightness.shape
    radius = rng.uniform(0.07, 0.2) * min(shape)
    y, x = offsets(shape, place(shape, margin=0.2, rng=rng), angle=rng.uniform(0, np.pi))
    stretch = rng.uniform(1.0, 1.9)
    distance = np.hypot(y * stretch, x / stretch) / radius
    cells = tuple(n / (1.1 * radius) for n in shape)
    ragged = fractal_noise(shape, cells=cells, octaves=4, rng=rng, persistence=0.55)
    level = 1 - distance + 0.28 * ragged * np.clip(2 - distance, 0, 1)
    film = step(level * radius, rng.uniform(3, 7))
    tide = np.exp(-((level * radius / 2.2) ** 2)) * film
    thickness = 1 + 0.35 * fractal_noise(shape, cells=cells, octaves=3, rng=rng)
    darkening = rng.uniform(0.07, 0.15) * film * np.clip(thickness, 0.4, 1.8) + rng.uniform(0.02, 0.09) * tide
    if rng.random() < 0.25:  # a bleached mark, as a cleaner leaves it
        darkening *= -0.8
    smooth = cv2.GaussianBlur(metal.brightness, (0, 0), 1.2)
    filmed = metal.brightness + 0.5 * film * (smooth - metal.brightness)
    return np.clip(filmed * (1 - darkening), 0, 1)


def dent(metal: Metal, rng: np.random.Generator) -> np.ndarray:
    """A shallow hollow: dark on the slope that turns from the lamp, lit on the other, the streaks bent with it."""
    shape = metal.brightness.shape
    radius = rng.uniform(0.05, 0.13) * min(shape)
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.5)
    y, x = offsets(shape, place(shape, margin=0.2, rng=rng), angle=turn)
    ragged = undulation(shape, wavelength=2.5 * radius, rng=rng)
    r = np.hypot(y * stretch, x / stretch) / radius * (1 + 0.06 * ragged)
    depth = np.clip(1 - (r / 1.5) ** 2, 0, 1) ** rng.uniform(1.6, 2.6)
    slope_y, slope_x = np.gradient(-depth.astype(np.float32))
    slope_y, slope_x = slope_y * radius, slope_x * radius
    rows, columns = np.indices(shape, np.float32)
    bend = 0.12 * radius
    bent = cv2.remap(
        metal.brightness,
        columns + bend * slope_x,
        rows + bend * slope_y,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    shading = -(slope_y * metal.light[0] + slope_x * metal.light[1])
    glint = np.clip(shading - 0.55, 0, None) ** 2
    gain = rng.uniform(0.16, 0.28)
    return np.clip(bent * (1 + gain * shading) + 0.25 * glint - 0.02 * depth, 0, 1).astype(np.float32)


def _streaks(shape: Size, rng: np.random.Generator) -> np.ndarray:
    """Brushing along x: from hairlines to broad bands, and single deeper strokes. Std 1."""
    fine = white_noise(shape, blur=(0.45, 9), rng=rng)
    long = _drawn_out(shape, blur=(0.6, 40), rng=rng)
    broad = _drawn_out(shape, blur=(2.5, 90), rng=rng)
    strokes = _drawn_out(shape, blur=(0.5, 24), rng=rng)
    strokes = np.sign(strokes) * np.clip(np.abs(strokes) - 2.0, 0, None)
    grain = white_noise(shape, blur=(0.5, 0.8), rng=rng)
    return standardise(0.7 * fine + 0.75 * long + 0.45 * broad + 2.0 * strokes + 0.3 * grain)


def _drawn_out(shape: Size, *, blur: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """White noise blurred far along x, computed on an eighth of the columns. Std about 1."""
    narrow = white_noise((shape[0], max(2, shape[1] // 8)), blur=(blur[0], blur[1] / 8), rng=rng)
    return cv2.resize(narrow, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def _turned(canvas: np.ndarray, size: Size, rng: np.random.Generator) -> np.ndarray:
    """The middle of `canvas`, turned by up to 3° and scaled by up to 10 %."""
    height, width = canvas.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-3, 3), rng.uniform(0.95, 1.15))
    matrix[:, 2] += ((size[1] - width) / 2, (size[0] - height) / 2)
    return cv2.warpAffine(canvas, matrix, (size[1], size[0]), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def _groove(
    metal: Metal,
    center: Point,
    angle: float,
    *,
    length: float,
    width: float,
    strength: float,
    bend: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """What a groove adds to the brightness. Lengths in pixels; bend: sagitta over half the length."""
    shape = metal.brightness.shape
    across, along = offsets(shape, center, angle=angle)
    t = along / (length / 2)  # -1 … 1 from end to end
    waver = np.interp(t, np.linspace(-1, 1, 24), np.cumsum(rng.normal(0, 0.16, 24)))
    d = across - bend * length / 2 * (t**2 - 1) - waver
    ends = np.clip((1 - np.abs(t)) * length / 2 / 6, 0, 1)
    pressure = np.interp(t, np.linspace(-1, 1, 9), rng.uniform(0.55, 1.15, 9)) * ends
    chatter = np.interp(along, np.arange(-length, length), rng.uniform(0.7, 1.15, len(np.arange(-length, length))))
    normal = (np.cos(angle), -np.sin(angle))  # (y, x) of growing d
    side = 1.0 if normal[0] * metal.light[0] + normal[1] * metal.light[1] > 0 else -1.0
    sharp = np.maximum(width * (0.6 + 0.4 * pressure), 0.5)
    floor = np.exp(-((d / sharp) ** 2))
    ridge = np.exp(-(((d - side * 1.7 * sharp) / (0.8 * sharp)) ** 2))
    return (strength * pressure * chatter * (1.15 * ridge - floor)).astype(np.float32)
