"""The woven fabric of the demo: threads with height, twist and colour, and what goes wrong with them.

Threads are drawn at twice the size and averaged down, then coloured and lit. Warp runs down the picture and is
counted by u, weft runs across and is counted by v: a warp thread is the strip with one floor(u). A defect returns a
changed fabric; `demo` renders both and finds the mask by comparing.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from fastsynth.data.demo_fields import Size, grid, offsets, place, step, undulation
from fastsynth.noise import white_noise

FINE = 2
"""Drawn pixels per pixel, along each axis."""
PITCH = 6.0
"""Pixels from thread to thread."""
PERIOD = 4
"""Threads until the weave repeats: 2/2 twill."""
WARP_COLOR = np.array([0.38, 0.43, 0.50], np.float32)
WEFT_COLOR = np.array([0.60, 0.60, 0.58], np.float32)
BEHIND = np.array([0.045, 0.04, 0.04], np.float32)
"""What is seen through a hole."""
BACK = np.float32(-1.2)
"""Its height in pitches; a thread's middle is at 0."""


@dataclass(frozen=True, eq=False)
class Strand:
    """A loose piece of thread over the cloth. path: (N, 2) x, y in drawn pixels. width in drawn pixels."""

    path: np.ndarray
    width: int
    color: np.ndarray


@dataclass(frozen=True, eq=False)
class Fabric:
    """Threads, (2H, 2W) float32 each: u, v their coordinates; warp_width, weft_width 1 normal, 0 torn away, above 1
    swollen; warp_tone, weft_tone the brightness of the fibre, about 1.

    Finish, (H, W) float32: wet from 0 dry to 1 soaked; light the brightness of the lamp; tint its colour, (3,).
    """

    u: np.ndarray
    v: np.ndarray
    warp_width: np.ndarray
    weft_width: np.ndarray
    warp_tone: np.ndarray
    weft_tone: np.ndarray
    wet: np.ndarray
    light: np.ndarray
    tint: np.ndarray
    strands: tuple[Strand, ...] = ()


def woven_fabric(size: Size, rng: np.random.Generator) -> Fabric:
    """A twill, turned and scaled a little, its threads uneven in course, thickness and tone."""
    fine = (size[0] * FINE, size[1] * FINE)
    pitch = PITCH * FINE * rng.uniform(0.92, 1.1)
    across, along = offsets(fine, (0.0, 0.0), angle=np.radians(rng.uniform(-3, 3)))
    u = along / pitch + 0.12 * undulation(fine, wavelength=160, rng=rng) + 1000
    v = across / pitch + 0.12 * undulation(fine, wavelength=160, rng=rng) + 1000
    y, x = grid(size)
    angle = rng.uniform(0, 2 * np.pi)
    lamp = rng.uniform(0.9, 1.12) + rng.uniform(0, 0.1) * (y * float(np.sin(angle)) + x * float(np.cos(angle)))
    return Fabric(
        u=u,
        v=v,
        warp_width=_uneven(u, rng) * (1 + 0.05 * _swelling(size, blur=(7, 1), rng=rng)),
        weft_width=_uneven(v, rng) * (1 + 0.05 * _swelling(size, blur=(1, 7), rng=rng)),
        warp_tone=_uneven(u, rng) * (1 + 0.11 * white_noise(fine, blur=(4, 0.8), rng=rng)),
        weft_tone=_uneven(v, rng) * (1 + 0.11 * white_noise(fine, blur=(0.8, 4), rng=rng)),
        wet=np.zeros(size, np.float32),
        light=lamp - rng.uniform(0.03, 0.1) * (x**2 + y**2),
        tint=1 + rng.uniform(-0.02, 0.02, 3).astype(np.float32),
    )


