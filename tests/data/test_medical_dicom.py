"""DICOM series in and out, written and judged by pydicom alone; and not one identifying value anywhere."""

import gzip
import logging
import shutil
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from medical_stores import fill_store

from fastsynth.data.export.formats import export_store
from fastsynth.data.medical.dicom import dicom_sources
from fastsynth.data.medical.importing import import_volumes
from fastsynth.data.medical.patients import parse_rule
from fastsynth.data.medical.phantom import AFFINE, draw_phantom, encode_phantom, write_phantoms
from fastsynth.data.medical.sidecar import NOTICE, read_places
from fastsynth.data.store import read_manifest
from fastsynth.files import read_json
from fastsynth.images import encode_png, read_image, read_mask

pydicom = pytest.importorskip("pydicom")
nibabel = pytest.importorskip("nibabel")

MARKER, DATE, UID, NUMBER = "ZzphiMarker", "18930417", "1.2.3.987654321", "7711.77"
SECRETS = [text.encode() for text in (MARKER, DATE, UID, NUMBER)]
TEXTS = {"PN", "LO", "SH", "LT", "ST", "UT", "UC", "AE", "UR"}
ROW, COLUMN = np.array([0.96, 0.28, 0.0]), np.array([-0.28, 0.96, 0.0])  # directions of columns and rows, LPS
ORIGIN, SPACING, STEP = np.array([-30.5, 12.25, 100.0]), (0.75, 0.5), 2.5  # spacing: between rows, between columns


@cache
def secrets():
    """Keyword → value for every attribute of the dictionary that can hold a text, a date or a UID, and some numbers."""
    found = {"PatientWeight": NUMBER, "PatientSize": NUMBER, "PatientAge": "097Y"}
    for vr, _, _, retired, keyword in pydicom.datadict.DicomDictionary.values():
        if keyword and not retired and vr in TEXTS | {"DA", "UI"}:
            found[keyword] = MARKER if vr in TEXTS else DATE if vr == "DA" else f"{UID}.1"
    kept = ("SOPClassUID", "MediaStorageSOPClassUID", "TransferSyntaxUID", "SpecificCharacterSet")
    return {key: value for key, value in found.items() if key not in kept and not _of_group_2(key)}


def _of_group_2(keyword):
    return pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(keyword)).group in (0, 2, 4)


