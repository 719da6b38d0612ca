"""PNG and TIFF of 8 or 16 bits, signed ones too: each is a volume of one slice. Marks are pictures of the same name."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from fastsynth.data.medical.patients import PatientRule
from fastsynth.data.medical.source import Loaded, Source, check_labels, files_below
from fastsynth.data.medical.volume import Record, coding_for
from fastsynth.images import MAX_PIXELS, image_size, page_count

SUFFIXES = {".png", ".tif", ".tiff"}


def picture_sources(folder: Path, *, masks: Path | None, rule: PatientRule) -> Iterator[Source]:
    """Every PNG and TIFF below `folder`; its marks have the same path below `masks`, whatever the suffix.

    Raises FileNotFoundError, or ValueError for a rule that asks for DICOM tags.
    """
    if rule.kind == "tag":
        raise ValueError("pictures hold no patient tags; use --patient regex:… on their names, or file")
    for path in files_below(folder):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in SUFFIXES:
            yield Source(name, rule.key(name, ""), lambda path=path, name=name: _load(path, name, masks))  # type: ignore[misc]


def _load(path: Path, name: str, masks: Path | None) -> Loaded:
    plane = read_plane(path)
    record = Record(
        format="pictures",
        shape=(plane.shape[1], plane.shape[0], 1),
        axis=2,
        affine=np.eye(4).tolist(),
        coding=coding_for(plane),
        rescale=[(1.0, 0.0)],
        calibrated=False,
    )
    found = None if masks is None else find_plane(masks, name)
    labels = None if found is None else label_plane(found, plane.shape)
    return plane.T[..., None], record, None if labels is None else labels.T[..., None]


def find_plane(masks: Path, name: str) -> Path | None:
    """The picture of the same path and stem below `masks`."""
    return next((p for p in (masks / name).parent.glob("*") if p.suffix.lower() in SUFFIXES and _fits(p, name)), None)


def label_plane(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Marks (H, W) of a picture. 255 alone counts as 1, as masks are usually written."""
    labels = check_labels(read_plane(path), str(path))
    if labels.shape != shape:
        raise ValueError(f"{path} is {labels.shape}, its image {shape}; save the marks at the image's size")
    return np.minimum(labels, 1) if set(np.unique(labels).tolist()) <= {0, 255} else labels


def read_plane(path: Path) -> np.ndarray:
    """(H, W) uint8, uint16 or int16. Raises ValueError for colour, damage, or a file of several pages."""
    height, width = image_size(path)
    if height * width > MAX_PIXELS:
        raise ValueError(f"{path}: {width}×{height} pixels; at most {MAX_PIXELS:,} are read")
    if (pages := page_count(path)) != 1:
        raise ValueError(f"{path}: {pages} pages; wanted one of grey in 8 or 16 bits, split it")
    try:
        plane = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        plane = None
    if plane is None:
        raise ValueError(f"{path}: cannot be decoded; the file is damaged")
    if plane.ndim != 2 or plane.dtype not in (np.uint8, np.uint16, np.int16):
        raise ValueError(f"{path}: one page of {plane.dtype} {plane.shape}; wanted one of grey in 8 or 16 bits")
    return np.asarray(plane)


def _fits(path: Path, name: str) -> bool:
    return path.stem in (Path(name).stem, f"{Path(name).stem}_mask")
