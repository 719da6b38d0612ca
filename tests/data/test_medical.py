"""NIfTI and 16-bit pictures: slices, patients and volumes again, judged by nibabel and by what they came from."""

import json
import sys

import cv2
import numpy as np
import pytest
from medical_stores import fill_store

from fastsynth import cli
from fastsynth.data.datasets import open_dataset
from fastsynth.data.export.formats import export_store
from fastsynth.data.medical.importing import import_volumes
from fastsynth.data.medical.phantom import AFFINE, draw_phantom, encode_phantom, write_phantoms
from fastsynth.data.medical.sidecar import NOTICE, read_places
from fastsynth.data.medical.volume import coding_for, on_grid, windowed
from fastsynth.data.split import make_split
from fastsynth.data.store import read_manifest
from fastsynth.files import read_json
from fastsynth.images import read_image, read_mask

nibabel = pytest.importorskip("nibabel")
REGEX = r"regex:sub-(\d+)"


def read(path):
    """Stored integers and the image."""
    image = nibabel.load(path)
    return np.asarray(image.dataobj.get_unscaled()), image


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Six phantoms, two scans of every second: 9 volumes."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, patients=6, seed=0, shape=(48, 40, 6))
    return folder


@pytest.fixture(scope="module")
def tree(phantoms, tmp_path_factory):
    root = tmp_path_factory.mktemp("trees") / "ct"
    import_volumes(phantoms / "images", root, kind="nifti", masks=phantoms / "masks", patient=REGEX)
    return root


@pytest.fixture(scope="module")
def store(tree, tmp_path_factory):
    return fill_store(tree, tmp_path_factory.mktemp("stores") / "store", count=50)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("inverted", [False, True])
def test_every_integer_of_8_and_16_bits_comes_back(dtype, inverted):
    limits = np.iinfo(dtype)
    values = np.arange(limits.min, limits.max + 1).astype(dtype)
    coding = coding_for(values, inverted=inverted)
    codes = coding.encode(values)
    assert codes.dtype == f"uint{limits.bits}"
    assert coding.decode(codes).dtype == dtype
    np.testing.assert_array_equal(coding.decode(codes), values)
    assert (np.diff(codes.astype(int)) == (-1 if inverted else 1)).all()


@pytest.mark.parametrize("values", [np.array([-1024.0, 3071.0]), np.array([0, 65535], np.int32)])
def test_whole_numbers_of_wider_types_come_back_in_their_type(values):
    coding = coding_for(values)
    decoded = coding.decode(coding.encode(values))
    assert decoded.dtype == values.dtype
    np.testing.assert_array_equal(decoded, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([0.5, 1.0]), "fractions"),
        (np.array([np.nan, 1.0]), "fractions"),
        (np.array([-5, 70000]), "16 bits hold at most"),
        (np.array([1j]), "wanted integers"),
    ],
)
def test_what_16_bits_cannot_hold_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        coding_for(values)


def test_a_window_is_linear_between_its_ends():
    shown = windowed(np.array([-200.0, -160.0, 39.5, 239.0, 300.0]), (40.0, 400.0))
    assert shown.tolist() == [0, 0, 128, 255, 255]
    assert windowed(np.array([-200.0, 300.0]), (40.0, 400.0), inverted=True).tolist() == [255, 0]


def test_slices_hold_the_original_integers_and_masks_the_marks(phantoms, tree):
    volumes = sorted((phantoms / "images").iterdir())
    places = read_places(tree)
    names = sorted({place.name for place in places.values()})
    assert len(names) == len(volumes) == 9
    for picture, place in places.items():
        source = volumes[names.index(place.name)]
        values, _ = read(source)
        marks, _ = read(phantoms / "masks" / source.name)
        np.testing.assert_array_equal(
            read_image(tree / picture)[..., 0].astype(int) - 32768, values[:, :, place.index].T
        )
        expected = marks[:, :, place.index].T > 0
        assert picture.startswith("test/lesion/" if expected.any() else "train/good/")
        if expected.any():
            mask = tree / "ground_truth" / "lesion" / picture.split("/")[-1].replace(".png", "_mask.png")
            np.testing.assert_array_equal(read_mask(mask), expected)


def test_no_patient_is_in_two_parts_of_the_split(tree):
    dataset = open_dataset(tree)
    assert len(set(dataset.groups.values())) == 6
    split = make_split(dataset, train_fraction=0.5, val_fraction=0.3, seed=0, near_duplicates=False)
    parts = {}
    for record in dataset.records:
        parts.setdefault(dataset.group_of(record), set()).add(split.part_of(record.image))
    learnt = [found for found in parts.values() if "test" not in found]
    assert learnt
    assert all(found == {"test"} for found in parts.values() if "test" in found)
    assert all(len(found) == 1 for found in learnt)