def write_slice(path, stored, *, patient=1, index=0, kind="MONOCHROME2", all_tags=False, **changes):
    """One file as a scanner writes it, with names in every tag where a name may be."""
    found = pydicom.Dataset()
    found.file_meta = pydicom.dataset.FileMetaDataset()
    found.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    if all_tags:
        for key, value in secrets().items():
            setattr(found, key, value)
        found.add_new(0x00091001, "LO", MARKER)
    for key in ("PatientName", "InstitutionName", "StudyDescription", "SeriesDescription", "ProtocolName"):
        setattr(found, key, f"{MARKER}^{key}")
    found.PatientID, found.AccessionNumber, found.PatientBirthDate = f"{MARKER}{patient}", MARKER, DATE
    found.StudyInstanceUID, found.SeriesInstanceUID = f"{UID}.{patient}.1", f"{UID}.{patient}.2"
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = f"{UID}.{patient}.3.{index}"
    found.Modality, found.InstanceNumber, found.PhotometricInterpretation = "CT", index + 1, kind
    found.Rows, found.Columns = stored.shape
    found.SamplesPerPixel, found.BitsAllocated = 1, stored.dtype.itemsize * 8
    found.BitsStored, found.PixelRepresentation = found.BitsAllocated, int(stored.dtype.kind == "i")
    found.HighBit = found.BitsStored - 1
    found.ImagePositionPatient = (ORIGIN + np.array([0, 0, STEP * index])).tolist()
    found.ImageOrientationPatient = [*ROW.tolist(), *COLUMN.tolist()]
    found.PixelSpacing, found.SliceThickness = list(SPACING), 5
    found.RescaleSlope, found.RescaleIntercept = 1, -1024
    found.WindowCenter, found.WindowWidth = [40, 300], [400, 1500]
    for key, value in changes.items():
        if value is None:
            delattr(found, key)
        else:
            setattr(found, key, value)
    found.PixelData = stored.tobytes()
    found["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Three patients, one series each; files in an order that has nothing to do with their place; NIfTI marks.

    Returns the folder and {patient folder: (K, H, W) stored values, (K, H, W) marks}.
    """
    root, rng, arrays = tmp_path_factory.mktemp("dicom"), np.random.default_rng(0), {}
    for patient in range(3):
        values, marks = draw_phantom(rng, shape=(40, 36, 6), lesions=1)
        stored = values.transpose(2, 1, 0).copy()
        folder = root / "in" / f"case{patient}" / "ct"
        for index, name in enumerate(rng.permutation(len(stored))):
            write_slice(
                folder / f"IM{name}", stored[index], patient=patient, index=index, all_tags=(patient, index) == (0, 1)
            )
        (folder / "notes.txt").write_text("not an image")
        affine = np.eye(4)
        affine[:3] = np.diag([-1, -1, 1]) @ np.column_stack(
            [ROW * SPACING[1], COLUMN * SPACING[0], (0, 0, STEP), ORIGIN]
        )
        flipped = affine @ np.array([[1, 0, 0, 0], [0, -1, 0, 35], [0, 0, 1, 0], [0, 0, 0, 1]])
        (root / "marks" / f"case{patient}").mkdir(parents=True)
        (root / "marks" / f"case{patient}" / "ct.nii.gz").write_bytes(encode_phantom(marks[:, ::-1], flipped))
        arrays[f"case{patient}"] = stored, marks.transpose(2, 1, 0), affine
    return root, arrays


@pytest.fixture(scope="module")
def tree(series):
    root, _ = series
    import_volumes(root / "in", root / "tree", kind="dicom", masks=root / "marks")
    return root / "tree"


@pytest.fixture(scope="module")
def store(tree):
    return fill_store(tree, tree.parent / "store", count=10)


@pytest.fixture(scope="module")
def exported(tree, store):
    for kind in ("dicom", "nifti"):
        export_store(store, tree.parent / kind, kind=kind, data_root=tree)
    return tree.parent


def test_slices_are_in_the_order_of_space_with_the_stored_integers(series, tree):
    _, arrays = series
    places = read_places(tree)
    assert sorted({place.name for place in places.values()}) == ["p0001-v01", "p0002-v01", "p0003-v01"]
    for picture, place in places.items():
        stored, marks, _ = arrays[f"case{int(place.name[1:5]) - 1}"]
        codes = read_image(tree / picture)[..., 0]
        assert codes.dtype == np.uint16
        np.testing.assert_array_equal(codes.astype(int) - 32768, stored[place.index])
        assert picture.startswith("test/") == marks[place.index].any()
        if marks[place.index].any():
            mask = tree / "ground_truth" / "lesion" / f"{Path(picture).stem}_mask.png"
            np.testing.assert_array_equal(read_mask(mask), marks[place.index] > 0)
        assert tuple(place.record.window) == (40, 400)
        assert place.record.pixel_area == pytest.approx(0.375)
        np.testing.assert_allclose(place.record.measured(codes, place.index), stored[place.index] - 1024.0)


def test_the_series_that_comes_back_is_the_source_outside_the_masks(series, store, exported):
    _, arrays = series
    lines = {line["id"]: line for line in read_manifest(store)}
    uids = set()
    for name, entry in read_json(exported / "dicom" / "volumes.json")["volumes"].items():
        stored, marks, _ = arrays[f"case{int(name[1:5]) - 1}"]
        files = [pydicom.dcmread(path) for path in sorted((exported / "dicom" / "images" / name).iterdir())]
        labels = [pydicom.dcmread(path) for path in sorted((exported / "dicom" / "labels" / name).iterdir())]
        assert len(files) == len(labels) == len(stored)
        for index, (found, label) in enumerate(zip(files, labels, strict=True)):
            inside = np.zeros(stored[index].shape, bool)
            if str(index) in entry["samples"]:
                inside = read_mask(store / lines[entry["samples"][str(index)]]["mask"])
                assert (found.pixel_array[inside] != stored[index][inside]).any()
            assert found.pixel_array.dtype == np.int16
            np.testing.assert_array_equal(found.pixel_array[~inside], stored[index][~inside])
            np.testing.assert_array_equal(label.pixel_array > 0, inside | (marks[index] > 0))
            for place in (found, label):
                assert list(place.ImagePositionPatient) == (ORIGIN + np.array([0, 0, STEP * index])).tolist()
                np.testing.assert_allclose(place.ImageOrientationPatient, [*ROW, *COLUMN], atol=1e-12)
                np.testing.assert_allclose(place.PixelSpacing, SPACING, rtol=1e-12)
            assert (found.RescaleSlope, found.RescaleIntercept) == (1, -1024)
            assert (found.WindowCenter, found.WindowWidth, found.Modality) == (40, 400, "CT")
            uids |= {found.SOPInstanceUID, label.SOPInstanceUID}
        assert len({found.SeriesInstanceUID for found in (*files, *labels)}) == 2
    assert len(uids) == 2 * sum(len(list(p.iterdir())) for p in (exported / "dicom" / "images").iterdir())
    assert all(uid.is_valid and not uid.startswith(UID) for uid in uids)


def test_every_exported_object_says_that_it_is_synthetic(exported):
    for path in (exported / "dicom").rglob("*.dcm"):
        found = pydicom.dcmread(path)
        assert found.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
        assert found.SyntheticData == "YES"
        assert (list(found.ImageType), found.ConversionType) == (["DERIVED", "SECONDARY"], "SYN")
        assert NOTICE in found.SeriesDescription
        assert found.ImageComments == NOTICE


def test_nifti_from_dicom_has_the_affine_of_the_planes(series, exported):
    _, arrays = series
    for path in (exported / "nifti" / "images").iterdir():
        found = nibabel.load(path)
        stored, _, affine = arrays[f"case{int(path.name[1:5]) - 1}"]
        np.testing.assert_allclose(found.affine, affine, atol=1e-5)
        np.testing.assert_allclose(found.header.get_zooms(), (0.5, 0.75, 2.5), rtol=1e-6)
        assert (found.dataobj.slope, found.dataobj.inter) == (1, -1024)
        raw = np.asarray(found.dataobj.get_unscaled())
        assert 0 < (raw != stored.transpose(2, 1, 0)).mean() < 0.2


def leaks(*folders):
    """Files and secrets that are in them, archives unpacked; names of files too."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            data = str(path.relative_to(folder)).encode()
            if path.is_file():
                data += path.read_bytes()
                if path.suffix == ".gz":
                    data += gzip.decompress(path.read_bytes())
            found += [(path, secret) for secret in SECRETS if secret in data]
    return found


def test_no_identifying_value_is_in_any_file(series, exported):
    root, _ = series
    assert {secret for _, secret in leaks(root / "in")} == set(SECRETS)  # the search finds what is there
    for kind in ("coco", "webdataset", "mvtec"):
        export_store(root / "store", root / "others" / kind, kind=kind, data_root=root / "tree")
    assert leaks(root / "tree", root / "store", root / "dicom", root / "nifti", root / "others") == []


def said(caplog, capsys, action):
    """Whatever `action` prints, logs, warns or raises, chained causes included."""
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        errors = []
        try:
            action()
        except (ValueError, FileNotFoundError) as raised:
            errors = [str(raised), str(raised.__cause__)]
    captured = capsys.readouterr()
    return "\n".join([*errors, captured.out, captured.err, caplog.text, *(str(warning.message) for warning in warned)])


DAMAGES = {
    "sound": {},
    "wrong values": {"PatientBirthDate": MARKER, "StudyInstanceUID": MARKER},
    "empty rule": {"PatientID": ""},
    "colour": {"kind": MARKER},
    "palette": {"kind": "PALETTE COLOR"},
    "frames": {"NumberOfFrames": 3},
    "burned in": {"BurnedInAnnotation": "YES"},
    "no pixels": {"Rows": 4000},
    "no photometric": {"PhotometricInterpretation": None},
    "position": {"ImagePositionPatient": None},
    "two at one place": {"ImagePositionPatient": [float(v) for v in ORIGIN]},
    "modality": {"Modality": MARKER},
}


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of writing what is wrong
@pytest.mark.parametrize("damage", DAMAGES)
def test_nothing_identifying_is_said_whatever_is_wrong(damage, tmp_path, caplog, capsys):
    plane = np.arange(30 * 32, dtype=np.int16).reshape(30, 32)
    changes = dict(DAMAGES[damage])
    for index in range(3):
        with pydicom.config.disable_value_validation():
            write_slice(tmp_path / "in" / f"{index}.dcm", plane + index, index=index, **(changes if index else {}))
    (tmp_path / "in" / "cut.dcm").write_bytes((tmp_path / "in" / "1.dcm").read_bytes()[:700])
    text = said(caplog, capsys, lambda: import_volumes(tmp_path / "in", tmp_path / "t", kind="dicom"))
    assert not [secret for secret in SECRETS if secret in text.encode()]
    if (tmp_path / "t").exists():
        assert leaks(tmp_path / "t") == []
    (tmp_path / "in" / "cut.dcm").unlink()
    shutil.rmtree(tmp_path / "t", ignore_errors=True)
    text += said(caplog, capsys, lambda: import_volumes(tmp_path / "in", tmp_path / "t", kind="dicom"))
    assert not [secret for secret in SECRETS if secret in text.encode()]
    assert (tmp_path / "t").exists() == (damage in ("sound", "wrong values", "position", "modality")), text
    if (tmp_path / "t").exists():
        assert leaks(tmp_path / "t") == []
    else:
        assert ";" in text


def test_a_series_of_too_many_voxels_is_refused_with_the_limit(tmp_path, caplog, capsys):
    write_slice(tmp_path / "in" / "0.dcm", np.zeros((4, 4), np.int16), Rows=40_000, Columns=40_000)
    text = said(caplog, capsys, lambda: import_volumes(tmp_path / "in", tmp_path / "t", kind="dicom"))
    assert "1,600,000,000 voxels; at most 600,000,000 are read" in text
    assert not (tmp_path / "t").exists()


def deflate(path, stored, *, swell=0):
    """A sound deflated file, with `swell` bytes of zeros in an element that nothing reads."""
    write_slice(path, stored)
    found = pydicom.dcmread(path)
    found.add_new(0x00091010, "OB", bytes(swell))
    found.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    found.save_as(path, enforce_file_format=True)


def test_a_deflated_file_is_read(tmp_path):
    plane = np.arange(30 * 32, dtype=np.int16).reshape(30, 32)
    deflate(tmp_path / "in" / "0.dcm", plane)
    (source,) = dicom_sources(tmp_path / "in", masks=None, rule=parse_rule("file"))
    values, _, _ = source.load()
    np.testing.assert_array_equal(values[..., 0], plane.T)


def test_a_deflated_bomb_is_refused_with_the_limit(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setattr("fastsynth.data.medical.dicom.MAX_BYTES", 5_000_000)
    deflate(tmp_path / "in" / "0.dcm", np.zeros((30, 32), np.int16), swell=20_000_000)
    assert (tmp_path / "in" / "0.dcm").stat().st_size < 100_000
    text = said(caplog, capsys, lambda: import_volumes(tmp_path / "in", tmp_path / "t", kind="dicom"))
    assert "more than 5,000,000 bytes when inflated" in text
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_monochrome1_is_shown_bright_and_comes_back_as_it_was(dtype, tmp_path):
    rng = np.random.default_rng(0)
    planes = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (3, 40, 33)).astype(dtype)
    mask = np.zeros((40, 33), np.uint8)
    mask[10:20, 8:20] = 255
    for index, plane in enumerate(planes):
        path = tmp_path / "in" / f"{index}.dcm"
        write_slice(path, plane, patient=index, kind="MONOCHROME1", ImagePositionPatient=None)
    (tmp_path / "marks").mkdir()
    (tmp_path / "marks" / "0.png").write_bytes(encode_png(mask))
    found = import_volumes(tmp_path / "in", tmp_path / "tree", kind="dicom", masks=tmp_path / "marks")
    assert (found.patients, found.normals, found.defects) == (3, 2, 1)
    for picture, place in read_places(tmp_path / "tree").items():
        codes, plane = read_image(tmp_path / "tree" / picture)[..., 0], planes[int(place.name[1:5]) - 1]
        assert codes[np.unravel_index(plane.argmax(), plane.shape)] == codes.min()
    fill_store(tmp_path / "tree", tmp_path / "store", count=2)
    export_store(tmp_path / "store", tmp_path / "out", kind="dicom", data_root=tmp_path / "tree")
    lines = {line["id"]: line for line in read_manifest(tmp_path / "store")}
    volumes = read_json(tmp_path / "out" / "volumes.json")["volumes"]
    assert len(volumes) == 2
    for name, entry in volumes.items():
        (path,) = (tmp_path / "out" / "images" / name).iterdir()
        again, plane = pydicom.dcmread(path), planes[int(name[1:5]) - 1]
        outside = ~read_mask(tmp_path / "store" / lines[entry["samples"]["0"]]["mask"])
        assert again.PhotometricInterpretation == "MONOCHROME1"
        np.testing.assert_array_equal(again.pixel_array[outside], plane[outside])


def test_patients_by_tag_and_by_path(series, tmp_path):
    root, _ = series
    for rule, patients in {"tag:StudyInstanceUID": 3, "regex:^case[01]|case2": 3, "regex:^case": 1, "file": 3}.items():
        found = dicom_sources(root / "in", masks=None, rule=parse_rule(rule))
        assert len({source.key for source in found}) == patients
    with pytest.raises(ValueError, match="no such DICOM keyword"):
        import_volumes(root / "in", tmp_path / "x", kind="dicom", patient="tag:PatientsName")


def test_slopes_that_differ_by_slice_come_back_in_dicom_and_are_refused_in_nifti(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(4):
        plane = rng.integers(0, 900, (32, 32)).astype(np.uint16)
        write_slice(tmp_path / "in" / "a" / f"{index}.dcm", plane, index=index, RescaleSlope=0.5 + index)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:20] = 255
    (tmp_path / "marks" / "a").mkdir(parents=True)
    (tmp_path / "marks" / "a" / "3.png").write_bytes(encode_png(mask))
    import_volumes(tmp_path / "in", tmp_path / "tree", kind="dicom", masks=tmp_path / "marks")
    fill_store(tmp_path / "tree", tmp_path / "store", count=2)
    export_store(tmp_path / "store", tmp_path / "out", kind="dicom", data_root=tmp_path / "tree")
    files = sorted((tmp_path / "out" / "images").rglob("*.dcm"))
    assert [pydicom.dcmread(path).RescaleSlope for path in files] == [0.5, 1.5, 2.5, 3.5]
    with pytest.raises(ValueError, match="different slopes"):
        export_store(tmp_path / "store", tmp_path / "no", kind="nifti", data_root=tmp_path / "tree")


def test_nifti_volumes_become_series_in_the_same_place(tmp_path):
    write_phantoms(tmp_path / "src", patients=2, seed=0, shape=(40, 36, 6))
    import_volumes(tmp_path / "src" / "images", tmp_path / "tree", kind="nifti", masks=tmp_path / "src" / "masks")
    fill_store(tmp_path / "tree", tmp_path / "store", count=2)
    export_store(tmp_path / "store", tmp_path / "out", kind="dicom", data_root=tmp_path / "tree")
    folders = sorted((tmp_path / "out" / "images").iterdir())
    assert folders
    for folder in folders:
        for index, path in enumerate(sorted(folder.iterdir())):
            found = pydicom.dcmread(path)
            row, column = np.reshape(found.ImageOrientationPatient, (2, 3)).astype(float)
            down, across = found.PixelSpacing
            for i, j in ((0, 0), (7, 3)):
                place = np.array(found.ImagePositionPatient, float) + row * across * i + column * down * j
                np.testing.assert_allclose(place * (-1, -1, 1), (AFFINE @ (i, j, index, 1))[:3], atol=1e-5)
            assert found.pixel_array.dtype == np.int16
    skewed = AFFINE.copy()
    skewed[0, 1] += 0.1
    (tmp_path / "skewed").mkdir()
    for part in ("images", "masks"):
        first = sorted((tmp_path / "src" / part).iterdir())[0]
        target = tmp_path / "skewed" / part / first.name
        target.parent.mkdir()
        target.write_bytes(encode_phantom(np.asarray(nibabel.load(first).dataobj), skewed))
    import_volumes(tmp_path / "skewed" / "images", tmp_path / "t", kind="nifti", masks=tmp_path / "skewed" / "masks")
    fill_store(tmp_path / "t", tmp_path / "s", count=1)
    with pytest.raises(ValueError, match="right angles"):
        export_store(tmp_path / "s", tmp_path / "o", kind="dicom", data_root=tmp_path / "t")
