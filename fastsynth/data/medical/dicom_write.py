"""Volumes as DICOM: Secondary Capture objects that say they are derived and synthetic, with UIDs of their own.

Sources: PS3.3 A.8.1 (Secondary Capture), C.7.6.1 (image type), C.12.1 (Synthetic Data), C.8.6.1 (conversion SYN).
The image plane, rescale and window are added, as the standard allows for extended objects. No tag is copied: every one
is written from the sidecar, which holds numbers of geometry and meaning alone. There are no dates.
"""

from pathlib import Path
from typing import Any

import numpy as np

from fastsynth.data.medical.dicom import TO_RAS
from fastsynth.data.medical.extra import library
from fastsynth.data.medical.sidecar import NOTICE
from fastsynth.data.medical.volume import Record

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


def write_series(
    values: np.ndarray, record: Record, folder: Path, *, part: str, patient: str, entropy: list[str]
) -> None:
    """One file per slice along the record's axis: folder/0000.dcm, …

    values: (I, J, K) integers. part: "images" or "labels". patient: pseudonym. entropy: what the UIDs are made from,
    so that the same volume gives the same bytes. Raises ValueError when the axes are not at right angles.
    """
    folder.mkdir(parents=True)
    across, down, positions = image_plane(record)
    stored = values.astype(record.coding.stored_dtype)
    uid = library("pydicom.uid").generate_uid
    ids = {key: uid(entropy_srcs=[*entropy, key]) for key in ("study", "frame")} | {
        "series": uid(entropy_srcs=[*entropy, "series", part])
    }
    for index in range(record.depth):
        found = _instance(record.picture(stored, index), record, part=part, patient=patient, ids=ids)
        found.SOPInstanceUID = uid(entropy_srcs=[*entropy, part, str(index)])
        found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
        found.InstanceNumber = index + 1
        found.ImagePositionPatient = [_ds(value) for value in positions[index]]
        found.ImageOrientationPatient = [_ds(value) for value in (*across, *down)]
        slope, intercept = record.rescale[index if len(record.rescale) > 1 else 0]
        found.RescaleSlope, found.RescaleIntercept = _ds(slope), _ds(intercept)
        found.RescaleType = "HU" if record.modality == "CT" and part == "images" else "US"
        found.save_as(folder / f"{index:04d}.dcm", enforce_file_format=True)


def image_plane(record: Record) -> tuple[np.ndarray, np.ndarray, list[list[float]]]:
    """Unit vectors along the columns and rows of a picture, and the position of every slice; mm in LPS."""
    affine = np.array(record.affine)
    steps = TO_RAS @ affine[:3, :3]
    first, second = record.plane
    across, down = (steps[:, axis] / np.linalg.norm(steps[:, axis]) for axis in (first, second))
    if abs(across @ down) > 1e-4:
        raise ValueError("the axes of a volume are not at right angles, which DICOM cannot hold; export it as nifti")
    if record.positions is not None:
        return across, down, record.positions
    start = TO_RAS @ affine[:3, 3]
    return across, down, [(start + index * steps[:, record.axis]).tolist() for index in range(record.depth)]


def _instance(pixels: np.ndarray, record: Record, *, part: str, patient: str, ids: dict[str, str]) -> Any:
    """A data set with everything that does not depend on the place of the slice."""
    dataset = library("pydicom.dataset")
    found = dataset.Dataset()
    found.file_meta = dataset.FileMetaDataset()
    found.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    found.file_meta.TransferSyntaxUID = EXPLICIT_LITTLE_ENDIAN
    found.SOPClassUID = SECONDARY_CAPTURE
    found.StudyInstanceUID, found.SeriesInstanceUID, found.FrameOfReferenceUID = (
        ids[key] for key in ("study", "series", "frame")
    )
    _stamp(found, part, patient)
    found.Modality = record.modality if part == "images" else "OT"
    _describe_pixels(found, pixels, record, part)
    return found


def _stamp(found: Any, part: str, patient: str) -> None:
    """Who it is not, and what it is."""
    found.SpecificCharacterSet = "ISO_IR 192"
    found.PatientName, found.PatientID = "SYNTHETIC^NOT FOR CLINICAL USE", f"SYNTHETIC-{patient}"
    for key in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
        setattr(found, key, "")
    found.ReferringPhysicianName = found.PatientOrientation = found.Laterality = ""
    found.PatientIdentityRemoved, found.DeidentificationMethod = "YES", "no attribute of the source is copied"
    found.ImageType, found.ConversionType, found.SyntheticData = ["DERIVED", "SECONDARY"], "SYN", "YES"
    found.SeriesDescription = NOTICE if part == "images" else f"labels: {NOTICE}"
    found.ImageComments = found.DerivationDescription = NOTICE
    found.Manufacturer, found.BurnedInAnnotation, found.SeriesNumber = "fastsynth", "NO", 1 if part == "images" else 2


def _describe_pixels(found: Any, pixels: np.ndarray, record: Record, part: str) -> None:
    bits = pixels.dtype.itemsize * 8
    found.Rows, found.Columns = pixels.shape
    found.SamplesPerPixel = 1
    inverted = record.coding.sign < 0 and part == "images"
    found.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit = bits, bits, bits - 1
    found.PixelRepresentation = int(pixels.dtype.kind == "i")
    steps = np.linalg.norm(np.array(record.affine)[:3, :3], axis=0)
    across, down = (steps[axis] for axis in record.plane)
    found.SliceThickness = _ds(steps[record.axis])
    if record.calibrated:
        found.PixelSpacing = [_ds(down), _ds(across)]
    if record.window is not None and part == "images":
        found.WindowCenter, found.WindowWidth = (_ds(value) for value in record.window)
    data = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<"))).tobytes()
    found.PixelData = data + bytes(len(data) % 2)
    found["PixelData"].VR = "OW" if bits > 8 else "OB"


def _ds(value: float) -> str:
    """At most 16 characters, as the standard wants; short numbers stay as they were."""
    return str(library("pydicom.valuerep").format_number_as_ds(float(value)))
