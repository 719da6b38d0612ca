"""NIfTI volumes: raw integers, slope, affine and spacing in; the same header fields out. Texts are never copied.

A NIfTI header can name a patient in its texts and extensions; only numbers of its geometry are read.
"""

import gzip
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastsynth.data.medical.extra import library
from fastsynth.data.medical.patients import PatientRule
from fastsynth.data.medical.sidecar import NOTICE
from fastsynth.data.medical.source import Loaded, Source, check_labels, files_below
from fastsynth.data.medical.volume import MAX_VOXELS, Coding, Record, coding_for, on_grid

SUFFIXES = (".nii.gz", ".nii")
GEOMETRY = (
    *("pixdim", "qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
"""Header fields that place a volume in space; they come back bit for bit."""
CHANNEL = "_0000"
"""nnU-Net's ending of a first channel, which its label files do not have."""


def nifti_sources(folder: Path, *, masks: Path | None, rule: PatientRule, axis: int) -> Iterator[Source]:
    """Every .nii and .nii.gz below `folder`; its marks have the same path below `masks`.

    Raises FileNotFoundError, or ValueError for a rule that asks for DICOM tags.
    """
    if rule.kind == "tag":
        raise ValueError("NIfTI files hold no patient tags; use --patient regex:… on their names, or file")
    for path in files_below(folder):
        name = path.relative_to(folder).as_posix()
        if name.endswith(SUFFIXES):
            yield Source(name, rule.key(name, ""), lambda path=path, name=name: _load(path, name, masks, axis))  # type: ignore[misc]


def _load(path: Path, name: str, masks: Path | None, axis: int) -> Loaded:
    values, image = read_volume(path)
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    try:
        coding = coding_for(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    record = Record(
        format="nifti",
        shape=values.shape,
        axis=axis,
        affine=image.affine.tolist(),
        coding=coding,
        rescale=[(float(slope), float(intercept))],
        calibrated=image.header.get_xyzt_units()[0] in ("mm", "unknown"),
        header={key: np.asarray(image.header[key]).tolist() for key in GEOMETRY},
    )
    found = None if masks is None else _find(masks, name)
    return values, record, None if found is None else read_labels(found, record)


def read_volume(path: Path) -> tuple[np.ndarray, Any]:
    """Stored (I, J, K) numbers before slope and intercept, and nibabel's image.

    Raises ValueError that names the file when it is not one volume.
    """
    nibabel = library("nibabel")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = nibabel.load(path)
            if (voxels := math.prod(image.shape)) > MAX_VOXELS:
                raise _TooLargeError(f"{path}: {voxels:,} voxels; at most {MAX_VOXELS:,} are read, split it")
            values = np.asarray(image.dataobj.get_unscaled())
    except _TooLargeError:
        raise
    except Exception as error:  # the library raises of every kind, and some messages quote the header
        raise ValueError(f"{path}: not a readable NIfTI file ({type(error).__name__}); copy it again") from None
    values = values.astype(values.dtype.newbyteorder("="))
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"{path}: array of shape {values.shape}; wanted one volume of three dimensions, split it")
    return values, image


class _TooLargeError(ValueError):
    """Not one of the library's."""


def read_labels(path: Path, record: Record) -> np.ndarray:
    """Marks of a NIfTI file on the grid of `record`. Raises ValueError when they lie on another one."""
    raw, image = read_volume(path)
    scaled = raw * float(image.dataobj.slope) + float(image.dataobj.inter)
    labels = on_grid(check_labels(scaled, str(path)), image.affine, shape=record.shape, target=np.array(record.affine))
    if labels is None:
        raise ValueError(
            f"{path}: grid of {raw.shape} voxels does not fit its image of {record.shape}; "
            "resample it onto the image with nearest neighbour"
        )
    return labels


def stem_of(name: str) -> str:
    """`a/b.nii.gz` → `a/b`."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def _find(masks: Path, name: str) -> Path | None:
    stem = stem_of(name)
    names = (stem, stem.removesuffix(CHANNEL))
    paths = [masks / f"{found}{suffix}" for found in names for suffix in SUFFIXES]
    return next((path for path in paths if path.is_file()), None)


def encode_nifti(values: np.ndarray, record: Record) -> bytes:
    """The volume as .nii.gz: dtype of `values`, geometry and slope of `record`. The same volume gives the same bytes.

    values: (I, J, K). Raises ValueError when the slices have different slopes or uneven distances.
    """
    nibabel = library("nibabel")
    if len({tuple(pair) for pair in record.rescale}) > 1:
        raise ValueError("a volume's slices have different slopes, which NIfTI cannot hold; export it as dicom")
    if record.positions is not None and not _even(record):
        raise ValueError("a volume's slices lie at uneven distances, which NIfTI cannot hold; export it as dicom")
    header = nibabel.Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape)
    if record.header:
        for key, value in record.header.items():
            header[key] = value
    else:
        header.set_sform(np.array(record.affine), code=1)
        header.set_qform(np.array(record.affine), code=1)
        header.set_xyzt_units("mm" if record.calibrated else "unknown")
    header["scl_slope"], header["scl_inter"] = record.rescale[0]
    header["descrip"] = NOTICE.encode()
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    data = header.binaryblock + bytes(4) + values.tobytes(order="F")
    return gzip.compress(data, compresslevel=6, mtime=0)


def _even(record: Record) -> bool:
    """Whether no slice is further than a hundredth of a step from where the affine puts it."""
    steps = np.diff(np.array(record.positions), axis=0)
    if not len(steps):
        return True
    allowed = 0.01 * np.linalg.norm(steps.mean(axis=0)) + 1e-3
    return bool(np.linalg.norm(steps - steps.mean(axis=0), axis=1).max() <= allowed)


def label_record(record: Record) -> Record:
    """The same place in space for marks, whose values are what they are."""
    return Record(**{**record.__dict__, "rescale": [(1.0, 0.0)], "coding": Coding("uint8", "uint8", 0)})