def test_a_volume_rebuilt_from_a_store_is_its_source_outside_the_masks(phantoms, tree, store, tmp_path):
    assert export_store(store, tmp_path / "out", kind="nifti", data_root=tree) == 50
    volumes = sorted((phantoms / "images").iterdir())
    places = read_places(tree)
    names = sorted({place.name for place in places.values()})
    lines = {line["id"]: line for line in read_manifest(store)}
    used = []
    for name, entry in read_json(tmp_path / "out" / "volumes.json")["volumes"].items():
        source = volumes[names.index(entry["source"])]
        original, image = read(source)
        marks, _ = read(phantoms / "masks" / source.name)
        values, rebuilt = read(tmp_path / "out" / "images" / f"{name}.nii.gz")
        labels, label_image = read(tmp_path / "out" / "labels" / f"{name}.nii.gz")
        inside = np.zeros(original.shape, bool)
        for index, sample in entry["samples"].items():
            assert places[lines[sample]["source_image"]].index == int(index)
            inside[:, :, int(index)] = read_mask(store / lines[sample]["mask"]).T
            used.append(sample)
        assert values.dtype == original.dtype == np.int16
        np.testing.assert_array_equal(values[~inside], original[~inside])
        assert (values[inside] != original[inside]).mean() > 0.5
        np.testing.assert_array_equal(labels > 0, inside | (marks > 0))
        for found in (rebuilt, label_image):
            np.testing.assert_array_equal(found.affine, image.affine)
            assert found.header.get_zooms() == image.header.get_zooms()
            assert found.header["descrip"].item().decode() == NOTICE
    assert sorted(used) == sorted(lines)


def test_the_same_store_gives_the_same_volumes(tree, store, tmp_path):
    for name in ("one", "two"):
        export_store(store, tmp_path / name, kind="nifti", data_root=tree)
    first, second = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("one", "two")
    )
    assert first == second


@pytest.mark.parametrize("kind", ["coco", "nifti", "mvtec"])
def test_store_lines_and_exports_say_what_they_are(kind, tree, store, tmp_path):
    assert read_json(store / "store.json")["notice"] == NOTICE
    assert {line["notice"] for line in read_manifest(store)} == {NOTICE}
    export_store(store, tmp_path / "out", kind=kind, data_root=tree)
    assert NOTICE in (tmp_path / "out" / "NOTICE.txt").read_text()


def test_slope_units_and_qform_are_kept(phantoms, tmp_path):
    values, marks = draw_phantom(np.random.default_rng(3), shape=(40, 36, 8), lesions=1)
    image = nibabel.Nifti1Image(values, AFFINE)
    image.header.set_slope_inter(0.5, -3)
    image.set_qform(np.diag([2, 3, 4, 1.0]), code=2)
    image.header["descrip"] = b"SECRET NAME"
    (tmp_path / "src").mkdir()
    (tmp_path / "marks").mkdir()
    nibabel.Nifti1Image(marks, AFFINE).to_filename(tmp_path / "marks" / "a.nii.gz")
    (tmp_path / "src" / "a.nii").write_bytes(image.to_bytes())
    import_volumes(tmp_path / "src", tmp_path / "tree", kind="nifti", masks=tmp_path / "marks")
    (record,) = {place.name: place.record for place in read_places(tmp_path / "tree").values()}.values()
    assert [tuple(pair) for pair in record.rescale] == [(0.5, -3.0)]
    fill_store(tmp_path / "tree", tmp_path / "store", count=1)
    export_store(tmp_path / "store", tmp_path / "out", kind="nifti", data_root=tmp_path / "tree")
    (path,) = (tmp_path / "out" / "images").iterdir()
    found = nibabel.load(path)
    for key in ("sform_code", "qform_code", "pixdim", "quatern_b", "qoffset_x", "srow_x", "srow_y", "srow_z"):
        np.testing.assert_array_equal(found.header[key], image.header[key])
    assert (found.dataobj.slope, found.dataobj.inter) == (0.5, -3)
    written = b"".join(p.read_bytes() for p in (tmp_path / "tree").rglob("*") if p.is_file())
    assert b"SECRET" not in written + found.to_bytes()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_along_any_axis_come_back(axis, tmp_path):
    values, marks = draw_phantom(np.random.default_rng(1), shape=(24, 28, 20))
    for part, array in (("src", values), ("marks", marks)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "a.nii.gz").write_bytes(encode_phantom(array))
    found = import_volumes(tmp_path / "src", tmp_path / "tree", kind="nifti", masks=tmp_path / "marks", axis=axis)
    assert found.normals + found.defects + found.unused == values.shape[axis]
    again = np.zeros_like(values)
    for picture, place in read_places(tmp_path / "tree").items():
        codes = read_image(tmp_path / "tree" / picture)[..., 0]
        place.record.place(again, place.index, place.record.coding.decode(codes))
    np.testing.assert_array_equal(again, values)
    fill_store(tmp_path / "tree", tmp_path / "store", count=2)
    export_store(tmp_path / "store", tmp_path / "out", kind="nifti", data_root=tmp_path / "tree")
    rebuilt, _ = read(next((tmp_path / "out" / "images").iterdir()))
    assert 0 < (rebuilt != values).mean() < 0.1


