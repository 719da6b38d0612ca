"""Shapes drawn from the parts of real masks: turned, scaled, bent, made thicker or thinner, and still one sharp mask.

Coordinates are pixel indices, x right, y down; the centre of the upper left pixel is (0, 0).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np

from fastsynth.halo import grow
from fastsynth.layouts.parts import PADDING, RealPart, tight_box
from fastsynth.types import Warp

LINE = 0.9
"""Half width, in drawn pixels, of a centre line: above √½, so that no step between pixels can break it, and below
1, so that an unchanged shape stays exactly as it was."""
LINE_IN_SOURCE = 0.65
"""The same in source pixels, for enlarged shapes: between two diagonal neighbours the sampled distance is 0.5."""
THICKER = 0.4
"""Largest move of a border, as a share of the shape's largest half width."""
WAVES = 3
"""Sinusoids in an elastic field."""

STRETCH = 2.0
"""A part that runs through a narrow image becomes at most so many times as long to run through a wider one."""
RUN_OVER = 1.1
"""Length of a stretched shape as a multiple of the image's: turned and bent it still reaches both sides."""

Matrix = tuple[float, float, float, float, float, float]
NORMALS = {"left": (-1, 0), "top": (0, -1), "right": (1, 0), "bottom": (0, 1)}
"""Outward normals of the sides of an image."""


@dataclass(frozen=True, eq=False)
class Shape:
    """A drawn shape.

    mask: (h, w) bool, tight. warp: from its pixels to those of the real mask.
    centre: x, y in [0, 1]: where the part lay, flipped with it and turned by the nearest quarter turn, so that what
    lay at the rim still does.
    sides: sides of the frame the part touched, turned and flipped with it. surroundings: the part's, like the centre.
    """

    mask: np.ndarray
    warp: Warp
    centre: tuple[float, float]
    sides: frozenset[str]
    surroundings: Mapping[str, float]


def draw_real(
    part: RealPart,
    *,
    rng: np.random.Generator,
    scale_range: tuple[float, float],
    rotation_range: tuple[float, float],
    flip: bool,
    elastic: float,
    thickness_range: tuple[int, int],
    frame: tuple[int, int] | None = None,
) -> Shape:
    """A new shape: the part scaled (log-uniform), turned, mirrored, bent, and made thicker or thinner.

    rotation_range: degrees, counter-clockwise. flip: mirror each axis with probability ½.
    elastic: bending, as a share of the part's longer side; up to 0.1 the field does not fold.
    thickness_range: pixels by which the border moves out; negative moves it in. Either way by at most THICKER of the
    shape's largest half width, or thin shapes would be thickened on average; centre lines stay. At most
    PADDING × scale.
    frame: H, W of the image the shape is for. A part that ran through its own from side to side runs through this one
    too, unless it would have to be stretched to more than STRETCH times its length.
    """
    scale = float(np.exp(rng.uniform(*np.log(scale_range))))
    angle = np.deg2rad(rng.uniform(*rotation_range))
    mirror = rng.choice([-1, 1], 2) if flip else np.ones(2)
    thickness = rng.uniform(*thickness_range)
    turn, quarters = (_rotation(each) * mirror for each in (angle, np.round(angle / (np.pi / 2)) * np.pi / 2))
    height, width = part.foreground.shape
    longer = scale * max(height, width)
    sides = frozenset(_turned_side(turn @ NORMALS[side]) for side in part.sides) - {""}
    half = np.abs(turn) @ (width / 2, height / 2)
    stretch = np.ones(2) if frame is None else _through(sides, lengths=2 * half, scale=scale, frame=frame)
    reach = scale * stretch * half + elastic * longer + max(thickness, 0) + 2
    middle = np.ceil(reach) + np.mod(part.centre, 1)  # same fraction as the part's: the identity resamples nothing
    warp = Warp(
        source=part.source,
        matrix=_affine(turn.T / scale / stretch, middle=middle, centre=np.array(part.centre)),
        seed=int(rng.integers(2**31)),
        amplitude=elastic * longer,
        wavelength=longer,
    )
    columns, rows = (2 * middle + 2).astype(int)
    mask = _sample(part, warp, shape=(rows, columns), scale=scale, thickness=thickness)
    left, top, right, bottom = tight_box(mask)
    x, y = 0.5 + quarters @ (np.array(part.relative_centre) - 0.5)
    return Shape(
        mask=np.ascontiguousarray(mask[top:bottom, left:right]),
        warp=move_origin(warp, left, top),
        centre=(float(np.clip(x, 0, 1)), float(np.clip(y, 0, 1))),
        sides=sides,
        surroundings={_turned_side(quarters @ NORMALS[side]): rank for side, rank in part.surroundings.items()},
    )


