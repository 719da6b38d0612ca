"""DICOM series in: pixel values as stored, and the few tags that say what they mean and where they are.

Only the tags of `TAGS` (and the one that tells patients apart) are ever read from a file: what is not read cannot leak.
Messages never quote a value, and pydicom's own are silenced, since they do.
Sources: PS3.3 C.7.6.2 (image plane), C.7.6.3.1 (photometric interpretation), C.11.1 (rescale), C.11.2 (window).
"""

import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastsynth.data.medical.extra import library
from fastsynth.data.medical.nifti import SUFFIXES as NIFTI_SUFFIXES
from fastsynth.data.medical.nifti import read_labels
from fastsynth.data.medical.patients import PatientRule
from fastsynth.data.medical.pictures import find_plane, label_plane
from fastsynth.data.medical.source import Loaded, Source, files_below
from fastsynth.data.medical.volume import MAX_VOXELS, Record, coding_for
from fastsynth.images import MAX_BYTES

TAGS = (
    *("SeriesInstanceUID", "InstanceNumber", "Modality", "BurnedInAnnotation", "NumberOfFrames", "Rows", "Columns"),
    *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness"),
    *("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"),
)
PIXELS = "PixelData"
DEFLATED = "1.2.840.10008.1.2.1.99"
META_START = 144
"""Bytes before what the length of the file meta information counts: preamble, prefix and that length (PS3.10 7.1)."""
CHUNK = 1 << 20
MODALITIES = {"CR", "CT", "DX", "IO", "MG", "MR", "NM", "OCT", "OP", "PT", "RF", "US", "XA"}
"""Anything else is recorded as OT: a free text must not get through."""
TO_RAS = np.diag([-1.0, -1.0, 1.0])
"""DICOM counts x to the left and y to the back, NIfTI to the right and to the front."""


@dataclass(frozen=True)
class Header:
    """What is known of a file before its pixels are read. orientation, position: None for a picture of no volume."""

    path: Path
    series: str
    patient: str
    number: int
    size: tuple[int, int]
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None


def dicom_sources(folder: Path, *, masks: Path | None, rule: PatientRule) -> Iterator[Source]:
    """One source per series; a file without position in space is one of its own. Files of other kinds are passed over.

    Marks: `masks`/<path of the series' folder>.nii(.gz), on any grid of the same voxels, or one picture per file.

    Raises FileNotFoundError or ValueError, for what makes every series unusable.
    """
    series: dict[tuple[Any, ...], list[Header]] = {}
    for path in files_below(folder):
        header = _read_header(path, rule)
        if header is not None:
            alone = path if header.position is None else None
            where = (header.series, header.patient, header.size, header.orientation, alone)
            series.setdefault(where, []).append(header)
    for headers in sorted(series.values(), key=lambda found: found[0].path):
        first = headers[0].path.relative_to(folder)
        key = rule.key(first.as_posix(), headers[0].patient)
        yield Source(first.as_posix(), key, lambda found=headers: _load(found, folder, masks))  # type: ignore[misc]


@contextmanager
def _discreet(path: Path) -> Iterator[None]:
    """Reading without a word of the file's content: neither in warnings and logs, nor in errors."""
    logger = logging.getLogger("pydicom")
    silent, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), library("pydicom.config").disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path}: not a readable DICOM image ({type(error).__name__}); if it is compressed, "
            "pip install pylibjpeg[all], else copy it again"
        ) from None
    finally:
        logger.disabled = silent


def _read_header(path: Path, rule: PatientRule) -> Header | None:
    """None for a file that is not DICOM, or not an image."""
    pydicom = library("pydicom")
    if not _looks_like_dicom(path):
        return None
    _check_inflated(path)
    if rule.tag is not None and library("pydicom.datadict").tag_for_keyword(rule.tag) is None:
        raise ValueError(f"--patient tag:{rule.tag}: no such DICOM keyword; wanted one like StudyInstanceUID")
    with _discreet(path):
        tags = [*TAGS, *([rule.tag] if rule.tag else [])]
        found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
        if "Rows" not in found or "Columns" not in found:
            return None
        orientation = _numbers(found, "ImageOrientationPatient", 6)
        return Header(
            path,
            series=str(found.get("SeriesInstanceUID", path.parent)),
            patient=str(found.get(rule.tag, "")) if rule.tag else "",
            number=int(found.get("InstanceNumber") or 0),
            size=(int(found.Rows), int(found.Columns)),
            orientation=None if orientation is None else tuple(round(value, 4) for value in orientation),
            position=_numbers(found, "ImagePositionPatient", 3),
        )


def _looks_like_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _check_inflated(path: Path) -> None:
    """Refuse a deflated file (PS3.5 A.5) that swells beyond MAX_BYTES, before pydicom inflates it at once.

    Raises ValueError that names the limit.
    """
    with _discreet(path):
        meta = library("pydicom.filereader").read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") != DEFLATED:
            return
        start = META_START + int(meta.FileMetaInformationGroupLength)
    inflater, left = zlib.decompressobj(-zlib.MAX_WBITS), MAX_BYTES
    with path.open("rb") as file, _discreet(path):
        file.seek(start)
        compressed = file.read(CHUNK)
        while compressed and not inflater.eof and left >= 0:
            left -= len(inflater.decompress(compressed, CHUNK))
            compressed = inflater.unconsumed_tail or file.read(CHUNK)
    if left < 0:
        raise ValueError(f"{path}: more than {MAX_BYTES:,} bytes when inflated; at most that is read of one file")


