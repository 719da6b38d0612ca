"""A volume of integers, how they become the values of 8- and 16-bit pictures, and how they come back exactly.

I, J, K: the array's axes as NIfTI counts them. A DICOM series has columns, rows, slices as I, J, K.
The picture of slice `index` along `axis` is the transposed plane: its columns follow the first of the two other axes.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

MAX_VOXELS = 600_000_000
"""Larger volumes are refused before they are read: twice a CT of 1,024 slices of 512×512."""
Format = Literal["dicom", "nifti", "pictures"]
EXACT = ("uint8", "int8", "uint16", "int16")
"""Kinds of integers that one channel of a PNG holds as they are, up to an offset."""


@dataclass(frozen=True)
class Coding:
    """original = sign · (code - offset).

    dtype: of the original integers. depth: of the codes, "uint8" or "uint16".
    sign: -1 for MONOCHROME1, whose largest value is black: the pictures show it bright like any other.
    """

    dtype: str
    depth: Literal["uint8", "uint16"]
    offset: int
    sign: Literal[1, -1] = 1

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Original integers to codes of `depth`."""
        codes = self.sign * values.astype(np.int64) + self.offset
        assert 0 <= codes.min() <= codes.max() <= np.iinfo(self.depth).max
        return codes.astype(self.depth)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes to original integers of `dtype`."""
        values = self.sign * (codes.astype(np.int64) - self.offset)
        return values.astype(self.dtype)

    @property
    def stored_dtype(self) -> str:
        """The 8- or 16-bit integers that hold every decoded value."""
        if self.dtype in EXACT:
            return self.dtype
        return "int16" if self.offset else "uint16"


def coding_for(values: np.ndarray, *, inverted: bool = False) -> Coding:
    """How to store `values`: integers of any kind, or floats that are whole numbers.

    The offset depends on the kind of integers, not on what a volume holds, so that a code means the same in all.
    Raises ValueError when 16 bits cannot hold them exactly.
    """
    name = values.dtype.name
    if name in EXACT:
        limits = np.iinfo(name)
        depth: Literal["uint8", "uint16"] = "uint8" if limits.bits == 8 else "uint16"
        return Coding(name, depth, int(limits.max), -1) if inverted else Coding(name, depth, -int(limits.min))
    if values.dtype.kind not in "iuf":
        raise ValueError(f"voxels are {name}; wanted integers of at most 16 bits")
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and np.array_equal(values, np.rint(values))):
        raise ValueError(f"voxels are {name} with fractions; save them as int16 with a slope, which is kept")
    low, high = float(values.min()), float(values.max())
    if low >= -32768 and high <= 32767:
        return Coding(name, "uint16", 32768)
    if low >= 0 and high <= 65535:
        return Coding(name, "uint16", 0)
    raise ValueError(f"voxels go from {low:g} to {high:g}; 16 bits hold at most 65,536 values, save them as int16")


@dataclass(frozen=True)
class Record:
    """What the way back needs, and nothing about the patient. Stored in the sidecar; all values are JSON.

    shape: I, J, K. affine: 4×4, array indices to mm, x to the right, y to the front, z up (NIfTI's RAS).
    rescale: (slope, intercept) for all slices, or one pair each: measured value = slope · original + intercept.
    window: (centre, width) of the measured values worth seeing. calibrated: whether the affine is in mm.
    header: the raw geometry fields of a NIfTI header. positions: of each DICOM slice, mm, in DICOM's LPS.
    """

    format: Format
    shape: tuple[int, int, int]
    axis: int
    affine: list[list[float]]
    coding: Coding
    rescale: list[tuple[float, float]]
    window: tuple[float, float] | None = None
    modality: str = "OT"
    calibrated: bool = True
    header: dict[str, Any] = field(default_factory=dict)
    positions: list[list[float]] | None = None

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Record":
        return cls(**{**value, "coding": Coding(**value["coding"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def plane(self) -> tuple[int, int]:
        """Array axes along the columns and along the rows of a picture: x and y."""
        first, second = (axis for axis in range(3) if axis != self.axis)
        return first, second

    @property
    def pixel_area(self) -> float | None:
        """mm² of one pixel; None when the spacing is not known."""
        if not self.calibrated:
            return None
        steps = np.linalg.norm(np.array(self.affine)[:3, :3], axis=0)
        return float(steps[self.plane[0]] * steps[self.plane[1]])

    @property
    def depth(self) -> int:
        """Number of slices."""
        return self.shape[self.axis]

    def picture(self, volume: np.ndarray, index: int) -> np.ndarray:
        """Slice `index` of an (I, J, K) array, (H, W)."""
        plane: np.ndarray = np.take(volume, index, axis=self.axis).T
        return plane

    def place(self, volume: np.ndarray, index: int, picture: np.ndarray) -> None:
        """Write (H, W) `picture` into slice `index` of an (I, J, K) array, in place."""
        plane: list[Any] = [slice(None)] * 3
        plane[self.axis] = index
        volume[tuple(plane)] = picture.T

    def measured(self, codes: np.ndarray, index: int) -> np.ndarray:
        """Codes of slice `index` to float64 in the unit of the scanner (CT: HU)."""
        slope, intercept = self.rescale[index if len(self.rescale) > 1 else 0]
        return slope * self.coding.decode(codes).astype(np.float64) + intercept


def windowed(values: np.ndarray, window: tuple[float, float], *, inverted: bool = False) -> np.ndarray:
    """Measured values to what a viewer shows, uint8: linear inside the window (DICOM PS3.3, C.11.2.1.2.1).

    window: centre, width ≥ 1. inverted: the largest value is black (MONOCHROME1).
    """
    centre, width = window
    scale = max(width - 1, 1e-6)
    shown = np.clip((values - (centre - 0.5)) / scale + 0.5, 0, 1) * 255
    return np.rint(255 - shown if inverted else shown).astype(np.uint8)


def on_grid(
    labels: np.ndarray, affine: np.ndarray, *, shape: tuple[int, int, int], target: np.ndarray
) -> np.ndarray | None:
    """Label voxels (any order and direction of axes) as an array of `shape` whose affine is `target`; None if off.

    Only turned or flipped axes are allowed: labels are never interpolated. Tolerance: a quarter voxel.
    """
    mapping = np.linalg.inv(affine) @ target
    turn = np.rint(mapping[:3, :3]).astype(int)
    if not (np.abs(turn).sum(axis=0) == 1).all() or not (np.abs(turn).sum(axis=1) == 1).all():
        return None
    order = np.abs(turn).argmax(axis=0)
    turned = labels.transpose(order)
    if turned.shape != shape:
        return None
    for axis, source in enumerate(order):
        if turn[source, axis] < 0:
            turned = np.flip(turned, axis)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    found = mapping[:3, :3] @ corners + mapping[:3, 3:]
    start = np.where(turn.sum(axis=1) < 0, np.array(labels.shape) - 1, 0)[:, None]
    return turned if np.abs(found - (turn @ corners + start)).max() <= 0.25 else None