def bend_mask(mask: np.ndarray, *, pixels: int, seed: int) -> np.ndarray:
    """The shape bent by an elastic field that moves no point by more than `pixels`, in a frame `pixels` + 1 wider.

    mask: (h, w) bool, tight. Returns (h + 2 pixels + 2, w + 2 pixels + 2) bool. The waves are as long as the shape, and
    at least 10 times as long as `pixels`: such a field does not fold. Centre lines stay.
    """
    height, width = mask.shape
    frame, wavelength = pixels + 1, max(height, width, 10 * pixels)
    warp = Warp("", (1.0, 0.0, -frame, 0.0, 1.0, -frame), seed, amplitude=pixels, wavelength=wavelength)
    part = RealPart("", "", mask, 0, 0, (height, width))
    return _sample(part, warp, shape=(height + 2 * frame, width + 2 * frame), scale=1.0, thickness=0.0)


def crop_shape(shape: Shape, box: tuple[int, int, int, int]) -> Shape:
    """The part of `shape` inside box [x0, y0, x1, y1] of its pixels, tight again; at least one pixel must remain."""
    x0, y0, x1, y1 = box
    left, top, right, bottom = tight_box(shape.mask[y0:y1, x0:x1])
    mask = np.ascontiguousarray(shape.mask[y0 + top : y0 + bottom, x0 + left : x0 + right])
    return replace(shape, mask=mask, warp=move_origin(shape.warp, x0 + left, y0 + top))


def grow_shape(shape: Shape, halo: int, *, sides: frozenset[str]) -> Shape:
    """The shape and every pixel within `halo` pixels of it, none beyond `sides` of the frame."""
    height, width = shape.mask.shape
    mask, warp = grow(np.pad(shape.mask, halo), halo), move_origin(shape.warp, -halo, -halo)
    left, right = halo * ("left" in sides), 2 * halo + width - halo * ("right" in sides)
    top, bottom = halo * ("top" in sides), 2 * halo + height - halo * ("bottom" in sides)
    return crop_shape(replace(shape, mask=mask, warp=warp), (left, top, right, bottom))


def warp_coordinates(
    warp: Warp, shape: tuple[int, int], *, origin: tuple[int, int] = (0, 0)
) -> tuple[np.ndarray, np.ndarray]:
    """Source pixel of every patch pixel: map_x, map_y for `cv2.remap`, each (h, w) float32.

    shape: (h, w) of the wanted window. origin: patch x, y of its upper left pixel, negative for a window that
    starts before the patch: the field is defined everywhere.

    source = matrix @ (p + elastic(p), 1), elastic(p) = amplitude / 3 · Σ_i d_i sin(k_i · u + φ_i), i = 1..3, with
    unit vectors d_i, wavelengths 2π / |k_i| in [1, 2] × wavelength and phases φ_i drawn from `warp.seed`.
    u = matrix @ (p, 1) / √|det|: the field hangs on the source, so that it does not move when the patch is cropped.
    """
    (height, width), (left, top) = shape, origin
    x = np.arange(left, left + width, dtype=np.float64)
    y = np.arange(top, top + height, dtype=np.float64)
    a, b, c, d, e, f = warp.matrix
    along_y = [np.ones_like(y), y]
    along_x = [[a * x + c, np.full_like(x, b)], [d * x + f, np.full_like(x, e)]]
    unit = np.sqrt(abs(a * e - b * d))
    rng = np.random.default_rng(warp.seed)
    for _ in range(WAVES if warp.amplitude > 0 else 0):
        (kx, ky), (dx, dy) = _unit_vector(rng), _unit_vector(rng)
        k = 2 * np.pi / (warp.wavelength * rng.uniform(1, 2) * unit)
        phase_x = k * (kx * (a * x + c) + ky * (d * x + f)) + rng.uniform(0, 2 * np.pi)
        phase_y = k * (kx * b + ky * e) * y
        # sin(s + t) = cos t sin s + sin t cos s, two products of a row and a column instead of a sine per pixel
        along_y += [np.cos(phase_y), np.sin(phase_y)]
        for rows, bend in zip(along_x, (a * dx + b * dy, d * dx + e * dy), strict=True):
            rows += [warp.amplitude / WAVES * bend * wave for wave in (np.sin(phase_x), np.cos(phase_x))]
    map_x, map_y = (_sum_of_products(along_y, rows) for rows in along_x)
    return map_x, map_y


