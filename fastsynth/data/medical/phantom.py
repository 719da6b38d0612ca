"""Phantoms in place of patients: CT-like volumes of ellipsoids with ellipsoid lesions, to try everything on.

Values are HU in int16: air -1000, tissue around 40, bone 400, lesions darker than the tissue by 30 to 70.
"""

import gzip
from pathlib import Path

import cv2
import numpy as np

from fastsynth.data.export.folder import write
from fastsynth.data.medical.extra import library

AFFINE = np.array([[-0.8, 0.05, 0, 30], [0.05, 0.8, 0, -40], [0, 0, 2.5, 12], [0, 0, 0, 1]])
"""Oblique, with voxels of about 0.8 × 0.8 × 2.5 mm; x runs to the left, as in most CT."""


def draw_phantom(
    rng: np.random.Generator, *, shape: tuple[int, int, int] = (64, 56, 10), lesions: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """(I, J, K) int16 values and (I, J, K) uint8 marks: 1 inside a lesion."""
    centre = np.array(shape) / 2
    noise = rng.normal(0, 1, (shape[2], shape[1], shape[0])).astype(np.float32)
    grain = np.stack([cv2.GaussianBlur(plane, (0, 0), 1.2) for plane in noise]).transpose(2, 1, 0)
    values = np.full(shape, -1000.0)
    body = _ellipsoid(shape, centre, np.array(shape) * (0.44, 0.42, 2.0))
    values[body] = 40 + 30 * grain[body]
    spine = _ellipsoid(shape, centre * (1, 1.55, 1), np.array(shape) * (0.07, 0.08, 2.0))
    values[spine] = 400 + 60 * grain[spine]
    marks = np.zeros(shape, np.uint8)
    for _ in range(lesions):
        radii = rng.uniform(0.05, 0.1, 3) * (shape[0], shape[0], 0) + (0, 0, rng.uniform(0.8, 1.8))
        spot = centre + rng.uniform(-0.22, 0.22, 3) * np.array(shape)
        inside = _ellipsoid(shape, spot, radii) & body & ~spine
        values[inside] -= rng.uniform(30, 70)
        marks[inside] = 1
    return np.rint(values).astype(np.int16), marks


def write_phantoms(folder: Path, *, patients: int, seed: int, shape: tuple[int, int, int] = (64, 56, 10)) -> None:
    """`folder`/images/sub-01_ct.nii.gz … and `folder`/masks/…, two scans of every second patient."""
    rng = np.random.default_rng(seed)
    for number in range(patients):
        for scan in range(1 + number % 2):
            name = f"sub-{number + 1:02d}_scan{scan + 1}.nii.gz"
            values, marks = draw_phantom(rng, shape=shape)
            for part, array in (("images", values), ("masks", marks)):
                write(folder / part / name, encode_phantom(array))


def encode_phantom(array: np.ndarray, affine: np.ndarray = AFFINE) -> bytes:
    """.nii.gz bytes, the same for the same array."""
    image = library("nibabel").Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)


def _ellipsoid(shape: tuple[int, int, int], centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    axes = [(np.arange(n) - c) / r for n, c, r in zip(shape, centre, radii, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    inside: np.ndarray = x**2 + y**2 + z**2 <= 1
    return inside