def render_fabric(fabric: Fabric) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]."""
    warp_height, warp_twist = _threads(fabric.u, fabric.v, fabric.warp_width, lift=1.0)
    weft_height, weft_twist = _threads(fabric.v, fabric.u, fabric.weft_width, lift=-1.0)
    height = np.maximum(np.maximum(warp_height, weft_height), BACK)
    slope_y, slope_x = np.gradient(height * (FINE * PITCH))
    # lamp from the upper left; the edge of a thread is a cliff, so its slope is limited
    shade = 0.80 + 0.13 * np.clip(slope_y + 0.8 * slope_x, -1.2, 1.2) + 0.38 * np.clip(height, -0.9, 1)
    shade = np.clip(shade, 0.08, 1.5)
    warp_seen = height == warp_height
    weft_seen = (height == weft_height) & ~warp_seen
    picture = (
        _averaged(warp_seen * shade * fabric.warp_tone * warp_twist) * WARP_COLOR
        + _averaged(weft_seen * shade * fabric.weft_tone * weft_twist) * WEFT_COLOR
        + _averaged((height == BACK).astype(np.float32)) * BEHIND
    )
    picture = _soaked(picture, fabric.wet)
    for strand in fabric.strands:
        picture = _laid_over(picture, strand)
    return np.clip(picture * fabric.light[..., None] * fabric.tint, 0, 1)


def thread_pull(fabric: Fabric, rng: np.random.Generator) -> Fabric:
    """A weft thread snagged and drawn out: it is missing for a stretch, its neighbours close in, a loop stands up."""
    shape = fabric.u.shape
    y, x = _center(shape, rng)
    u0, row = fabric.u[y, x], np.floor(fabric.v[y, x])
    half = rng.uniform(3.0, min(11.0, 0.3 * shape[1] / (PITCH * FINE)))
    stretch = step(half - np.abs(fabric.u - u0), 1.5)
    away = fabric.v - (row + 0.5)
    pucker = stretch * np.clip(1 - (away / 2.8) ** 2, 0, 1) ** 2
    v = fabric.v - rng.uniform(0.2, 0.45) * pucker * away
    u = fabric.u + rng.uniform(-0.25, 0.25) * pucker
    weft_width = np.where(np.floor(v) == row, fabric.weft_width * (1 - stretch), fabric.weft_width)
    pulled = replace(fabric, u=u, v=v, weft_width=weft_width)
    end = float(x + (1 if rng.random() < 0.5 else -1) * half * PITCH * FINE)
    return replace(pulled, strands=(_loop((end, float(y)), WEFT_COLOR, rng),))


def hole(fabric: Fabric, rng: np.random.Generator) -> Fabric:
    """Threads torn away, each at its own length, so the border is frayed; some ends hang into the hole."""
    shape = fabric.u.shape
    y, x = _center(shape, rng)
    u, v = fabric.u - fabric.u[y, x], fabric.v - fabric.v[y, x]
    radius = rng.uniform(1.4, 5.0)
    radius_u, radius_v = radius * rng.uniform(0.75, 1.3), radius * rng.uniform(0.75, 1.3)
    spread = np.clip(1 - (np.hypot(u / radius_u, v / radius_v) / 1.4) ** 2, 0, 1) ** 2
    push = 1 - rng.uniform(0.1, 0.25) * spread  # the threads beside a tear give way
    u, v = u * push, v * push
    warp_left = _remaining(u, v, radius_u, radius_v, rng)
    weft_left = _remaining(v, u, radius_v, radius_u, rng)
    strands = []
    for _ in range(rng.integers(3, 8)):
        angle = rng.uniform(0, 2 * np.pi)
        reach = 0.9 * PITCH * FINE
        root = (x + radius_u * reach * np.cos(angle), y + radius_v * reach * np.sin(angle))
        color = WARP_COLOR if abs(np.sin(angle)) > 0.7 else WEFT_COLOR
        strands.append(_hair((float(root[0]), float(root[1])), angle + np.pi, color, rng))
    return replace(
        fabric,
        u=u + fabric.u[y, x],
        v=v + fabric.v[y, x],
        warp_width=fabric.warp_width * warp_left,
        weft_width=fabric.weft_width * weft_left,
        strands=tuple(strands),
    )


def oil_spot(fabric: Fabric, rng: np.random.Generator) -> Fabric:
    """A drop drawn into the cloth: darker and richer in colour, creeping further along the threads."""
    shape = fabric.wet.shape
    y, x = _center(shape, rng)
    radius = rng.uniform(0.05, 0.15) * min(shape)
    across, along = offsets(shape, (float(y), float(x)), angle=rng.uniform(0, np.pi))
    stretch = rng.uniform(1.0, 1.4)
    distance = np.hypot(across * stretch, along / stretch) / radius
    ragged = 0.16 * undulation(shape, wavelength=1.3 * radius, rng=rng)
    wicking = 0.05 * white_noise(shape, blur=(9, 2), rng=rng) + 0.05 * white_noise(shape, blur=(2, 9), rng=rng)
    soaked = step(1.15 - distance + (ragged + wicking) * np.clip(2 - distance, 0, 1), rng.uniform(0.35, 0.7))
    drops = np.zeros(shape, np.float32)
    for _ in range(rng.integers(0, 4)):  # splashes
        dy, dx = rng.normal(0, 1.5 * radius, 2)
        r = np.hypot(*offsets(shape, (y + dy, x + dx))) / rng.uniform(3, 6)
        drops = np.maximum(drops, 0.9 * step(1.2 - r, 0.6))
    return replace(fabric, wet=np.maximum(soaked, drops) * rng.uniform(0.5, 1.0))


def slub(fabric: Fabric, rng: np.random.Generator) -> Fabric:
    """A lump of unspun fibre in one warp thread: swollen like a spindle, paler, pushing its neighbours aside."""
    shape = fabric.u.shape
    y, x = _center(shape, rng)
    column, v0 = np.floor(fabric.u[y, x]), fabric.v[y, x]
    half = rng.uniform(2.5, 8.0)
    spindle = np.clip(1 - ((fabric.v - v0) / half) ** 2, 0, 1) ** 1.5
    away = fabric.u - (column + 0.5)
    swell = rng.uniform(0.4, 0.65)
    near = np.clip(1 - (away / 2.2) ** 2, 0, 1) ** 2
    u = column + 0.5 + away * (1 - swell * spindle * near)
    own = (np.floor(u) == column) * spindle
    return replace(
        fabric,
        u=u,
        warp_width=fabric.warp_width * (1 + 0.25 * own),
        # unspun fibre floats above the weft: its thread is thin there
        weft_width=fabric.weft_width * (1 - 0.75 * own),
        warp_tone=fabric.warp_tone * (1 + rng.uniform(0.4, 0.65) * own),
    )


def _threads(u: np.ndarray, v: np.ndarray, width: np.ndarray, *, lift: float) -> tuple[np.ndarray, np.ndarray]:
    """Height (in pitches) of the threads counted by u and running along v, and the shading of their twist.

    lift: 1 for warp, -1 for weft, which lies low where warp lies high. Height is -2 where there is no thread.
    """
    thread = np.floor(u)
    across = (u - thread - 0.5) / (0.53 * np.maximum(width, 1e-3))
    over = np.clip(1.5 * np.sin((2 * np.pi / PERIOD) * (thread + v)), -1, 1)
    round_top = 0.5 * np.sqrt(np.clip(1 - across**2, 0, 1)) * np.minimum(width, 1)
    height = round_top + 0.3 * lift * over
    height[(np.abs(across) >= 1) | (width < 0.25)] = -2
    twist = 1 + 0.07 * np.sin(2 * np.pi * (0.75 * across + 1.6 * v))
    return height, twist


def _soaked(picture: np.ndarray, wet: np.ndarray) -> np.ndarray:
    """Wet cloth scatters less: darker, and each colour further from grey."""
    if not wet.any():
        return picture
    amount = wet[..., None]
    grey = picture.mean(axis=2, keepdims=True)
    rich = (grey + (picture - grey) * 1.5) * np.array([0.60, 0.56, 0.47], np.float32)
    return picture + amount * (rich - picture)


def _laid_over(picture: np.ndarray, strand: Strand) -> np.ndarray:
    """A strand and the soft shadow it throws to the lower right."""
    drawn = np.zeros((picture.shape[0] * FINE, picture.shape[1] * FINE), np.uint8)
    path = np.rint(strand.path * 8).astype(np.int32)[None]
    cv2.polylines(drawn, path, isClosed=False, color=255, thickness=strand.width, lineType=cv2.LINE_AA, shift=3)
    line = drawn.astype(np.float32) / 255
    cover = _averaged(line)
    shadow = _averaged(cv2.GaussianBlur(np.roll(line, (3, 3), (0, 1)), (0, 0), 2.0))
    core = _averaged(cv2.GaussianBlur(line, (0, 0), 0.3 * strand.width))
    body = strand.color * (0.55 + 0.6 * core)
    return picture * (1 - 0.55 * shadow * (1 - cover)) * (1 - cover) + body * cover


def _averaged(field: np.ndarray) -> np.ndarray:
    """(2H, 2W) -> (H, W, 1)."""
    height, width = field.shape[0] // FINE, field.shape[1] // FINE
    return cv2.resize(field, (width, height), interpolation=cv2.INTER_AREA)[..., None]


def _loop(root: tuple[float, float], color: np.ndarray, rng: np.random.Generator) -> Strand:
    """A drawn-out thread: up from the root and back beside it."""
    t = np.linspace(0, 1, 40)
    reach, lean = rng.uniform(0.8, 2.6) * PITCH * FINE, rng.uniform(-0.6, 0.6)
    wide = rng.uniform(0.3, 0.8) * reach
    x = root[0] + wide * (t - 0.5) + 0.5 * wide * np.sin(2 * np.pi * t) + lean * reach * np.sin(np.pi * t)
    y = root[1] - reach * np.sin(np.pi * t) * (1 if rng.random() < 0.5 else -1)
    return Strand(np.stack([x, y], axis=1), width=int(rng.integers(4, 8)), color=color)


def _hair(root: tuple[float, float], angle: float, color: np.ndarray, rng: np.random.Generator) -> Strand:
    """A thin torn end that curls."""
    steps = 24
    length = rng.uniform(0.8, 2.4) * PITCH * FINE / steps
    heading = angle + np.cumsum(rng.normal(0, 0.12, steps)) + rng.uniform(-0.06, 0.06) * np.arange(steps)
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1) * length, axis=0) + root
    return Strand(path, width=int(rng.integers(1, 4)), color=color * 1.05)


def _remaining(u: np.ndarray, v: np.ndarray, radius_u: float, radius_v: float, rng: np.random.Generator) -> np.ndarray:
    """1 where the thread at u is still there, 0 where it is torn away; each end at its own length, thinning out."""
    thread = np.floor(u).astype(int)
    chord = radius_v * np.sqrt(np.clip(1 - ((thread + 0.5) / radius_u) ** 2, 0, 1))
    table = rng.uniform(0.45, 1.15, (2, 64))
    low, high = -chord * table[0][thread % 64], chord * table[1][thread % 64]
    inside = np.minimum(v - low, high - v)
    return 1 - step(inside + 0.35, 0.5) * (chord > 0)


def _uneven(u: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One factor about 1 per thread."""
    return (1 + 0.05 * rng.standard_normal(512, np.float32))[np.floor(u).astype(int) % 512]


def _swelling(size: Size, *, blur: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """(2H, 2W) noise, std about 1, drawn at (H, W): threads swell and shrink slowly."""
    noise = white_noise(size, blur=blur, rng=rng)
    return cv2.resize(noise, (size[1] * FINE, size[0] * FINE), interpolation=cv2.INTER_LINEAR)


def _center(shape: Size, rng: np.random.Generator) -> tuple[int, int]:
    y, x = place(shape, margin=0.22, rng=rng)
    return int(y), int(x)