def move_origin(warp: Warp, left: int, top: int) -> Warp:
    """The same warp for a patch whose upper left pixel is pixel (left, top) of the old one."""
    a, b, c, d, e, f = warp.matrix
    matrix = (a, b, a * left + b * top + c, d, e, d * left + e * top + f)
    return Warp(warp.source, matrix, warp.seed, warp.amplitude, warp.wavelength)


def _sum_of_products(along_y: list[np.ndarray], along_x: list[np.ndarray]) -> np.ndarray:
    """Σ_i along_y[i](y) along_x[i](x): (h, w) float32."""
    # not `@`: a BLAS product may round differently from one number of threads to the next
    columns, rows = np.array(along_y, np.float32), np.array(along_x, np.float32)
    return np.einsum("ih,iw->hw", columns, rows)


def _sample(part: RealPart, warp: Warp, *, shape: tuple[int, int], scale: float, thickness: float) -> np.ndarray:
    map_x, map_y = warp_coordinates(warp, shape)
    map_x -= np.float32(part.left - PADDING)
    map_y -= np.float32(part.top - PADDING)
    distance = _remap(part.signed_distance, map_x, map_y, outside=-1e6)
    limit = THICKER * float(part.signed_distance.max())
    mask = distance >= -np.clip(thickness / scale, -limit, limit)
    if part.line_distance is not None:
        line = _remap(part.line_distance, map_x, map_y, outside=1e6)
        mask |= line <= max(LINE / scale, LINE_IN_SOURCE)
    if not mask.any():  # shrunk to less than a pixel
        mask.flat[distance.argmax()] = True
    return mask


def _remap(field: np.ndarray, map_x: np.ndarray, map_y: np.ndarray, *, outside: float) -> np.ndarray:
    return cv2.remap(field, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=outside)


def _rotation(angle: float) -> np.ndarray:
    """(2, 2), counter-clockwise by `angle` radians on screen, where y points down."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _affine(linear: np.ndarray, *, middle: np.ndarray, centre: np.ndarray) -> Matrix:
    """2×3 map p -> linear (p - middle) + centre, row by row."""
    c, f = centre - linear @ middle
    (a, b), (d, e) = linear
    return float(a), float(b), float(c), float(d), float(e), float(f)


def _turned_side(normal: np.ndarray) -> str:
    """The side a turned outward normal points to within 30°, or "" when it points between two."""
    side = max(NORMALS, key=lambda name: float(normal @ NORMALS[name]))
    return side if normal @ NORMALS[side] > np.cos(np.deg2rad(30)) else ""


def _through(sides: frozenset[str], *, lengths: np.ndarray, scale: float, frame: tuple[int, int]) -> np.ndarray:
    """Factors along x and y beside `scale`, 1 where the part need not or cannot be stretched.

    lengths: of the part along x and y, before it is scaled.
    """
    wanted = np.array([RUN_OVER * frame[1], RUN_OVER * frame[0]]) / lengths
    runs = np.array([sides >= {"left", "right"}, sides >= {"top", "bottom"}])
    return np.where(runs & (wanted > scale) & (wanted <= STRETCH), wanted / scale, 1.0)


def _unit_vector(rng: np.random.Generator) -> tuple[float, float]:
    angle = rng.uniform(0, 2 * np.pi)
    return float(np.cos(angle)), float(np.sin(angle))