def _load(headers: list[Header], folder: Path, masks: Path | None) -> Loaded:
    headers = _in_order(headers)
    rows, columns = headers[0].size
    if (voxels := rows * columns * len(headers)) > MAX_VOXELS:
        raise ValueError(
            f"{headers[0].path.parent}: a series of {voxels:,} voxels; at most {MAX_VOXELS:,} are read, split it"
        )
    planes, read = [], []
    for header in headers:
        plane, found = _read_slice(header.path)
        planes.append(plane)
        read.append(found)
    first, where = read[0], headers[0].path
    for key in ("PhotometricInterpretation", "PixelRepresentation", "BitsAllocated"):
        if len({found[key].value for found in read}) > 1:
            raise ValueError(f"{where.parent}: the slices of a series differ in {key}; export the series again")
    values = np.stack(planes).transpose(2, 1, 0)
    with _discreet(where):
        affine, calibrated = _affine(headers, first)
        rescale = [_rescale(found) for found in read]
        record = Record(
            format="dicom",
            shape=values.shape,
            axis=2,
            affine=affine.tolist(),
            coding=coding_for(values, inverted=first.PhotometricInterpretation == "MONOCHROME1"),
            rescale=rescale if len(set(rescale)) > 1 else rescale[:1],
            window=_window(first),
            modality=first.Modality if first.get("Modality") in MODALITIES else "OT",
            calibrated=calibrated,
            positions=None if headers[0].position is None else [list(h.position or ()) for h in headers],
        )
    return values, record, None if masks is None else _read_marks(headers, folder, masks, record)


def _in_order(headers: list[Header]) -> list[Header]:
    """Along the normal of the slices. Raises ValueError when two lie at one place: several phases or echoes."""
    if headers[0].position is None or len(headers) == 1:
        return headers
    orientation = np.array(headers[0].orientation or (1, 0, 0, 0, 1, 0))
    normal = np.cross(orientation[:3], orientation[3:])
    heights = [float(np.array(header.position) @ normal) for header in headers]
    order = np.argsort(heights, kind="stable")
    if np.diff(np.sort(heights)).min() < 1e-3:
        raise ValueError(
            f"{headers[0].path.parent}: a series has two slices at one place (phases or echoes); "
            "export each as a series of its own"
        )
    return [headers[i] for i in order]


def _read_slice(path: Path) -> tuple[np.ndarray, Any]:
    """Stored values (H, W), and the tags of `TAGS`."""
    with _discreet(path):
        found = library("pydicom").dcmread(path, specific_tags=[*TAGS, PIXELS])
        kind = str(found.PhotometricInterpretation)
        frames, burned = int(found.get("NumberOfFrames") or 1), found.get("BurnedInAnnotation") == "YES"
    if kind not in ("MONOCHROME1", "MONOCHROME2") or frames > 1:
        # the kind is quoted only when it is one of the standard's, a free text is not
        shown = kind if kind in ("RGB", "PALETTE COLOR") or kind.startswith("YBR_") else "colour"
        what = f"{frames} frames" if frames > 1 else shown
        raise ValueError(f"{path}: {what}; wanted one grey frame per file, convert it first")
    if burned:
        raise ValueError(f"{path}: says that text is burned into its pixels, which may name a patient; clean it first")
    with _discreet(path):
        pixels = np.asarray(found.pixel_array)
    if pixels.ndim != 2:
        raise ValueError(f"{path}: pixels of shape {pixels.shape}; wanted one grey frame per file, convert it first")
    return pixels, found


def _affine(headers: list[Header], first: Any) -> tuple[np.ndarray, bool]:
    """Columns, rows, slices to mm in RAS, and whether the spacing of the pixels is known."""
    spacing = _numbers(first, "PixelSpacing", 2) or _numbers(first, "ImagerPixelSpacing", 2)
    down, across = spacing or (1.0, 1.0)
    orientation = np.array(_numbers(first, "ImageOrientationPatient", 6) or (1, 0, 0, 0, 1, 0))
    start = np.array(headers[0].position or (0, 0, 0))
    step = np.cross(orientation[:3], orientation[3:]) * float(first.get("SliceThickness") or 1)
    if len(headers) > 1 and headers[-1].position is not None:
        step = (np.array(headers[-1].position) - start) / (len(headers) - 1)
    affine = np.eye(4)
    affine[:3] = TO_RAS @ np.column_stack([orientation[:3] * across, orientation[3:] * down, step, start])
    return affine, spacing is not None


def _rescale(found: Any) -> tuple[float, float]:
    slope, intercept = found.get("RescaleSlope"), found.get("RescaleIntercept")
    return float(1 if slope is None else slope), float(intercept or 0)


def _window(found: Any) -> tuple[float, float] | None:
    """The first of the windows."""
    centre, width = (np.atleast_1d(found.get(key) or []) for key in ("WindowCenter", "WindowWidth"))
    return (float(centre[0]), float(width[0])) if len(centre) and len(width) and float(width[0]) >= 1 else None


def _numbers(found: Any, key: str, count: int) -> tuple[float, ...] | None:
    values = found.get(key)
    return tuple(float(value) for value in values) if values is not None and len(values) == count else None


def _read_marks(headers: list[Header], folder: Path, masks: Path, record: Record) -> np.ndarray | None:
    """(I, J, K) marks; None when there are none for this series."""
    parent = headers[0].path.parent.relative_to(folder)
    for suffix in NIFTI_SUFFIXES:
        path = masks / f"{parent.as_posix()}{suffix}" if parent.parts else masks / f"{folder.resolve().name}{suffix}"
        if path.is_file():
            return read_labels(path, record)
    labels = np.zeros(record.shape, np.int32)
    seen = False
    for index, header in enumerate(headers):
        found = find_plane(masks, header.path.relative_to(folder).as_posix())
        if found is not None:
            record.place(labels, index, label_plane(found, header.size))
            seen = True
    return labels if seen else None
