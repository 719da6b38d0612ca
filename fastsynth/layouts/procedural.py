"""Shapes from nothing but random numbers, and which kind of them looks like a given real part.

Every kind takes the size (h, w) of the box it shall fill, in pixels, and returns a tight bool mask of about that
size. Line-like kinds run along a diagonal of the box, so a tall narrow box gives an upright crack.
"""

from typing import Literal, assert_never, get_args

import cv2
import numpy as np

from fastsynth.layouts.parts import RealPart, tight_box
from fastsynth.noise import gradient_noise

Kind = Literal["blob", "crack", "scratch", "pits"]
KINDS: tuple[Kind, ...] = get_args(Kind)

WIDEST_LINE = 4
"""Pixels; more in proportion for lines longer than LONG_LINE."""
LONG_LINE = 500
MEAN_WIDTH = 0.8
"""Width of a drawn line on average, as `thinness_of` finds it, as a share of the widest."""
UNEVEN = 0.2, 0.5
"""Amplitude of the noise on a blob's outline, as a share of its radius, where nothing is known."""
AMPLITUDE = 3.0
"""Amplitude for an `unevenness_of` 1: measured, the two grow together up to the largest amplitude, 0.8."""
UNEVEN_SIDE = 256
"""Larger outlines are looked at in every second pixel, every third, …"""
BLOB_SIDE = 512
"""The noise of larger blobs is drawn at this size and enlarged: it is smooth."""
FRACTION_BITS = 4
"""Line ends are drawn at sixteenths of a pixel (`shift` of OpenCV's drawing functions)."""


def draw_procedural(
    kind: Kind, size: tuple[int, int], rng: np.random.Generator, *, like: RealPart | None = None
) -> np.ndarray:
    """A shape of the given kind. size: h, w in pixels, at least 1. Returns (h', w') bool, tight.

    like: a real part; lines become as thin as it is, blobs as uneven. By default they are of any look.
    """
    match kind:
        case "blob":
            return blob(size, rng, unevenness=None if like is None else unevenness_of(like))
        case "crack":
            return crack(size, rng, thinness=None if like is None else thinness_of(like))
        case "scratch":
            return scratch(size, rng, thinness=None if like is None else thinness_of(like))
        case "pits":
            return pits(size, rng)
        case _:
            assert_never(kind)


def kind_of(part: RealPart) -> Kind:
    """The kind that looks most like a real part.

    Three or more pieces, none above 60 % of the area: pits. A line, that is at least 6 times as long (diagonal of
    its box) as wide (area / length) and not much wider than our cracks: scratch if it is nearly straight (its
    oriented box is 8 times as long as wide), else crack. Everything else: blob.
    """
    mask = part.foreground.astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if count - 1 >= 3 and areas.max() <= 0.6 * areas.sum():
        return "pits"
    length = float(np.hypot(*mask.shape))
    width = thinness_of(part) * length
    if length < 6 * width or width > 1.5 * WIDEST_LINE * _enlarged(length):
        return "blob"
    _, sides, _ = cv2.minAreaRect(cv2.findNonZero(mask))
    return "scratch" if max(sides) + 1 > 8 * (min(sides) + 1) else "crack"


def thinness_of(part: RealPart) -> float:
    """Width of a line (area / length) as a share of its length (diagonal of its box)."""
    height, width = part.foreground.shape
    return float(part.foreground.sum() / (height**2 + width**2))


