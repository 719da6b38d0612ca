"""A store back to volumes: each is its source with the samples in the place of their slices, and the marks of both.

    images/<volume>-<number>…   labels/<volume>-<number>…   volumes.json

NIfTI: one .nii.gz each. DICOM: one folder of Secondary Capture objects each, with UIDs of their own. Outside the masks
the original integers come back bit for bit. Every sample is in exactly one volume: the first of a slice is in volume
000, the second in 001, …; slices without a sample are those of the source, with the marks they had.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastsynth.data.export.folder import inside, write
from fastsynth.data.export.reading import StoredSample
from fastsynth.data.medical.dicom_write import write_series
from fastsynth.data.medical.nifti import encode_nifti, label_record
from fastsynth.data.medical.sidecar import NOTICE, Sidecar, read_places
from fastsynth.data.medical.volume import Record
from fastsynth.files import sha256_file, sha256_json, write_json
from fastsynth.images import read_image, read_mask
from fastsynth.types import COMBINED

Samples = dict[int, list[StoredSample]]
"""Slice → its samples."""


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """values: (I, J, K) in the original dtype. labels: (I, J, K) uint8 class indices. samples: slice → id."""

    name: str
    patient: str
    record: Record
    values: np.ndarray
    labels: np.ndarray
    samples: dict[int, str]
    origin: str


def write_volumes(
    samples: Iterable[StoredSample], folder: Path, *, names: list[str], data_root: Path, kind: Literal["nifti", "dicom"]
) -> None:
    """data_root: where the samples' `source_image` paths start; names: classes of the store.

    Raises FileNotFoundError without sidecar or sources, ValueError for a source that changed or a grid the format
    cannot hold.
    """
    places = read_places(data_root)
    if not places:
        Sidecar.read(data_root)  # says what is missing
    by_volume: dict[tuple[Path, str], Samples] = {}
    for sample in samples:
        source_image = sample.line["source_image"]
        if source_image not in places:
            raise ValueError(f"{data_root}: {source_image} is in no volume; pass the data set of the store with --data")
        place = places[source_image]
        by_volume.setdefault((place.folder, place.name), {}).setdefault(place.index, []).append(sample)
    sidecars = {source: Sidecar.read(source) for source, _ in by_volume}
    marked = sorted({found for sidecar in sidecars.values() for found in sidecar.classes} - set(names))
    classes, listed = [*names, *marked], {}
    for (source, name), slices in sorted(by_volume.items()):
        prefix = "" if source == data_root else f"{source.name}-"
        for built in _rebuild(source, sidecars[source], name, slices, classes):
            listed[prefix + built.name] = {"source": name, "samples": built.samples}
            _write(folder, prefix + built.name, built, kind)
    write_json(folder / "volumes.json", {"notice": NOTICE, "classes": classes, "volumes": listed})


def _rebuild(source: Path, sidecar: Sidecar, name: str, slices: Samples, classes: list[str]) -> Iterator[Rebuilt]:
    record, paths = sidecar.volumes[name], sidecar.slices[name]
    values = np.empty(record.shape, record.coding.dtype)
    labels = np.zeros(record.shape, np.uint8)
    for index, path in enumerate(paths):
        picture = _original(source, path)
        record.place(values, index, record.coding.decode(picture))
        record.place(labels, index, _marks(source, path, picture.shape, sidecar.classes, classes))
    for number in range(max(len(found) for found in slices.values())):
        used = {index: found[number] for index, found in sorted(slices.items()) if number < len(found)}
        new_values, new_labels = values.copy(), labels.copy()
        for index, sample in used.items():
            _check_source(source / paths[index], sample)
            codes = read_image(inside(sample.store, sample.line["image"]))[..., 0]
            sample.data("image")  # refuses a file that changed
            record.place(new_values, index, record.coding.decode(codes))
            record.place(new_labels, index, sample.classes)
        yield Rebuilt(
            f"{name}-{number:03d}",
            name.partition("-")[0],
            record,
            new_values,
            new_labels,
            {index: sample.id for index, sample in used.items()},
            sha256_json([sample.line["image_sha256"] for sample in used.values()]),
        )


def _original(folder: Path, path: str) -> np.ndarray:
    file = inside(folder, path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; restore the data set, its volume cannot be rebuilt without it")
    return read_image(file)[..., 0]


def _check_source(path: Path, sample: StoredSample) -> None:
    if sha256_file(path) != sample.line["source_sha256"]:
        raise ValueError(f"{path}: changed since sample {sample.id} was made; restore it")


def _marks(folder: Path, path: str, shape: tuple[int, ...], own: list[str], classes: list[str]) -> np.ndarray:
    """(H, W) uint8: marks the slice had, as positions in `classes` + 1. own: the sidecar's classes."""
    part, defect, file = path.split("/") if path.count("/") == 2 else ("", "", "")
    if part != "test":
        return np.zeros(shape, np.uint8)
    if defect == COMBINED:
        turned = np.array([0, *(1 + classes.index(name) for name in own)], np.uint8)
        return turned[read_image(inside(folder, f"classes/{defect}/{file}"))[..., 0]]
    mask = read_mask(inside(folder, f"ground_truth/{defect}/{Path(file).stem}_mask.png"))
    return mask.astype(np.uint8) * np.uint8(1 + classes.index(defect))


def _write(folder: Path, name: str, built: Rebuilt, kind: Literal["nifti", "dicom"]) -> None:
    marks = label_record(built.record)
    parts: list[tuple[str, np.ndarray, Record]] = [
        ("images", built.values, built.record),
        ("labels", built.labels, marks),
    ]
    for part, values, record in parts:
        if kind == "nifti":
            write(folder / part / f"{name}.nii.gz", encode_nifti(values, record))
        else:
            ids: dict[str, Any] = {"patient": built.patient, "entropy": [built.origin, name]}
            write_series(values, record, folder / part / name, part=part, **ids)
