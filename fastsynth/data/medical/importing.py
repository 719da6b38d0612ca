"""Volumes to the tool's own tree: a PNG per slice in native depth, masks, one group per patient, and the sidecar.

    train/good/<volume>-s<index>.png        slices without marks
    test/<class>/…  ground_truth/<class>/…  slices with marks; of several classes: `combined`, with classes/combined/…
    unused/…                                slices that show nothing, kept for the way back
    groups.json  medical.json               file stem → patient; how to rebuild the volumes

File names, ids and texts of the source are not written anywhere.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import numpy as np
from tqdm import tqdm

from fastsynth.data.datasets import check_defect_name
from fastsynth.data.export.folder import new_folder, write
from fastsynth.data.groups import GROUPS_FILE
from fastsynth.data.medical.dicom import dicom_sources
from fastsynth.data.medical.nifti import nifti_sources
from fastsynth.data.medical.patients import PatientRule, parse_rule, pseudonyms
from fastsynth.data.medical.pictures import picture_sources
from fastsynth.data.medical.sidecar import NOTICE, NOTICE_FILE, Sidecar
from fastsynth.data.medical.source import Loaded, Source
from fastsynth.data.medical.volume import Format
from fastsynth.files import write_json
from fastsynth.images import encode_png
from fastsynth.types import COMBINED

LESION = "lesion"
"""Class of every mark when nothing else is said."""


@dataclass
class Imported:
    """What came in. normals, defects, unused: slices."""

    patients: int
    volumes: int = 0
    normals: int = 0
    defects: int = 0
    unused: int = 0


def import_volumes(
    folder: Path,
    output: Path,
    *,
    kind: Format,
    masks: Path | None = None,
    patient: str | None = None,
    axis: int = 2,
    labels: Mapping[int, str] | None = None,
) -> Imported:
    """Write the new folder `output`, whole or not at all.

    masks: folder of marks, see the readers. patient: see `patients.parse_rule`; by default the PatientID of DICOM, and
    every file on its own otherwise. axis: of NIfTI slices, 0 … 2. labels: mark → class; marks that are not named count
    as healthy. Without it every mark is a "lesion".

    Raises:
        FileNotFoundError: no such folder, or nothing of this kind in it.
        ValueError: `output` exists, a file is unreadable or 16 bits cannot hold it, marks do not fit.
        ImportError: the extra `medical` is missing.
    """
    if masks is not None and not masks.is_dir():
        raise FileNotFoundError(f"{masks}: no such folder; give the folder of the marks with --masks")
    rule = parse_rule(patient or ("id" if kind == "dicom" else "file"))
    sources = list(_sources(folder, kind, masks, rule, axis))
    if not sources:
        raise FileNotFoundError(f"{folder}: no {kind} files in it; check --format")
    names = pseudonyms([source.key for source in sources])
    with new_folder(output) as tree:
        writer = _Writer(tree, labels)
        for source, (patient_name, volume) in zip(
            tqdm(sources, desc=f"import {kind}", unit="volume", disable=None), names, strict=True
        ):
            writer.add(source.name, volume, patient_name, source.load())
        writer.close()
        if masks is not None and not writer.counts.defects:
            raise ValueError(f"{masks}: no slice is marked; check that the names fit those below {folder}, and --label")
    return writer.counts


def _sources(folder: Path, kind: Format, masks: Path | None, rule: PatientRule, axis: int) -> Iterator[Source]:
    match kind:
        case "dicom":
            return dicom_sources(folder, masks=masks, rule=rule)
        case "nifti":
            return nifti_sources(folder, masks=masks, rule=rule, axis=axis)
        case "pictures":
            return picture_sources(folder, masks=masks, rule=rule)
        case _:
            assert_never(kind)


class _Writer:
    """Takes one volume after the other."""

    def __init__(self, tree: Path, labels: Mapping[int, str] | None) -> None:
        self.tree, self.labels = tree, labels
        self.sidecar = Sidecar(sorted(set(labels.values())) if labels else [LESION])
        self.groups: dict[str, str] = {}
        self.counts = Imported(patients=0)
        for name in self.sidecar.classes:
            check_defect_name(name)

    def add(self, source: str, name: str, patient: str, loaded: Loaded) -> None:
        values, record, marks = loaded
        classes = self._classes(marks, record.shape)
        self.sidecar.volumes[name] = record
        paths = self.sidecar.slices[name] = []
        for index in range(record.depth):
            stem = f"{name}-s{index:04d}"
            self.groups[stem] = patient
            codes = record.coding.encode(record.picture(values, index))
            paths.append(self._slice(stem, codes, record.picture(classes, index)))
        self.counts.volumes += 1

    def close(self) -> None:
        self.counts.patients = len(set(self.groups.values()))
        (self.tree / "train" / "good").mkdir(parents=True, exist_ok=True)
        write_json(self.tree / GROUPS_FILE, self.groups)
        self.sidecar.write(self.tree)
        write(self.tree / NOTICE_FILE, f"Made from medical images. What is made from them: {NOTICE}.\n".encode())

    def _classes(self, marks: np.ndarray | None, shape: tuple[int, int, int]) -> np.ndarray:
        """(I, J, K) uint8: 1 + position of the voxel's class in the sidecar's `classes`."""
        classes = np.zeros(shape, np.uint8)
        if marks is None:
            return classes
        if self.labels is None:
            classes[marks > 0] = 1
        for mark, name in (self.labels or {}).items():
            classes[marks == mark] = 1 + self.sidecar.classes.index(name)
        return classes

    def _slice(self, stem: str, codes: np.ndarray, classes: np.ndarray) -> str:
        """Write one slice; returns its path."""
        found = np.unique(classes[classes > 0])
        if len(found):
            self.counts.defects += 1
            defect = self.sidecar.classes[found[0] - 1] if len(found) == 1 else COMBINED
            write(
                self.tree / f"ground_truth/{defect}/{stem}_mask.png", encode_png((classes > 0).astype(np.uint8) * 255)
            )
            if defect == COMBINED:
                write(self.tree / f"classes/{defect}/{stem}.png", encode_png(classes))
            path = f"test/{defect}/{stem}.png"
        elif codes.min() == codes.max():
            self.counts.unused += 1
            path = f"unused/{stem}.png"
        else:
            self.counts.normals += 1
            path = f"train/good/{stem}.png"
        write(self.tree / path, encode_png(codes))
        return path