def unevenness_of(part: RealPart) -> float:
    """How far the part's largest piece is from an ellipse: 1 - IoU with the one of its second moments, 0 to 1."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(part.foreground.astype(np.uint8), connectivity=8)
    left, top, width, height, _ = stats[largest := 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())]
    piece = (labels[top : top + height, left : left + width] == largest).astype(np.uint8)
    every = -(-max(piece.shape) // UNEVEN_SIDE)
    piece = piece[::every, ::every]
    inside = np.pad(piece, max(piece.shape) // 2 + 2) > 0  # the ellipse of a bent shape lies beside it
    points = np.argwhere(inside).T
    centre = points.mean(axis=1, keepdims=True)
    spread = (points - centre) @ (points - centre).T / points.shape[1] + np.eye(2) / 12  # a pixel has an extent
    offsets = np.indices(inside.shape).reshape(2, -1) - centre
    ellipse = ((offsets * np.linalg.solve(spread, offsets)).sum(axis=0) <= 4).reshape(inside.shape)
    return 1 - float((inside & ellipse).sum() / (inside | ellipse).sum())


def blob(size: tuple[int, int], rng: np.random.Generator, *, unevenness: float | None = None) -> np.ndarray:
    """A soft ellipse plus gradient noise, cut at a level: one piece with an uneven outline.

    unevenness: as `unevenness_of` finds it, at most about a quarter.
    """
    height, width = size
    shape = (2 * int(0.65 * height) + 3, 2 * int(0.65 * width) + 3)  # odd: a pixel lies in the middle
    y = (np.arange(shape[0], dtype=np.float32) - (shape[0] - 1) / 2) / (height / 2)
    x = (np.arange(shape[1], dtype=np.float32) - (shape[1] - 1) / 2) / (width / 2)
    y, x, lean = y[:, None], x[None, :], np.float32(rng.uniform(-0.4, 0.4))
    radius = np.sqrt(np.maximum(y * y + x * x + lean * y * x, 0))
    rough = np.float32(rng.uniform(*UNEVEN) if unevenness is None else min(AMPLITUDE * unevenness, 0.8))
    # no noise in the middle, so that it is always inside
    return _largest_piece(radius <= 1 + rough * _blob_noise(shape, rng) * np.minimum(radius, 1))


def _blob_noise(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Two octaves of gradient noise, (H, W) float32, drawn at no more than BLOB_SIDE pixels and enlarged."""
    small = min(shape[0], BLOB_SIDE), min(shape[1], BLOB_SIDE)
    # cells of 5 px at least: finer noise would fray the outline of a small blob
    coarse, fine = (
        gradient_noise(small, cells=(_cells(low, high, small[0], rng), _cells(low, high, small[1], rng)), rng=rng)
        for low, high in ((2, 4), (5, 9))
    )
    return cv2.resize(coarse + np.float32(0.4) * fine, shape[::-1], interpolation=cv2.INTER_LINEAR)


