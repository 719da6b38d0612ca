"""One door for all formats: a store goes in, a folder in the words of another tool comes out, whole or not at all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, assert_never

from tqdm import tqdm

import fastsynth
from fastsynth.data.card import EXPORTED_FILES, make_card, run_values
from fastsynth.data.export.anomalib import write_anomalib
from fastsynth.data.export.coco import write_coco
from fastsynth.data.export.cvat import write_cvat
from fastsynth.data.export.folder import new_folder
from fastsynth.data.export.imagefolder import write_imagefolder
from fastsynth.data.export.mvtec import write_mvtec
from fastsynth.data.export.reading import StoredSample, read_samples
from fastsynth.data.export.webdataset import write_webdataset
from fastsynth.data.export.yolo import write_yolo
from fastsynth.data.identity import read_identity
from fastsynth.data.medical.exporting import write_volumes
from fastsynth.data.medical.sidecar import write_notice
from fastsynth.data.store import IDENTITY
from fastsynth.files import read_json, write_json

Format = Literal[
    "coco", "coco-polygons", "yolo", "cvat", "imagefolder", "webdataset", "mvtec", "anomalib", "nifti", "dicom"
]
NEED_SOURCES = ("mvtec", "anomalib", "nifti", "dicom")


class Counted:
    """Passes samples on and counts them; a hidden progress bar does not."""

    def __init__(self, samples: Iterator[StoredSample]) -> None:
        self.samples = samples
        self.count = 0

    def __iter__(self) -> Iterator[StoredSample]:
        for sample in self.samples:
            self.count += 1
            yield sample


def export_store(store: Path, output: Path, *, kind: Format, data_root: Path | None = None) -> int:
    """Write the samples of `store` to the new folder `output`; returns how many. The same store gives the same bytes.

    data_root: the data set the store was made from; for the formats that hold its images too (`NEED_SOURCES`).
    An export of a medical store says so in NOTICE.txt; provenance.json says what every store was made from.

    Raises:
        FileNotFoundError: no store, or a source image is missing.
        ValueError: `output` exists or lies in the store, the store is empty or unsound, a file changed since it was
            stored, or `data_root` is missing.
    """
    names = read_identity(store)["defects"]
    if output.resolve().is_relative_to(store.resolve()):
        raise ValueError(f"{output} lies in the store {store}, which holds nothing else; choose another folder")
    if data_root is None and kind in NEED_SOURCES:
        raise ValueError(f"{kind} holds images of the data set too; pass the data set of the store with --data")
    root = data_root or store
    with new_folder(output) as folder:
        counted = Counted(read_samples(store))
        samples = tqdm(counted, desc=f"export {kind}", unit="sample", disable=None)
        match kind:
            case "coco" | "coco-polygons":
                write_coco(samples, folder, names=names, polygons=kind == "coco-polygons")
            case "yolo":
                write_yolo(samples, folder, names=names)
            case "cvat":
                write_cvat(samples, folder, names=names)
            case "imagefolder":
                card = make_card(store, config=run_values(store), files=EXPORTED_FILES)
                write_imagefolder(samples, folder, names=names, card=card)
            case "webdataset":
                write_webdataset(samples, folder)
            case "mvtec":
                write_mvtec(samples, folder, data_root=root)
            case "anomalib":
                write_anomalib(samples, folder, data_root=root)
            case "nifti" | "dicom":
                write_volumes(samples, folder, names=names, data_root=root, kind=kind)
            case _:
                assert_never(kind)
        write_notice(store, folder)
        _write_provenance(store, folder, kind=kind, samples=counted.count)
    return counted.count


def _write_provenance(store: Path, folder: Path, *, kind: Format, samples: int) -> None:
    """Hashes of configuration, data and model as in store.json; no clock and no machine: equal stores, equal bytes."""
    about = {
        "format": kind,
        "samples": samples,
        "fastsynth": fastsynth.__version__,
        "store": read_json(store / IDENTITY),
    }
    write_json(folder / "provenance.json", about)