def test_marks_on_turned_and_flipped_axes_fit_and_shifted_ones_do_not():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (5, 6, 7))
    world = {}
    for index in np.ndindex(labels.shape):
        world[tuple(np.round(AFFINE @ (*index, 1), 3)[:3])] = labels[index]
    for order in [(0, 1, 2), (2, 0, 1), (1, 0, 2)]:
        turned = labels.transpose(order)[::-1, :, ::-1]
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for axis, source in enumerate(order):
            matrix[source, axis] = 1
        flip = np.diag([-1, 1, -1, 1.0])
        flip[:3, 3] = [turned.shape[0] - 1, 0, turned.shape[2] - 1]
        affine = AFFINE @ matrix @ flip
        assert turned[1, 2, 3] == world[tuple(np.round(affine @ (1, 2, 3, 1), 3)[:3])]
        found = on_grid(turned, affine, shape=labels.shape, target=AFFINE)
        np.testing.assert_array_equal(found, labels)
        shifted = affine.copy()
        shifted[:3, 3] += AFFINE[:3, 0]
        assert on_grid(turned, shifted, shape=labels.shape, target=AFFINE) is None
    assert on_grid(labels[1:], AFFINE, shape=labels.shape, target=AFFINE) is None


def test_named_marks_become_classes_and_the_others_are_healthy(tmp_path):
    values, _ = draw_phantom(np.random.default_rng(1), shape=(32, 32, 4), lesions=0)
    marks = np.zeros(values.shape, np.int16)
    marks[4:9, 4:9, 0], marks[12:20, 12:20, 0] = 1, 3  # two classes
    marks[10:20, 10:20, 1] = 3
    marks[10:20, 10:20, 2] = 2  # not named
    for part, array in (("src", values), ("marks", marks)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "a_0000.nii.gz" if part == "src" else tmp_path / part / "a.nii.gz").write_bytes(
            encode_phantom(array)
        )
    labels = {1: "cyst", 3: "tumour"}
    found = import_volumes(tmp_path / "src", tmp_path / "t", kind="nifti", masks=tmp_path / "marks", labels=labels)
    assert (found.normals, found.defects) == (2, 2)
    classes = read_image(tmp_path / "t/classes/combined/p0001-v01-s0000.png")[..., 0]
    np.testing.assert_array_equal(classes, np.select([marks[..., 0].T == 1, marks[..., 0].T == 3], [1, 2]))
    assert (tmp_path / "t/ground_truth/tumour/p0001-v01-s0001_mask.png").is_file()
    fill_store(tmp_path / "t", tmp_path / "store", count=2)
    export_store(tmp_path / "store", tmp_path / "out", kind="nifti", data_root=tmp_path / "t")
    names = read_json(tmp_path / "out" / "volumes.json")["classes"]
    exported, _ = read(next((tmp_path / "out" / "labels").iterdir()))
    assert names[exported[5, 5, 0] - 1] == "cyst"
    assert names[exported[15, 15, 0] - 1] == "tumour"


def test_signed_tiff_and_16_bit_png_come_back(tmp_path):
    rng = np.random.default_rng(0)
    planes = {}
    for name, dtype in (("a/1.tif", np.int16), ("b/1.png", np.uint16), ("b/2.png", np.uint16)):
        planes[name] = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (40, 48)).astype(dtype)
        for folder in ("src", "marks"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(tmp_path / "src" / name), planes[name])
    mask = np.zeros((40, 48), np.uint8)
    mask[10:20, 10:25] = 255
    assert cv2.imwrite(str(tmp_path / "marks" / "a" / "1_mask.png"), mask)
    found = import_volumes(
        tmp_path / "src", tmp_path / "t", kind="pictures", masks=tmp_path / "marks", patient="regex:^[ab]"
    )
    assert (found.patients, found.volumes, found.normals, found.defects) == (2, 3, 2, 1)
    for place, plane in zip(read_places(tmp_path / "t").items(), planes.values(), strict=True):
        codes = read_image(tmp_path / "t" / place[0])[..., 0]
        np.testing.assert_array_equal(place[1].record.coding.decode(codes), plane)
        assert place[1].record.pixel_area is None