def crack(size: tuple[int, int], rng: np.random.Generator, *, thinness: float | None = None) -> np.ndarray:
    """A wandering line of 1 to 4 px (more beyond LONG_LINE) with up to three thinner branches."""
    length = float(np.hypot(*size))
    heading = _diagonal(size, rng)
    widest = _enlarged(length) * rng.uniform(1.5, WIDEST_LINE) * min(1.0, length / 60)
    if thinness is not None:
        widest = thinness * length / MEAN_WIDTH
    trunk = _walk(np.zeros(2), heading, length, rng)
    lines = [(trunk, _widths(len(trunk), widest, rng))]
    for _ in range(int(rng.integers(0, 4)) if length >= 24 else 0):
        start = int(rng.integers(len(trunk) // 5, len(trunk) - 1))
        side = rng.choice([-1, 1]) * rng.uniform(0.4, 1.0)
        branch = _walk(trunk[start], heading + side, length * rng.uniform(0.12, 0.35), rng)
        lines.append((branch, _widths(len(branch), 0.6 * widest, rng)))
    return _draw_lines(lines)


def scratch(size: tuple[int, int], rng: np.random.Generator, *, thinness: float | None = None) -> np.ndarray:
    """A slightly curved line that thins out towards both ends."""
    length = float(np.hypot(*size))
    heading = _diagonal(size, rng)
    t = np.linspace(0, 1, max(3, int(length / 3)))
    bow = rng.uniform(-0.06, 0.06) * length * 4 * t * (1 - t)
    along, across = _direction(heading), _direction(heading + np.pi / 2)
    points = length * t[:, None] * along + bow[:, None] * across
    widest = max(1.0, _enlarged(length) * rng.uniform(1, 3) * min(1.0, length / 40))
    if thinness is not None:
        widest = max(1.0, thinness * length / MEAN_WIDTH)
    return _draw_lines([(points, 1 + (widest - 1) * np.sqrt(np.sin(np.pi * t).clip(0)))])


def pits(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """3 to 12 small uneven discs, denser in the middle of the box."""
    height, width = size
    largest = max(2.0, 0.3 * np.sqrt(height * width))
    canvas = np.zeros((height + int(largest) + 2, width + int(largest) + 2), bool)
    for _ in range(int(rng.integers(3, 13))):
        across = max(1, round(rng.uniform(0.25, 1) * largest))
        disc = blob((across, max(1, round(across * rng.uniform(0.7, 1.4)))), rng)
        disc = disc[: canvas.shape[0], : canvas.shape[1]]
        y, x = np.clip(rng.normal(0.5, 0.22, 2), 0, 1)
        top = int(y * (canvas.shape[0] - disc.shape[0]))
        left = int(x * (canvas.shape[1] - disc.shape[1]))
        canvas[top : top + disc.shape[0], left : left + disc.shape[1]] |= disc
    return _tight(canvas)


def _cells(low: float, high: float, extent: int, rng: np.random.Generator) -> float:
    return max(1.0, min(rng.uniform(low, high), extent / 5))


def _diagonal(size: tuple[int, int], rng: np.random.Generator) -> float:
    """Angle of one of the two diagonals of a box, radians."""
    height, width = size
    return float(np.arctan2(height, width) * rng.choice([-1, 1]))


def _enlarged(length: float) -> float:
    return max(1.0, length / LONG_LINE)


def _direction(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)])


def _walk(start: np.ndarray, heading: float, length: float, rng: np.random.Generator) -> np.ndarray:
    """Points (n, 2) of a random walk whose direction strays from `heading` and is drawn back to it."""
    step = max(2.0, length / 60)
    count = max(2, int(length / step) + 1)
    stray = np.zeros(count)
    for i in range(1, count):
        stray[i] = 0.8 * stray[i - 1] + rng.normal(0, 0.28)
    angles = heading + stray
    steps = step * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return start + np.cumsum(steps, axis=0) - steps[0]


def _widths(count: int, widest: float, rng: np.random.Generator) -> np.ndarray:
    """Width along a line, in pixels, at least 1: uneven, and falling off towards its end."""
    t = np.linspace(0, 1, count)
    knots = rng.uniform(0.5, 1.0, max(3, count // 8))
    uneven = np.interp(t, np.linspace(0, 1, len(knots)), knots)
    return np.maximum(widest * uneven * (1 - 0.7 * t**2), 1)


def _draw_lines(lines: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Tight mask of polylines: points (n, 2) as x, y and their widths (n,) in pixels."""
    every = np.concatenate([points for points, _ in lines])
    border = 2 + max(float(widths.max()) for _, widths in lines)
    low = every.min(axis=0) - border
    width, height = np.ceil(every.max(axis=0) + border - low).astype(int)
    canvas = np.zeros((height, width), np.uint8)
    for points, widths in lines:
        fixed = np.rint((points - low) * 2**FRACTION_BITS).astype(int).tolist()
        thickness = np.rint(widths).astype(int).tolist()
        for start, end, wide in zip(fixed, fixed[1:], thickness[1:], strict=False):
            cv2.line(canvas, start, end, 1, thickness=wide, lineType=cv2.LINE_8, shift=FRACTION_BITS)
    return _tight(canvas > 0)


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return _tight(labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))


def _tight(mask: np.ndarray) -> np.ndarray:
    left, top, right, bottom = tight_box(mask)
    return np.ascontiguousarray(mask[top:bottom, left:right])