def command(monkeypatch, capsys, *arguments):
    """Exit code and the one line of complaint, or what was printed."""
    monkeypatch.setattr(sys, "argv", ["fastsynth", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.err if stopped.value.code else captured.out


def test_the_command_imports_draws_a_preview_and_exports(phantoms, store, tree, tmp_path, monkeypatch, capsys):
    arguments = ("--format", "nifti", "--masks", phantoms / "masks", "--patient", REGEX, "--output", tmp_path / "t")
    code, said = command(monkeypatch, capsys, "data", "import", phantoms / "images", *arguments)
    assert code == 0, said
    assert "9 volumes of 6 patients" in said
    assert read_image(tmp_path / "t" / "preview.png").std() > 20
    assert (tmp_path / "t" / "medical.json").read_bytes() == (tree / "medical.json").read_bytes()
    assert "sub-" not in (tmp_path / "t" / "medical.json").read_text() + (tmp_path / "t" / "groups.json").read_text()
    assert json.loads((tmp_path / "t" / "medical.json").read_text())["notice"] == NOTICE
    code, said = command(
        monkeypatch, capsys, *("data", "export", store, "--format", "nifti", "--data", tree, "--output", tmp_path / "o")
    )
    assert (code, "50 samples" in said) == (0, True)


MISTAKES = {
    "no folder": (("{src}/nowhere", "--format", "nifti"), "no such folder"),
    "wrong format": (("{src}/images", "--format", "dicom"), "no dicom files"),
    "rule": (("{src}/images", "--format", "nifti", "--patient", "name"), "wanted id, tag:"),
    "tag": (("{src}/images", "--format", "nifti", "--patient", "id"), "hold no patient tags"),
    "expression": (("{src}/images", "--format", "nifti", "--patient", "regex:("), "not a regular expression"),
    "no match": (("{src}/images", "--format", "nifti", "--patient", "regex:case"), "finds nothing in this path"),
    "no masks": (("{src}/images", "--format", "nifti", "--masks", "{src}/nowhere"), "give the folder of the marks"),
    "other masks": (("{src}/images", "--format", "nifti", "--masks", "{src}/images/.."), "no slice is marked"),
    "label": (("{src}/images", "--format", "nifti", "--label", "tumour"), "like 2=tumour"),
    "good": (("{src}/images", "--format", "nifti", "--label", "1=good"), "cannot be the name"),
    "coco": (("{src}/images", "--format", "coco"), "pass their folder with --images"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(mistake, phantoms, tmp_path, monkeypatch, capsys):
    arguments, message = MISTAKES[mistake]
    given = [argument.format(src=phantoms) for argument in arguments]
    code, said = command(monkeypatch, capsys, "data", "import", *given, "--output", tmp_path / "t")
    assert code == 2
    assert message in said
    assert len([line for line in said.splitlines() if line.startswith("fastsynth: ")]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "text", "four dimensions"])
def test_a_damaged_volume_is_named(damage, tmp_path):
    (tmp_path / "src").mkdir()
    path = tmp_path / "src" / "bad.nii.gz"
    whole = encode_phantom(np.zeros((8, 8, 8, 2) if damage == "four dimensions" else (8, 8, 8), np.int16))
    path.write_bytes({"cut": whole[:60], "text": b"not a volume"}.get(damage, whole))
    with pytest.raises(ValueError, match=r"bad\.nii\.gz: .*(copy it again|split it)"):
        import_volumes(tmp_path / "src", tmp_path / "t", kind="nifti")


def test_a_volume_of_too_many_voxels_is_refused_with_the_limit_before_it_is_read(tmp_path):
    (tmp_path / "src").mkdir()
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((2000, 2000, 2000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "src" / "huge.nii").write_bytes(header.binaryblock + bytes(4))
    with pytest.raises(ValueError, match=r"huge\.nii: 8,000,000,000 voxels; at most 600,000,000 are read"):
        import_volumes(tmp_path / "src", tmp_path / "t", kind="nifti")
    assert not (tmp_path / "t").exists()


def test_a_missing_library_says_what_to_install(phantoms, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    code, said = command(
        monkeypatch, capsys, "data", "import", phantoms / "images", "--format", "nifti", "--output", tmp_path / "t"
    )
    assert code == 1
    assert "pip install fastsynth[medical]" in said


def test_data_without_sidecar_cannot_become_volumes(tree, store, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"medical\.json: no such file"):
        export_store(store, tmp_path / "out", kind="nifti", data_root=tmp_path)
    with pytest.raises(ValueError, match="pass the data set of the store"):
        export_store(store, tmp_path / "out", kind="dicom")
